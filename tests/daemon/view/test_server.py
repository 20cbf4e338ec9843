"""The screen's server, in the process of the test."""

import asyncio
import socket
from datetime import time
from typing import Any

import pytest

from anoseg_engines.errors import PublishError
from anosegd.view import address, server
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


@pytest.mark.parametrize(
    ("listen", "names", "url"),
    [
        ("127.0.0.1", (), "https://127.0.0.1:8443/"),
        ("::1", (), "https://[::1]:8443/"),
        ("0.0.0.0", ("localhost", "press-4", "press-4.local"), "https://192.0.2.7:8443/"),
        ("0.0.0.0", ("*.plant.example", "press-4.plant.example"), "https://press-4.plant.example:8443/"),
    ],
)
def test_printed_address_leads_to_the_screen(
    listen: str, names: tuple[str, ...], url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Other machines do not know this machine's bare name: its address is printed, or a name with a domain."""
    monkeypatch.setattr(address, "network_address", lambda: "192.0.2.7")
    assert Address(listen, 8443).url("https", names) == url
