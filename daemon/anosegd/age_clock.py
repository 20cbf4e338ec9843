"""Defines the clock that decides how old kept verdicts and pictures are. Any thread."""

from __future__ import annotations

from collections.abc import Callable

DAY_NS = 86_400_000_000_000


class AgeClock:
    """The clock that decides how old kept entries are: it follows the machine's uptime and only starts from the wall clock.

    A wall clock that is set, or wrong at boot (no battery) and corrected by NTP hours later, deletes nothing: at the start this
    clock continues from the newest entry, forward by at most a day. A station switched off for long keeps its entries longer.
    """

    def __init__(self, newest_ns: int | None, wall_ns: int, monotonic_ns: Callable[[], int]) -> None:
        self._monotonic_ns = monotonic_ns
        start = wall_ns if newest_ns is None else min(max(newest_ns, wall_ns), newest_ns + DAY_NS)
        self._offset = start - monotonic_ns()

    def now_ns(self) -> int:
        """Return nanoseconds. They never go back, within a run or between runs."""
        return self._monotonic_ns() + self._offset
