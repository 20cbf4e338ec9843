"""Ends a training early when validation no longer improves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

LEAST_GAIN = 0.001
"""A validation counts as better from this gain in the validation metric."""
COOL_DOWN = 0.25
"""Length of the cool-down, as a share of the steps to the best validation."""


@dataclass(slots=True)
class EarlyStop:
    """Without a gain, training goes back to the best weights and lowers their learning rate to 0, which is the cool-down.

    Training ends when the best validation is at least `limit` validations and half of the steps so far ago: a long training
    also improves more slowly. The cool-down is needed because weights from the middle of a training, at a high learning rate,
    are worse than those from a planned end.

    Attributes:
        limit: Fewest validations without a gain; None: training runs to its planned end.
        best: Best validation metric so far.
        best_step: Step of that validation.
        best_rate: Share of the learning rate at that step.
        waited: Validations since then.
        ends_from: Step at which the cool-down begins; None before this step is decided.
        ends_at: Step at which training ends.
    """

    limit: int | None
    best: float = -1.0
    best_step: int = 0
    best_rate: float = 1.0
    waited: int = 0
    ends_from: int | None = None
    ends_at: int | None = None

    @classmethod
    def resumed(cls, limit: int | None, limit_before: int | None, state: Mapping[str, Any]) -> EarlyStop:
        """Continue from what a checkpoint keeps. If the limit is larger than before, an early end no longer holds."""
        found = cls(limit, **state)
        if limit_before is not None and (limit is None or limit > limit_before):
            found.ends_from = found.ends_at = None
        return found

    def add_validation(self, step: int, metric: float, rate: float) -> bool:
        """Take the validation metric measured at `step`, where the share of the learning rate was `rate`.

        Returns:
            Whether the cool-down begins now, for which the caller loads the best weights.
        """
        if metric > self.best + LEAST_GAIN:
            self.best, self.best_step, self.best_rate, self.waited = metric, step, rate, 0
            return False
        self.waited += 1
        over = self.limit is not None and self.waited >= self.limit and step >= 2 * self.best_step
        if not over or self.ends_at is not None:
            return False
        self.ends_from, self.ends_at = step, step + max(1, round(COOL_DOWN * self.best_step))
        return True

    def rate(self, step: int, planned: float) -> float:
        """Return the share of the learning rate: `planned`, or in the cool-down a straight fall from the best step's to 0."""
        if self.ends_from is None or self.ends_at is None:
            return planned
        return self.best_rate * max(0.0, (self.ends_at - step) / (self.ends_at - self.ends_from))

    def is_over(self, step: int) -> bool:
        """Return whether the early end is reached."""
        return self.ends_at is not None and step >= self.ends_at

    def state(self) -> dict[str, float | int | None]:
        """Return what a checkpoint keeps: everything but the limit, which the configuration sets."""
        return {key: value for key, value in asdict(self).items() if key != "limit"}
