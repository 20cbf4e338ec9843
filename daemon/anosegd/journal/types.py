"""What the journal's modules hand to each other and to their users."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta

from anoseg_engines.errors import AnosegError

MAX_HEADER_BYTES = 64 << 10
MAX_SEQ = 1 << 62
"""Numbers and times beyond cannot be kept."""


class JournalConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """path: the journal's file; its folder must exist. sync: `normal` loses nothing when the daemon is killed, but the last
    half minute in a power failure; `full` syncs the disk before a verdict is sent. keep_days, keep_mb: older verdicts are
    deleted, whichever is reached first."""

    path: Annotated[str, Meta(min_length=1)]
    sync: Literal["normal", "full"] = "normal"
    keep_days: Annotated[float, Meta(gt=0, le=36_500)] = 90.0
    keep_mb: Annotated[int, Meta(ge=64, le=1 << 20)] = 1024


class JournalError(AnosegError):
    """The journal cannot do what was asked, now or at all; the message says which."""


class JournalDamagedError(JournalError):
    """The journal's file is not what was written. It is set aside and a new journal begun."""


class JournalBacklogError(JournalError):
    """More verdicts wait for their commit than may wait: the disk has stopped, or is far too slow."""


class VerdictId(NamedTuple):
    """A verdict's identity."""

    journal_id: str
    seq: int


class Range(NamedTuple):
    """Numbers from `first` to `last`, both included."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Entry:
    """One verdict as it is kept; the journal does not look into it.

    captured_ns, committed_ns: Unix time. header: the UTF-8 JSON that is published, at most 64 KiB. answers: the accepted
    trigger that this verdict is the answer to, which is then not owed any more.
    """

    journal_id: str
    seq: int
    camera: str
    outcome: str
    captured_ns: int
    committed_ns: int
    header: bytes
    answers: int | None = None

    def __post_init__(self) -> None:
        try:
            (self.camera + self.outcome).encode()
        except UnicodeEncodeError as error:
            raise JournalError(f"verdict {self.seq}: camera or outcome is no valid text") from error
        if not (abs(self.captured_ns) < MAX_SEQ and abs(self.committed_ns) < MAX_SEQ):
            raise JournalError(f"verdict {self.seq} of {self.camera}: no such time")
        if len(self.header) > MAX_HEADER_BYTES:
            what = f"verdict {self.seq} of {self.camera}: its header has {len(self.header)} bytes, {MAX_HEADER_BYTES} are kept"
            raise JournalError(what)


@dataclass(frozen=True, slots=True)
class Trigger:
    """An accepted trigger: its part is owed a verdict, also by the next run. number: of this journal. at_ns: Unix time."""

    number: int
    camera: str
    part_id: str
    at_ns: int


class Cursor(NamedTuple):
    """How far a durable consumer has come: everything up to `seq` is done. acked_ns: Unix time of its last word."""

    seq: int
    acked_ns: int


@dataclass(frozen=True, slots=True)
class Page:
    """A stretch of the journal: each number from the one asked for to `next` - 1 is in exactly one of entries, voids, gone.

    voids: numbers that carry no committed verdict, in order. gone: numbers older than the journal keeps. next: where to go
    on. last_committed: up to there everything is settled; what comes after is being committed, or was never given out.
    """

    journal_id: str
    entries: list[Entry]
    voids: list[Range]
    gone: Range | None
    next: int
    last_committed: int


@dataclass(frozen=True, slots=True)
class JournalStats:
    """The journal's state at one moment.

    working: the last attempt to commit succeeded. last_committed, first_kept: numbers. size_bytes: file and write-ahead log.
    waiting: verdicts not yet committed. commits: transactions. committed: verdicts. failures: commits, reservations and
    openings that failed; last_error: the latest, also when it is over. slowest_commit_ms: since the start.
    """

    journal_id: str
    working: bool
    last_committed: int
    first_kept: int
    size_bytes: int
    waiting: int
    commits: int
    committed: int
    failures: int
    last_error: str | None
    slowest_commit_ms: float


def merged(ranges: list[Range]) -> list[Range]:
    """The same numbers in the fewest ranges, in order."""
    result: list[Range] = []
    for first, last in sorted(ranges):
        if result and first <= result[-1].last + 1:
            result[-1] = Range(result[-1].first, max(last, result[-1].last))
        else:
            result.append(Range(first, last))
    return result


def missing(covered: list[Range], first: int, last: int) -> list[Range]:
    """The numbers of first…last that are in none of `covered`."""
    result = []
    for a, b in merged(covered):
        if a > first:
            result.append(Range(first, min(a - 1, last)))
        first = max(first, b + 1)
        if first > last:
            return [r for r in result if r.first <= r.last]
    return [*result, Range(first, last)] if first <= last else result
