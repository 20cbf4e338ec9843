"""Chooses the number of threads of a training step: tries several numbers, and takes the fastest at the moment."""

from __future__ import annotations

import statistics
from collections.abc import Callable

TRIAL = 8
"""Steps for which a number of threads is tried; the first two are not counted."""
PERIOD = 400
"""Steps between trials, because the load of the machine changes."""


class ThreadCount:
    """Sets the number of threads before each step, from the time that earlier steps took.

    On a busy machine, several threads can be slower than one, because all of them wait for a thread that has no core.

    Attributes:
        current: The number in use.
    """

    def __init__(self, fixed: int, cores: int, set_threads: Callable[[int], None]) -> None:
        """Start with the most threads.

        Args:
            fixed: The number to use always; 0: find the fastest.
            cores: Cores of the machine.
            set_threads: Sets the number, `torch.set_num_threads`.
        """
        self._set = set_threads
        self._candidates = [fixed] if fixed else sorted({max(1, cores), max(1, cores // 2), 1}, reverse=True)
        self._times: dict[int, list[float]] = {}
        self._step = 0
        self.current = self._candidates[0]
        self._set(self.current)

    def before_step(self) -> None:
        """Begin a trial when one is due, with the most threads."""
        if len(self._candidates) > 1 and self._step % PERIOD == 0:
            self._times.clear()
            self._use(self._candidates[0])

    def after_step(self, seconds: float) -> None:
        """Record the time of a step. In a trial, set the next number of threads. At its end, set the fastest number."""
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
