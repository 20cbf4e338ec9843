"""The screen's server, in the process of the test."""

import asyncio
import socket
from datetime import time
from typing import Any

import pytest

from anoseg_engines.errors import PublishError
from anosegd.view import server
from anosegd.view.address import Address
from anosegd.view.app import build_app
from anosegd.view.board import Board
from anosegd.view.event_log import EventLog
from anosegd.view.past_parts import CsvForm


@pytest.mark.parametrize(
    ("host", "status"), [("127.0.0.2:8080", 200), ("localhost", 200), ("127.0.0.3", 400), ("evil.example", 400)]
)
def test_screen_answers_under_its_own_address(host: str, status: int) -> None:
    """Every loopback address that `--listen` accepts works in the browser; other names do not."""
    screen = build_app(Board(EventLog()), {}, {}, hosts=["127.0.0.2"])
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    headers = [(b"host", host.encode())]
    scope = {"type": "http", "method": "GET", "path": "/settings", "headers": headers, "query_string": b""}
    asyncio.run(screen(scope, receive, send))
    assert sent[0]["status"] == status


@pytest.mark.parametrize("task", ["count_shifts", "_fill"])
def test_failed_task_ends_the_screen(task: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counts or rejects that are not updated any more look current: the screen ends, and systemd starts it again."""

    async def fail(*_: Any) -> None:
        raise KeyError("verdicts")

    monkeypatch.setattr(server, task, fail)
    settings = server.ViewSettings(
        publish="tcp://127.0.0.1:9",
        control="tcp://127.0.0.1:9",
        listen=Address("127.0.0.1", 0),
        stale_after_s=10,
        evidence=None,
        csv_form=CsvForm([], lambda _: []),
        shifts=(time(6),),
    )
    with socket.create_server(("127.0.0.1", 0)) as listener, pytest.raises(PublishError, match="verdicts"):
        asyncio.run(asyncio.wait_for(server._serve(settings, listener), 20))
