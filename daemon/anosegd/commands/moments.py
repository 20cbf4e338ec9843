"""Parses the moments that people type, and makes periods of them. Every command that takes a moment uses this module.

A moment without an offset is local time. One that the change to summer time skips is the moment of the change. Of two that the
change to winter time gives the same name, it is the first. So a shift ends exactly where the next one begins.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta, timezone
from typing import Any, NamedTuple

from anoseg_engines.errors import ConfigError
from anosegd.commands.shown import moment_of

FORMS = "22:00 (the last one that was), 8h or 30m (ago), 2026-11-22, 2026-11-22T06:00, 2026-11-22T06:00+01:00"
UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_CLOCK = r"(?P<hour>\d{1,2}):(?P<minute>\d{2})(?::(?P<second>\d{2})(?P<fraction>\.\d{1,6})?)?"
_TIME_OF_DAY = re.compile(_CLOCK, re.ASCII)
_AGO = re.compile(rf"(\d{{1,9}})([{''.join(UNITS)}])", re.ASCII)
_DATE = re.compile(rf"(?P<date>\d{{4}}-\d{{2}}-\d{{2}})(?:[T ]{_CLOCK}\s?(?P<offset>Z|[+-]\d{{2}}:?\d{{2}})?)?", re.ASCII)
EPOCH = datetime(1970, 1, 1, tzinfo=timezone.utc)
DAY = timedelta(days=1)
LATE_COMMIT_NS = 60_000_000_000
"""The camera's own stamp of a capture may be later than the commit, by the difference of two clocks. It is less than this."""


@dataclass(frozen=True, slots=True)
class Moment:
    """A moment as it was typed: either a time of day or a point in time.

    Attributes:
        text: What was typed.
        of_day: Seconds since midnight by the clock.
        at: The point in time, with an offset.
    """

    text: str
    of_day: float | None = None
    at: datetime | None = None

    def last(self, before: datetime) -> datetime:
        """Return the point in time; of a time of day, the last one that was by `before`."""
        if self.at is not None:
            return self.at
        today = before.astimezone().date()
        days = (today, today - DAY)
        return next((found for found in map(self._on, days) if found <= before), self._on(today - 2 * DAY))

    def first_after(self, start: datetime, since: Moment) -> datetime:
        """Return the point in time; of a time of day, the first one after `start`, at which the moment `since` is.

        Two times of day between which the change to summer time leaves nothing are one point in time.
        """
        if self.at is not None:
            return self.at
        day = start.astimezone().date()
        if since.of_day is not None and since.of_day != self.of_day and self._on(day) == start:
            return start
        return next((found for found in map(self._on, (day, day + DAY)) if found > start), self._on(day + 2 * DAY))

    def _on(self, day: date) -> datetime:
        assert self.of_day is not None
        return local(datetime.combine(day, time()) + timedelta(seconds=self.of_day))


class Period(NamedTuple):
    """The time from `since` up to, but not including, `until`, in Unix nanoseconds. None is open."""

    since: int | None
    until: int | None

    def has(self, verdict: Mapping[str, Any]) -> bool:
        """Return whether the verdict's part belongs to the period, by its own time (`time_of`)."""
        at = unix_ns(time_of(verdict))
        return (self.since is None or at >= self.since) and (self.until is None or at < self.until)

    @property
    def first_committed(self) -> int | None:
        """No verdict of the period was committed before this Unix time in ns."""
        return None if self.since is None else max(0, self.since - LATE_COMMIT_NS)

    def __str__(self) -> str:
        begin = "" if self.since is None else f" from {_shown(self.since)}"
        return begin + ("" if self.until is None else f" to {_shown(self.until)}")


def time_of(verdict: Mapping[str, Any]) -> str:
    """Return the time of the part of a verdict's header, UTC: its capture, else its trigger, else the commit."""
    return str(verdict.get("captured_at") or verdict.get("triggered_at") or verdict["committed_at"])


def now() -> datetime:
    """Return the present moment."""
    return datetime.now(timezone.utc)


def unix_ns(utc: str) -> int:
    """Return the Unix time in ns of a moment in a header."""
    return _ns(moment_of(utc))


def moment(text: str) -> Moment:
    """Parse a moment, for argparse.

    Raises:
        argparse.ArgumentTypeError: It has none of the forms.
    """
    text = text.strip()
    try:
        if found := _AGO.fullmatch(text):
            ago = timedelta(**{UNITS[found[2]]: int(found[1])})
            return Moment(text, at=now() - ago if ago < now() - EPOCH else EPOCH)
        if found := _TIME_OF_DAY.fullmatch(text):
            return Moment(text, of_day=_seconds(found) % DAY.total_seconds())
        if found := _DATE.fullmatch(text):
            return Moment(text, at=_point_in_time(found))
    except (ValueError, OverflowError) as error:
        raise argparse.ArgumentTypeError(f"'{text}' does not exist ({error}); write one of: {FORMS}") from error
    raise argparse.ArgumentTypeError(f"'{text}' is no moment; write one of: {FORMS}")


def period_of(since: Moment | None, until: Moment | None) -> Period:
    """Return the period between two moments. A time of day as `until` is the first one after `since`.

    Raises:
        ConfigError: `until` is not after `since`.
    """
    start = None if since is None else since.last(now())
    end = None
    if until is not None:
        end = until.last(now()) if since is None or start is None else until.first_after(start, since)
    if since is not None and until is not None and start is not None and end is not None and end <= start:
        shown = f"--until {until.text} ({_shown(_ns(end))}) is not after --since {since.text} ({_shown(_ns(start))})"
        skipped = end == start and since.of_day != until.of_day and None not in (since.of_day, until.of_day)
        hint = "the change to summer time skips the time between them; " if skipped else "exchange the two, or "
        raise ConfigError(shown, hint=f"{hint}write dates too: 2026-11-22T06:00")
    return Period(None if start is None else _ns(start), None if end is None else _ns(end))


def local(naive: datetime) -> datetime:
    """Return a local time without an offset as a point in time, as the module's docstring says for the days of the changes."""
    early, late = sorted(naive.replace(fold=fold).astimezone() for fold in (0, 1))
    if early.replace(tzinfo=None) == naive:  # it exists: once, or twice
        return early
    before = early.utcoffset()
    while late - early > timedelta(microseconds=1):  # the change is between the two
        middle = (early + (late - early) / 2).astimezone()
        early, late = (middle, late) if middle.utcoffset() == before else (early, middle)
    return (late + timedelta(microseconds=1)).replace(microsecond=0)


def _point_in_time(found: re.Match[str]) -> datetime:
    day = datetime.fromisoformat(found["date"])
    if not 1970 <= day.year < 9000:
        raise ValueError("the year is out of range")
    at = day + timedelta(seconds=_seconds(found) if found["hour"] is not None else 0)
    if (offset := found["offset"]) is None:
        return local(at)
    if offset == "Z":
        return at.replace(tzinfo=timezone.utc)
    sign, hours, minutes = -1 if offset[0] == "-" else 1, int(offset[1:3]), int(offset[-2:])
    return at.replace(tzinfo=timezone(sign * timedelta(hours=hours, minutes=minutes)))


def _seconds(found: re.Match[str]) -> float:
    hour, minute, second = (int(found[name] or 0) for name in ("hour", "minute", "second"))
    fraction = float(found["fraction"] or 0)
    if minute > 59 or second > 59 or hour > 24 or (hour == 24 and (minute, second, fraction) != (0, 0, 0)):
        raise ValueError("a day has 24 hours, an hour 60 minutes")
    return 3600 * hour + 60 * minute + second + fraction


def _ns(at: datetime) -> int:
    since = at - EPOCH
    return max(0, (since.days * 86_400 + since.seconds) * 10**9 + since.microseconds * 1000)


def _shown(ns: int) -> str:
    return datetime.fromtimestamp(ns / 1e9, timezone.utc).astimezone().isoformat(sep=" ", timespec="seconds")
