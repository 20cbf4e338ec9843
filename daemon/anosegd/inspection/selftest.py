"""Proving the engine again while it inspects: one golden image between two parts, on request and on a schedule."""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator

from anoseg_engines.engine import Engine
from anoseg_engines.errors import EngineError
from anoseg_engines.golden import GoldenResult, self_test_steps
from anosegd import logs
from anosegd.worker import Answer


class Proofs:
    """`ask`: any thread; everything else: the inspector's.

    alarm: what was wrong with the golden images when they were run last; None while they hold.
    """

    def __init__(self, every_min: float | None) -> None:
        self.alarm: str | None = None
        self._every_s = None if every_min is None else 60 * every_min
        self._begun_at = time.monotonic()  # the engine has just proved itself
        self._wishes: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._answers: list[Answer] = []
        self._running: Iterator[GoldenResult] | None = None

    def ask(self, answer: Answer) -> None:
        """Run the golden images now; `answer` gets None, or what is wrong."""
        self._wishes.put(answer)

    @property
    def due(self) -> bool:
        """Whether `step` has something to do."""
        by_the_clock = self._every_s is not None and time.monotonic() >= self._begun_at + self._every_s
        return self._running is not None or by_the_clock or not self._wishes.empty()

    def step(self, engine: Engine) -> None:
        """Run the next golden image, if it is time; a few milliseconds."""
        if not self.due:
            return
        if self._running is None:
            self._begun_at = time.monotonic()
            self._take_wishes()
            self._running = self_test_steps(engine)
        try:
            next(self._running)
        except StopIteration:
            self._end(None)
        except EngineError as error:
            self._end(error.what)

    def exchanged(self) -> None:
        """Another engine has taken over, proved: what was wrong with the one before is over; a run begins anew."""
        self.alarm = None
        if self._running is not None:
            self._running = None
            for answer in self._answers:
                self._wishes.put(answer)
            self._answers = []

    def close(self) -> None:
        """Answer whoever still waits."""
        self._take_wishes()
        self._answer("the daemon is ending")

    def _end(self, alarm: str | None) -> None:
        self._running = None
        if alarm is not None:
            logs.error("proof.failed", error=alarm)
        elif self.alarm is not None or self._answers:
            logs.info("proof.passed")
        self.alarm = alarm
        self._answer(alarm)

    def _answer(self, error: str | None) -> None:
        answers, self._answers = self._answers, []
        for answer in answers:
            answer(error)

    def _take_wishes(self) -> None:
        while not self._wishes.empty():
            self._answers.append(self._wishes.get_nowait())
