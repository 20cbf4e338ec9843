"""`anosegd cameras CONFIG`: whether its cameras give pictures. Opens each as the daemon would, one after the other."""

from __future__ import annotations

import os
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import msgspec

from anoseg_engines.errors import CameraError
from anosegd.cameras.process import CaptureProcess
from anosegd.cameras.supervisor import SPAWN_TIMEOUT_S, WAITING_SLOTS
from anosegd.capture.config import CaptureConfig, FreeRun
from anosegd.capture.protocol import Captured, Failed, Finished, Job, Opened, Uncaptured
from anosegd.config import CameraConfig

RATE_FRAMES = 20
RATE_S = 3.0
"""The rate is taken over so many frames, or so many seconds, whichever is less."""


@dataclass(frozen=True, slots=True)
class Probed:
    """A camera that gave pictures. width, height: after turning. fps: None with one frame only. picture: the saved file."""

    description: str
    width: int
    height: int
    fps: float | None
    picture: Path


def probe(name: str, camera: CameraConfig, folder: Path) -> Probed:
    """Open the camera as the daemon would, save its first picture as NAME.png in `folder`, take its rate.

    Raises:
        CameraError: it cannot be opened, or gives no picture in time; the message says which.
    """
    free_run = msgspec.structs.replace(
        msgspec.convert(camera, CaptureConfig, from_attributes=True), policy="latest", trigger=FreeRun()
    )
    job = Job(camera=free_run, slots=WAITING_SLOTS, frame_bytes=camera.max_frame_mb << 20)
    never = os.eventfd(0, os.EFD_CLOEXEC)
    process = CaptureProcess(job, os.environ)
    try:
        return _watch(name, camera, process, folder, never)
    finally:
        process.kill()
        os.close(never)


def _watch(name: str, camera: CameraConfig, process: CaptureProcess, folder: Path, never: int) -> Probed:
    description = ""
    first: Probed | None = None
    times: list[int] = []
    give_up_at = time.monotonic() + SPAWN_TIMEOUT_S + camera.open_timeout_s
    while len(times) < RATE_FRAMES and time.monotonic() < give_up_at:
        messages = process.receive(min(0.2, max(0.0, give_up_at - time.monotonic())), never)
        if messages is None:
            break
        for message in messages:
            if isinstance(message, Opened):
                description = message.description
                give_up_at = time.monotonic() + camera.open_timeout_s
            elif isinstance(message, Failed):
                raise CameraError(f"camera {name}: {message.error}")
            elif isinstance(message, Uncaptured) and first is None:
                raise CameraError(f"camera {name}: {message.detail}")
            elif isinstance(message, Captured):
                if first is None:
                    first = Probed(description, message.width, message.height, None, _save(name, process, message, folder))
                    give_up_at = time.monotonic() + RATE_S
                process.release(message.slot)
                times.append(message.captured_ns)
            elif isinstance(message, Finished):
                give_up_at = 0.0
    if first is None:
        limit = camera.open_timeout_s
        raise CameraError(f"camera {name}: no picture within {limit:g} s", hint="is it on, and is its address right?")
    seconds = (times[-1] - times[0]) / 1e9
    fps = (len(times) - 1) / seconds if len(times) > 1 and seconds > 0 else None
    return Probed(first.description, first.width, first.height, fps, first.picture)


def _save(name: str, process: CaptureProcess, message: Captured, folder: Path) -> Path:
    path = folder / f"{name}.png"
    data = cv2.imencode(".png", process.image(message))[1].tobytes()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise CameraError(f"{path}: cannot be written ({error.strerror})", hint="give another --out") from error
    return path
