"""`anosegd cameras`: lists the cameras of this machine, or tries those of a configuration one after the other."""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import msgspec

from anoseg_engines.errors import CameraError, ConfigError
from anosegd.cameras import SPAWN_TIMEOUT_S, WAITING_SLOTS, CaptureHandle
from anosegd.capture.config import CaptureConfig, FreeRun
from anosegd.capture.protocol import Captured, Failed, Finished, Job, Opened, Uncaptured
from anosegd.capture.sources.aravis import list_genicam
from anosegd.capture.sources.devices import list_devices
from anosegd.check import check_sources
from anosegd.config import CameraConfig, load_config

RATE_FRAMES = 20
RATE_S = 3.0
"""The frame rate is measured over this many frames or seconds, whichever is less."""


def main(options: argparse.Namespace) -> int:
    """List the cameras; with CONFIG, save an image of each of its cameras. Return 1 if a camera gives none.

    Raises:
        ConfigError: CONFIG is invalid.
    """
    if options.config is None:
        _list_cameras()
        return 0
    config = load_config(options.config)
    check_sources(config)
    failed = False
    for name, camera in config.cameras.items():
        try:
            found = probe(name, camera, options.out)
        except CameraError as error:
            failed = True
            sys.stderr.write(f"anosegd: {error}\n")
            continue
        rate = f", {found.fps:.1f} frames per second" if found.fps else ""
        sys.stdout.write(f"{name}: {found.description}: {found.width}×{found.height}{rate}; image in {found.path}\n")
    return 1 if failed else 0


def _list_cameras() -> None:
    lines = []
    for device in list_devices():
        serial = f", serial {device.serial}" if device.serial else ""
        lines.append(f"{device.stable_path or device.path}: {device.name}{serial}")
    if not lines:
        lines.append("this machine has no video devices; give a CONFIG to try its streams")
    try:
        for camera in list_genicam():
            where = f" at {camera.address}" if camera.protocol == "GigEVision" else ""
            lines.append(
                f"genicam {camera.id}: {camera.vendor} {camera.model}, {camera.protocol}{where}, serial {camera.serial}"
            )
    except ConfigError as error:
        lines.append(f"no search for GigE Vision and USB3 Vision cameras: {error}")
    sys.stdout.write("\n".join(lines) + "\n")


@dataclass(frozen=True, slots=True)
class Probed:
    """A camera that gave an image.

    Attributes:
        description: The camera as its source describes it.
        width, height: Size of the image in pixels, after rotation.
        fps: Frames per second; None if only one frame arrived.
        path: The saved image.
    """

    description: str
    width: int
    height: int
    fps: float | None
    path: Path


def probe(name: str, camera: CameraConfig, folder: Path) -> Probed:
    """Open the camera as the daemon would, save its first image as NAME.png in `folder`, and measure its frame rate.

    Raises:
        CameraError: The camera cannot be opened, or gives no image in time.
    """
    free_run = msgspec.structs.replace(
        msgspec.convert(camera, CaptureConfig, from_attributes=True), policy="latest", trigger=FreeRun()
    )
    job = Job(camera=free_run, slots=WAITING_SLOTS, frame_bytes=camera.max_frame_mb << 20)
    never = os.eventfd(0, os.EFD_CLOEXEC)
    process = CaptureHandle.start(job, os.environ)
    try:
        return _watch(name, camera, process, folder, never)
    finally:
        process.kill()
        os.close(never)


def _watch(name: str, camera: CameraConfig, process: CaptureHandle, folder: Path, never: int) -> Probed:
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
        raise CameraError(f"camera {name}: no image within {limit:g} s", hint="is it on, and is its address right?")
    seconds = (times[-1] - times[0]) / 1e9
    fps = (len(times) - 1) / seconds if len(times) > 1 and seconds > 0 else None
    return Probed(first.description, first.width, first.height, fps, first.path)


def _save(name: str, process: CaptureHandle, message: Captured, folder: Path) -> Path:
    path = folder / f"{name}.png"
    data = cv2.imencode(".png", process.image(message))[1].tobytes()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise CameraError(f"{path}: cannot be written ({error.strerror})", hint="give another --out") from error
    return path
