"""Decides when, in which order and with which outcome a numbered verdict is sent: after its commit, or when its time is over.

Runs on the publisher's thread; only the journal's answer comes from the journal's thread. No function here waits or uses a
socket.
"""

from __future__ import annotations

import itertools
import time
from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal, NamedTuple

import msgspec
import numpy as np

from anosegd import logs, wire
from anosegd.journal import Entry, Journal, JournalError, VerdictId
from anosegd.outcome import Inspected, Outcome, Unknown
from anosegd.part import Part
from anosegd.picture import Picture
from anosegd.publish.deadline import deadline_missed, overdue
from anosegd.publish.verdict import unknown_instead

MAX_MAPS_WAITING = 64
"""Anomaly maps that may wait for their verdicts' commit. Further ones are dropped: a map is large, and may be lost."""

COMMIT_LIMIT_S = 10.0
"""A verdict that has waited this long for its commit is sent without it. Once the disk hangs, none waits any more."""


class Answer(NamedTuple):
    """The journal's answer; `error` is None if the verdict is committed."""

    error: Exception | None


@dataclass(slots=True, eq=False)
class Pending:
    """A verdict that waits since `since_s` (monotonic); the journal's thread sets `answer`."""

    part: Part
    outcome: Outcome
    verdict: wire.Verdict
    picture: Picture | None = None
    answer: Answer | None = None
    since_s: float = field(default_factory=time.monotonic)


class Commits:
    """Gives verdicts to the journal, and sends those of each camera in the order of capture.

    At its deadline, a verdict that still waits is sent as UNKNOWN, even if the journal has not answered. The journal then keeps
    the UNKNOWN. A verdict that has waited for COMMIT_LIMIT_S is sent as if its commit had failed, and so is every one while the
    journal's disk hangs. Nobody reads a committed verdict before it was sent, so a replay always equals what was sent.

    Args:
        journal: Where verdicts are committed.
        on_failure: Whether a result that cannot be committed is sent as UNKNOWN: journal, or as it is (`continue`).
        send: Called with each verdict, its part, the result whose map belongs to it, and the picture that `add` was given.
        late: Called with each part whose result was there but missed the deadline.
        wake: Called on the journal's thread when `send_due` may have something to send.
    """

    def __init__(
        self,
        journal: Journal,
        *,
        on_failure: Literal["unknown", "continue"],
        send: Callable[[wire.Verdict, Part, Inspected | None, Picture | None], None],
        late: Callable[[Part], None],
        wake: Callable[[], None],
    ) -> None:
        self.maps_dropped = 0
        self._journal, self._on_failure = journal, on_failure
        self._send_verdict, self._late, self._wake = send, late, wake
        self._waiting: defaultdict[str, deque[Pending]] = defaultdict(deque)
        self._n_waiting = 0
        self._hang: str | None = None
        self._failures = logs.Throttle("journal.failed")

    def __bool__(self) -> bool:
        """Return whether any verdict waits. Any thread."""
        return self._n_waiting > 0

    def next_deadline_ns(self) -> int | None:
        """Return when the first verdict can wait no longer; a camera's deadlines are in the order of its parts."""
        heads = [waiting[0] for waiting in self._waiting.values() if waiting]
        deadlines = [head.part.deadline_ns for head in heads if head.part.deadline_ns is not None]
        return min([*deadlines, *(round((head.since_s + COMMIT_LIMIT_S) * 1e9) for head in heads)], default=None)

    def next_id(self) -> VerdictId:
        """Return the number for the next verdict, which has to be added."""
        return self._journal.next_id()

    def add(self, part: Part, outcome: Outcome, verdict: wire.Verdict, *, picture: Picture | None = None) -> None:
        """Have the verdict committed, and send it when it is its turn."""
        waiting = self._waiting[part.camera]
        if len(waiting) >= MAX_MAPS_WAITING and isinstance(outcome, Inspected):
            outcome = _without_map(outcome)
            self.maps_dropped += 1
        pending = Pending(part, outcome, verdict, picture)
        waiting.append(pending)
        self._n_waiting += 1

        def done(_: Sequence[Entry], error: Exception | None) -> None:
            pending.answer = Answer(error)
            self._wake()

        try:
            entry = _entry(part, verdict)
        except JournalError as error:
            self._journal.discard([VerdictId(verdict.journal_id, verdict.seq)])
            pending.answer = Answer(error)
            return
        try:
            self._journal.submit([entry], done, hold=True)
        except JournalError as error:
            pending.answer = Answer(error)

    def send_due(self) -> None:
        """Send the verdicts that the journal has answered and those that can wait no longer."""
        self._note_hang()
        while (pending := self._next_due()) is not None:
            self._waiting[pending.part.camera].popleft()
            self._send(pending, self._given_up(pending))

    def _note_hang(self) -> None:
        """Find out whether the journal's disk hangs. Log the beginning and the end."""
        before, self._hang = self._hang, self._journal.hang
        if self._hang is not None and before is None:
            logs.error("journal.hung", error=self._hang)
        elif self._hang is None and before is not None:
            logs.info("journal.answers")

    def _given_up(self, pending: Pending) -> TimeoutError | None:
        """Return why the verdict does not wait for the journal's answer any more. None if it does."""
        if self._hang is not None:
            return TimeoutError(self._hang)
        if time.monotonic() >= pending.since_s + COMMIT_LIMIT_S:
            return TimeoutError(f"the disk is too slow: the commit takes more than {COMMIT_LIMIT_S:g} s")
        return None

    def _next_due(self) -> Pending | None:
        """Return the verdict with the lowest number among those that may be sent."""
        heads = [waiting[0] for waiting in self._waiting.values() if waiting]
        # From the highest number down: the journal answers in the order of numbers, so a lower one is never missed.
        heads.sort(key=lambda pending: pending.verdict.seq, reverse=True)
        due = [head for head in heads if head.answer is not None or overdue(head.part) or self._given_up(head)]
        return due[-1] if due else None

    def send_all(self) -> None:
        """Send everything that still waits, without the journal's answer, because the daemon ends."""
        for pending in sorted(itertools.chain(*self._waiting.values()), key=lambda pending: pending.verdict.seq):
            self._waiting[pending.part.camera].popleft()
            self._send(pending, TimeoutError("the journal did not answer before the daemon's end"))

    def _send(self, pending: Pending, unanswered: Exception | None = None) -> None:
        """Send a verdict, then let readers of the journal have it.

        Args:
            pending: The verdict.
            unanswered: The error to assume if the journal has not answered.
        """
        part, verdict, answer = pending.part, pending.verdict, pending.answer
        error = unanswered if answer is None else answer.error
        inspected = pending.outcome if isinstance(pending.outcome, Inspected) else None
        instead: Unknown | None = None
        if inspected is not None and overdue(part):
            instead = deadline_missed(part)
            self._late(part)
        elif inspected is not None and error is not None and self._on_failure == "unknown":
            instead = Unknown("journal", f"the verdict could not be committed: {_first_line(error)}")
        if instead is not None:
            inspected, verdict = None, unknown_instead(verdict, part, instead)
            if answer is None or answer.error is None:  # the journal has it, or may still commit it
                self._journal.amend(_entry(part, verdict))
        if answer is None or error is not None or instead is not None:
            verdict = msgspec.structs.replace(verdict, durable=False)
        if error is not None:
            self._failures.warning(seq=verdict.seq, error=_first_line(error))
        self._send_verdict(verdict, part, inspected, pending.picture)
        self._journal.release(verdict.seq)
        if part.trigger is not None and (answer is None or answer.error is not None):
            self._journal.answered(part.trigger)  # only now: a crash before the sending must leave the verdict owed
        self._n_waiting -= 1


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0]


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


def _without_map(inspected: Inspected) -> Inspected:
    empty = np.empty((0, 0), np.float32)
    return replace(inspected, inspection=replace(inspected.inspection, anomaly_map=empty))
