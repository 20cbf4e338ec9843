"""Ends a training early when validation no longer improves."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

LEAST_GAIN = 0.001
"""A validation counts as better from this gain in the validation metric."""


@dataclass(slots=True)
class EarlyStop:
    """After `limit` validations without a gain, the learning rate falls to 0 within a tenth of the steps so far.

    The cool-down is needed because weights from the middle of a training are worse than those from its planned end.

    Attributes:
        limit: Validations without a gain; None: training runs to its planned end.
        best: Best validation metric so far.
        waited: Validations since the best metric.
        ends_from: Step at which the cool-down begins; None before this step is decided.
        ends_at: Step at which training ends.
    """

    limit: int | None
    best: float = -1.0
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

    def add_validation(self, step: int, metric: float) -> None:
        """Take the validation metric measured at `step`."""
        better = metric > self.best + LEAST_GAIN
        self.best, self.waited = (metric, 0) if better else (self.best, self.waited + 1)
        if self.limit is not None and self.waited >= self.limit and self.ends_at is None:
            self.ends_from, self.ends_at = step, step + max(1, step // 10)

    def rate_factor(self, step: int) -> float:
        """Return the factor on the planned learning rate: 1 until the cool-down begins."""
        if self.ends_from is None or self.ends_at is None:
            return 1.0
        return max(0.0, (self.ends_at - step) / (self.ends_at - self.ends_from))

    def is_over(self, step: int) -> bool:
        """Return whether the early end is reached."""
        return self.ends_at is not None and step >= self.ends_at

    def state(self) -> dict[str, float | int | None]:
        """Return what a checkpoint keeps: everything but the limit, which the configuration sets."""
        return {key: value for key, value in asdict(self).items() if key != "limit"}
