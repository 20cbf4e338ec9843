"""What the screen receives from a station, or from something that only seems to be one."""

from typing import Any

import pytest

from anosegd.view.station_feed import PictureFeed


class Pictures:
    """Collects what arrives."""

    def __init__(self) -> None:
        self.received: list[Any] = []

    def state(self, state: dict[str, Any]) -> None: ...
    def verdict(self, shown: dict[str, Any]) -> None: ...
    def event(self, event: Any) -> None: ...

    def picture(self, header: dict[str, Any], kind: Any, content: bytes) -> None:
        self.received.append((header["seq"], kind, content))


@pytest.mark.parametrize("header", [b"", b"{}", b"[1]", b"[" * 200_000, b'{"seq":' * 200_000, b"\xff"])
def test_header_that_is_not_a_stations_is_ignored(header: bytes) -> None:
    """No header ends the thread, and the next picture arrives."""
    receiver = Pictures()
    feed = PictureFeed("ipc://nowhere", receiver, lambda: True)
    feed._take([b"mask.top", header, b"png"])
    feed._take([b"mask.top", b'{"journal_id": "j", "seq": 1, "camera": "top", "region": {}}', b"png"])
    assert receiver.received == [(1, "map", b"png")]
