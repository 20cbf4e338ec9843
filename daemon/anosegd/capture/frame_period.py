"""Measures a camera's frame period, and decides whether a frame is fresh or was in a buffer.

A frame is fresh if it was exposed while the capture process waited for it. All times are seconds of one monotonic clock. Only
the capture process uses this module.
"""

from __future__ import annotations

from collections import deque
from statistics import median_high

LATELY = 15
"""How many intervals the period is computed from. They are few, so that the burst at a stream's begin is soon forgotten."""
MIN_INTERVALS = 4
AT_ONCE_S = 0.002
"""A frame that comes within this time of the request was already in a buffer."""
AHEAD_S, MAX_DEBT_S = 0.25, 10.0
"""A buffer cannot give more frames than the camera could send since the buffer was empty. If the frames that came need AHEAD_S
more, at the known frame period, than the time that has passed, and frames still come at once, then the camera has become
faster. MAX_DEBT_S limits the opposite: how far the frames may fall behind in this count."""


class FramePeriod:
    """Measures the frame period of one stream. Report every frame to it, also a skipped one.

    Args:
        set_s: The period that was set in the camera; assumed until the measured one is known. 0 if none was set.
    """

    def __init__(self, set_s: float = 0.0) -> None:
        self._set_s = set_s
        self._intervals: deque[float] = deque(maxlen=LATELY)
        self._frame_at: float | None = None
        self._at_once_s = 0.0  # for how long frames have come without being waited for
        self._ahead_s = 0.0  # by how much more frames have come than the period allows; below 0: so much may be in a buffer

    @property
    def period_s(self) -> float:
        """The seconds between frames lately.

        While too few intervals are known, this is the period that was set, or a longer one that was seen: the exposure time may
        not allow the one that was set. 0 if none was set.
        """
        if len(self._intervals) >= MIN_INTERVALS:
            return median_high(self._intervals)
        return max(self._set_s, *self._intervals) if self._set_s and self._intervals else self._set_s

    def came(self, asked_at: float, came_at: float) -> float:
        """Report a frame. Returns the seconds that it was waited for.

        A frame that came at once says nothing about the period. Many such frames do: in better light, for example, a camera may
        become many times as fast.
        """
        waited_s, period_s = came_at - asked_at, self.period_s
        before, self._frame_at = self._frame_at, came_at
        if before is None:  # the time until a camera begins is no interval
            return waited_s
        interval_s = came_at - before
        self._ahead_s = max(self._ahead_s + period_s - interval_s, -MAX_DEBT_S) if period_s else 0.0
        if waited_s >= max(AT_ONCE_S, period_s / 2):
            self._intervals.append(interval_s)
            self._at_once_s /= 2  # one that was held up among them does not restart the count
            self._ahead_s = min(self._ahead_s, 0.0)
        else:
            self._at_once_s += min(interval_s, period_s)
            if min(self._at_once_s, self._ahead_s) > AHEAD_S:
                self.forget()
        return waited_s

    def waited_for(self, waited_s: float) -> bool:
        """Return whether a frame was exposed during this wait, so that it was neither buffered nor delayed."""
        period_s = self.period_s
        return period_s > 0 and max(AT_ONCE_S, period_s / 2) <= waited_s <= 3 * period_s

    def forget(self) -> None:
        """Forget all frames so far, because they say nothing about later frames."""
        self._intervals.clear()
        self._set_s, self._frame_at = 0.0, None
        self._at_once_s = self._ahead_s = 0.0
