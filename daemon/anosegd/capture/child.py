"""Runs the capture process: opens one camera, reads frames into shared slots and reports to the daemon.

The daemon starts it as `python -m anosegd.capture.child`. It has one thread. Any call of a camera library may hang; the daemon
then kills the process. The process also ends when the daemon is gone: the socket is closed, and the kernel kills a process that
hangs.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import random
import signal
import socket
import sys
import time

import cv2
import msgspec

from anoseg_engines.errors import AnosegError, CameraError, EndedEarlyError, LoginRefusedError, StreamRefusedError
from anoseg_engines.images import ROTATIONS, Image, rotated
from anoseg_engines.parent_process import end_with
from anoseg_engines.passwords import mask_passwords
from anosegd.capture.config import LIVE, HardwareTrigger, SoftwareTrigger, UrlSource
from anosegd.capture.last_frame import LastFrame, pixels_text
from anosegd.capture.link import TICK_S, DaemonGoneError, Link
from anosegd.capture.protocol import (
    Away,
    Captured,
    Failed,
    Finished,
    Job,
    Opened,
    Origin,
    Reading,
    Repeated,
    Started,
    Uncaptured,
)
from anosegd.capture.shared_slots import Slots
from anosegd.capture.sources import Shot, Source, source_of
from anosegd.capture.waiting import MAX_BURST_S, PartWait

REFUSED_MAX_S = 10.0
"""The longest time between two attempts to open a camera that answers and refuses, for example because it has no such path."""


class Capture:
    """Reads one source into slots until it ends or fails."""

    def __init__(self, job: Job, link: Link, slots: Slots) -> None:
        self._job, self._link, self._slots = job, link, slots
        self._camera = job.camera
        self._last_frame = LastFrame(job.size)
        self._wait = PartWait(job.camera, link, self._last_frame)
        self._lost = 0  # frames discarded since the last report
        self._position = job.start_at
        self._ticked_at = 0.0  # monotonic; while the source is opened
        self._shape: tuple[int, ...] | None = None  # of the last frame as it was read

    def run(self) -> None:
        """Read until the source ends or fails, and report how it ended.

        Raises:
            DaemonGoneError: Nobody wants the frames any more.
        """
        self._link.send(Started())
        try:
            source = self._open()
            try:
                self._read_with_reconnects(source)
            finally:
                source.close()
        except AnosegError as error:
            login_refused, ended_early = isinstance(error, LoginRefusedError), isinstance(error, EndedEarlyError)
            self._link.send(Failed(self._masked(error.what), login_refused, ended_early))
            return
        # The daemon can still read frames that are in slots: it has mapped the memory itself.
        self._link.send(Finished(self._lost))

    def _open(self) -> Source:
        """Open the source. If the camera is away, try again in this process, which has already loaded the libraries.

        Raises:
            AnosegError: It cannot be opened, and the job says to give up.
        """
        pause_s, longest_s = self._job.reopen_s or (0.0, 0.0)
        while True:
            # From the beginning of the attempt: a search in the network takes a second by itself. Jitter, so that cameras
            # behind one failed switch do not all come back at the same moment.
            again_at = time.monotonic() + pause_s * random.uniform(0.75, 1.25)
            source = source_of(self._job, self._alive)
            try:
                source.open()
                return source
            except LoginRefusedError:
                raise  # the daemon decides when the password may be tried again
            except CameraError as error:
                if self._job.reopen_s is None:
                    raise
                self._link.send(Away(self._masked(error.what), pause_s))
                refused = isinstance(error, StreamRefusedError)
            del source  # it may hold the camera open, which refused a setting
            self._wait.pause_until(again_at)
            self._link.take_messages(timeout_s=0)
            pause_s = min(pause_s * 2, REFUSED_MAX_S if refused else longest_s)

    def _alive(self) -> None:
        """Report, at most every `TICK_S`, that opening the source goes on."""
        if time.monotonic() - self._ticked_at >= TICK_S:
            self._ticked_at = time.monotonic()
            self._link.tick()

    def _read_with_reconnects(self, source: Source) -> None:
        """Read to the end, across interruptions that the camera's connection survives.

        Raises:
            AnosegError: The camera is lost.
        """
        while True:
            self._link.send(Opened(source.description))
            try:
                return self._read_all(source)
            except CameraError as error:
                if self._job.reopen_s is None or not self._is_back(source, error):
                    raise

    def _is_back(self, source: Source, error: CameraError) -> bool:
        """Wait for a silent camera. Return whether it delivers frames without being opened again."""
        back = source.back(0)
        if back is not None:
            self._link.send(Away(self._masked(error.what), 0.0))
        while back is False:
            back = source.back(TICK_S)
            self._link.take_messages(timeout_s=0)
            self._link.tick()
        self._wait.begin_again()
        return back is True

    def _read_all(self, source: Source) -> None:
        self._last_frame.forget()  # it may have taken long to open the camera
        if source.live and not isinstance(self._camera.trigger, HardwareTrigger):
            self._wait.skip(source)  # a frozen camera repeats this frame
            self._wait.compare_with_skipped(source)
        while True:
            trigger = self._wait.wait(source)
            slot = self._slot()
            upcoming = source.upcoming(self._position)
            if upcoming is not None:
                self._link.send(Reading(self._position, upcoming))
            asked_at = time.monotonic()
            try:
                shot = source.read(self._position, self._view(slot))
            except CameraError:
                self._link.free += [slot] if slot is not None else []
                raise
            if shot is None:
                return
            read_ns, read_wall_ns = time.monotonic_ns(), time.time_ns()
            captured_at = self._wait.came(shot.stamp, asked_at) if source.live else None
            captured_ns = read_ns if captured_at is None else min(read_ns, round(captured_at * 1e9))
            origin = Origin(
                position=self._position,
                captured_ns=captured_ns,
                captured_wall_ns=read_wall_ns - (read_ns - captured_ns),  # becomes captured_at in the verdict
                read_wall_ns=read_wall_ns,
                part_id=shot.part_id,
                source=shot.source,
                trigger=trigger,
            )
            for _ in range(shot.missed):
                missed = msgspec.structs.replace(origin, position=self._position, part_id=None, source=None)
                self._report(missed, None, "camera_lost", "the camera has counted a part whose frame did not arrive")
                self._position += 1
            origin = msgspec.structs.replace(origin, position=self._position)
            if self._hand_over(source, shot, slot, origin):
                self._position += 1

    def _hand_over(self, source: Source, shot: Shot, slot: int | None, origin: Origin) -> bool:
        """Hand the frame to the daemon, or report why it cannot be judged. Return whether it is a part.

        Raises:
            CameraError: The camera has frozen.
        """
        image = shot.image
        if image is None:
            return self._report(origin, slot, "unreadable", shot.error)
        if not self._slots.holds(image.shape):
            limit = self._slots.frame_bytes >> 20
            detail = f"{pixels_text(image)} do not fit into a slot of {limit} MiB: raise max_frame_mb"
            return self._report(origin, slot, "unreadable", detail)
        if slot is None and self._camera.policy == "latest":
            self._lost += 1
            if source.live:
                self._last_frame.passed(rotated(image, self._camera.rotate))
            return True
        if slot is None:
            return self._report(origin, slot, "overrun", "no free slot: parts come faster than they are inspected")
        image = self._placed(image, slot)
        if source.live:
            if (size_problem := self._last_frame.size_problem(image)) is not None:
                return self._report(origin, slot, "image_size", size_problem)
            if not self._wait.clock.stands and (problem := self._untimely(origin)) is not None:
                return self._report(origin, slot, "camera_lost", problem)
            if self._repeats(source, image):
                return self._repeated(source, origin, slot)
            self._last_frame.taken(image, slot)
        height, width, channels = image.shape
        self._link.send(Captured(origin=origin, slot=slot, shape=(height, width, channels), lost=self._lost))
        self._lost = 0
        return True

    def _repeats(self, source: Source, image: Image) -> bool:
        """Return whether the frame shows nothing new.

        If stamps stand still, the source repeats a frame. If they advance, it is alive, and a frame is nothing new only if it
        equals that of the part before. At a trigger, the frame is also compared with the one before the trigger, unless equal
        frames are normal: frames are differences from earlier ones, and the picture has not stood still for long.
        """
        clock, last = self._wait.clock, self._last_frame
        if clock.stands:
            return True
        if not self._triggered:
            return last.repeats_part(image) if clock.moves else last.repeats_passed(image)
        if self._camera.repeats == "allowed":
            return False
        equal_is_normal = clock.moves and source.inter_coded and not last.still
        return last.repeats_part(image) or (not equal_is_normal and last.repeats_passed(image))

    def _repeated(self, source: Source, origin: Origin, slot: int) -> bool:
        """Report a frame that shows nothing new: it is UNKNOWN, or, in free run of a camera that is alive, no part.

        Raises:
            CameraError: The camera has frozen.
        """
        self._last_frame.repeated()
        alive = self._wait.clock.moves or self._camera.repeats == "allowed"
        detail = "the camera gave the same frame again"
        if self._wait.clock.stands:
            detail += ": its time stamp has not changed"
        elif alive and not self._triggered:
            self._link.free.append(slot)
            self._link.send(Repeated(origin.captured_ns))
            return False
        self._report(origin, slot, "repeated_frame", detail)
        self._wait.check_frozen(source)
        return True

    @property
    def _triggered(self) -> bool:
        return isinstance(self._camera.trigger, (SoftwareTrigger, HardwareTrigger))

    def _report(self, origin: Origin, slot: int | None, reason: str, detail: str) -> bool:
        """Report a part that has no usable image. The part's slot becomes free. Return that it is a part."""
        if slot is not None:
            self._link.free.append(slot)
        self._link.send(Uncaptured(origin, reason, self._masked(detail)))
        return True

    def _masked(self, text: str) -> str:
        """Return a message for the daemon. A library's words may contain the camera's address with its password."""
        source = self._camera.source
        return mask_passwords(text, source.url) if isinstance(source, UrlSource) else text

    def _placed(self, image: Image, slot: int) -> Image:
        """Put the image into its slot, turned as configured. Return the slot's view."""
        self._shape = image.shape
        degrees = self._camera.rotate
        if degrees in ROTATIONS:
            height, width, channels = image.shape
            turned = (width, height) if degrees in (90, 270) else (height, width)
            return rotated(image, degrees, self._slots.view(slot, (*turned, channels)))
        view = self._slots.view(slot, image.shape)
        if view.ctypes.data != image.ctypes.data:  # OpenCV reads in place if size and type are the same as before
            view[:] = image
        return view

    def _untimely(self, origin: Origin) -> str | None:
        """Return why a frame is not that of its trigger's part: it is from before the trigger, or the part has moved on."""
        if origin.trigger is None:
            return None
        late_ns, early_ns = origin.captured_ns - self._wait.gone_ns, self._wait.at_ns - origin.captured_ns
        if early_ns > 0:
            return f"the frame that came was taken {early_ns / 1e6:.0f} ms before the part was in place"
        return f"its frame came {late_ns / 1e6:.0f} ms after the part had moved on" if late_ns > 0 else None

    def _slot(self) -> int | None:
        """Return a free slot. None: all are in use.

        Policy `wait` waits for one. `latest` waits a moment if the source can wait, so that a file's last frame is kept.
        """
        self._link.take_messages(timeout_s=0)
        policy = self._camera.policy
        can_wait = policy == "latest" and not isinstance(self._camera.source, LIVE)
        give_up_at = time.monotonic() + (MAX_BURST_S if can_wait else 0.0)
        while (slot := self._free_slot()) is None and (policy == "wait" or time.monotonic() < give_up_at):
            self._link.take_messages(timeout_s=TICK_S)
            self._link.tick()
        return slot

    def _free_slot(self) -> int | None:
        """Return a free slot, but never the slot that the next frame is compared with."""
        slot = next((slot for slot in reversed(self._link.free) if slot != self._last_frame.slot), None)
        if slot is not None:
            self._link.free.remove(slot)
        return slot

    def _view(self, slot: int | None) -> Image | None:
        """Memory to read into: the slot itself, unless the image has to be turned first."""
        return None if slot is None or self._shape is None or self._camera.rotate else self._slots.view(slot, self._shape)


def main() -> None:
    """Entry point of the capture process."""
    parser = argparse.ArgumentParser(prog="anosegd.capture.child")
    parser.add_argument("--socket", type=int, required=True)
    parser.add_argument("--memory", type=int, required=True)
    parser.add_argument("--parent", type=int, required=True)
    options = parser.parse_args()
    end_with(options.parent, signal.SIGKILL)
    # The process inherits the daemon's blocked signals.
    signal.pthread_sigmask(signal.SIG_SETMASK, [])
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _end)
    cv2.setNumThreads(1)
    with contextlib.suppress(DaemonGoneError, BrokenPipeError, ConnectionResetError):
        link = Link(socket.socket(fileno=options.socket))
        job = link.receive_job()
        Capture(job, link, Slots.attach(options.memory, job.slots, job.frame_bytes)).run()
    # Skip all clean-up: a library's threads may be stuck in a read.
    sys.stderr.flush()
    os._exit(0)


def _end(*_: object) -> None:
    raise DaemonGoneError


if __name__ == "__main__":
    main()
