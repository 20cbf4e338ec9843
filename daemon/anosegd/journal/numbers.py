"""Seq numbers in memory: in hand, and given out but not settled. Any thread; waits for no disk."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Collection, Iterable
from typing import ClassVar

from anosegd.journal.types import Entry, JournalError, Range, VerdictId


class Numbers:
    """Gives out each identity once.

    When no reserved number is left, because none could be reserved or there is no journal, identities of a spare journal_id
    are given out: made for this process, kept in no file, so no later run can give them out again. Numbers rise through all.
    """

    BLOCK: ClassVar[int] = 10_000
    """Numbers reserved at a time: as many as verdicts may wait, so that they do not run out while the disk hangs. A crash
    leaves up to twice as many unused."""

    def __init__(self, highest: int) -> None:
        self._lock = threading.Lock()
        self._spare_id = self._journal_id = uuid.uuid4().hex
        self._next, self._last = highest + 1, highest  # in hand: next…last
        self._highest = highest
        self._given: dict[int, bool] = {}  # in order; whether it was submitted

    @property
    def journal_id(self) -> str:
        """The journal's id; the spare one while there is no journal."""
        return self._journal_id

    @property
    def begun(self) -> bool:
        """Whether there is a journal."""
        return self._journal_id != self._spare_id

    @property
    def highest(self) -> int:
        """The highest number given out, or used in an earlier run."""
        return self._highest

    @property
    def low(self) -> bool:
        """Whether it is time to reserve more."""
        return self._last - self._next + 1 < self.BLOCK and self.begun

    def next_id(self) -> VerdictId:
        """An identity that was never given out before."""
        with self._lock:
            if self._next <= self._last:
                seq = self._highest = self._next
                self._next += 1
                self._given[seq] = False
                return VerdictId(self._journal_id, seq)
            self._highest += 1
            return VerdictId(self._spare_id, self._highest)

    def claim(self, ids: Iterable[Entry | VerdictId]) -> None:
        """These are submitted, or discarded, now.

        Raises:
            JournalError: one of them carries a number that was not given out, or was submitted or discarded before.
        """
        with self._lock:
            seqs = [e.seq for e in ids if e.journal_id == self._journal_id != self._spare_id]
            for seq in seqs:
                if self._given.get(seq) is not False:
                    raise JournalError(f"verdict {seq} was submitted before, or its number was never given out")
            if len(set(seqs)) != len(seqs):
                raise JournalError(f"verdict {seqs} is submitted twice at once")
            self._given.update(dict.fromkeys(seqs, True))

    def awaited(self, ids: Iterable[Entry | VerdictId]) -> bool:
        """Whether all of these were submitted or discarded under the present journal, and are not settled."""
        with self._lock:
            return all(e.journal_id == self._journal_id and self._given.get(e.seq, False) for e in ids)

    def settled(self, seqs: Iterable[int]) -> None:
        """These are committed, or will be declared void."""
        with self._lock:
            for seq in seqs:
                self._given.pop(seq, None)

    def first_unsettled(self, but: Collection[int]) -> int | None:
        """The lowest number given out that is not settled, those in `but` apart."""
        with self._lock:
            return next((seq for seq in self._given if seq not in but), None)

    def wanted(self) -> int:
        """Up to which number to reserve, for one block more."""
        with self._lock:
            return max(self._last, self._highest) + self.BLOCK

    def reserved(self, to: int) -> list[Range]:
        """Numbers up to `to` are reserved. Returns those that are never going to be given out."""
        with self._lock:
            old_next, self._last = self._next, to
            self._next = max(old_next, min(self._highest, to) + 1)
            return [Range(old_next, self._next - 1)] if self._next > old_next else []

    def begin(self, journal_id: str, first: int, last: int) -> list[Range]:
        """The numbers first…last of this journal are in hand; of another none is awaited any more. Returns as `reserved`."""
        with self._lock:
            self._journal_id = journal_id
            self._given.clear()
            self._next = first
        return self.reserved(last)

    def end(self) -> int:
        """There is no journal any more. Returns the highest number given out, by it or spare."""
        with self._lock:
            given_to = max(self._next - 1, self._highest)
            self._journal_id = self._spare_id
            self._given.clear()
            self._next, self._last = self._highest + 1, self._highest
            return given_to
