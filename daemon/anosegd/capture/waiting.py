"""Waits until the next frame is a part: in free run, at an interval, or after a software trigger.

After a trigger, the next frame is fresh: it was exposed after the trigger. Runs in the capture process.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from anoseg_engines.images import rotated
from anosegd.capture.config import CaptureConfig, GenicamSource, IntervalTrigger, SoftwareTrigger
from anosegd.capture.frame_period import FramePeriod
from anosegd.capture.last_frame import LastFrame
from anosegd.capture.link import TICK_S, Link
from anosegd.capture.sources import Source

MAX_BURST_S = 1.0


class PartWait:
    """Decides when the next frame is read. Runs on the capture process's only thread.

    Attributes:
        frame_period: Every frame that is read or skipped is reported to it.
        gone_ns: Monotonic; after this moment the part of the current software trigger is no longer in front of the camera.
    """

    def __init__(self, config: CaptureConfig, link: Link, last_frame: LastFrame) -> None:
        self._config, self._link, self._last_frame = config, link, last_frame
        # Only a GenICam camera confirms its settings: OpenCV's drivers may ignore them silently.
        source = config.source
        self.frame_period = FramePeriod(source.set_period_s if isinstance(source, GenicamSource) else 0.0)
        self.gone_ns = 0
        self._due = self._ticked_at = time.monotonic()

    def begin_again(self) -> None:
        """Begin again after a silent camera has returned. The daemon has already answered the triggers."""
        self._link.triggers.clear()
        self.frame_period.forget()
        self._due = time.monotonic()

    def wait(self, source: Source) -> int | None:
        """Wait until the next frame is a part; returns the number of its software trigger."""
        trigger, link = self._config.trigger, self._link
        if isinstance(trigger, SoftwareTrigger):
            self._idle(source, lambda: link.triggers[0].at_ns / 1e9 if link.triggers else None, trigger.within_ms / 1e3)
            taken = link.triggers.popleft()
            self.gone_ns = taken.at_ns + round(trigger.within_ms * 1e6)
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

    def skip(self, source: Source) -> float:
        """Let a frame pass; returns the seconds that it was waited for."""
        asked_at = time.monotonic()
        source.skip()
        return self.frame_period.came(asked_at, time.monotonic())

    def compare_with_skipped(self, source: Source) -> None:
        """Compare the next frame with the one that passed last."""
        if (image := source.skipped()) is not None:
            self._last_frame.passed(rotated(image, self._config.rotate))

    def _idle(self, source: Source, moment: Callable[[], float | None], patience_s: float) -> None:
        """Wait until `moment` (monotonic seconds; None while it is unknown), and let a live camera's frames pass meanwhile.

        The next frame is fresh if the last frame passed after the moment and took about one frame period. A frame that came
        at once was in a buffer, because this process was delayed: it may show the scene before the part. A frame that took
        much longer was delayed itself. After patience_s more, the next frame is read in any case.
        """
        took_s, ended = 0.0, 0.0
        self._link.take_messages(timeout_s=0)
        while True:
            at, now = moment(), time.monotonic()
            if at is not None and now >= at:
                fresh = ended >= at and self.frame_period.waited_for(took_s)
                if not source.live or fresh or now >= at + patience_s:
                    break
            if source.live:
                took_s = self.skip(source)
                ended = time.monotonic()
            self._link.take_messages(0 if source.live else TICK_S if at is None else max(0.0, min(TICK_S, at - now)))
            if time.monotonic() >= self._ticked_at + TICK_S:
                self._ticked_at = time.monotonic()
                self._link.tick()
        if ended:
            self.compare_with_skipped(source)
