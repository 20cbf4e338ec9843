"""Runs `anosegd collect`: saves training images from a camera of the line, as a folder that `anoseg-train fit` takes.

It needs no bundle and no running daemon: it reads the camera itself, with the configuration's source, rotation and region.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import sys
import time
from pathlib import Path

from anoseg_engines.errors import AnosegError, ConfigError
from anoseg_engines.files import shown_name
from anoseg_engines.images import Image
from anoseg_engines.result_files import try_folder
from anoseg_engines.words import counted
from anosegd.cameras import Presence
from anosegd.commands.collect_camera import CameraReader, capture_of
from anosegd.commands.collect_choice import Choice
from anosegd.config import CameraConfig, Config, load_config
from anosegd.config_check import check_sources
from anosegd.picture import encode_png

CLEAR = "\r\x1b[K"
"""Empties the line of a terminal."""
PROGRESS_S = 5.0
"""How often a line of progress is written where there is no terminal."""


def main(options: argparse.Namespace) -> int:
    """Save images until there are enough, or the source ends.

    Raises:
        ConfigError: CONFIG is invalid, the camera has to be named, or the folder is not empty.
        CameraError: The camera cannot be read.
        AnosegError: An image cannot be written.
    """
    config = load_config(options.config)
    check_sources(config)
    name, camera = _camera(config, options.camera)
    capture = capture_of(name, camera, every_frame=options.every_frame)
    try_folder(options.out, "--out")
    if options.out.exists() and any(options.out.iterdir()):
        raise ConfigError(f"--out {shown_name(options.out)}: is not empty", hint="give a new folder")
    presence = None if camera.presence is None else Presence.load(camera.presence, camera.region)
    choice = Choice(options.every, camera.quality)
    progress = _Progress(options.count, choice)
    reader = CameraReader(capture, camera, choice, say=progress.say, idle=progress.show)
    n = 0
    try:
        with contextlib.closing(reader.parts(presence)) as parts, contextlib.closing(choice.of(parts)) as chosen:
            for n, image in enumerate(itertools.islice(chosen, options.count), start=1):
                _save(image, options.out / f"{name}-{n:05d}.png")
                progress.saved(n)
    finally:
        progress.end()
        sys.stdout.write(f"{counted(n, 'image')} of camera {name} in {shown_name(options.out)}{choice.left_out}\n")
    if n:
        data, bundle = shown_name(options.out), shown_name(config.engine.bundle)
        sys.stdout.write(f"next: anoseg-train fit --data {data} --out {bundle} --release\n")
    return 0 if n else 1


def _camera(config: Config, name: str | None) -> tuple[str, CameraConfig]:
    if name is None and len(config.cameras) == 1:
        name = next(iter(config.cameras))
    if name is None or name not in config.cameras:
        known = ", ".join(config.cameras)
        what = "which camera?" if name is None else f"--camera {name}: no such camera"
        raise ConfigError(what, hint=f"give --camera with one of: {known}")
    return name, config.cameras[name]


def _save(image: Image, path: Path) -> None:
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_bytes(encode_png(image))
        temporary.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise AnosegError(f"{shown_name(path)}: cannot be written ({error.strerror})", hint="is the disk full?") from error


class _Progress:
    """Shows on stderr how far the collection is: on one line of a terminal, else a line from time to time."""

    def __init__(self, count: int, choice: Choice) -> None:
        self._count, self._choice = count, choice
        self._n = 0
        self._terminal = sys.stderr.isatty()
        self._at = 0.0
        self._shown = ""

    def saved(self, n: int) -> None:
        """Note the number of saved images."""
        self._n = n
        self.show()

    def say(self, text: str) -> None:
        """Print a line of its own, unless it was the last one."""
        if text != self._shown:
            self._shown = text
            sys.stderr.write(f"{CLEAR if self._terminal else ''}anosegd: {text}\n")

    def show(self) -> None:
        """Show the numbers, if it is time."""
        period_s = 0.2 if self._terminal else PROGRESS_S
        if time.monotonic() - self._at >= period_s:
            self._at = time.monotonic()
            line = f"{self._n} of {self._count} saved{self._choice.left_out}"
            sys.stderr.write(f"{CLEAR}{line}" if self._terminal else f"{line}\n")
            sys.stderr.flush()

    def end(self) -> None:
        """Leave the line."""
        if self._terminal:
            sys.stderr.write(CLEAR)
