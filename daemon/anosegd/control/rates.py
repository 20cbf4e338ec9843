"""Limits the rate of requests of each sender. Only one thread may use it."""

from __future__ import annotations

from collections import OrderedDict

RATE = 200.0
"""Requests per second that one sender may send on average, and in one burst. Further ones are answered `busy`."""
MAX_SENDERS = 1024
"""More than the keys that a station reads, so that no client with a key is forgotten."""


class Rates:
    """A token bucket for each sender. The sender that has been silent longest is forgotten first."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[str | bytes, tuple[float, float]] = OrderedDict()

    def allows(self, sender: str | bytes, now: float) -> bool:
        """Count a request and return whether it is within the sender's rate.

        Args:
            sender: The name of a key, or a connection's routing id at a station without keys.
            now: Monotonic seconds.
        """
        tokens, then = self._buckets.pop(sender, (RATE, now))
        tokens = min(RATE, tokens + (now - then) * RATE)
        self._buckets[sender] = (max(0.0, tokens - 1), now)
        if len(self._buckets) > MAX_SENDERS:
            self._buckets.popitem(last=False)
        return tokens >= 1
