"""Turns a page of a station's journal into rows, and checks that it accounts for every number. Pure functions."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import msgspec

VERDICT_COLUMNS = (
    "journal_id, seq, station, camera, outcome, reason, part_id, score, threshold, recipe, engine, captured_at, committed_at, "
    "total_ms, defects, header"
)
NOTE_COLUMNS = "journal_id, number, change, seq, at, mark, comment, who, undoes"
CHANGE_COLUMNS = "journal_id, number, station, at, kind, camera, old, new, who, why"
Row = tuple[Any, ...]

_NOT_TEXT = re.compile("[\x00\ud800-\udfff]")
"""What PostgreSQL does not take in a text."""
_JOURNAL_ID = re.compile("[0-9a-f]{32}")
_NUL_IN_JSON = re.compile(r"(?<!\\)((?:\\\\)*)\\u0000")
"""An escaped U+0000, but not a backslash that is followed by the letters u0000."""


class PageError(Exception):
    """A page does not account for every number exactly once."""


def journal_of(page: Mapping[str, Any]) -> str:
    """Return the id of the journal that an answer comes from.

    Raises:
        PageError: It is no such id.
    """
    journal_id = str(page["journal_id"])
    if not _JOURNAL_ID.fullmatch(journal_id):
        raise PageError(f"{journal_id[:80]!r} is not the id of a journal")
    return journal_id


class ArchiveEvent(NamedTuple):
    """Something that happened to the archive of one station: a row of the table `event`.

    Attributes:
        kind: What happened.
        alarm: Whether somebody should look at it.
        detail: An explanation for people.
        journal_id: The journal concerned, if any.
        first, last: The numbers concerned, if any.
    """

    kind: str
    alarm: bool
    detail: str
    journal_id: str | None = None
    first: int | None = None
    last: int | None = None


@dataclass(slots=True)
class Batch:
    """What is stored of one station in one transaction: all of it, or nothing.

    Attributes:
        station: The station's name.
        journal_id: The journal that rows and cursors belong to; None for events alone.
        first, next: The numbers from `first` to `next` - 1 are accounted for; equal if there are none.
        verdicts, notes, changes: Rows.
        events: Rows of the table `event`.
        note_cursor, change_cursor: The new cursors; None leaves them.
    """

    station: str
    journal_id: str | None = None
    first: int = 0
    next: int = 0
    verdicts: list[Row] = field(default_factory=list)
    notes: list[Row] = field(default_factory=list)
    changes: list[Row] = field(default_factory=list)
    events: list[ArchiveEvent] = field(default_factory=list)
    note_cursor: int | None = None
    change_cursor: int | None = None

    @property
    def is_empty(self) -> bool:
        """Whether there is nothing to store."""
        return self.first == self.next and not (self.events or self.notes or self.changes)


def batch_of_page(station: str, page: Mapping[str, Any], first: int, *, new: bool) -> Batch:
    """Return what a page brings.

    Args:
        station: The station's name in the database.
        page: The answer to `replay`.
        first: The number from which it was asked.
        new: Nothing of this station was archived before: what retention has deleted is no gap.

    Raises:
        PageError: A number is missing, or there twice.
    """
    journal_id, end = str(page["journal_id"]), int(page["next"])
    events = []
    ranges = [(int(a), int(b)) for a, b in page["void"]]
    for a, b in ranges:
        detail = "earlier journals used these numbers" if a == 1 else "no verdict was committed under these numbers"
        events.append(ArchiveEvent("void", False, detail, journal_id, a, b))
    if page["gone"]:
        a, b = page["gone"]
        ranges.append((int(a), int(b)))
        if new:
            events.append(ArchiveEvent("begun_late", False, "deleted before the archive began", journal_id, a, b))
        else:
            detail = "the station's journal deleted these numbers before they were archived"
            events.append(ArchiveEvent("gone", True, detail, journal_id, a, b))
    _check(first, end, [(v["seq"], v["seq"]) for v in page["verdicts"]] + ranges)
    verdicts = [verdict_row(station, journal_id, verdict) for verdict in page["verdicts"]]
    return Batch(station, journal_id, first, end, verdicts, events=events)


def _check(first: int, end: int, ranges: list[tuple[int, int]]) -> None:
    expected = first
    for a, b in sorted(ranges):
        if a != expected or b < a:
            raise PageError(f"number {min(a, expected)} is missing from the station's answer, or there twice")
        expected = b + 1
    if expected != end:
        raise PageError(f"the numbers from {expected} to {end - 1} are missing from the station's answer")


def verdict_row(station: str, journal_id: str, verdict: Mapping[str, Any]) -> Row:
    """Return the row of a verdict, in the order of `VERDICT_COLUMNS`."""
    engine, timings = verdict.get("engine") or {}, verdict.get("timings_ms") or {}
    return (
        journal_id,
        verdict["seq"],
        station,
        text(verdict["camera"]),
        text(verdict["outcome"]),
        text(verdict.get("reason")),
        text(verdict["part_id"]),
        verdict.get("score"),
        verdict.get("threshold"),
        text(verdict.get("recipe") or ""),
        text(f"{engine.get('name', '')}/{engine.get('version', '')}"),
        text(verdict.get("captured_at")),
        text(verdict["committed_at"]),
        timings.get("total"),
        len(verdict.get("defects") or ()),
        _json(verdict),
    )


def note_row(journal_id: str, note: Mapping[str, Any]) -> Row:
    """Return the row of what somebody said about a part, in the order of `NOTE_COLUMNS`."""
    texts = (text(note[name]) for name in ("mark", "comment", "who"))
    return (journal_id, note["number"], note["change"], note["seq"], text(note["at"]), *texts, note["undoes"])


def change_row(station: str, journal_id: str, change: Mapping[str, Any]) -> Row:
    """Return the row of a change, in the order of `CHANGE_COLUMNS`."""
    texts = (text(change[name]) for name in ("kind", "camera", "old", "new", "who", "why"))
    return (journal_id, change["number"], station, text(change["at"]), *texts)


def text(value: Any) -> str | None:
    """Return a value as a text that PostgreSQL takes: a character U+0000 or half a character becomes U+FFFD."""
    return None if value is None else _NOT_TEXT.sub("\ufffd", str(value))


def _json(verdict: Mapping[str, Any]) -> str:
    """Return the verdict as JSON that PostgreSQL takes: a character U+0000 or half a character becomes U+FFFD."""
    try:
        made = msgspec.json.encode(dict(verdict)).decode()
    except UnicodeEncodeError:
        made = _NOT_TEXT.sub("\ufffd", json.dumps(dict(verdict), ensure_ascii=False))
    return _NUL_IN_JSON.sub(r"\1\\ufffd", made) if "\\u0000" in made else made
