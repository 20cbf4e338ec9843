"""Reads a camera for `anosegd collect`, through a capture process as the daemon does. Runs on the command's thread."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator

import msgspec
import numpy as np

from anoseg_engines.errors import CameraError, ConfigError, LoginRefusedError
from anoseg_engines.images import Image
from anoseg_engines.passwords import mask_passwords
from anosegd.cameras import SPAWN_TIMEOUT_S, WAITING_SLOTS, CaptureHandle, Presence
from anosegd.capture.config import LIVE, CaptureConfig, FileSource, FolderSource, FreeRun, HardwareTrigger, SoftwareTrigger
from anosegd.capture.protocol import Away, Captured, Failed, Finished, FromCapture, Job, Opened, Repeated, Uncaptured
from anosegd.commands.collect_choice import Choice
from anosegd.config import CameraConfig

PAUSE_S = 1.0
"""Before a lost camera is read again."""
MAX_TRIES = 5
"""Attempts in a row without a frame, after which the camera is given up."""
REOPEN_S = (0.1, 0.75)
"""The shortest and the longest time between the capture process's own attempts to open the camera."""


def capture_of(name: str, camera: CameraConfig, *, every_frame: bool) -> CaptureConfig:
    """Return how the camera is read.

    Raises:
        ConfigError: It waits for triggers that come only to a running station.
    """
    capture = msgspec.convert(camera, CaptureConfig, from_attributes=True)
    if every_frame:
        capture = msgspec.structs.replace(capture, trigger=FreeRun())
    if isinstance(capture.trigger, SoftwareTrigger):
        raise ConfigError(
            f"camera {name} waits for triggers, which only a running station receives",
            hint="give --every-frame and show it one part after the other, or set trigger: {kind: interval, every_ms: 500}",
        )
    source = capture.source
    if isinstance(source, (FileSource, FolderSource)):
        source = msgspec.structs.replace(source, loop=False)  # it would show nothing but duplicates
    return msgspec.structs.replace(capture, source=source, policy="latest" if isinstance(source, LIVE) else "wait")


class CameraReader:
    """Reads one camera across its interruptions.

    Args:
        capture: How the camera is read.
        camera: Its configuration.
        choice: Counts what gives no image.
        say: Called with news of the camera, in words.
        idle: Called repeatedly while the camera is read.
    """

    def __init__(
        self,
        capture: CaptureConfig,
        camera: CameraConfig,
        choice: Choice,
        *,
        say: Callable[[str], None],
        idle: Callable[[], None],
    ) -> None:
        self._capture, self._camera, self._choice = capture, camera, choice
        self._say, self._idle = say, idle
        self._live = isinstance(capture.source, LIVE)
        self._limit_s = 0.0  # without a message for this long, the camera counts as lost

    def parts(self, presence: Presence | None) -> Generator[Image, None, None]:
        """Yield the pictures of parts, cut to the region. Each is a copy.

        Raises:
            ConfigError: The region reaches beyond the picture.
            CameraError: The camera cannot be read.
        """
        tries = 0
        while True:
            seen = self._choice.seen
            try:
                yield from self._run(presence)
                return
            except LoginRefusedError:
                raise
            except CameraError as error:
                tries = tries + 1 if self._choice.seen == seen else 1
                if tries >= MAX_TRIES or not self._live:
                    raise
                self._say(f"camera lost: {mask_passwords(error.what)}")
                time.sleep(PAUSE_S)

    def _run(self, presence: Presence | None) -> Generator[Image, None, None]:
        """Yield the pictures that one capture process gives.

        Raises:
            ConfigError, CameraError: As `parts`.
        """
        capture = self._capture
        job = Job(
            camera=capture,
            slots=WAITING_SLOTS,
            frame_bytes=capture.max_frame_mb << 20,
            reopen_s=REOPEN_S if self._live else None,
        )
        never = os.eventfd(0, os.EFD_CLOEXEC)  # `receive` needs a descriptor that can wake it
        process = CaptureHandle.start(job, os.environ)
        self._limit_s = SPAWN_TIMEOUT_S + capture.open_timeout_s
        heard_at = time.monotonic()
        try:
            while True:
                messages = process.receive(0.2, never)
                self._idle()
                if messages is None:
                    raise CameraError(f"the capture process ended unexpectedly: {process.complaint}")
                if not messages and time.monotonic() - heard_at > self._limit_s:
                    raise CameraError(f"no image within {self._limit_s:g} s")
                if messages:
                    heard_at = time.monotonic()
                for message in messages:
                    if isinstance(message, Finished):
                        return
                    if isinstance(message, Captured):
                        image = self._part(process, message, presence)
                        if image is not None:
                            yield image
                            heard_at = time.monotonic()
                    else:
                        self._note(message)
        finally:
            process.kill()
            os.close(never)

    def _part(self, process: CaptureHandle, message: Captured, presence: Presence | None) -> Image | None:
        """Return a copy of the region of a frame; None if no part is in it."""
        self._limit_s = self._capture.longest_read_s
        image = process.image(message)
        try:
            part = self._cut(image)
            if presence is None or presence(image):
                return part
        finally:
            del image
            process.release(message.slot)
        self._choice.leave_out("empty", part)
        return None

    def _note(self, message: FromCapture) -> None:
        """Act on a message without a frame.

        Raises:
            CameraError: The camera cannot be read.
        """
        if isinstance(message, Repeated):
            self._choice.leave_out("unchanged")
        elif isinstance(message, Uncaptured):
            self._choice.leave_out("unreadable")
        elif isinstance(message, Opened):
            capture = self._capture
            hardware = isinstance(capture.trigger, HardwareTrigger)  # the line may not run yet
            self._limit_s = capture.longest_read_s if hardware else capture.open_timeout_s
            self._say(mask_passwords(message.description))
        elif isinstance(message, Away):
            self._say(f"camera away: {mask_passwords(message.error)}")
        elif isinstance(message, Failed):
            raise (LoginRefusedError if message.login_refused else CameraError)(message.error)

    def _cut(self, image: Image) -> Image:
        """Return a copy of the camera's region.

        Raises:
            ConfigError: The region reaches beyond the picture.
        """
        height, width = image.shape[:2]
        if (r := self._camera.region) is None:
            return np.array(image)
        if r.x + r.width > width or r.y + r.height > height:
            raise ConfigError(f"the region reaches beyond the camera's picture, which is {width}×{height}")
        return np.array(image[r.y : r.y + r.height, r.x : r.x + r.width])
