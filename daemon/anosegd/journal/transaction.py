"""Defines what the journal writes at once. Pure data."""

from __future__ import annotations

from dataclasses import dataclass, field

from anosegd.journal.feedback import FeedbackChange
from anosegd.journal.types import AcceptedTrigger, Change, Entry, Range


@dataclass(slots=True)
class Transaction:
    """Holds what is written at once.

    Attributes:
        entries: New verdicts. An entry that answers a trigger removes it.
        amends: Replacements for committed verdicts. Those without a committed verdict are ignored.
        voids: Numbers that will never carry a verdict.
        cursors: How far durable consumers have come; None removes a consumer.
        triggers: Accepted triggers.
        answered: Accepted triggers whose verdict was sent but is not stored. No verdict is owed for them any more.
        changes: What somebody changed.
        feedback: What somebody said about parts. Each gets its results.
        barrier: The first number given out that stays pending, if any.
    """

    entries: list[Entry] = field(default_factory=list)
    amends: list[Entry] = field(default_factory=list)
    voids: list[Range] = field(default_factory=list)
    cursors: dict[str, int | None] = field(default_factory=dict)
    triggers: list[AcceptedTrigger] = field(default_factory=list)
    answered: list[int] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    feedback: list[FeedbackChange] = field(default_factory=list)
    barrier: int | None = None

    def __bool__(self) -> bool:
        """Return whether there is anything to write."""
        verdicts = (self.entries, self.amends, self.voids, self.cursors)
        return any((*verdicts, self.triggers, self.answered, self.changes, self.feedback))
