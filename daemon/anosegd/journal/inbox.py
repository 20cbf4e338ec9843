"""What waits for the journal's writer, and the durable consumers' cursors. Any thread; waits for no disk."""

from __future__ import annotations

import re
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import islice

from anosegd.journal.numbers import Numbers
from anosegd.journal.types import Cursor, Entry, JournalBacklogError, JournalError, Range, Trigger, VerdictId, merged

Done = Callable[[Sequence[Entry], Exception | None], None]

MAX_WAITING, MAX_WAITING_BYTES = 10_000, 64 << 20
MAX_COMMIT, MAX_COMMIT_BYTES = 2000, 4 << 20
MAX_CONSUMERS = 64
CONSUMER_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@dataclass(frozen=True, slots=True)
class Submitted:
    """Entries to be committed together, and whom to tell."""

    entries: Sequence[Entry]
    done: Done
    size: int


@dataclass(frozen=True, slots=True)
class Amended:
    """A new header for a number submitted before."""

    entry: Entry


@dataclass(frozen=True, slots=True)
class Accepted:
    """A trigger to be noted, and whom to tell."""

    trigger: Trigger
    done: Callable[[Exception | None], None]


Item = Submitted | Amended | Accepted


@dataclass(frozen=True, slots=True)
class Work:
    """What the writer is to do. items: in order of their arrival. discarded: numbers that carry no verdict. cursors: that
    moved; None is forgotten. damage: what was found wrong with the file, and nothing else then. closing: nothing follows."""

    items: list[Item] = field(default_factory=list)
    discarded: list[Range] = field(default_factory=list)
    cursors: dict[str, Cursor | None] = field(default_factory=dict)
    damage: str | None = None
    closing: bool = False


class Inbox:
    """Filled by every thread, emptied by the writer."""

    def __init__(self, numbers: Numbers, wall_ns: Callable[[], int]) -> None:
        self._numbers, self._wall_ns = numbers, wall_ns
        self._changed = threading.Condition()
        self._items: deque[Item] = deque()
        self._waiting = self._waiting_bytes = self._triggers_waiting = 0
        self._cursors: dict[str, Cursor] = {}
        self._cursors_moved: set[str] = set()
        self._revoking: dict[int, Entry] = {}
        self._held: dict[int, None] = {}  # in order
        self._discarded: list[Range] = []
        self._damage: str | None = None
        self._closing = False

    # ---- any thread

    def submit(self, entries: Sequence[Entry], done: Done, *, hold: bool) -> None:
        """See `Journal.submit`."""
        size = sum(len(e.header) for e in entries)
        with self._changed:
            if self._closing:
                raise JournalError("the journal is closed")
            self._numbers.claim(entries)
            if self._waiting + len(entries) > MAX_WAITING or self._waiting_bytes + size > MAX_WAITING_BYTES:
                self._discard(entries)
                raise JournalBacklogError(
                    f"{self._waiting} verdicts wait for their commit", hint="the disk is too slow, or hangs"
                )
            self._items.append(Submitted(entries, done, size))
            if hold:
                self._held.update((e.seq, None) for e in entries if e.journal_id == self._numbers.journal_id)
            self._waiting += len(entries)
            self._waiting_bytes += size
            self._changed.notify()

    def discard(self, ids: Sequence[VerdictId]) -> None:
        """See `Journal.discard`."""
        with self._changed:
            self._numbers.claim(ids)
            self._discard(ids)

    def accept(self, trigger: Trigger, done: Callable[[Exception | None], None]) -> None:
        """See `Journal.accept`."""
        with self._changed:
            if self._closing:
                raise JournalError("the journal is closed")
            if self._triggers_waiting >= MAX_WAITING:
                raise JournalBacklogError(f"{self._triggers_waiting} triggers wait to be noted")
            self._items.append(Accepted(trigger, done))
            self._triggers_waiting += 1
            self._changed.notify()

    def amend(self, entry: Entry) -> None:
        """See `Journal.amend`."""
        with self._changed:
            if entry.journal_id == self._numbers.journal_id and self._numbers.begun:
                self._revoking[entry.seq] = entry
                self._held.pop(entry.seq, None)
                self._items.append(Amended(entry))
                self._changed.notify()

    def release(self, seq: int) -> None:
        """See `Journal.release`."""
        with self._changed:
            self._held.pop(seq, None)

    def ack(self, consumer: str, seq: int) -> None:
        """See `Journal.ack`."""
        _check_name(consumer)
        if not 0 <= seq <= self._numbers.highest:
            raise JournalError(f"{consumer}: number {seq} was never given out")
        with self._changed:
            known = self._cursors.get(consumer)
            if known is None and len(self._cursors) >= MAX_CONSUMERS:
                raise JournalError(
                    f"{consumer}: there are {MAX_CONSUMERS} consumers already", hint="forget one that is no more"
                )
            self._cursors[consumer] = Cursor(max(seq, known.seq if known else 0), self._wall_ns())
            self._cursors_moved.add(consumer)

    def forget(self, consumer: str) -> None:
        """See `Journal.forget`."""
        with self._changed:
            if self._cursors.pop(consumer, None) is not None:
                self._cursors_moved.add(consumer)

    def cursors(self) -> dict[str, Cursor]:
        """All durable consumers."""
        with self._changed:
            return dict(self._cursors)

    def consumer(self, name: str) -> Cursor | None:
        """One durable consumer.

        Raises:
            JournalError: the name cannot be one.
        """
        _check_name(name)
        with self._changed:
            return self._cursors.get(name)

    def stop_before(self) -> int | None:
        """The first number that is held, or whose header is being replaced: what the file has there must not be read yet."""
        with self._changed:
            return min([*self._revoking, *islice(self._held, 1)], default=None)

    def damage_found(self, journal_id: str, what: str) -> None:
        """A reader found the file of this journal damaged; of any other it does not matter any more."""
        with self._changed:
            if journal_id == self._numbers.journal_id:
                self._damage = what
                self._changed.notify()

    @property
    def waiting(self) -> int:
        """Verdicts that wait for their commit."""
        return self._waiting

    def wake(self) -> None:
        """The writer has something to do."""
        with self._changed:
            self._changed.notify()

    def close(self) -> None:
        """Take nothing any more."""
        with self._changed:
            self._closing = True
            self._changed.notify()

    def _discard(self, ids: Sequence[Entry | VerdictId]) -> None:
        seqs = (Range(each.seq, each.seq) for each in ids if each.journal_id == self._numbers.journal_id)
        self._discarded = merged([*self._discarded, *seqs])

    # ---- the writer

    def take(self, until: float, *, numbers: bool) -> Work:
        """Everything that waits, as much as one transaction may hold; at `until` (monotonic, seconds) at the latest.

        numbers: do not wait when numbers are to be reserved.
        """
        with self._changed:
            while not (self._items or self._damage or self._closing or (numbers and self._numbers.low)):
                if (left := until - time.monotonic()) <= 0 or not self._changed.wait(left):
                    break
            if self._damage is not None:
                damage, self._damage = self._damage, None
                return Work(damage=damage)
            items: list[Item] = []
            entries = size = 0
            while self._items and entries < MAX_COMMIT and size < MAX_COMMIT_BYTES:
                items.append(item := self._items.popleft())
                if isinstance(item, Submitted):
                    entries += len(item.entries)
                    size += item.size
                elif isinstance(item, Accepted):
                    self._triggers_waiting -= 1
            cursors = {name: self._cursors.get(name) for name in self._cursors_moved}
            self._cursors_moved.clear()
            discarded, self._discarded = self._discarded, []
            return Work(items, discarded, cursors, None, self._closing and not self._items)

    def answered(self, item: Submitted) -> None:
        """These do not wait any more."""
        with self._changed:
            self._waiting -= len(item.entries)
            self._waiting_bytes -= item.size

    def amended(self, entries: Sequence[Entry]) -> None:
        """These have replaced what the file held, or there is nothing to replace."""
        with self._changed:
            for entry in entries:
                if self._revoking.get(entry.seq) is entry:
                    del self._revoking[entry.seq]

    def cursors_failed(self, names: Sequence[str]) -> None:
        """The cursors of these consumers could not be written."""
        with self._changed:
            self._cursors_moved.update(names)

    def begin(self, cursors: dict[str, Cursor]) -> None:
        """Another file, with these consumers; what was still to be done to the one before is not."""
        with self._changed:
            self._cursors = cursors
            self._cursors_moved.clear()
            self._revoking.clear()
            self._held.clear()
            self._discarded.clear()
            self._damage = None


def _check_name(name: str) -> None:
    if not CONSUMER_NAME.fullmatch(name):
        raise JournalError(f"{name[:80]!r} is no name for a consumer", hint="1 to 64 letters, digits, '.', '_' or '-'")
