"""The counts of a shift: when it began, and each verdict once."""

import asyncio
import time as clock
from datetime import datetime, time
from typing import Any

import pytest

from anosegd.client import RefusedError
from anosegd.view import shift
from anosegd.view.shift import ShiftCounts, shift_start, shift_starts

START = datetime(2026, 11, 27, 6).astimezone()


@pytest.mark.parametrize("text", ["", "6", "25:00", "06:00,", "06:00;14:00", "06:60"])
def test_bad_times_are_refused(text: str) -> None:
    """What is no time of day is refused with an example."""
    with pytest.raises(ValueError, match="06:00,14:00,22:00"):
        shift_starts(text)


@pytest.mark.parametrize(
    ("now", "began"),
    [((27, 5, 59), (26, 22, 0)), ((27, 6, 0), (27, 6, 0)), ((27, 13, 59), (27, 6, 0)), ((27, 23, 0), (27, 22, 0))],
)
def test_shift_begins_by_the_clock(now: tuple[int, int, int], began: tuple[int, int, int]) -> None:
    """The night shift began on the day before; a shift's first second belongs to it."""
    starts = (time(6), time(14), time(22))
    assert shift_start(starts, datetime(2026, 11, *now).astimezone()) == datetime(2026, 11, *began).astimezone()


def page(first: int, last: int, newest: int, journal_id: str = "j") -> dict[str, Any]:
    at = datetime.fromtimestamp(START.timestamp() + 60).astimezone(tz=None)
    utc = clock.strftime("%Y-%m-%dT%H:%M:%S.000000Z", clock.gmtime(at.timestamp()))
    verdicts = [
        {
            "seq": seq,
            "camera": "top",
            "outcome": ("PASS", "FAIL", "UNKNOWN", "PASS")[seq % 4],
            "captured_at": utc,
            "timings_ms": {"total": float(seq)},
        }
        for seq in range(first, last + 1)
    ]
    return {"journal_id": journal_id, "verdicts": verdicts, "next": last + 1, "last": newest}


def test_each_verdict_counts_once() -> None:
    """Pages add up; it is complete when the newest is read; an earlier part does not count."""
    counts = ShiftCounts(START)
    counts.add_page(page(1, 50, 100))
    assert not counts.complete
    last = page(51, 100, 100)
    last["verdicts"][0]["captured_at"] = "2026-01-01T00:00:00.000000Z"  # it was a PASS
    counts.add_page(last)
    assert counts.complete
    top = counts.shown()["cameras"]["top"]
    assert (top["passed"], top["failed"], top["unknown"], top["slowest_ms"]) == (49, 25, 25, 100.0)


def test_new_journal_begins_again() -> None:
    """Numbers of another journal are not added to those of the old one."""
    counts = ShiftCounts(START)
    counts.add_page(page(1, 50, 50))
    counts.add_page(page(1, 5, 5, "new"))
    assert (counts.next, counts.cameras) == (None, {})
    counts.add_page(page(1, 4, 4, "new"))
    assert counts.shown()["cameras"]["top"]["passed"] == 2


def test_a_journal_that_a_reload_adds_is_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """A station without a journal is asked again, so the counts of the shift appear soon after it has one."""

    class AddedLater:
        """Refuses the first two questions."""

        def __init__(self) -> None:
            self.refusals = 2

        async def ask(self, _: Any) -> dict[str, Any]:
            self.refusals -= 1
            if self.refusals >= 0:
                raise RefusedError("replay", "no_journal", "this station keeps no journal")
            return page(1, 0, 0)

    async def count() -> dict[str, Any]:
        shown: asyncio.Future[dict[str, Any]] = asyncio.get_running_loop().create_future()
        task = asyncio.ensure_future(shift.count_shifts(AddedLater(), (time(6),), shown.set_result))  # type: ignore[arg-type]
        try:
            return await shown
        finally:
            task.cancel()

    monkeypatch.setattr(shift, "NO_JOURNAL_S", 0.01)
    assert asyncio.run(asyncio.wait_for(count(), 60))["complete"]
