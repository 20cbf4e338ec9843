"""Defines the values that the journal's modules pass to each other and to their users. Pure data."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal, NamedTuple

import msgspec
from msgspec import Meta

from anoseg_engines.errors import AnosegError

MAX_HEADER_BYTES = 64 << 10
MAX_SEQ = 1 << 62
"""The limit of numbers and times."""


ChangeKind = Literal["threshold", "swap", "rollback", "reload", "start", "pause", "resume", "recipe"]


class JournalConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Says where the journal is and how much it keeps.

    Attributes:
        path: The journal's file. Its folder must exist.
        sync: With `normal`, killing the daemon loses nothing, and a power failure loses at most the last half minute. With
            `full`, the disk is synced before a verdict is sent.
        keep_days: Verdicts older than this are deleted.
        keep_mb: The oldest verdicts are deleted when the journal's files would exceed this size, in MiB.
        keep_names_days: Names of persons who changed something are removed after this time; the changes stay.
    """

    path: Annotated[str, Meta(min_length=1)]
    sync: Literal["normal", "full"] = "normal"
    keep_days: Annotated[float, Meta(gt=0, le=36_500)] = 90.0
    keep_mb: Annotated[int, Meta(ge=64, le=1 << 20)] = 1024
    keep_names_days: Annotated[float, Meta(ge=0, le=36_500)] = 365.0


class JournalError(AnosegError):
    """The journal cannot do what was requested, either now or at all. The message says which."""


class JournalNewerError(JournalError):
    """The journal's file was written by a newer program. It is left as it is; a restart changes nothing."""

    exit_code = 2


class JournalDamagedError(JournalError):
    """The journal's file differs from what was written. It is set aside and a new journal begins."""


class VerdictId(NamedTuple):
    """Identifies a verdict."""

    journal_id: str
    seq: int


class Range(NamedTuple):
    """Holds the numbers from `first` to `last`, both included."""

    first: int
    last: int


@dataclass(frozen=True, slots=True)
class Entry:
    """Holds one verdict as it is stored. The journal does not interpret it.

    Attributes:
        captured_ns: Unix time.
        committed_ns: Unix time.
        header: The UTF-8 JSON that is published, at most 64 KiB.
        answers: The number of the accepted trigger that this verdict answers. That trigger is then no longer owed.
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
            raise JournalError(f"verdict {self.seq}: camera or outcome is not valid text") from error
        if not (abs(self.captured_ns) < MAX_SEQ and abs(self.committed_ns) < MAX_SEQ):
            raise JournalError(f"verdict {self.seq} of {self.camera}: time out of range")
        if len(self.header) > MAX_HEADER_BYTES:
            size = f"its header has {len(self.header)} bytes, the limit is {MAX_HEADER_BYTES}"
            raise JournalError(f"verdict {self.seq} of {self.camera}: {size}")


@dataclass(frozen=True, slots=True)
class AcceptedTrigger:
    """Describes an accepted trigger. If this run leaves it without a verdict, the next run owes the verdict.

    Attributes:
        number: Identifies the trigger within the journal.
        at_ns: Unix time.
        request_id: The sender's name for the request. The journal remembers the newest of these, so that a request that is
            sent again is recognised, also after a restart.
        recipe: The recipe that it asks for; None if it asks for none. Known of triggers that are owed a verdict.
    """

    number: int
    camera: str
    part_id: str
    at_ns: int
    request_id: str | None = None
    recipe: str | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """Describes what somebody changed at a running station.

    Attributes:
        at_ns: Unix time.
        kind: What was changed, such as `threshold`.
        camera: The camera; None if the whole station is concerned.
        old, new: The values before and after, as text.
        who, why: Who asked for it, and the reason given. Empty if not known.
    """

    at_ns: int
    kind: ChangeKind
    camera: str | None
    old: str
    new: str
    who: str = ""
    why: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """Holds consecutive numbers of the journal.

    Each number from the requested one to `next` - 1 is in exactly one of `entries`, `voids` and `gone`.

    Attributes:
        voids: Numbers without a committed verdict, ascending.
        gone: Numbers older than the journal keeps.
        next: The number to continue with.
        last_committed: Everything up to this number is final. Later numbers are being committed or were not given out.
    """

    journal_id: str
    entries: list[Entry]
    voids: list[Range]
    gone: Range | None
    next: int
    last_committed: int


class Tally(NamedTuple):
    """Counts the verdicts in the journal.

    Attributes:
        counts: By camera and outcome. Never changed.
        since_ns: Unix time at which the oldest verdict was committed; None if there are no verdicts.
    """

    counts: Mapping[tuple[str, str], int]
    since_ns: int | None


EMPTY = Tally({}, None)


@dataclass(frozen=True, slots=True)
class JournalStats:
    """Describes the journal's state at one moment.

    Attributes:
        working: The last attempt to commit succeeded, and the disk does not hang.
        last_committed: Everything up to this number is final.
        first_kept: Lower numbers were deleted because of their age or the journal's size.
        stored: How many verdicts it has.
        size_bytes: The file and its write-ahead log.
        waiting: Verdicts not committed yet.
        commits: Transactions since the start.
        failures: Failed commits, reservations and attempts to open the file.
        last_error: The latest failure, even if it is over.
    """

    working: bool = False
    last_committed: int = 0
    first_kept: int = 0
    stored: Tally = EMPTY
    size_bytes: int = 0
    waiting: int = 0
    commits: int = 0
    failures: int = 0
    last_error: str | None = None


def merged(ranges: list[Range]) -> list[Range]:
    """Return the same numbers in the fewest ranges, ascending."""
    result: list[Range] = []
    for first, last in sorted(ranges):
        if result and first <= result[-1].last + 1:
            result[-1] = Range(result[-1].first, max(last, result[-1].last))
        else:
            result.append(Range(first, last))
    return result


def missing(covered: list[Range], first: int, last: int) -> list[Range]:
    """Return the numbers from `first` to `last` that are not in `covered`."""
    result = []
    for a, b in merged(covered):
        if a > first:
            result.append(Range(first, min(a - 1, last)))
        first = max(first, b + 1)
        if first > last:
            return [r for r in result if r.first <= r.last]
    return [*result, Range(first, last)] if first <= last else result
