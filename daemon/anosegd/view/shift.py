"""Counts the verdicts of the present shift from the station's journal. A task on the event loop's thread; bounded questions.

Everything is counted from the journal, nothing from the live stream: so each verdict counts once, whatever was restarted.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from typing import Any

from anosegd.client import Client, ClientError, RefusedError
from anosegd.view.journal_search import NO_JOURNAL_S, JournalSearch, TooManyRequestsError, page_from
from anosegd.view.part_filter import PartFilter
from anosegd.wire import utc

EVERY_S = 1.0
BETWEEN_PAGES_S = 0.2
"""A page has up to 1,000 verdicts, and the daemon answers other requests between two pages."""
DEFAULT_STARTS = "06:00,14:00,22:00"
NAMES = {"PASS": "passed", "FAIL": "failed", "UNKNOWN": "unknown"}

_TIME = re.compile(r"([01]?\d|2[0-3]):([0-5]\d)", re.ASCII)


def shift_starts(text: str) -> tuple[time, ...]:
    """Parse the times of day at which shifts begin, such as 06:00,14:00,22:00.

    Raises:
        ValueError: One is no time of day.
    """
    found = [_TIME.fullmatch(piece.strip()) for piece in text.split(",")]
    if None in found:
        raise ValueError(f"{text}: write times of day with a comma between them: {DEFAULT_STARTS}")
    return tuple(time(int(match[1]), int(match[2])) for match in found if match)


def shift_start(starts: tuple[time, ...], now: datetime) -> datetime:
    """Return when the shift began in which `now` is. Local time."""
    today = now.astimezone().date()
    days: tuple[date, ...] = (today - timedelta(days=1), today)
    moments = [datetime.combine(day, start).astimezone() for day in days for start in starts]
    return max(moment for moment in moments if moment <= now)


@dataclass(slots=True)
class Counted:
    """What was counted of one camera.

    Attributes:
        passed, failed, unknown: Verdicts by outcome.
        sum_ms, slowest_ms: Sum and largest of the times from trigger or capture to the finished verdict.
    """

    passed: int = 0
    failed: int = 0
    unknown: int = 0
    sum_ms: float = 0.0
    slowest_ms: float = 0.0

    def add(self, verdict: Mapping[str, Any]) -> None:
        """Count a verdict."""
        name = NAMES[verdict["outcome"]]
        setattr(self, name, getattr(self, name) + 1)
        total_ms = float(verdict["timings_ms"]["total"])
        self.sum_ms += total_ms
        self.slowest_ms = max(self.slowest_ms, total_ms)


@dataclass(slots=True)
class ShiftCounts:
    """Counts one shift.

    Attributes:
        start: When it began.
        journal_id: The journal that was read; None before the first answer.
        next: The first number that was not read; None before the first answer.
        complete: Whether everything up to a moment ago is counted.
        cameras: The counts by camera.
    """

    start: datetime
    journal_id: str | None = None
    next: int | None = None
    complete: bool = False
    cameras: dict[str, Counted] = field(default_factory=dict)

    def read_page(self, client: Client) -> dict[str, Any]:
        """Return the journal's next page. Runs on the journal's thread."""
        since = utc(int(self.start.timestamp()) * 1_000_000_000)
        return page_from(client, PartFilter(since=since), self.next)

    def add_page(self, page: dict[str, Any]) -> None:
        """Count what a page of the journal holds."""
        if self.journal_id is not None and page["journal_id"] != self.journal_id:
            self.cameras.clear()
            self.journal_id, self.next, self.complete = None, None, False
            return
        chosen = PartFilter(since=utc(int(self.start.timestamp()) * 1_000_000_000))
        for verdict in page["verdicts"]:
            if chosen.has(verdict):
                self.cameras.setdefault(verdict["camera"], Counted()).add(verdict)
        self.journal_id, self.next = page["journal_id"], page["next"]
        self.complete = page["next"] > page["last"]

    def shown(self) -> dict[str, Any]:
        """Return what the pages show."""
        cameras = {
            name: {
                "passed": one.passed,
                "failed": one.failed,
                "unknown": one.unknown,
                "mean_ms": one.sum_ms / (one.passed + one.failed + one.unknown),
                "slowest_ms": one.slowest_ms,
            }
            for name, one in self.cameras.items()
        }
        return {"since": self.start.isoformat(), "complete": self.complete, "cameras": cameras}


async def count_shifts(journal: JournalSearch, starts: tuple[time, ...], show: Callable[[dict[str, Any]], None]) -> None:
    """Count the present shift without end, and `show` the counts when they have changed."""
    counts = ShiftCounts(shift_start(starts, datetime.now().astimezone()))
    last: dict[str, Any] | None = None
    while True:
        start = shift_start(starts, datetime.now().astimezone())
        if start != counts.start:
            counts = ShiftCounts(start)
        try:
            counts.add_page(await journal.ask(counts.read_page))
        except RefusedError as error:
            if error.code == "no_journal":
                await asyncio.sleep(NO_JOURNAL_S)
                continue
        except (ClientError, TooManyRequestsError):
            pass  # down, or busy: the next second tries again
        shown = counts.shown()
        if counts.complete and shown != last:
            show(shown)
            last = shown
        await asyncio.sleep(EVERY_S if counts.complete or counts.next is None else BETWEEN_PAGES_S)
