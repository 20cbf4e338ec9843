"""What the screen receives from a station, or from something that only seems to be one."""

from typing import Any

import pytest

from anosegd.client import Verdict
from anosegd.view import station_feed
from anosegd.view.shown_verdict import StationClock, shown_verdict
from anosegd.view.station_feed import PictureFeed, VerdictFeed


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


def past(captured_at: str) -> Verdict:
    engine = {"name": "tiny", "version": 1}
    fields = {"journal_id": "j", "seq": 1, "camera": "top", "outcome": "PASS", "captured_at": captured_at, "engine": engine}
    return Verdict({**fields, "timings_ms": {"total": 20.0}, "defects": []}, replayed=True)


HEARTBEAT = StationClock("2031-05-04T12:00:00.000000Z", 50_000.0)


@pytest.mark.parametrize(
    ("captured_at", "clock", "at"),
    [
        ("2031-05-04T11:58:00.000000Z", HEARTBEAT, 50_000.0 - 120_000),
        ("2031-05-04T12:00:01.500000Z", HEARTBEAT, 51_500.0),
        ("2031-05-04T13:00:00.000000Z", HEARTBEAT, None),  # the clock was set back
        ("2031-05-04T11:58:00.000000Z", None, None),
    ],
)
def test_past_verdicts_are_as_old_as_their_station_says(captured_at: str, clock: StationClock | None, at: float | None) -> None:
    """The clock of the screen's machine may be years off. Only the station's clock counts."""
    assert shown_verdict(past(captured_at), 53_000.0, clock)["at"] == at


def test_the_feed_knows_the_clock_of_the_station(monkeypatch: pytest.MonkeyPatch) -> None:
    """A verdict that the feed fetches from the journal gets its age from the last heartbeat; before the first it has none."""

    class Station:
        """Sends a verdict from its journal, a heartbeat and the verdict again."""

        def __init__(self, *_: Any, on_state: Any, **__: Any) -> None:
            self.on_state = on_state

        def __enter__(self) -> Any:
            return self

        def __exit__(self, *_: object) -> None: ...

        def follow(self) -> Any:
            yield past("2031-05-04T11:58:00.000000Z")
            self.on_state({"at": HEARTBEAT.at})
            yield past("2031-05-04T11:58:00.000000Z")

    class Verdicts(Pictures):
        def verdict(self, shown: dict[str, Any]) -> None:
            self.received.append(shown["at"])

    monkeypatch.setattr(station_feed, "Client", Station)
    monkeypatch.setattr(station_feed, "clock_ms", lambda: HEARTBEAT.heard_ms)
    receiver = Verdicts()
    VerdictFeed("ipc://nowhere", None, receiver)._follow()
    assert receiver.received == [None, HEARTBEAT.heard_ms - 120_000]
