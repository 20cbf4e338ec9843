"""Keeps the accepted triggers that still wait for a verdict. Call with the journal's lock held."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Sequence

from anosegd.journal.types import AcceptedTrigger


class Triggers:
    """The triggers that a journal's file holds, or will hold soon."""

    def __init__(self) -> None:
        self._numbers = itertools.count(time.time_ns())
        self._unanswered: dict[int, bool] = {}  # True: answered, but by no stored verdict
        self._owed: list[AcceptedTrigger] = []
        self._requests: list[AcceptedTrigger] = []

    def begin(self, owed: list[AcceptedTrigger], requests: list[AcceptedTrigger]) -> None:
        """Start with what earlier runs left in a file: triggers without a verdict, and those with a request id."""
        self._owed, self._requests = owed, requests
        self._unanswered.update((trigger.number, False) for trigger in owed)

    def number_above(self, triggers: Sequence[AcceptedTrigger]) -> None:
        """Give later triggers higher numbers than these, even if the clock went back: the file keeps the highest requests."""
        highest = max((trigger.number for trigger in triggers), default=0)
        self._numbers = itertools.count(max(next(self._numbers), highest + 1))

    def accept(
        self, camera: str, part_id: str, at_ns: int, request_id: str | None = None, recipe: str | None = None
    ) -> AcceptedTrigger:
        """Return a new trigger. It waits for a verdict until it is answered or forgotten."""
        trigger = AcceptedTrigger(next(self._numbers), camera, part_id, at_ns, request_id, recipe)
        self._unanswered[trigger.number] = False
        return trigger

    def answer(self, number: int) -> bool:
        """Note that a trigger's verdict was sent without being stored. Returns whether its record must be removed."""
        if number not in self._unanswered:
            return False
        self._unanswered[number] = True
        return True

    @property
    def answered(self) -> list[int]:
        """Triggers whose record must be removed: their verdicts were sent without being stored."""
        return [number for number, answered in self._unanswered.items() if answered]

    def forget(self, numbers: Iterable[int | None]) -> None:
        """Note that the file does not hold these triggers any more, or never will. None stands for no trigger."""
        for number in numbers:
            if number is not None:
                self._unanswered.pop(number, None)

    def take_owed(self) -> list[AcceptedTrigger]:
        """Return the triggers that an earlier run accepted and did not answer, each once."""
        owed, self._owed = self._owed, []
        return owed

    def take_requests(self) -> list[AcceptedTrigger]:
        """Return the triggers with a request id that earlier runs accepted, once, oldest first."""
        requests, self._requests = self._requests, []
        return requests
