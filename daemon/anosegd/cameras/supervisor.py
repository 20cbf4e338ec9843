"""Starts and watches one camera's capture process, kills it when it hangs, and passes its frames on.

Runs on the camera's own thread.
"""

from __future__ import annotations

import contextlib
import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import msgspec

from anoseg_engines.errors import CameraError, EndedEarlyError, LoginRefusedError
from anosegd import logs
from anosegd.cameras.capture_handle import CaptureHandle
from anosegd.cameras.intake import Intake
from anosegd.cameras.logins import PAUSE_S, Login, Logins, login_of, requests_of, without_login
from anosegd.cameras.parts import InForce, Trigger
from anosegd.cameras.presence import Presence
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
    Remarks,
    Repeated,
    Started,
    Tick,
    Uncaptured,
)
from anosegd.capture.readable import readable
from anosegd.config import CameraConfig
from anosegd.inspection.pauses import Pause
from anosegd.inspection.queue import CameraQueue
from anosegd.publish import Publisher
from anosegd.recipe import Recipe
from anosegd.wire import CameraState
from anosegd.worker import Worker

SPAWN_TIMEOUT_S = 30.0
"""How long the capture process may take to load its libraries. If it takes longer, the machine is at fault, not the camera."""

RESTART_MIN_S, RESTART_MAX_S = 0.1, 10.0
"""The pause before the capture process of a lost camera is restarted doubles from the first to the second."""

REOPEN_MAX_S = 0.75
"""The longest time between two attempts to open a camera that is away; the process that tries is already running. With its
jitter it is shorter than the second that a search for GigE Vision cameras takes. A camera that returns just after the search
has sent its request would otherwise wait for the rest of that second and then for a pause."""

HEALTHY_S = 2.0
"""After a camera was open for this long, the pause before the next attempt is short again."""

LOGIN_LOOK_S = 1.0
"""While a login must not be tried, the camera looks so often whether another camera was let in with it."""

_CHANGE_LOGIN = "correct the user name and the password in the url"
_COPY_AGAIN = "copy the file again; frames that are missing got no verdict"

WAITING_SLOTS = 4
"""Slots for the frames of a source that waits for the inspector. Any other source has one slot for each frame that may wait,
and four more. These hold the frame that is being read, the frame that is being inspected, a frame on its way between the two,
and a live camera's last frame, with which the next one is compared."""


@dataclass(frozen=True, slots=True)
class CameraStatus:
    """Describes the state of a camera.

    Attributes:
        frames: Frames captured, lost ones included.
        lost: Frames that the capture process discarded (policy latest).
        empty: Frames without a part.
        repeated: Frames that equal the one before and are no new part.
        restarts: Restarts of the capture process.
        last_error: The latest error, even if it is over.
        remarks: Facts about the stream that an operator should know.
        size: Height and width of the newest frame, after turning. None before the first one.
    """

    state: CameraState
    source: str
    frames: int
    lost: int
    empty: int
    repeated: int
    restarts: int
    last_error: str | None
    remarks: tuple[str, ...]
    size: tuple[int, int] | None


class CameraSupervisor(Worker):
    """Supervises one camera's capture process, and restarts it without end.

    Args:
        name: The camera's name.
        recipe: The recipe in force, which has its configuration.
        queue: Where its frames wait for inspection.
        publisher: Where its parts are opened.
        pause: Returns the pause that it is in; None if it is inspected.
        environment: The environment of the capture process.
        logins: Shared by all cameras: how often a password may be tried.
        max_tries: Give up after so many attempts in a row without a frame; None never gives up.
    """

    def __init__(
        self,
        name: str,
        recipe: Recipe,
        *,
        queue: CameraQueue,
        publisher: Publisher,
        pause: Callable[[], Pause | None],
        environment: Mapping[str, str],
        logins: Logins | None = None,
        max_tries: int | None = None,
    ) -> None:
        super().__init__(f"camera-{name}")
        self.name = name
        self.queue = queue
        config = recipe.cameras[name]
        self._publisher = publisher
        self._environment = environment
        self._logins = logins or Logins()
        self._login: Login | None = None
        self._requests = requests_of(config.source)
        self._open_source = without_login(config.source)
        self._may_log_in = True  # whether the running capture process has the login
        self._max_tries = max_tries
        self._wake_fd = -1  # eventfd: readable when there is a trigger, or `stop`
        self._stopping = False
        self._intake = Intake(name, recipe, queue, publisher, pause)
        self._state: CameraState = "starting"
        self._restarts = 0
        self._last_error: str | None = None
        self._remarks = Remarks()
        self._logged_stamps: str | None = None
        self._logged_error: str | None = None  # a camera that stays away with one error is logged once
        self._source_ended = False
        self._gave_up = False
        self._opened_at: float | None = None  # monotonic; None until this capture process has opened the camera

    # ---- any thread

    @property
    def in_force(self) -> InForce:
        """The recipe by which the parts are made that begin now."""
        return self._intake.parts.in_force

    @property
    def config(self) -> CameraConfig:
        """Its configuration in the recipe in force."""
        return self.in_force.config

    @property
    def status(self) -> CameraStatus:
        """The camera's state and counts."""
        return CameraStatus(
            state=self._state,
            source=str(type(self.config.source).__struct_config__.tag),
            frames=self._intake.parts.frames,
            lost=self._intake.lost,
            empty=self._intake.empty,
            repeated=self._intake.repeated,
            restarts=self._restarts,
            last_error=self._last_error,
            remarks=_in_words(self._remarks) if self._state == "running" else (),
            size=self._intake.newest_size,
        )

    @property
    def ended(self) -> bool:
        """Whether the source has ended, or the camera has been given up."""
        return self._state == "finished" or self._gave_up

    @property
    def reload_opens_again(self) -> bool:
        """Whether a reload opens the camera again even if its configuration is unchanged: it cannot go on by itself.

        It has been given up, or its frames have another size than its first one. A camera that has finished stays as it is.
        """
        return self._gave_up or self._intake.wrong_size

    @property
    def waits_for_triggers(self) -> bool:
        """Whether `trigger` makes parts."""
        return isinstance(self.config.trigger, SoftwareTrigger)

    def trigger(self, trigger: Trigger) -> None:
        """Capture the part in front of the camera. A verdict always follows."""
        self._intake.triggered.put(trigger)
        self._wake()

    # ---- main thread

    def continue_from(self, before: CameraSupervisor) -> None:
        """Continue the sequence and counts of a camera of this name that has ended. Before the start."""
        known, intake = before.status, self._intake
        intake.parts.frames, intake.lost, intake.empty, self._restarts = known.frames, known.lost, known.empty, known.restarts
        intake.repeated = known.repeated

    def load(self) -> None:
        """Read the files that the configuration names. Before the start.

        Raises:
            ConfigError: The image of the empty place cannot be used.
        """
        self._intake.parts.begin(in_force(self.name, self.in_force.recipe))

    def use(self, recipe: InForce) -> None:
        """Make the parts that begin from now on by this recipe, for which the camera need not be opened again."""
        self._intake.parts.use(recipe)

    def start(self) -> None:
        """Start the thread."""
        loaded = self.in_force
        assert loaded.config.presence is None or loaded.presence is not None, "`load` comes before the start"
        self._wake_fd = os.eventfd(1, os.EFD_CLOEXEC | os.EFD_NONBLOCK)  # 1: a trigger may have come before
        super().start()

    def stop(self) -> None:
        """Ask the thread to end. Its process is killed; frames that were handed on stay valid."""
        self._stopping = True
        self._wake()

    def close(self) -> None:
        """Close the descriptor, once the thread has ended; a thread that is stuck still needs it."""
        if not self.alive and self._wake_fd >= 0:
            os.close(self._wake_fd)

    def _wake(self) -> None:
        if self._wake_fd >= 0:
            os.eventfd_write(self._wake_fd, 1)

    # ---- the camera's thread

    def work(self) -> None:
        """Run the capture process until the source ends or the camera is stopped.

        Raises:
            CameraError: max_tries attempts in a row gave no frame, or a file ended early.
        """
        given_up: CameraError | None = None
        pause_s = RESTART_MIN_S
        tries, position = 0, 0
        self._login = login_of(self.config.source)
        while not self._stopping:
            self._opened_at = None
            self._may_log_in = self._logins.take_try(self._login, self.name, requests=self._requests) == 0
            if not self._may_log_in and self._open_source is None:
                self._wait_for_login()
                continue
            try:
                self._run_process()
                break
            except LoginRefusedError as error:
                if not self._may_log_in:  # as expected: without the login, any other reason is found out
                    self._wait_for_login()
                    continue
                self._logins.refused(self._login, self.name, requests=self._requests)
                self._enter_lost(error, PAUSE_S)
                if self._max_tries is not None:
                    given_up = CameraError(f"camera {self.name}: {error.what}", hint=_CHANGE_LOGIN)
                    break
                self._pause(PAUSE_S)
                self._restarts += 1
            except EndedEarlyError as error:
                self._state, self._last_error = "lost", error.what
                given_up = EndedEarlyError(f"camera {self.name}: {error.what}", hint=_COPY_AGAIN)
                break
            except CameraError as error:
                tries = tries + 1 if self._intake.position == position else 1
                position = self._intake.position
                if self._max_tries is not None and tries >= self._max_tries:
                    self._enter_lost(error, pause_s)
                    given_up = CameraError(f"camera {self.name}: {error.what}", hint=f"given up after {tries} attempts")
                    break
                if self._opened_at is not None and time.monotonic() - self._opened_at > HEALTHY_S:
                    pause_s = RESTART_MIN_S
                self._enter_lost(error, pause_s)
                # Jitter, so that cameras behind one failed switch do not all come back at the same moment.
                self._pause(pause_s * random.uniform(0.75, 1.25))
                pause_s = min(pause_s * 2, RESTART_MAX_S)
                self._restarts += 1
        self._read_no_more(given_up)

    def _read_no_more(self, given_up: CameraError | None) -> None:
        """Report how the camera ended, and refuse triggers until the station stops.

        Raises:
            CameraError: `given_up`, if there is one.
        """
        if given_up is None:
            self._enter("stopped" if self._stopping else "finished")
        else:
            self._gave_up = True
            logs.error("camera.failed", camera=self.name, error=self._last_error)
            self._publisher.state_changed()
        while self.waits_for_triggers and not self._stopping:
            self._pause(1.0)
        ended = "the source has ended" if self._state == "finished" else "the camera is being closed"
        self._intake.triggered.refuse_new(ended if given_up is None else given_up.what)
        if given_up is not None:
            raise given_up

    def _wait_for_login(self) -> None:
        """Wait until the password may be tried. Other cameras have tried this user at the same host."""
        why = CameraError("not tried yet: its host has just refused this user name or password to another camera")
        while not self._stopping and (wait_s := self._logins.wait_s(self._login, requests=self._requests)) > 0:
            if self._state != "lost" or self._last_error != why.what:
                self._enter_lost(why, wait_s)
            self._pause(min(wait_s, LOGIN_LOOK_S))

    def _pause(self, seconds: float) -> None:
        """Wait. Answer triggers at once meanwhile, because no camera can take their frames."""
        end = time.monotonic() + seconds
        while not self._stopping and (left := end - time.monotonic()) > 0:
            self._intake.triggered.refuse_new(self._last_error or "the camera gives no images")
            readable([self._wake_fd], left)
            self._clear_wake()

    def _clear_wake(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._wake_fd)

    def _run_process(self) -> None:
        """Run one capture process; returns when the source has ended or the camera is stopped.

        Raises:
            CameraError: The process ended, hung or failed.
        """
        process = CaptureHandle.start(self._job(), self._environment)
        self._intake.triggered.new_process()
        try:
            hang = self._listen(process)
        finally:
            end = process.kill()
            self._intake.triggered.give_up()
        if self._stopping or self._source_ended:
            return
        what = hang or f"the capture process ended unexpectedly ({end})"
        self._intake.process_died(what)
        raise CameraError(what)  # Not stored: the traceback would keep this frame alive, and with it the frames' memory.

    def _job(self) -> Job:
        config = self.config
        reopens = self._max_tries is None and isinstance(config.source, LIVE)
        camera = msgspec.convert(config, CaptureConfig, from_attributes=True)
        if not self._may_log_in and self._open_source is not None:
            camera = msgspec.structs.replace(camera, source=self._open_source)
        return Job(
            camera=camera,
            slots=(WAITING_SLOTS if config.policy == "wait" else self.queue.capacity + 4)
            + self._publisher.picture_slots(config.policy),
            frame_bytes=config.max_frame_mb << 20,
            start_at=self._intake.position,
            after=self._intake.last_file,
            size=self._intake.size,
            reopen_s=(RESTART_MIN_S, REOPEN_MAX_S) if reopens else None,
        )

    def _listen(self, process: CaptureHandle) -> str | None:
        """Act on messages until the process ends, hangs, or is no longer needed. If it hangs, return how."""
        config = self.config
        limit_s, doing = SPAWN_TIMEOUT_S, "start"
        heard_at = time.monotonic()
        while not self._stopping:
            messages = process.receive(heard_at + limit_s - time.monotonic(), self._wake_fd)
            if messages is None:
                return None
            self._clear_wake()
            if self._state == "running" and isinstance(config.trigger, SoftwareTrigger):
                self._intake.triggered.ask_for_frames(process, config.trigger, config.queue - len(self.queue))
            elif self._state != "running":
                self._intake.triggered.refuse_new(self._last_error or "the camera is being opened")
            if not messages:
                if time.monotonic() - heard_at >= limit_s:
                    return f"no answer for {limit_s:g} s on {doing}: the capture process was killed"
                continue
            heard_at = time.monotonic()
            for message in messages:
                if isinstance(message, Started):
                    limit_s, doing = config.open_timeout_s, "open"
                elif isinstance(message, Away):
                    limit_s = config.open_timeout_s + 2 * message.pause_s
                elif isinstance(message, Tick) and self._opened_at is None:
                    pass  # the process waits between two attempts to open the camera
                elif isinstance(message, Opened) and isinstance(config.trigger, HardwareTrigger):
                    limit_s, doing = config.longest_read_s, "read"  # the line may not run yet
                elif isinstance(message, (Captured, Uncaptured, Repeated, Tick)):  # the first frame may take as long as opening
                    limit_s, doing = config.longest_read_s, "read"
                self._handle(process, message)
                if self._source_ended:
                    return None
        return None

    def _handle(self, process: CaptureHandle, message: FromCapture) -> None:
        """Act on one message."""
        if isinstance(message, Opened):
            self._opened_at, self._remarks = time.monotonic(), Remarks()
            if self._may_log_in:
                self._logins.accepted(self._login, self.name)
            self._enter("running", message.description)
        elif isinstance(message, Away):
            self._restarts += 1
            self._logins.not_sent(self._login, self.name)
            self._enter_lost(CameraError(message.error), message.pause_s)
            self._intake.triggered.give_up()
        elif isinstance(message, Reading):
            self._intake.reading(message)
        elif isinstance(message, Captured):
            self._intake.captured(process, message)
        elif isinstance(message, Repeated):
            self._intake.repeats()
        elif isinstance(message, Remarks):
            self._take_remarks(message)
        elif isinstance(message, Uncaptured):
            if not self._intake.triggered.discards(message.origin.trigger):
                if message.reason != "overrun":  # which is counted
                    self._last_error = message.detail
                self._intake.uncaptured(message)
        elif isinstance(message, Failed):
            complaint = process.complaint
            if message.login_refused:
                raise LoginRefusedError(message.error)
            if message.ended_early:
                raise EndedEarlyError(message.error)
            self._logins.not_sent(self._login, self.name)
            raise CameraError(f"{message.error}: {complaint}" if complaint else message.error)
        elif isinstance(message, Finished):
            self._intake.count_lost(message.lost)
            self._source_ended = True

    def _take_remarks(self, remarks: Remarks) -> None:
        if remarks.stamps != self._logged_stamps:
            self._logged_stamps = remarks.stamps
            if remarks.stamps is None:
                logs.info("stamps.used", camera=self.name)
            else:
                logs.warning("stamps.ignored", camera=self.name, reason=remarks.stamps)
        self._remarks = remarks
        self._publisher.state_changed()

    def _enter(self, state: CameraState, description: str | None = None) -> None:
        self._state = state
        self._logged_error = None
        logs.info(f"camera.{state}", camera=self.name, source=description)
        self._publisher.state_changed()

    def _enter_lost(self, error: CameraError, pause_s: float) -> None:
        self._state = "lost"
        self._last_error = error.what
        if error.what != self._logged_error:
            self._logged_error = error.what
            logs.warning("camera.lost", camera=self.name, error=error.what, next_attempt_s=pause_s)
        self._publisher.state_changed()


def in_force(name: str, recipe: Recipe) -> InForce:
    """Read the files that a recipe names for a camera. It comes into force now.

    Raises:
        ConfigError: The image of the empty place cannot be used.
    """
    config = recipe.cameras[name]
    presence = None if config.presence is None else Presence.load(config.presence, config.region)
    return InForce(recipe, config, presence)


def _in_words(remarks: Remarks) -> tuple[str, ...]:
    words = []
    if remarks.still:
        words.append("the picture stands still: it has not changed for 10 s or longer")
    if remarks.stamps is not None:
        words.append(f"{remarks.stamps}: captured_at is the time at which a frame arrived")
    return tuple(words)
