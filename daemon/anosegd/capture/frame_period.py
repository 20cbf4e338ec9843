"""A camera's rhythm, from when its frames come: it tells a frame that was just exposed from one that lay in a buffer.

Pure bookkeeping, in seconds of one monotonic clock. Capture process only.
"""

from __future__ import annotations

from collections import deque
from statistics import median_high

LATELY = 15
"""Intervals that the rhythm is taken from: few, so that the burst in which a stream begins is soon past."""
MIN_INTERVALS = 4
AT_ONCE_S = 0.002
"""A frame that was waited for no longer lay there already."""
AHEAD_S, MAX_DEBT_S = 0.25, 10.0
"""A buffer gives no more frames than the camera could send since it was empty. Who is ahead of that by so much, while frames
go on coming at once, is a camera that has become faster."""


class Rhythm:
    """Of one stream; every frame is told, whether it was a part's or went by.

    set_s: the period that was set in the camera, and is believed before its own is known; 0 where none was.
    """

    def __init__(self, set_s: float = 0.0) -> None:
        self._set_s = set_s
        self._intervals: deque[float] = deque(maxlen=LATELY)
        self._frame_at: float | None = None
        self._at_once_s = 0.0  # for how long frames have come without being waited for
        self._ahead_s = 0.0  # by how much more frames have come than the rhythm allows; below 0: so much may lie in a buffer

    @property
    def period_s(self) -> float:
        """Between frames, as they came lately. While too few are known, what was set, unless one came later: exposure or line
        may not allow what was set; 0 where nothing was."""
        if len(self._intervals) >= MIN_INTERVALS:
            return median_high(self._intervals)
        return max(self._set_s, *self._intervals) if self._set_s and self._intervals else self._set_s

    def came(self, asked_at: float, came_at: float) -> float:
        """A frame has come; the seconds it was waited for. What came at once says nothing of the rhythm, unless it goes on: by
        light, say, a camera may become many times as fast."""
        waited_s, period_s = came_at - asked_at, self.period_s
        before, self._frame_at = self._frame_at, came_at
        if before is None:  # how long a camera takes to begin is no interval
            return waited_s
        interval_s = came_at - before
        self._ahead_s = max(self._ahead_s + period_s - interval_s, -MAX_DEBT_S) if period_s else 0.0
        if waited_s >= max(AT_ONCE_S, period_s / 2):
            self._intervals.append(interval_s)
            self._at_once_s /= 2  # one that was held up among them does not begin it anew
            self._ahead_s = min(self._ahead_s, 0.0)
        else:
            self._at_once_s += min(interval_s, period_s)
            if min(self._at_once_s, self._ahead_s) > AHEAD_S:
                self.forget()
        return waited_s

    def waited_for(self, waited_s: float) -> bool:
        """Whether a frame that was waited for so long was exposed meanwhile: neither there before nor held up on its way."""
        period_s = self.period_s
        return period_s > 0 and max(AT_ONCE_S, period_s / 2) <= waited_s <= 3 * period_s

    def forget(self) -> None:
        """Begin anew: what was known says nothing of the frames to come."""
        self._intervals.clear()
        self._set_s, self._frame_at = 0.0, None
        self._at_once_s = self._ahead_s = 0.0
