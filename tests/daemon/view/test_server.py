"""The screen's server, in the process of the test."""

import asyncio
import socket
from datetime import time
from typing import Any

import pytest

from anoseg_engines.errors import PublishError
from anosegd.view import server
from anosegd.view.address import Address
from anosegd.view.past_parts import CsvForm


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
