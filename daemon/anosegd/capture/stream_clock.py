"""Maps a camera's own time stamps to this machine's clock, and notices stamps that stop or cannot be used.

A camera's clock has another zero than this machine's, and every frame takes some time to arrive. The difference of the two
clocks is taken from the frame that arrived with the least delay. Except in a stamp, all times are seconds of this machine's
monotonic clock. Only the capture process uses this module.
"""

from __future__ import annotations

from collections import deque

from anosegd.capture.sources.base import Stamp

WINDOW_S, WINDOW_FRAMES = 3.0, 8
"""Stamps are compared with this machine's clock over this time, and at least so many frames."""
AGREE_S = 0.08
"""Stamps keep time if the least delays in both halves of the window differ by no more than this."""
DRIFT = 0.001
"""How much two clocks may drift apart, as a share. Real clocks stay far below it. It must be small: when a reader was held up
for eight seconds, a frame counts as at most eight milliseconds newer than it is."""
JUMP_S = 0.5
"""Stamps that run ahead of this machine's clock by more than this between two frames have jumped."""
LATE_S, LATE_FOR_S = 0.5, 10.0
"""A frame that was waited for was in no buffer here. If WINDOW_FRAMES such frames in a row, and for LATE_FOR_S, were older than
LATE_S by their stamps, then the stamps are wrong."""
PROBATION_S = 10.0
"""Stamps that jumped must keep time for this long before they are used again. Stamps that never kept time are reported then."""


class StreamClock:
    """Follows the stamps of one connection to a camera. Report every frame, also a skipped one.

    Args:
        monotonic: The stamps are said to be times of this machine's monotonic clock.

    Attributes:
        moves: Whether the stamps have ever changed from one frame to the next. Then they show whether the source is alive.
        problem: Why the stamps do not tell when a frame was captured; None if they do, or if that is not known yet.
    """

    def __init__(self, *, monotonic: bool = False) -> None:
        self._monotonic = monotonic
        self.forget()

    def forget(self) -> None:
        """Begin again: the camera was away."""
        self.moves = False
        self.problem: str | None = None
        self._before: Stamp | None = None  # of the frame before
        self._before_at = 0.0  # when that came
        self._stands_since: float | None = None
        self._unmoved = 0  # frames whose time did not change, in a row
        self._began_at: float | None = None
        self._begin_again(0.0)

    def _begin_again(self, not_before: float) -> None:
        self._offsets: deque[tuple[float, float]] = deque()  # when a frame came, and that time minus its stamp
        self._offset_s: float | None = None  # of a frame with the least delay; None until the stamps are known to keep time
        self._not_before = not_before  # when they may be used again
        self._late_since: float | None = None  # since when every frame that was waited for was late
        self._late = 0  # how many these were

    @property
    def stands(self) -> bool:
        """Whether the last frame has the stamp of the one before, although the source has stamps: it is no new frame."""
        return self._stands_since is not None

    def standing_s(self, now: float) -> float:
        """For how long the stamps have stood still."""
        return 0.0 if self._stands_since is None else now - self._stands_since

    def came(self, stamp: Stamp | None, asked_at: float, came_at: float) -> float | None:
        """Report a frame, asked for and received at these moments. Return when it was captured; None if no stamp says so."""
        if self._began_at is None:
            self._began_at = self._before_at = came_at
        if stamp is None and self.moves:  # a damaged frame among others
            self._stands_since = None
            return None
        before, elapsed_s = self._before, came_at - self._before_at
        if stamp is not None and stamp == before and self.moves:
            self._stands_since = self._before_at if self._stands_since is None else self._stands_since
            self._before_at = came_at
            return None if stamp.time_s is None or self._offset_s is None else stamp.time_s + self._offset_s
        self._before, self._before_at, self._stands_since = stamp, came_at, None
        self.moves = self.moves or (stamp is not None and before is not None and stamp != before)
        if stamp is None or stamp.time_s is None or (before is not None and stamp.time_s == before.time_s):
            self._unmoved += 1
            if self._unmoved >= WINDOW_FRAMES:
                self._reject("it gives no time stamps" if stamp is None else "its time stamps stand still", came_at)
            return None
        self._unmoved = 0
        self._monotonic = self._monotonic and _is_monotonic(stamp.time_s, came_at)
        if self._monotonic:
            self._offset_s, self.problem = 0.0, None
            return stamp.time_s
        step_s = 0.0 if before is None or before.time_s is None else stamp.time_s - before.time_s
        if self._offset_s is None:
            self._compare(came_at - stamp.time_s, step_s, came_at, elapsed_s)
        return None if self._offset_s is None else self._mapped(stamp.time_s, step_s, asked_at, came_at, elapsed_s)

    def _compare(self, offset_s: float, step_s: float, came_at: float, elapsed_s: float) -> None:
        """Use the stamps from now on if they have kept time with this machine's clock over the window."""
        offsets = self._offsets
        if step_s < 0 or step_s > elapsed_s + JUMP_S:
            offsets.clear()
        offsets.append((came_at, offset_s))
        while len(offsets) > WINDOW_FRAMES and offsets[1][0] <= came_at - WINDOW_S:
            offsets.popleft()
        if len(offsets) >= WINDOW_FRAMES and came_at - offsets[0][0] >= WINDOW_S and came_at >= self._not_before:
            values = [offset_s for _, offset_s in offsets]
            half = len(values) // 2
            first_s, second_s = min(values[:half]), min(values[half:])
            if abs(first_s - second_s) <= AGREE_S:
                self._offset_s, self.problem = min(first_s, second_s), None
                return
        assert self._began_at is not None
        if self.problem is None and came_at - self._began_at > PROBATION_S:
            self.problem = "its time stamps do not keep time with this machine's clock"

    def _mapped(self, time_s: float, step_s: float, asked_at: float, came_at: float, elapsed_s: float) -> float | None:
        """Return when the frame was captured, None if its stamp shows that the stamps cannot be used."""
        assert self._offset_s is not None
        offset_s, drift_s = came_at - time_s, elapsed_s * DRIFT
        late_s = offset_s - self._offset_s - drift_s
        if late_s <= LATE_S or came_at - asked_at < step_s / 2:
            self._late_since, self._late = None, 0
        else:
            self._late_since, self._late = came_at if self._late_since is None else self._late_since, self._late + 1
        if step_s < 0:
            self._reject(f"its time stamps jumped back by {-step_s:.1f} s", came_at)
        elif late_s < -JUMP_S - 2 * drift_s:  # the pause before a hardware trigger may last hours
            self._reject(f"its time stamps jumped ahead by {-late_s:.1f} s", came_at)
        elif self._late_since is not None and self._late >= WINDOW_FRAMES and came_at - self._late_since > LATE_FOR_S:
            self._reject(f"its time stamps have fallen behind by {late_s:.1f} s", came_at)
        else:
            self._offset_s = min(self._offset_s + drift_s, offset_s)
            return time_s + self._offset_s
        return None

    def _reject(self, problem: str, came_at: float) -> None:
        self._begin_again(came_at + PROBATION_S)
        self.problem = problem


def _is_monotonic(time_s: float, came_at: float) -> bool:
    """Return whether a stamp can be a time of the monotonic clock: neither long ago nor in the future."""
    return -0.001 <= came_at - time_s <= LATE_FOR_S
