"""What polling does about a library that fails or hangs."""

import asyncio
import threading
from pathlib import Path

import pytest

from anoseg_engines.errors import PublishError
from anosegd.bridge import polling
from anosegd.bridge.config import Target
from anosegd.bridge.exchange import Seen, Value
from anosegd.bridge.handshake import Settings
from anosegd.bridge.polling import PollingKind
from anosegd.bridge.service import Bridge
from anosegd.systemd import Notifier


class Hanging:
    """A memory whose first read does not return in time."""

    place = "a PLC"

    def __init__(self) -> None:
        self.released = threading.Event()

    def connect(self) -> None:
        pass

    def read(self) -> Seen:
        self.released.wait()
        raise ZeroDivisionError("a fault of the library")

    def write_status(self, word: int) -> None:
        pass

    def write_values(self, values: dict[str, Value], changed: frozenset[str]) -> None:
        pass

    def close(self) -> None:
        pass


def test_a_call_that_hangs_ends_the_bridge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be ended in its thread: exit code 1, and systemd starts another bridge."""
    monkeypatch.setattr(polling, "CALL_S", 0.2)
    memory = Hanging()
    target = Target(camera="a", publish=f"ipc://{tmp_path}/p", control=None, key=None, window_s=1.0)

    async def serve() -> int:
        kind = PollingKind(memory, 0.02)
        try:
            return await Bridge(kind, target, Settings(triggered=False, window_s=1.0, capacity=1), Notifier()).run()
        finally:
            memory.released.set()

    with pytest.raises(PublishError, match="a call has not returned"):
        asyncio.run(serve())
