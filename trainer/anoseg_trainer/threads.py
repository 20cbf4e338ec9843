"""How many threads a training step runs on: as many as are fastest at the moment, found out by trying."""

from __future__ import annotations

import statistics
from collections.abc import Callable

TRIAL = 8
"""Steps a number of threads is tried for; the first two are not counted."""
PERIOD = 400
"""Steps between trials: what else runs on the machine changes."""


class ThreadCount:
    """Told how long each step took, it sets the number of threads of the next.

    On a machine that does other work, more threads can be slower than one: each waits for the one whose core is taken. A fixed
    number is kept as it is.
    """

    def __init__(self, fixed: int, cores: int, set_threads: Callable[[int], None]) -> None:
        self._set = set_threads
        self._candidates = [fixed] if fixed else sorted({max(1, cores), max(1, cores // 2), 1}, reverse=True)
        self._times: dict[int, list[float]] = {}
        self._step = 0
        self.current = self._candidates[0]
        self._set(self.current)

    def before_step(self) -> None:
        """Begin a trial when it is time, with the most threads."""
        if len(self._candidates) > 1 and self._step % PERIOD == 0:
            self._times.clear()
            self._use(self._candidates[0])

    def after_step(self, seconds: float) -> None:
        """A step took so long; during a trial, go on to the next number, and at its end to the fastest."""
        trial, place = divmod(self._step % PERIOD, TRIAL)
        self._step += 1
        if len(self._candidates) == 1 or trial >= len(self._candidates):
            return
        if place >= 2:
            self._times.setdefault(self.current, []).append(seconds)
        if place == TRIAL - 1:
            last = trial + 1 == len(self._candidates)
            fastest = min(self._times, key=lambda n: statistics.median(self._times[n]))
            self._use(fastest if last else self._candidates[trial + 1])

    def _use(self, n: int) -> None:
        if n != self.current:
            self.current = n
            self._set(n)
