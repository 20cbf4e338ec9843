"""Runs `anosegd cameras`: lists the cameras of this machine, or tries those of a configuration one after the other."""

from __future__ import annotations

import argparse
import os
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import msgspec

from anoseg_engines.errors import CameraError, ConfigError, LoginRefusedError
from anoseg_engines.passwords import mask_passwords
from anoseg_engines.result_files import try_folder
from anosegd.cameras import SPAWN_TIMEOUT_S, WAITING_SLOTS, CaptureHandle, Login, login_of, without_login
from anosegd.capture.config import CaptureConfig, FreeRun
from anosegd.capture.protocol import Captured, Failed, Finished, Job, Opened, Repeated, Uncaptured
from anosegd.capture.sources.aravis import list_genicam
from anosegd.capture.sources.devices import list_devices
from anosegd.config import CameraConfig, load_config
from anosegd.config_check import check_sources

RATE_FRAMES = 20
RATE_S = 3.0
"""The frame rate is measured over this many frames or seconds, whichever is less."""

UNUSABLE_FRAMES = 3
"""After this many unusable frames a camera counts as failed. The first frame of a stream can be incomplete."""


def main(options: argparse.Namespace) -> int:
    """List the cameras; with CONFIG, save an image of each of its cameras. Return 1 if a camera gives none.

    Raises:
        ConfigError: CONFIG is invalid, or nothing can be written in the folder for the images.
    """
    if options.config is None:
        _list_cameras()
        return 0
    try_folder(options.out, "--out")
    config = load_config(options.config)
    check_sources(config)
    failed = False
    refused: set[Login] = set()  # several cameras can be channels of one recorder, which locks us out after some tries
    for name, camera in config.cameras.items():
        login = login_of(camera.source)
        try:
            found = _probe_without_login(name, camera, options.out) if login in refused else probe(name, camera, options.out)
        except CameraError as error:
            failed = True
            refused |= {login} if isinstance(error, LoginRefusedError) and login is not None else set()
            sys.stderr.write(f"anosegd: camera {name}: {error}\n")
            continue
        rate = f", {found.fps:.1f} frames per second" if found.fps else ""
        description = mask_passwords(found.description)
        sys.stdout.write(f"{name}: {description}: {found.width}×{found.height}{rate}; image in {found.path}\n")
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


@dataclass(slots=True)
class Probed:
    """Describes a camera that is being tried.

    Attributes:
        path: Where its first image is saved.
        description: The camera as its source describes it.
        width, height: Size of the image in pixels, after rotation.
        captured_ns: Time of each frame.
        unusable: Why the frames before the first image could not be used.
    """

    path: Path
    description: str = ""
    width: int = 0
    height: int = 0
    captured_ns: list[int] = field(default_factory=list)
    unusable: list[str] = field(default_factory=list)

    @property
    def fps(self) -> float | None:
        """Frames per second; None if only one frame arrived."""
        times = self.captured_ns
        return (len(times) - 1) / ((times[-1] - times[0]) / 1e9) if len(times) > 1 and times[-1] > times[0] else None


def probe(name: str, camera: CameraConfig, folder: Path) -> Probed:
    """Open the camera as the daemon would, save its first image as NAME.png in `folder`, and measure its frame rate.

    Raises:
        CameraError: The camera cannot be opened, or gives no image in time.
    """
    free_run = msgspec.structs.replace(
        msgspec.convert(camera, CaptureConfig, from_attributes=True), policy="latest", trigger=FreeRun()
    )
    probed = Probed(folder / f"{name}.png")
    process = CaptureHandle.start(Job(camera=free_run, slots=WAITING_SLOTS, frame_bytes=camera.max_frame_mb << 20), os.environ)
    try:
        _watch(process, probed, camera.open_timeout_s)
    finally:
        process.kill()
    if probed.unusable and not probed.captured_ns:
        raise CameraError(probed.unusable[-1])
    if not probed.captured_ns:
        raise CameraError(f"no image within {camera.open_timeout_s:g} s", hint="is it on, and is its address right?")
    return probed


def _probe_without_login(name: str, camera: CameraConfig, folder: Path) -> Probed:
    """Probe a camera whose login must not be tried again. Without the login, any other reason is found out.

    Raises:
        CameraError: As `probe`, or the camera asks for the login.
    """
    not_tried = "not tried: its host has just refused this user name or password"
    source = without_login(camera.source)
    if source is None:
        raise CameraError(not_tried)
    try:
        return probe(name, msgspec.structs.replace(camera, source=source), folder)
    except LoginRefusedError as error:
        raise CameraError(not_tried) from error


def _watch(process: CaptureHandle, probed: Probed, open_timeout_s: float) -> None:
    """Receive frames until there are enough, the source ends, or time is up."""
    never = os.eventfd(0, os.EFD_CLOEXEC)  # `receive` needs a descriptor that can wake it
    give_up_at = time.monotonic() + SPAWN_TIMEOUT_S + open_timeout_s
    try:
        while len(probed.captured_ns) < RATE_FRAMES and time.monotonic() < give_up_at:
            messages = process.receive(min(0.2, max(0.0, give_up_at - time.monotonic())), never)
            if messages is None:
                return
            for message in messages:
                if isinstance(message, Opened):
                    probed.description = message.description
                    give_up_at = time.monotonic() + open_timeout_s
                elif isinstance(message, Failed):
                    raise (LoginRefusedError if message.login_refused else CameraError)(message.error)
                elif isinstance(message, Uncaptured) and not probed.captured_ns:
                    probed.unusable.append(message.detail)
                    if len(probed.unusable) == UNUSABLE_FRAMES:
                        return
                elif isinstance(message, Captured):
                    if not probed.captured_ns:
                        probed.height, probed.width, _ = message.shape
                        _save(process, message, probed.path)
                        give_up_at = time.monotonic() + RATE_S
                    process.release(message.slot)
                    probed.captured_ns.append(message.origin.captured_ns)
                elif isinstance(message, Repeated):
                    probed.captured_ns.append(message.captured_ns)
                elif isinstance(message, Finished):
                    return
    finally:
        os.close(never)


def _save(process: CaptureHandle, message: Captured, path: Path) -> None:
    data = cv2.imencode(".png", process.image(message))[1].tobytes()
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data)
    except OSError as error:
        raise CameraError(f"{path}: cannot be written ({error.strerror})", hint="give another --out") from error
