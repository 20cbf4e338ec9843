"""Verdicts that have their number and wait for the journal's word: what may be sent, in which order, and as what.

On the publisher's thread, but for the journal's answer. Pure bookkeeping: nothing here waits or touches a socket.
"""

from __future__ import annotations

import time
from collections import defaultdict, deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import numpy as np

from anosegd import logs, wire
from anosegd.journal import Entry, Journal, JournalError, VerdictId
from anosegd.outcome import Result, Unknown
from anosegd.part import Part

MAX_MAPS_WAITING = 64
"""So many anomaly maps may wait for their verdicts' commit; beyond that they are dropped: a map is large, and may be lost."""

ToSend = tuple[wire.Verdict, Result | Unknown]


class Build(Protocol):
    """Builds a part's verdict under a number."""

    def __call__(self, part: Part, outcome: Result | Unknown, journal_id: str, seq: int, *, durable: bool) -> wire.Verdict:
        """The verdict, committed_at now."""


@dataclass(slots=True, eq=False)
class Pending:
    """One such verdict. answered: the journal has given its word, `error` says which. gone: it was sent without waiting."""

    part: Part
    outcome: Result | Unknown
    journal_id: str
    seq: int
    verdict: wire.Verdict
    answered: bool = False
    error: Exception | None = None
    gone: bool = False


class Commits:
    """Gives verdicts to the journal and says what may be sent: each camera's in the order of capture.

    A verdict that was not sent by its deadline goes out as UNKNOWN, whatever the journal is doing, and that is what the journal
    keeps too. What is committed is read by nobody until it was sent: a replay never says other than what was sent.
    answered: told on the journal's thread that `settle` is to be called. too_late: the outcome of a part past its deadline.
    """

    def __init__(
        self,
        journal: Journal,
        build: Build,
        *,
        on_failure: Literal["unknown", "continue"],
        answered: Callable[[Pending, Exception | None], None],
        too_late: Callable[[Part], Unknown],
    ) -> None:
        self.maps_dropped = 0
        self._journal, self._build = journal, build
        self._on_failure, self._answered, self._too_late = on_failure, answered, too_late
        self._waiting: defaultdict[str, deque[Pending]] = defaultdict(deque)
        self._trouble = logs.Throttle("journal.failed")

    def __bool__(self) -> bool:
        """Whether any verdict waits."""
        return any(self._waiting.values())

    def first_parts(self) -> list[Part]:
        """Of each camera the part that waits longest: its deadline is the camera's nearest."""
        return [waiting[0].part for waiting in self._waiting.values() if waiting]

    def add(self, part: Part, outcome: Result | Unknown) -> None:
        """Give the part's verdict its number, and to the journal."""
        journal_id, seq = self._journal.next_id()
        verdict = self._build(part, outcome, journal_id, seq, durable=True)
        waiting = self._waiting[part.camera]
        if len(waiting) >= MAX_MAPS_WAITING and isinstance(outcome, Result):
            outcome = _without_map(outcome)
            self.maps_dropped += 1
        pending = Pending(part, outcome, journal_id, seq, verdict)
        waiting.append(pending)

        def done(_: Sequence[Entry], error: Exception | None) -> None:
            self._answered(pending, error)

        try:
            entry = _entry(part, verdict)
        except JournalError as error:
            self._journal.discard([VerdictId(journal_id, seq)])
            self.settle(pending, error)
            return
        try:
            self._journal.submit([entry], done, hold=True)
        except JournalError as error:
            self.settle(pending, error)

    def settle(self, pending: Pending, error: Exception | None) -> None:
        """The journal's word on one; `due` has it when those before it have gone."""
        pending.answered, pending.error = True, error
        if error is not None and not pending.gone:
            self._trouble.warning(seq=pending.seq, error=str(error).splitlines()[0])

    def due(self) -> Iterator[ToSend]:
        """Verdicts to be sent now, with their outcomes: answered, or past their deadline."""
        for waiting in self._waiting.values():
            while waiting and (waiting[0].answered or overdue(waiting[0].part)):
                yield from self._send(waiting.popleft())

    def give_up(self) -> Iterator[ToSend]:
        """The end: everything that still waits, sent without the journal's word."""
        for waiting in self._waiting.values():
            while waiting:
                pending = waiting.popleft()
                if not pending.answered:
                    self._withdraw(pending)
                    self.settle(pending, TimeoutError("the journal did not answer before the daemon's end"))
                yield from self._send(pending)

    def _send(self, pending: Pending) -> Iterator[ToSend]:
        """As what a verdict goes out; once it has gone, readers may have it."""
        pending.gone = True
        part, outcome, number = pending.part, pending.outcome, (pending.journal_id, pending.seq)
        late = isinstance(outcome, Result) and overdue(part)
        if late:
            outcome = self._too_late(part)
        if pending.answered and pending.error is not None:  # not in the journal, its number becomes void
            if isinstance(outcome, Result) and self._on_failure == "unknown":
                outcome = Unknown("journal", "the verdict could not be committed")
            yield self._build(part, outcome, *number, durable=False), outcome
        elif late:
            self._journal.amend(_entry(part, self._build(part, outcome, *number, durable=True)))
            yield self._build(part, outcome, *number, durable=False), outcome
        elif not pending.answered:  # UNKNOWN, on its way into the journal but not there: nothing durable can be said of it
            yield self._build(part, outcome, *number, durable=False), outcome
        else:
            yield pending.verdict, outcome
        self._journal.release(pending.seq)

    def _withdraw(self, pending: Pending) -> None:
        """Should the journal commit it after all, it must not say PASS where UNKNOWN was sent."""
        if self._on_failure == "unknown":
            outcome = Unknown("journal", "the journal did not answer before the daemon's end")
            kept = self._build(pending.part, outcome, pending.journal_id, pending.seq, durable=True)
            self._journal.amend(_entry(pending.part, kept))


def overdue(part: Part) -> bool:
    """Whether the part's deadline has passed."""
    return part.deadline_ns is not None and time.monotonic_ns() >= part.deadline_ns


def _entry(part: Part, verdict: wire.Verdict) -> Entry:
    return Entry(
        journal_id=verdict.journal_id,
        seq=verdict.seq,
        camera=part.camera,
        outcome=verdict.outcome,
        captured_ns=part.began_wall_ns,
        committed_ns=time.time_ns(),
        header=wire.encode(verdict),
        answers=part.trigger,
    )


def _without_map(result: Result) -> Result:
    empty = np.empty((0, 0), np.float32)
    return replace(result, inspection=replace(result.inspection, anomaly_map=empty))
