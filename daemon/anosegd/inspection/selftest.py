"""Runs the self-test again: the golden images, one between two parts, on request and on a schedule.

The command for it is `anosegd prove`. Runs on the inspector's thread; any thread may request it.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Iterator

from anoseg_engines.engine import Engine
from anoseg_engines.errors import EngineError, RuntimeFailedError
from anoseg_engines.golden import GoldenResult, self_test_steps
from anosegd import logs
from anosegd.worker import Answer


class SelfTest:
    """Runs the golden images again, on the inspector's thread. Any thread may call `ask` and read `alarm`.

    Attributes:
        alarm: Why the golden images failed when they were run last; None if they passed.
        runtime_failure: The alarm's error, if the runtime itself failed.
    """

    def __init__(self, every_min: float | None) -> None:
        self.alarm: str | None = None
        self.runtime_failure: RuntimeFailedError | None = None
        self._every_s = None if every_min is None else 60 * every_min
        self._begun_at = time.monotonic()  # loading the engine runs the self-test
        self._requests: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._answers: list[Answer] = []  # of the requests that the current run answers
        self._run: Iterator[GoldenResult] | None = None

    def ask(self, answer: Answer) -> None:
        """Run the golden images now; `answer` is called with None, or with the reason why they failed."""
        self._requests.put(answer)

    @property
    def due(self) -> bool:
        """Whether `step` has something to do."""
        scheduled = self._every_s is not None and time.monotonic() >= self._begun_at + self._every_s
        return self._run is not None or scheduled or not self._requests.empty()

    def step(self, engine: Engine) -> bool:
        """Run the next golden image if it is due. This takes milliseconds. Return whether `alarm` has changed."""
        if not self.due:
            return False
        if self._run is None:
            self._begun_at = time.monotonic()
            self._take_requests()
            self._run = self_test_steps(engine)
        before = self.alarm
        try:
            next(self._run)
        except StopIteration:
            self._end(None)
        except EngineError as error:
            self.runtime_failure = error if isinstance(error, RuntimeFailedError) else None
            self._end(error.what)
        return self.alarm != before

    def passed(self) -> None:
        """Clear the alarm, because the engine has passed its self-test elsewhere. Restart a run that is under way."""
        self.alarm = self.runtime_failure = None
        if self._run is not None:
            self._run = None
            for answer in self._answers:
                self._requests.put(answer)
            self._answers = []

    def hand_over(self, to: SelfTest) -> None:
        """Have another engine's self-test answer the requests. A run that is under way ends: it begins again when it is due."""
        self._take_requests()
        answers, self._answers, self._run = self._answers, [], None
        for answer in answers:
            to.ask(answer)

    def close(self) -> None:
        """Answer the requests that still wait."""
        self._take_requests()
        self._answer("the daemon is ending")

    def _end(self, alarm: str | None) -> None:
        self._run = None
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

    def _take_requests(self) -> None:
        while not self._requests.empty():
            self._answers.append(self._requests.get_nowait())
