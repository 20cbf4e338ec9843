"""The capture process: opens one camera, reads frames into shared slots and reports to the daemon.

Started as `python -m anosegd.capture.child`.

One thread. Any call into OpenCV may hang; then nothing here can help and the daemon kills the process. It ends by itself when
the daemon is gone: the socket says so, and the kernel kills it should it hang just then.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import os
import random
import select
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

import cv2
import numpy as np

from anoseg_engines.errors import AnosegError, CameraError
from anoseg_engines.images import TURNS, Image, turned
from anosegd.capture.buffers import Slots
from anosegd.capture.config import LIVE, GenicamSource, Hardware, Interval, Software
from anosegd.capture.frame_period import Rhythm
from anosegd.capture.protocol import (
    MAX_BYTES,
    Away,
    Captured,
    Failed,
    Finished,
    FromCapture,
    Job,
    Opened,
    Reading,
    Release,
    Started,
    Tick,
    ToCapture,
    Triggered,
    Uncaptured,
    decode_to_capture,
    encode,
)
from anosegd.capture.sources.base import Shot, Source, open_source

TICK_S = 0.2
MAX_BURST_S = 1.0


class Moment(NamedTuple):
    """When a part was read. position: its count in the source. trigger: number of its software trigger."""

    position: int
    captured_ns: int
    captured_wall_ns: int
    trigger: int | None


class DaemonGoneError(Exception):
    """The daemon has closed its end of the socket."""


class Capture:
    """The process's work: one source, its slots and the socket to the daemon."""

    def __init__(self, link: socket.socket, memory_fd: int) -> None:
        self._link = link
        job = self._receive(timeout_s=None)
        assert isinstance(job, Job), "the daemon sends the job first"
        self._job = job
        self._slots = Slots.attach(memory_fd, job.slots, job.frame_bytes)
        self._free = list(range(job.slots))
        self._lost = 0
        self._position = job.start_at
        self._triggers: deque[Triggered] = deque()
        # Of other sources what is set is a wish: OpenCV's drivers pass over it in silence.
        self._rhythm = Rhythm(job.source.set_period_s if isinstance(job.source, GenicamSource) else 0.0)
        self._gone_ns = 0  # until when the part of the trigger at hand lies there
        self._due = self._ticked_at = time.monotonic()
        self._size: tuple[int, int] | None = None  # height, width of the last frame
        self._first_size = job.size
        self._kept: int | None = None  # a live camera's last frame lies in it: not written before there is another
        self._previous: Image | None = None
        self._moving_at = time.monotonic()  # when a frame last differed from the one before

    def run(self) -> None:
        """Read until the source ends or fails; says how it ended.

        Raises:
            DaemonGoneError: there is nobody to read for.
        """
        self._send(Started())
        try:
            source = self._open()
            try:
                self._read_through(source)
            finally:
                source.close()
        except AnosegError as error:
            self._send(Failed(error.what))
            return
        # Frames that still lie in slots stay readable for the daemon: it has the memory mapped.
        self._send(Finished(self._lost))

    def _open(self) -> Source:
        """The source; a camera that is away is tried again and again from here, which costs next to nothing.

        Raises:
            AnosegError: it cannot be opened, and the job says to give up.
        """
        pause_s, longest_s = self._job.reopen or (0.0, 0.0)
        while True:
            # Counted from the beginning of the attempt: a search in the network has taken its second already. Jitter, so that
            # cameras behind one failed switch do not all come back at the same moment.
            again_at = time.monotonic() + pause_s * random.uniform(0.75, 1.25)
            try:
                return open_source(self._job)
            except CameraError as error:
                if self._job.reopen is None:
                    raise
                self._send(Away(error.what, pause_s))
            self._pause_until(again_at)
            self._take_releases(timeout_s=0)
            pause_s = min(pause_s * 2, longest_s)

    def _read_through(self, source: Source) -> None:
        """Read to the end, over silences of a camera whose connection outlasts them.

        Raises:
            AnosegError: it is lost for good.
        """
        while True:
            self._send(Opened(source.description))
            try:
                return self._read_all(source)
            except CameraError as error:
                if self._job.reopen is None or not self._is_back(source, error):
                    raise

    def _is_back(self, source: Source, error: CameraError) -> bool:
        """Whether a camera that fell silent gives pictures again without being opened anew."""
        back = source.back(0)
        if back is not None:
            self._send(Away(error.what, 0.0))
        while back is False:
            back = source.back(TICK_S)
            self._take_releases(timeout_s=0)
            self._send(Tick())
        self._triggers.clear()  # the daemon has answered them
        self._rhythm.forget()
        self._previous = self._kept = None
        self._moving_at = self._due = time.monotonic()
        return back is True

    def _read_all(self, source: Source) -> None:
        if source.live and not isinstance(self._job.trigger, Hardware):
            self._skip(source)  # a camera that is frozen gives the same once more; one that is not has moved on
            self._look_at_skipped(source)
        while True:
            trigger = self._wait_for_part(source)
            slot = self._slot()
            upcoming = source.upcoming(self._position)
            if upcoming is not None:
                self._send(Reading(self._position, upcoming))
            asked_at = time.monotonic()
            try:
                shot = source.read(self._position, self._view(slot))
            except CameraError:
                self._free += [slot] if slot is not None else []
                raise
            if source.live:
                self._rhythm.came(asked_at, time.monotonic())
            moment = Moment(self._position, time.monotonic_ns(), time.time_ns(), trigger)
            if shot is None:
                return
            self._tell(source, shot, slot, moment)
            self._position += 1

    def _wait_for_part(self, source: Source) -> int | None:
        """Until the next frame is a part: what the configured trigger says. Returns the software trigger's number."""
        kind = self._job.trigger
        if isinstance(kind, Software):
            self._idle(source, lambda: self._triggers[0].at_ns / 1e9 if self._triggers else None, kind.within_ms / 1e3)
            trigger = self._triggers.popleft()
            self._gone_ns = trigger.at_ns + round(kind.within_ms * 1e6)
            return trigger.number
        if isinstance(kind, Interval):
            self._idle(source, lambda: self._due, MAX_BURST_S)
            self._due = max(self._due + kind.every_ms / 1e3, time.monotonic())
            return None
        self._pause_until(self._due)
        if source.fps:
            # A source that had to wait goes on at its pace from there; a line keeps its own time, unless it was stopped.
            late_s = time.monotonic() - self._due
            self._due += 1 / source.fps + (late_s if self._job.policy == "wait" or late_s > MAX_BURST_S else 0)
        return None

    def _idle(self, source: Source, moment: Callable[[], float | None], patience_s: float) -> None:
        """Until that moment (monotonic seconds; None: not known yet). A live camera's frames go by meanwhile, so that the next
        one is fresh; the last of them is what it is compared with.

        Fresh: a frame has gone by after the moment, and was waited for as long as usual. What comes at once lay in some buffer,
        because this process was held up, and may show what was there before the part; what took far longer was the hold-up
        itself. After patience_s more it goes on all the same.
        """
        took_s, ended = 0.0, 0.0
        self._take_releases(timeout_s=0)
        while True:
            at, now = moment(), time.monotonic()
            if at is not None and now >= at:
                fresh = ended >= at and self._rhythm.waited_for(took_s)
                if not source.live or fresh or now >= at + patience_s:
                    break
            if source.live:
                took_s = self._skip(source)
                ended = time.monotonic()
            self._take_releases(0 if source.live else TICK_S if at is None else max(0.0, min(TICK_S, at - now)))
            if time.monotonic() >= self._ticked_at + TICK_S:
                self._ticked_at = time.monotonic()
                self._send(Tick())
        if ended:
            self._look_at_skipped(source)

    def _skip(self, source: Source) -> float:
        """Let a frame go by; the seconds it was waited for."""
        asked_at = time.monotonic()
        source.skip()
        return self._rhythm.came(asked_at, time.monotonic())

    def _look_at_skipped(self, source: Source) -> None:
        if (image := source.skipped()) is not None:
            self._previous, self._kept = self._turned(image), None

    def _tell(self, source: Source, shot: Shot, slot: int | None, moment: Moment) -> None:
        """Hand the frame over, or say why not.

        Raises:
            CameraError: the camera has frozen.
        """
        image, problem = shot.image, None
        if image is None:
            problem = ("unreadable", shot.error)
        elif not self._slots.holds(*image.shape[:2]):
            limit = self._slots.frame_bytes >> 20
            problem = ("unreadable", f"{_pixels(image)} do not fit into a slot of {limit} MiB: raise max_frame_mb")
        elif slot is None and self._job.policy == "latest":
            self._lost += 1
            if source.live:
                self._previous, self._kept = self._turned(image), None
            return
        elif slot is None:
            problem = ("overrun", "no free slot: parts come faster than they are inspected")
        if problem is None and slot is not None and image is not None:
            image = self._placed(image, slot)
            problem = self._too_late(moment) or (self._live_problem(image) if source.live else None)
        if problem or slot is None or image is None:
            reason, detail = problem or ("overrun", "")
            if slot is not None:
                self._free.append(slot)
            self._send(Uncaptured(reason, detail, *moment[:3], shot.part_id, shot.source, moment.trigger))
            if reason == "repeated_frame" and (frozen_s := time.monotonic() - self._moving_at) > self._job.stall_timeout_s:
                raise CameraError(f"{source.description}: the same frame for {frozen_s:.1f} s, the camera has frozen")
            return
        height, width = image.shape[:2]
        if source.live:
            self._kept, self._previous, self._moving_at = slot, image, time.monotonic()
            self._first_size = self._first_size or (height, width)
        self._send(Captured(slot, height, width, *moment[:3], shot.part_id, shot.source, self._lost, moment.trigger))
        self._lost = 0

    def _placed(self, image: Image, slot: int) -> Image:
        """The image in its slot, turned as it should be; the slot's view."""
        height, width = image.shape[:2]
        self._size = (height, width)
        if self._job.rotate in TURNS:
            view = self._slots.view(slot, *((width, height) if self._job.rotate in (90, 270) else (height, width)))
            return self._turned(image, view)
        view = self._slots.view(slot, height, width)
        if view.ctypes.data != image.ctypes.data:  # OpenCV reads in place where size and type are the same as before
            view[:] = image
        return view

    def _too_late(self, moment: Moment) -> tuple[str, str] | None:
        """A frame for a trigger whose part has gone on meanwhile."""
        if moment.trigger is None or moment.captured_ns <= self._gone_ns:
            return None
        return "camera_lost", f"its frame came {(moment.captured_ns - self._gone_ns) / 1e6:.0f} ms after the part had gone on"

    def _turned(self, image: Image, into: Image | None = None) -> Image:
        """The image as configured, in `into` where that is given."""
        return turned(image, self._job.rotate, into)

    def _live_problem(self, image: Image) -> tuple[str, str] | None:
        """What a live camera does when it is in trouble and says nothing: another resolution, the same picture for ever.

        Two exposures of a sensor are never equal in every pixel; some rows tell most pairs apart at once.
        """
        if self._first_size is not None and image.shape[:2] != self._first_size:
            height, width = self._first_size
            return "image_size", f"{_pixels(image)}, the camera gave {width}×{height} before: reload if that is meant"
        previous = self._previous
        if previous is None or previous.shape != image.shape:
            return None
        if np.array_equal(previous[::16], image[::16]) and np.array_equal(previous, image):
            return "repeated_frame", "the camera gave the same frame once more"
        return None

    def _slot(self) -> int | None:
        """A free slot. Policy `wait` waits for one; `latest` does for a moment where the source can wait, so that a file's last
        frame is not the one let go; the others do without."""
        self._take_releases(timeout_s=0)
        patience_s = 0.0 if isinstance(self._job.source, LIVE) else MAX_BURST_S
        give_up_at = time.monotonic() + (patience_s if self._job.policy == "latest" else 0.0)
        while (slot := self._free_slot()) is None and (self._job.policy == "wait" or time.monotonic() < give_up_at):
            self._take_releases(timeout_s=TICK_S)
            self._send(Tick())
        return slot

    def _free_slot(self) -> int | None:
        """Any but the one that the next frame is compared with."""
        slot = next((slot for slot in reversed(self._free) if slot != self._kept), None)
        if slot is not None:
            self._free.remove(slot)
        return slot

    def _view(self, slot: int | None) -> Image | None:
        """Memory to read into: the slot itself, unless the image has to be turned first."""
        return None if slot is None or self._size is None or self._job.rotate else self._slots.view(slot, *self._size)

    def _pause_until(self, due: float) -> None:
        while (left := due - time.monotonic()) > 0:
            self._take_releases(timeout_s=min(left, TICK_S))
            if left > TICK_S:
                self._send(Tick())

    def _take_releases(self, timeout_s: float) -> None:
        """Wait up to timeout_s for the first, then take all that are there."""
        message = self._receive(timeout_s)
        while message is not None:
            if isinstance(message, Release):
                self._free.append(message.slot)
            elif isinstance(message, Triggered):
                self._triggers.append(message)
            message = self._receive(timeout_s=0)

    def _receive(self, timeout_s: float | None) -> ToCapture | None:
        if not select.select([self._link], [], [], timeout_s)[0]:
            return None
        data = self._link.recv(MAX_BYTES)
        if not data:
            raise DaemonGoneError
        message: ToCapture = decode_to_capture(data)
        return message

    def _send(self, message: FromCapture) -> None:
        self._link.send(encode(message))


def _pixels(image: Image) -> str:
    return f"{image.shape[1]}×{image.shape[0]} pixels"


def main() -> None:
    """Entry point of the capture process."""
    parser = argparse.ArgumentParser(prog="anosegd.capture.child")
    parser.add_argument("--socket", type=int, required=True)
    parser.add_argument("--memory", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    options = parser.parse_args()
    _die_with(options.parent)
    # The daemon blocks its signals and a process inherits that; this one has no reason to.
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _told_to_end)
    cv2.setNumThreads(1)
    link = socket.socket(fileno=options.socket)
    with contextlib.suppress(DaemonGoneError, BrokenPipeError, ConnectionResetError):
        Capture(link, options.memory).run()
    # A library's threads may be stuck in a read: no clean-up waits for them.
    sys.stderr.flush()
    os._exit(0)


def _told_to_end(*_: object) -> None:
    raise DaemonGoneError


def _die_with(parent: int) -> None:
    """Have the kernel kill this process when the daemon's thread that owns the camera ends, however that comes about."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the call
        os._exit(0)


if __name__ == "__main__":
    main()
