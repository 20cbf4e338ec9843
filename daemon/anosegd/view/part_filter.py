"""Reads from an address which past parts are asked for, and decides for a verdict. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any, get_args

from anosegd import wire
from anosegd.journal import MARKS
from anosegd.view.shown_verdict import part_time

LONGEST_TEXT = 4000
LAST_YEAR = 2200
"""The journal's times are ns in 64 bits, which end in 2262."""
OUTCOMES = (*get_args(wire.Outcome), "REJECT")
"""`REJECT` stands for FAIL and UNKNOWN."""
MARKED, UNMARKED = "marked", "unmarked"
FEEDBACK = (*MARKS, MARKED, UNMARKED)


@dataclass(frozen=True, slots=True)
class PartFilter:
    """Chooses parts.

    Attributes:
        since, until: The period by the parts' own time, UTC in the form of the headers; `until` is not included. None is open.
        camera: Name of the camera; None for all.
        outcome: One of `OUTCOMES`; None for all.
        part: A piece of the part id, in any case of letters; None for all.
        feedback: One of `FEEDBACK`; None for all.
    """

    since: str | None = None
    until: str | None = None
    camera: str | None = None
    outcome: str | None = None
    part: str | None = None
    feedback: str | None = None

    def has(self, verdict: Mapping[str, Any]) -> bool:
        """Return whether the verdict is chosen. A bare header has no mark."""
        at = part_time(verdict)
        return (
            (self.since is None or at >= self.since)
            and (self.until is None or at < self.until)
            and self.camera in (None, verdict["camera"])
            and (self.outcome in (None, verdict["outcome"]) or (self.outcome == "REJECT" and verdict["outcome"] != "PASS"))
            and self._has_mark(getattr(verdict, "mark", None))
            and (self.part is None or self.part.casefold() in str(verdict["part_id"]).casefold())
        )

    def _has_mark(self, mark: Mapping[str, Any] | None) -> bool:
        if self.feedback in (None, MARKED, UNMARKED):
            return self.feedback is None or (mark is not None) == (self.feedback == MARKED)
        return mark is not None and mark["mark"] == self.feedback


def part_filter(query: Mapping[str, str]) -> PartFilter:
    """Return the filter that an address asks for. Empty values choose everything.

    Raises:
        ValueError: A value is invalid.
    """
    values = {name: query.get(name) or None for name in ("since", "until", "camera", "outcome", "part", "feedback")}
    if any(value is not None and len(value) > LONGEST_TEXT for value in values.values()):
        raise ValueError(f"a filter may have {LONGEST_TEXT} letters")
    if values["outcome"] not in (None, *OUTCOMES):
        raise ValueError(f"outcome: one of {', '.join(OUTCOMES)}")
    if values["feedback"] not in (None, *FEEDBACK):
        raise ValueError(f"feedback: one of {', '.join(FEEDBACK)}")
    for name in ("since", "until"):
        values[name] = None if (text := values[name]) is None else _utc(name, text)
    return PartFilter(**values)


def unix_ns(utc: str) -> int:
    """Return the Unix time in ns of a moment in the form of the headers."""
    moment = datetime.fromisoformat(utc.replace("Z", "+00:00"))
    return max(0, int(moment.timestamp()) * 1_000_000_000 + moment.microsecond * 1000)


def _utc(name: str, text: str) -> str:
    try:
        moment = datetime.fromisoformat(text.replace("Z", "+00:00"))
        moment = moment.astimezone(timezone.utc)
        if moment.year > LAST_YEAR:
            raise ValueError
        return moment.isoformat(timespec="microseconds").replace("+00:00", "Z")
    except (ValueError, OverflowError):
        raise ValueError(f"{name}: write a moment such as 2026-11-22T06:00:00Z") from None
