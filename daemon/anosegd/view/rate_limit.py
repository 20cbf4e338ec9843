"""Limits how often something may happen, for each name on its own. Only one thread may use it."""

from __future__ import annotations

import time
from collections import OrderedDict

MAX_NAMES = 1024


class RateLimit:
    """A token bucket for each name. The name that has been silent longest is forgotten first.

    Args:
        a_second: How often on average.
        at_once: How often in one burst.
    """

    def __init__(self, a_second: float, at_once: int) -> None:
        self._a_second, self._at_once = a_second, float(at_once)
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def allows(self, name: str, now: float | None = None) -> bool:
        """Count one more, and return whether it may happen."""
        now = time.monotonic() if now is None else now
        tokens, then = self._buckets.pop(name, (self._at_once, now))
        tokens = min(self._at_once, tokens + (now - then) * self._a_second)
        self._buckets[name] = (tokens - 1 if tokens >= 1 else tokens, now)
        if len(self._buckets) > MAX_NAMES:
            self._buckets.popitem(last=False)
        return tokens >= 1
