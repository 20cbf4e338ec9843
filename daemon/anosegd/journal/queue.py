"""Holds what waits to be written into the journal, up to limits. Call with the journal's lock held."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from anoseg_engines.words import agreeing, counted
from anosegd.journal.feedback import FeedbackChange
from anosegd.journal.types import AcceptedTrigger, Change, Entry, JournalError

MAX_WAITING, MAX_WAITING_BYTES = 10_000, 64 << 20
MAX_COMMIT, MAX_COMMIT_BYTES = 2000, 4 << 20
MAX_COMMIT_MARKS = 200
"""The most parts that feedback may concern in one transaction: verdicts that come meanwhile wait for it."""


@dataclass(frozen=True, slots=True)
class Queued:
    """Holds verdicts to commit together, or a trigger, change or feedback to record. `answer` is called with the result."""

    answer: Callable[[Exception | None], None]
    entries: Sequence[Entry] = ()
    triggers: Sequence[AcceptedTrigger] = ()
    changes: Sequence[Change] = ()
    feedback: Sequence[FeedbackChange] = ()

    @property
    def size(self) -> int:
        """Bytes of the verdicts' headers."""
        return sum(len(e.header) for e in self.entries)

    @property
    def marks(self) -> int:
        """How many parts its feedback concerns; the most if that is not known before."""
        return sum(len(said.seqs) if said.mark else MAX_COMMIT_MARKS for said in self.feedback)


class Queue:
    """What waits for the journal's next transactions. Feedback waits apart, so that verdicts pass it.

    Attributes:
        verdicts: How many verdicts wait or are being committed.
    """

    def __init__(self) -> None:
        self._items: deque[Queued] = deque()
        self._feedback: deque[Queued] = deque()
        self.verdicts = self._bytes = 0

    def __len__(self) -> int:
        """Return how many items wait."""
        return len(self._items) + len(self._feedback)

    @property
    def only_feedback(self) -> bool:
        """Whether nothing but feedback waits."""
        return not self._items

    def add(self, item: Queued) -> None:
        """Let an item wait.

        Raises:
            JournalError: Too much waits.
        """
        if item.entries:
            if self.verdicts + len(item.entries) > MAX_WAITING or self._bytes + item.size > MAX_WAITING_BYTES:
                what = f"{counted(self.verdicts, 'verdict')} wait{agreeing(self.verdicts, 's', '')} for the commit"
                raise JournalError(what, hint="the disk is too slow, or hangs")
            self.verdicts += len(item.entries)
            self._bytes += item.size
            self._items.append(item)
            return
        queue = self._feedback if item.feedback else self._items
        if len(queue) >= MAX_WAITING:
            raise JournalError(f"{len(queue)} verdicts, triggers or marks wait to be written")
        queue.append(item)

    def take(self, belongs: Callable[[Queued], bool]) -> tuple[list[Queued], list[Queued]]:
        """Take what one transaction may hold, oldest first.

        Args:
            belongs: Returns whether an item can be written into the file that is open now.

        Returns:
            The items that belong, and those that do not.
        """
        taken: list[Queued] = []
        refused: list[Queued] = []
        entries = size = marks = 0
        while self._items and entries < MAX_COMMIT and size < MAX_COMMIT_BYTES:
            item = self._items.popleft()
            if belongs(item):
                taken.append(item)
                entries += len(item.entries)
                size += item.size
            else:
                refused.append(item)
        while self._feedback and (marks == 0 or marks + self._feedback[0].marks <= MAX_COMMIT_MARKS):
            item = self._feedback.popleft()
            if belongs(item):
                taken.append(item)
                marks += item.marks
            else:
                refused.append(item)
        return taken, refused

    def settle(self, items: Sequence[Queued]) -> None:
        """Note that these, which were taken, wait no longer."""
        for item in items:
            self.verdicts -= len(item.entries)
            self._bytes -= item.size
