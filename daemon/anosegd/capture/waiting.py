"""Waits until the next frame is a part: in free run, at an interval, or after a software trigger.

After a trigger, the next frame is fresh: it was exposed after the trigger. The camera's own time stamps tell, or, where it has
none, how long its frames were waited for. Runs in the capture process.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from anoseg_engines.errors import CameraError
from anoseg_engines.images import rotated
from anosegd.capture.config import CaptureConfig, DeviceSource, GenicamSource, IntervalTrigger, SoftwareTrigger
from anosegd.capture.frame_period import FramePeriod
from anosegd.capture.last_frame import LastFrame
from anosegd.capture.link import TICK_S, Link
from anosegd.capture.protocol import Remarks
from anosegd.capture.sources import Source
from anosegd.capture.sources.base import Stamp
from anosegd.capture.stream_clock import StreamClock

MAX_BURST_S = 1.0
LOOK_S, LOOK_WITHOUT_STAMPS_S = 1.0, 0.2
"""How often the picture is looked at between triggers. Without stamps, only the picture shows that the camera is alive."""
STANDING_S = 0.25
"""If stamps have stood still for this long at a trigger, the camera has frozen."""
BACKLOG_S = 1.0
"""For so much longer a part's frame is looked for among frames that come late, when their stamps tell which one it is."""


class PartWait:
    """Decides when the next frame is read. Runs on the capture process's only thread.

    Attributes:
        clock: The camera's time stamps.
        frame_period: Tells fresh frames while the stamps do not.
        at_ns, gone_ns: Monotonic; between these moments the part of the current software trigger is in front of the camera.
    """

    def __init__(self, config: CaptureConfig, link: Link, last_frame: LastFrame) -> None:
        self._config, self._link, self._last_frame = config, link, last_frame
        # Only a GenICam camera confirms its settings: OpenCV's drivers may ignore them silently.
        source = config.source
        self.frame_period = FramePeriod(source.set_period_s if isinstance(source, GenicamSource) else 0.0)
        self.clock = StreamClock(monotonic=isinstance(source, DeviceSource))
        self.at_ns = self.gone_ns = 0
        self._waited_s = 0.0  # for the last frame
        self._captured_at: float | None = None  # the last frame, by its stamp
        self._remarks = Remarks()
        self._look_at = 0.0
        self._due = self._ticked_at = time.monotonic()

    def begin_again(self) -> None:
        """Begin again after a silent camera has returned. The daemon has already answered the triggers."""
        self._link.triggers.clear()
        self.frame_period.forget()
        self.clock.forget()
        self._captured_at = None
        self._remarks = Remarks()  # the daemon forgets them, too
        self._due = time.monotonic()

    def wait(self, source: Source) -> int | None:
        """Wait until the next frame is a part; returns the number of its software trigger."""
        trigger, link = self._config.trigger, self._link
        if isinstance(trigger, SoftwareTrigger):
            self._idle(source, lambda: link.triggers[0].at_ns / 1e9 if link.triggers else None, trigger.within_ms / 1e3)
            taken = link.triggers.popleft()
            self.at_ns, self.gone_ns = taken.at_ns, taken.at_ns + round(trigger.within_ms * 1e6)
            return taken.number
        if isinstance(trigger, IntervalTrigger):
            self._idle(source, lambda: self._due, MAX_BURST_S)
            self._due = max(self._due + trigger.every_ms / 1e3, time.monotonic())
            return None
        self.pause_until(self._due)
        if source.fps:
            # After a delay a source that waits goes on at its pace from there; others catch up, unless the delay was long.
            late_s = time.monotonic() - self._due
            self._due += 1 / source.fps + (late_s if self._config.policy == "wait" or late_s > MAX_BURST_S else 0)
        return None

    def pause_until(self, due: float) -> None:
        """Wait until that moment (monotonic seconds), and take the daemon's messages meanwhile."""
        while (left := due - time.monotonic()) > 0:
            self._link.take_messages(timeout_s=min(left, TICK_S))
            if left > TICK_S:
                self._link.tick()

    def came(self, stamp: Stamp | None, asked_at: float) -> float | None:
        """Report a live camera's frame that has just come. Return when it was captured, None if no stamp says so."""
        came_at = time.monotonic()
        self._waited_s = self.frame_period.came(asked_at, came_at)
        self._captured_at = self.clock.came(stamp, asked_at, came_at)
        self._send_remarks()
        return self._captured_at

    def skip(self, source: Source) -> None:
        """Let a frame pass.

        Raises:
            CameraError: The camera is lost, or has frozen.
        """
        asked_at = time.monotonic()
        self.came(source.skip(), asked_at)
        looked = time.monotonic() >= self._look_at and self.compare_with_skipped(source)
        if looked:
            self._look_at = time.monotonic() + (LOOK_S if self.clock.moves else LOOK_WITHOUT_STAMPS_S)
        if looked or self.clock.stands:
            self.check_frozen(source)

    def _send_remarks(self) -> None:
        """Tell the daemon what an operator should know about the stream, if that has changed."""
        remarks = Remarks(stamps=self.clock.problem, still=self._last_frame.still)
        if remarks != self._remarks:
            self._remarks = remarks
            self._link.send(remarks)

    def check_frozen(self, source: Source) -> None:
        """Check that the camera is alive.

        Raises:
            CameraError: Its stamps or, if it has none, its pictures have stood still for too long.
        """
        limit_s, allowed = self._config.stall_timeout_s, self._config.repeats == "allowed"
        standing_s, unchanged_s = self.clock.standing_s(time.monotonic()), self._last_frame.unchanged_s
        if standing_s > limit_s:
            what = f"the same time stamp for {standing_s:.1f} s"
        elif unchanged_s > limit_s and not self.clock.moves and not allowed:
            what = f"the same frame for {unchanged_s:.1f} s"
        else:
            return
        raise CameraError(f"{source.description}: {what}, the camera has frozen")

    def compare_with_skipped(self, source: Source) -> bool:
        """Compare the next frame with the one that passed last. Return False if that one has no image."""
        if (image := source.skipped()) is None:
            return False
        self._last_frame.passed(rotated(image, self._config.rotate))
        return True

    def _idle(self, source: Source, moment: Callable[[], float | None], patience_s: float) -> None:
        """Wait until `moment` (monotonic seconds; None while it is unknown), and let a live camera's frames pass meanwhile.

        The next frame is fresh if the frame before it was captured after the moment: then it was exposed after the moment.
        The stamps tell when a frame was captured, even if it was in a buffer for long. Without them, a frame that took
        about one frame period was captured when it came. A frame that came at once was in a buffer, because this process was
        delayed: it may show the scene before the part. A frame that took much longer was delayed itself. After patience_s
        more, the next frame is read in any case. If the camera has frozen, its next frame is read at once.
        """
        ended = 0.0
        self._link.take_messages(timeout_s=0)
        while True:
            at, now = moment(), time.monotonic()
            if at is not None and now >= at:
                frozen = self.clock.standing_s(now) > STANDING_S
                backlog_s = 0.0 if self._captured_at is None else BACKLOG_S
                if not source.live or frozen or self._is_fresh(at, ended) or now >= at + patience_s + backlog_s:
                    break
            if source.live:
                self.skip(source)
                ended = time.monotonic()
            self._link.take_messages(0 if source.live else TICK_S if at is None else max(0.0, min(TICK_S, at - now)))
            if time.monotonic() >= self._ticked_at + TICK_S:
                self._ticked_at = time.monotonic()
                self._link.tick()
        if ended:
            self.compare_with_skipped(source)

    def _is_fresh(self, at: float, ended: float) -> bool:
        """Return whether the last frame, which came when `ended`, was captured after a moment: the next is exposed after it."""
        if self._captured_at is not None:
            return self._captured_at >= at
        return ended >= at and self.frame_period.waited_for(self._waited_s)
