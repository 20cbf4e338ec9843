"""One camera, supervised: its capture process is started, watched, killed when it hangs and started again, for ever."""

from __future__ import annotations

import contextlib
import os
import queue
import random
import select
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial

import msgspec

from anoseg_engines.errors import CameraError
from anosegd import logs
from anosegd.cameras.presence import Presence
from anosegd.cameras.process import CaptureProcess
from anosegd.capture.config import LIVE, CaptureConfig, HardwareTrigger, SoftwareTrigger
from anosegd.capture.protocol import (
    Away,
    Captured,
    Failed,
    Finished,
    FromCapture,
    Job,
    Opened,
    Reading,
    Started,
    TakeFrame,
    Tick,
    Uncaptured,
)
from anosegd.config import CameraConfig
from anosegd.inspection.queue import Handoff
from anosegd.part import Frame, Part
from anosegd.publish.publisher import Publisher
from anosegd.wire import CameraState, Reason
from anosegd.worker import Worker

SPAWN_TIMEOUT_S = 30.0
"""Until the capture process has loaded its libraries: a fault of the machine, not of the camera."""

RESTART_MIN_S, RESTART_MAX_S = 0.1, 10.0
"""The pause before the capture process of a lost camera is restarted doubles from the first to the second."""

REOPEN_MAX_S = 0.75
"""The longest time between two attempts to open a camera that is away; the process that tries is already running. With its
jitter it is shorter than the second that a search for GigE Vision cameras takes. A camera that returns just after the search
has sent its request would otherwise wait for the rest of that second and then for a pause."""

HEALTHY_S = 2.0
"""A camera that was open for so long may be lost as any other: the pause before the next attempt is short again."""

WAITING_SLOTS = 4
"""Slots of a source that waits; the others have one for each frame that may wait, and four: one being filled, one in the
inspector's hands, one on the way, one that a live camera's next frame is compared with."""


@dataclass(frozen=True, slots=True)
class Trigger:
    """A software trigger. at_ns, at_wall_ns: monotonic and Unix time. number: what the journal knows it by, if it does."""

    part_id: str
    at_ns: int
    at_wall_ns: int
    number: int | None


@dataclass(frozen=True, slots=True)
class CameraStatus:
    """What the camera's thread knows of it. lost: frames that the capture process let go, policy latest.

    empty: frames without a part.
    """

    state: CameraState
    source: str
    frames: int
    lost: int
    empty: int
    restarts: int
    last_error: str | None


class Camera(Worker):
    """Supervises one capture process and hands its frames on. `status` may be read by any thread.

    max_tries: give up after so many attempts in a row that gave nothing; None, as a line wants it, never does.
    """

    def __init__(
        self,
        name: str,
        config: CameraConfig,
        handoff: Handoff,
        publisher: Publisher,
        environment: Mapping[str, str],
        *,
        max_tries: int | None = None,
    ) -> None:
        super().__init__(f"camera-{name}")
        self.name = name
        self.config = config
        self.handoff = handoff
        self._publisher = publisher
        self._environment = environment
        self._max_tries = max_tries
        self._wake_fd = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)  # readable when there is a trigger, or `stop`
        self._stopping = False
        self._triggers: queue.SimpleQueue[Trigger] = queue.SimpleQueue()
        self._awaited: dict[int, Part] = {}  # triggered parts of which the capture process owes a frame, by sequence
        self._given_up: set[int] = set()  # those that it owed when the camera fell silent: should it answer yet, it is too late
        self._kind = str(type(config.source).__struct_config__.tag)
        self._state: CameraState = "starting"
        self._frames = self._lost = self._empty = self._restarts = 0
        self._presence = Presence(config.presence, config.region) if config.presence is not None else None
        self._last_error: str | None = None
        self._told: str | None = None  # the error already logged: a camera that stays away is one line
        self._position = 0  # of the next part in a file or folder
        self._reading: Reading | None = None
        self._size: tuple[int, int] | None = None  # height, width of a live camera's first frame
        self._not_captured = logs.Throttle("part.not_captured")
        self._opened_at: float | None = None  # monotonic, in this life of the capture process
        self._suspect: int | None = None  # position at which the process died before

    @property
    def status(self) -> CameraStatus:
        """How the camera is."""
        return CameraStatus(self._state, self._kind, self._frames, self._lost, self._empty, self._restarts, self._last_error)

    def follow(self, before: Camera) -> None:
        """Take over from a camera of this name that has ended: sequences and counts go on. Before the start."""
        known = before.status
        self._frames, self._lost, self._empty, self._restarts = known.frames, known.lost, known.empty, known.restarts

    @property
    def finished(self) -> bool:
        """Whether the source has come to its end."""
        return self._state == "finished"

    @property
    def waits_for_triggers(self) -> bool:
        """Whether `trigger` makes parts."""
        return isinstance(self.config.trigger, SoftwareTrigger)

    def trigger(self, trigger: Trigger) -> None:
        """A part lies before the camera: it is captured, and answered by a verdict whatever happens. Any thread."""
        self._triggers.put(trigger)
        os.eventfd_write(self._wake_fd, 1)

    def stop(self) -> None:
        """Ask the thread to end; its process is killed, frames already handed on stay good."""
        self._stopping = True
        os.eventfd_write(self._wake_fd, 1)

    def close(self) -> None:
        """Give back the descriptor, once the thread has ended; one that is stuck still needs it."""
        if not self.alive:
            os.close(self._wake_fd)

    def work(self) -> None:
        """Run the capture process until it has finished or the camera is stopped.

        Raises:
            CameraError: max_tries attempts in a row gave nothing.
        """
        pause_s = RESTART_MIN_S
        tries, position = 0, 0
        while not self._stopping:
            self._opened_at = None
            try:
                self._watch()
                break
            except CameraError as error:
                tries = tries + 1 if self._position == position else 1
                position = self._position
                if self._max_tries is not None and tries >= self._max_tries:
                    self._lose(error, pause_s)
                    raise CameraError(f"camera {self.name}: {error.what}", hint=f"given up after {tries} attempts") from error
                if self._opened_at is not None and time.monotonic() - self._opened_at > HEALTHY_S:
                    pause_s = RESTART_MIN_S
                self._lose(error, pause_s)
                # Jitter, so that cameras behind one failed switch do not all come back at the same moment.
                self._pause(pause_s * random.uniform(0.75, 1.25))
                pause_s = min(pause_s * 2, RESTART_MAX_S)
                self._restarts += 1
        self._enter("stopped" if self._stopping else "finished")
        while self.waits_for_triggers and not self._stopping:
            self._pause(1.0)
        self._refuse_triggers("the source has come to its end" if self._state == "finished" else "the camera is being closed")

    def _pause(self, seconds: float) -> None:
        """Wait; triggers are answered at once: there is no camera for them."""
        end = time.monotonic() + seconds
        while not self._stopping and (left := end - time.monotonic()) > 0:
            self._refuse_triggers(self._last_error or "the camera gives no pictures")
            select.select([self._wake_fd], [], [], left)
            self._woken()

    def _woken(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake_fd)

    def _watch(self) -> None:
        """One life of the capture process; returns at the source's end or when stopped.

        Raises:
            CameraError: the process ended, hung or failed.
        """
        config = self.config
        slots = WAITING_SLOTS if config.policy == "wait" else self.handoff.capacity + 4
        job = Job(
            camera=msgspec.convert(config, CaptureConfig, from_attributes=True),
            slots=slots,
            frame_bytes=config.max_frame_mb << 20,
            start_at=self._position,
            size=self._size,
            reopen_s=self._reopen_s,
        )
        process = CaptureProcess(job, self._environment)
        self._given_up.clear()
        ended = True
        try:
            limit_s, doing = SPAWN_TIMEOUT_S, "start"
            heard_at = time.monotonic()
            while not self._stopping:
                messages = process.receive(heard_at + limit_s - time.monotonic(), self._wake_fd)
                if messages is None:
                    break
                self._woken()
                if self._state == "running":
                    self._pass_triggers_on(process)
                else:
                    self._refuse_triggers(self._last_error or "the camera is being opened")
                if not messages:
                    if time.monotonic() - heard_at >= limit_s:
                        ended = False
                        break
                    continue
                heard_at = time.monotonic()
                for message in messages:
                    if isinstance(message, Started):
                        limit_s, doing = config.open_timeout_s, "open"
                    elif isinstance(message, Away):
                        limit_s = config.open_timeout_s + 2 * message.pause_s
                    elif isinstance(message, Tick) and self._opened_at is None:
                        pass  # between two attempts to open it
                    elif isinstance(message, Opened) and isinstance(config.trigger, HardwareTrigger):
                        limit_s, doing = self._stall_s, "read"  # the line may not have begun yet
                    elif isinstance(message, (Captured, Uncaptured, Tick)):  # the first frame takes as long as opening may
                        limit_s, doing = self._stall_s, "read"
                    if self._handle(process, message):
                        return
        finally:
            end = process.kill()
            self._give_up_awaited("the camera gave no picture for it")
        if self._stopping:
            return
        if ended:
            what = f"the capture process ended unasked ({end})"
        else:
            what = f"no answer for {limit_s:g} s on {doing}: the capture process was killed"
        self._suspect_file(what)
        raise CameraError(what)  # kept in no variable: it would keep this frame, and that the memory for the frames

    @property
    def _reopen_s(self) -> tuple[float, float] | None:
        """Between attempts to open the camera, of one process; None where one attempt is all, or the source is no camera."""
        if self._max_tries is not None or not isinstance(self.config.source, LIVE):
            return None
        return RESTART_MIN_S, REOPEN_MAX_S

    @property
    def _stall_s(self) -> float:
        trigger = self.config.trigger
        return trigger.longest_pause_s if isinstance(trigger, HardwareTrigger) else self.config.stall_timeout_s

    def _pass_triggers_on(self, process: CaptureProcess) -> None:
        """Ask the capture process for a frame for each trigger that has come; with too many waiting the part is an overrun."""
        while not self._triggers.empty():
            trigger = self._triggers.get_nowait()
            part = self._triggered_part(trigger)
            self._publisher.open_part(part)
            if len(self._awaited) + len(self.handoff) >= self.config.queue:
                self._publisher.close_unknown(part, "overrun", "triggers come faster than parts are inspected")
                continue
            self._awaited[part.sequence] = part
            assert isinstance(self.config.trigger, SoftwareTrigger)
            process.send(TakeFrame(part.sequence, trigger.at_ns + round(self.config.trigger.delay_ms * 1e6)))

    def _refuse_triggers(self, why: str) -> None:
        while not self._triggers.empty():
            part = self._triggered_part(self._triggers.get_nowait())
            self._publisher.open_part(part)
            self._publisher.close_unknown(part, "camera_lost", why)

    def _give_up_awaited(self, why: str) -> None:
        for part in self._awaited.values():
            self._publisher.close_unknown(part, "camera_lost", why)
        self._given_up.update(self._awaited)
        self._awaited.clear()

    def _triggered_part(self, trigger: Trigger) -> Part:
        self._frames += 1
        deadline_ms = self.config.deadline_ms
        return Part(
            camera=self.name,
            sequence=self._frames,
            part_id=trigger.part_id,
            captured_ns=None,
            captured_wall_ns=None,
            deadline_ns=None if deadline_ms is None else trigger.at_ns + round(deadline_ms * 1e6),
            triggered_ns=trigger.at_ns,
            triggered_wall_ns=trigger.at_wall_ns,
            trigger=trigger.number,
            settings=self.config,
        )

    def _handle(self, process: CaptureProcess, message: FromCapture) -> bool:
        """Act on one message; True when the source has come to its end."""
        if isinstance(message, Opened):
            self._opened_at = time.monotonic()
            self._enter("running", message.description)
        elif isinstance(message, Away):
            self._restarts += 1
            self._lose(CameraError(message.error), message.pause_s)
            self._give_up_awaited("the camera gave no picture for it")
        elif isinstance(message, Reading):
            self._reading = message
        elif isinstance(message, (Captured, Uncaptured)) and message.trigger in self._given_up:
            self._given_up.discard(message.trigger)
            if isinstance(message, Captured):
                process.image(message)  # it is ours, so that it can be given back
                process.release(message.slot)
        elif isinstance(message, Captured):
            self._lost += message.lost
            self._frames += message.lost
            self._size = self._size or (message.height, message.width)
            image = process.image(message)
            if self._presence is not None and not self._presence(image):
                self._position = message.position + 1
                self._empty += 1
                process.release(message.slot)
                return False
            part = self._part(message)
            frame = Frame(part, image, partial(process.release, message.slot))
            if message.trigger is None:
                self._publisher.open_part(part)
            self._account_for(self.handoff.put(frame), part)
        elif isinstance(message, Uncaptured):
            part = self._part(message)
            reason = _reason(message)
            if reason != "overrun":  # which is counted
                self._last_error = message.detail
                self._not_captured.warning(camera=self.name, part=part.part_id, reason=reason, error=message.detail)
            if message.trigger is None:
                self._publisher.open_part(part)
            self._publisher.close_unknown(part, reason, message.detail)
        elif isinstance(message, Failed):
            complaint = process.complaint
            raise CameraError(f"{message.error}: {complaint}" if complaint else message.error)
        elif isinstance(message, Finished):
            self._lost += message.lost
            self._frames += message.lost
            return True
        return False

    def _account_for(self, gone: Frame | None, part: Part) -> None:
        if gone is None:
            return
        gone.release()
        if gone.part is part:
            self._publisher.close_unknown(part, "overrun", "parts come faster than they are inspected")
        else:
            self._publisher.drop_part(gone.part)

    def _part(self, message: Captured | Uncaptured) -> Part:
        self._position = message.position + 1
        self._reading = None
        if message.trigger is not None:
            try:
                part = self._awaited.pop(message.trigger)
            except KeyError:
                raise CameraError(f"the capture process answers trigger {message.trigger}, which it was not given") from None
            return replace(
                part, captured_ns=message.captured_ns, captured_wall_ns=message.captured_wall_ns, source=message.source
            )
        self._frames += 1
        deadline_ms = self.config.deadline_ms
        return Part(
            camera=self.name,
            sequence=self._frames,
            part_id=message.part_id or f"{self.name}-{self._frames}",
            captured_ns=message.captured_ns,
            captured_wall_ns=message.captured_wall_ns,
            deadline_ns=None if deadline_ms is None else message.captured_ns + round(deadline_ms * 1e6),
            source=message.source,
            settings=self.config,
        )

    def _suspect_file(self, what: str) -> None:
        """A file that the process died over twice is a part that cannot be read; the folder goes on after it."""
        reading = self._reading
        if reading is None:
            return
        if reading.position != self._suspect:
            self._suspect = reading.position
            return
        now, wall = time.monotonic_ns(), time.time_ns()
        part = self._part(Uncaptured("unreadable", "", reading.position, now, wall, None, reading.source))
        self._publisher.open_part(part)
        self._publisher.close_unknown(part, "unreadable", f"{reading.source}: reading it failed twice: {what}")

    def _enter(self, state: CameraState, description: str | None = None) -> None:
        self._state = state
        self._told = None
        logs.info(f"camera.{state}", camera=self.name, source=description)
        self._publisher.state_changed()

    def _lose(self, error: CameraError, pause_s: float) -> None:
        self._state = "lost"
        self._last_error = error.what
        if error.what != self._told:
            self._told = error.what
            logs.warning("camera.lost", camera=self.name, error=error.what, next_attempt_s=pause_s)
        self._publisher.state_changed()


def _reason(message: Uncaptured) -> Reason:
    known: dict[str, Reason] = {r: r for r in ("overrun", "repeated_frame", "image_size", "camera_lost")}
    return known.get(message.reason, "unreadable")
