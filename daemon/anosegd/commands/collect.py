"""Runs `anosegd collect`: saves training images from a camera of the line, as a folder that `anoseg-train fit` takes.

It needs no bundle and no running daemon: it reads the camera itself, with the configuration's source, rotation and region.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import shlex
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from anoseg_engines.bundle import Release, read_releases, without_version
from anoseg_engines.errors import AnosegError, ConfigError
from anoseg_engines.files import shown_name
from anoseg_engines.images import Image
from anoseg_engines.result_files import try_folder
from anoseg_engines.words import counted
from anosegd.cameras import Presence
from anosegd.commands.collect_camera import CameraReader, capture_of
from anosegd.commands.collect_choice import Choice
from anosegd.commands.collect_status import CollectStatus
from anosegd.commands.view import web_server
from anosegd.config import CameraConfig, Config, load_config
from anosegd.config_check import check_sources
from anosegd.picture import encode_png
from anosegd.view.address import Address

CLEAR = "\r\x1b[K"
"""Empties the line of a terminal."""
ANY_PORT = Address("127.0.0.1", 0)
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
    status = CollectStatus(name, options.out, options.count, options.every, choice)
    fit = _fit(options.out, Path(config.engine.bundle))
    with _page(status, options.listen or (ANY_PORT if options.view else None)):
        ended = "failed"
        progress = _Progress(status)
        reader = CameraReader(capture, camera, choice, say=progress.say, idle=progress.show)
        try:
            with contextlib.closing(reader.parts(presence)) as parts, contextlib.closing(choice.of(parts)) as chosen:
                for n, image in enumerate(itertools.islice(chosen, options.count), start=1):
                    _save(image, options.out / f"{name}-{n:05d}.png")
                    progress.saved(n)
            ended = "done"
        except KeyboardInterrupt:
            ended = "stopped"
            raise
        finally:
            progress.end()
            n = status.saved
            sys.stdout.write(f"{counted(n, 'image')} of camera {name} in {shown_name(options.out)}{choice.left_out}\n")
            status.next, status.ended = fit if n else "", ended
    if n:
        sys.stdout.write(f"next: {fit}\n")
    return 0 if n else 1


@contextlib.contextmanager
def _page(status: CollectStatus, listen: Address | None) -> Iterator[None]:
    """Serve the page of the collection meanwhile, if an address is given.

    Raises:
        ConfigError: The address is not of this machine alone, or the web server is not installed.
        PublishError: The address is in use.
    """
    if listen is None:
        yield
        return
    if not listen.is_loopback:
        raise ConfigError(
            f"--listen {listen.host}: everybody who reaches this address could see the part",
            hint="give a loopback address such as 127.0.0.1:8090, and use a tunnel: ssh -L 8090:127.0.0.1:8090 THIS-MACHINE",
        )
    with web_server("anosegd collect --view"):
        from anosegd.view.collect_page import CollectPage
    page = CollectPage(status)
    sys.stdout.write(f"the camera's picture is at {page.start(listen)}\n")
    sys.stdout.flush()
    try:
        yield
    finally:
        page.stop()


def _camera(config: Config, name: str | None) -> tuple[str, CameraConfig]:
    if name is None and len(config.cameras) == 1:
        name = next(iter(config.cameras))
    if name is None or name not in config.cameras:
        known = ", ".join(config.cameras)
        what = "which camera?" if name is None else f"--camera {name}: no such camera"
        raise ConfigError(what, hint=f"give --camera with one of: {known}")
    return name, config.cameras[name]


def _fit(data: Path, bundle: Path) -> str:
    """Return the command that trains with the images. Its `--release` is for a product without a released version."""
    released: Sequence[Release] = ()
    with contextlib.suppress(AnosegError):  # whoever trains finds out
        bundle = without_version(bundle)
        released = read_releases(bundle)
    command = f"anoseg-train fit --data {shlex.quote(shown_name(data))} --out {shlex.quote(shown_name(bundle))}"
    return command if released else f"{command} --release"


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

    def __init__(self, status: CollectStatus) -> None:
        self._status = status
        self._terminal = sys.stderr.isatty()
        self._at = 0.0

    def saved(self, n: int) -> None:
        """Note the number of saved images."""
        self._status.saved = n
        self.show()

    def say(self, text: str) -> None:
        """Print a line of its own, unless it was the last one."""
        if text != self._status.news:
            self._status.news = text
            sys.stderr.write(f"{CLEAR if self._terminal else ''}anosegd: {text}\n")

    def show(self) -> None:
        """Show the numbers, if it is time."""
        period_s = 0.2 if self._terminal else PROGRESS_S
        if time.monotonic() - self._at >= period_s:
            self._at = time.monotonic()
            status = self._status
            line = f"{status.saved} of {status.count} saved{status.choice.left_out}"
            sys.stderr.write(f"{CLEAR}{line}" if self._terminal else f"{line}\n")
            sys.stderr.flush()

    def end(self) -> None:
        """Leave the line."""
        if self._terminal:
            sys.stderr.write(CLEAR)
