"""Where frames come from: device, stream, GenICam, video file, folder of images, demo line. In the capture process only."""

from __future__ import annotations

import math
import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import cv2

from anoseg_engines.errors import CameraError, DataError
from anoseg_engines.images import Image, as_bgr, read_image
from anosegd.capture.config import (
    BACKENDS,
    DemoSource,
    DeviceSource,
    FileSource,
    FolderSource,
    GenicamSource,
    Hardware,
    Policy,
    UrlSource,
    backend_of,
)
from anosegd.capture.protocol import Job
from anosegd.capture.sources.devices import check_serial
from anosegd.capture.sources.folders import images_of

V4L2_EXPOSURE_MANUAL = 1
"""Value of the V4L2 control exposure_auto for a fixed exposure."""

LIBRARY_SHARE = 0.8
"""A library's time-outs are this share of the daemon's, which is there for when these do not hold: a camera given up in order
is back sooner than one whose process was killed."""
QUICK_LOOK_US = 100_000
QUICK_OPEN_S = 3.0


@dataclass(frozen=True, slots=True)
class Shot:
    """What one read gave. image: uint8 [H, W, 3] BGR, the reader's until the next read; None if it could not be read.

    part_id, source: where the source knows them. error: why there is no image.
    """

    image: Image | None
    part_id: str | None = None
    source: str | None = None
    error: str = ""


class Source(Protocol):
    """One source, opened and read on the capture process's only thread; any call may hang, the daemon kills it then.

    description: what was opened, for the log. fps: pace to keep; None is as fast as slots come free, or as the camera gives.
    live: a camera, whose pictures are never twice the same.
    """

    description: str
    fps: float | None
    live: bool

    def upcoming(self, position: int) -> str | None:
        """The file that `read(position)` will decode, where that is known beforehand."""
        ...

    def skip(self) -> None:
        """Let a live camera's next frame go by.

        Raises:
            CameraError: the camera is lost.
        """
        ...

    def skipped(self) -> Image | None:
        """The frame that went by last, decoded now; None where there is none."""
        ...

    def read(self, position: int, into: Image | None) -> Shot | None:
        """The part at `position` (0, 1, 2 … without gaps); None at the end.

        into: memory to read into where the size is known already; a source may ignore it.

        Raises:
            CameraError: the camera is lost.
        """
        ...

    def back(self, within_s: float) -> bool | None:
        """Whether a camera that was lost gives frames again over the connection that is still open, waiting up to within_s.
        None: that connection is of no use any more."""
        ...

    def close(self) -> None:
        """Give back what outlives the process; does not wait for a camera that is lost."""
        ...


def open_source(job: Job) -> Source:
    """Open the job's source.

    Raises:
        AnosegError: it cannot be opened.
    """
    source = job.source
    if isinstance(source, FolderSource):
        return Folder(source)
    if isinstance(source, DemoSource):
        return Demo(source)
    if isinstance(source, GenicamSource):
        from anosegd.capture.sources.genicam import Genicam  # only this source needs it

        return Genicam(source, job)
    return Video(source, job)


class Folder:
    """The images of a folder in order of name. An unreadable one is a part too: nothing is passed over in silence."""

    live = False

    def __init__(self, config: FolderSource) -> None:
        self._base = Path(config.path)
        self._loop = config.loop
        self._paths = images_of(self._base, recursive=config.recursive)
        self._kept: dict[Path, Shot] | None = {path: self._decoded(path) for path in self._paths} if config.preload else None
        self.fps = config.fps
        self.description = f"{len(self._paths)} images"

    def upcoming(self, position: int) -> str | None:
        """The file's path below the folder; what is kept was decoded long ago."""
        path = None if self._kept is not None else self._path(position)
        return None if path is None else path.relative_to(self._base).as_posix()

    def skip(self) -> None:
        """A folder stands still."""

    def skipped(self) -> Image | None:
        """Nothing goes by."""
        return None

    def read(self, position: int, into: Image | None) -> Shot | None:
        """Decode one file."""
        path = self._path(position)
        if path is None:
            return None
        return self._kept[path] if self._kept is not None else self._decoded(path)

    def back(self, within_s: float) -> bool | None:
        """A folder is not lost."""
        return None

    def close(self) -> None:
        """Nothing outlives the process."""

    def _decoded(self, path: Path) -> Shot:
        name = path.relative_to(self._base).as_posix()
        try:
            return Shot(read_image(path), source=name)
        except DataError as error:
            return Shot(None, source=name, error=error.what)
        except (cv2.error, MemoryError) as error:  # OpenCV refuses sizes beyond its limits with an exception
            return Shot(None, source=name, error=f"{path}: {str(error).strip() or 'not enough memory'}")

    def _path(self, position: int) -> Path | None:
        if position >= len(self._paths) and not self._loop:
            return None
        return self._paths[position % len(self._paths)]


class Video:
    """A device, stream or video file through OpenCV, its backend always named."""

    def __init__(self, config: DeviceSource | UrlSource | FileSource, job: Job) -> None:
        self._config = config
        self._job = job
        self._frames = 0  # read since the file was opened
        self._capture = self._open()
        self.live = not isinstance(config, FileSource)
        self.fps = self._pace(config, job.policy)
        if isinstance(config, FileSource) and not config.loop:
            self._skip(job.start_at)

    def upcoming(self, position: int) -> str | None:
        """Frames of a stream have no files."""
        return None

    def skip(self) -> None:
        """Take a frame and do not decode it, so that the next one is fresh."""
        if not self.live:
            return
        began = time.monotonic()
        ok = self._capture.grab()
        self._check_came(ok, began)

    def skipped(self) -> Image | None:
        """The frame grabbed last."""
        ok, image = self._capture.retrieve()
        return as_bgr(image) if ok and image is not None else None

    def read(self, position: int, into: Image | None) -> Shot | None:
        """The next frame."""
        began = time.monotonic()
        ok, image = self._capture.read() if into is None else self._capture.read(into)
        self._check_came(ok and image is not None, began)
        if not ok or image is None:
            if not self._rewind():
                return None
            return self.read(position, into)
        self._frames += 1
        name = Path(self._config.path).name if isinstance(self._config, FileSource) else None
        return Shot(as_bgr(image), source=name)

    def back(self, within_s: float) -> bool | None:
        """OpenCV opens anew."""
        return None

    def close(self) -> None:
        """Nothing outlives the process."""

    def _check_came(self, ok: bool, began: float) -> None:
        """Whether a live camera's read, begun then, gave a frame that has just come.

        When its own time-out has passed, FFmpeg hands out what the decoder has kept: a picture from before the stall.

        Raises:
            CameraError: it did not.
        """
        if self.live and (not ok or time.monotonic() - began >= self._longest_read_s() * LIBRARY_SHARE):
            raise CameraError(f"{self.description}: no frame came")

    def _open(self) -> cv2.VideoCapture:
        config = self._config
        backend = BACKENDS[backend_of(config)]
        if isinstance(config, DeviceSource):
            if config.serial is not None:
                check_serial(config.device, config.serial)
            # OpenCV's own patience with a V4L2 device, whole seconds; a little longer than the daemon's.
            os.environ["OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT"] = str(math.ceil(self._longest_read_s()) + 1)
            where: int | str = config.device
            self.description = f"device {config.device}"
        elif isinstance(config, UrlSource):
            where = config.url
            self.description = "stream"  # an address may carry a password: it is never logged
        else:
            where = config.path
            self.description = config.path
        parameters = [] if isinstance(config, DeviceSource) else self._timeouts()
        if isinstance(config, UrlSource) and config.backend == "ffmpeg":
            capture = self._opened_stream(config, parameters)
        else:
            capture = self._opened(where, backend, parameters)
        if not capture.isOpened():
            raise CameraError(f"{self.description} cannot be opened ({backend_of(config)})")
        if isinstance(config, DeviceSource):
            self._ask_device(capture, config)
        width, height = capture.get(cv2.CAP_PROP_FRAME_WIDTH), capture.get(cv2.CAP_PROP_FRAME_HEIGHT)
        if isinstance(config, DeviceSource):
            for name, asked, given in (("width", config.width, width), ("height", config.height, height)):
                if asked is not None and asked != round(given):
                    raise CameraError(f"{self.description} gives a {name} of {given:.0f} pixels, {asked} was asked for")
        self.description += f", {width:.0f}×{height:.0f}"
        return capture

    def _opened(self, where: int | str, backend: int, parameters: list[int]) -> cv2.VideoCapture:
        capture = cv2.VideoCapture()
        try:
            if parameters:
                capture.open(where, backend, parameters)
            else:
                capture.open(where, backend)
        except cv2.error as error:
            raise CameraError(f"{self.description} cannot be opened: {error.err}") from error
        return capture

    def _opened_stream(self, config: UrlSource, parameters: list[int]) -> cv2.VideoCapture:
        """A stream through FFmpeg. Left alone, it looks at a second of pictures first, and hands them out late; where its quick
        look does not tell the pictures' size, it is left alone.

        One thread decodes: with more, each picture comes as many pictures late as there are threads, and a part is judged by
        one from before its trigger.
        """
        options = f"rtsp_transport;{config.transport}"
        parameters = [*parameters, cv2.CAP_PROP_N_THREADS, 1]
        began = time.monotonic()
        os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = f"{options}|analyzeduration;{QUICK_LOOK_US}"
        capture = self._opened(config.url, cv2.CAP_FFMPEG, parameters)
        if capture.isOpened() and capture.get(cv2.CAP_PROP_FRAME_WIDTH) > 0:
            return capture
        capture.release()
        if time.monotonic() - began > QUICK_OPEN_S:  # it does not answer: there is no time for another attempt
            return capture
        os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = options
        return self._opened(config.url, cv2.CAP_FFMPEG, parameters)

    def _timeouts(self) -> list[int]:
        """The library's own time-outs."""
        return [
            cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
            round(self._job.open_timeout_s * LIBRARY_SHARE * 1000),
            cv2.CAP_PROP_READ_TIMEOUT_MSEC,
            round(self._longest_read_s() * LIBRARY_SHARE * 1000),
        ]

    def _longest_read_s(self) -> float:
        trigger = self._job.trigger
        return trigger.longest_pause_s if isinstance(trigger, Hardware) else self._job.stall_timeout_s

    def _ask_device(self, capture: cv2.VideoCapture, config: DeviceSource) -> None:
        if config.fourcc:
            capture.set(cv2.CAP_PROP_FOURCC, cv2.VideoWriter.fourcc(*config.fourcc))
        for prop, value in (
            (cv2.CAP_PROP_FRAME_WIDTH, config.width),
            (cv2.CAP_PROP_FRAME_HEIGHT, config.height),
            (cv2.CAP_PROP_FPS, config.fps),
        ):
            if value is not None:
                capture.set(prop, value)
        if config.exposure is not None:
            capture.set(cv2.CAP_PROP_AUTO_EXPOSURE, V4L2_EXPOSURE_MANUAL)
        for name, prop, value in (
            ("exposure", cv2.CAP_PROP_EXPOSURE, config.exposure),
            ("gain", cv2.CAP_PROP_GAIN, config.gain),
        ):
            if value is not None and not capture.set(prop, value):
                raise CameraError(f"{self.description} does not take {name} {value:g}", hint=f"leave {name} out")
        capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # an old frame judged late is worth less than a new one

    def _pace(self, config: DeviceSource | UrlSource | FileSource, policy: Policy) -> float | None:
        if not isinstance(config, FileSource):
            return None  # a live camera keeps its own time
        if config.fps is not None or policy == "wait":
            return config.fps
        rate = float(self._capture.get(cv2.CAP_PROP_FPS))
        return rate if 0 < rate < 1000 else 25.0

    def _rewind(self) -> bool:
        """Begin a looped file anew; False when it is not to loop.

        Raises:
            CameraError: the file gave no frame at all.
        """
        if self._frames == 0:
            raise CameraError(f"{self.description}: not one frame could be read")
        if not (isinstance(self._config, FileSource) and self._config.loop):
            return False
        self._capture.release()
        self._frames = 0
        self._capture = self._open()  # seeking to the start is not reliable in every container
        return True

    def _skip(self, frames: int) -> None:
        for _ in range(frames):
            if not self._capture.grab():
                return
            self._frames += 1


class Demo:
    """The simulated production line."""

    live = False

    def __init__(self, config: DemoSource) -> None:
        from anosegd.demo.line import DemoLine  # only this source needs it

        self._line = DemoLine(config.seed)
        self._parts = config.parts
        self.fps: float | None = config.fps
        self.description = f"demo line, seed {config.seed}"

    def upcoming(self, position: int) -> str | None:
        """Rendered parts have no files."""
        return None

    def skip(self) -> None:
        """The line stands still."""

    def skipped(self) -> Image | None:
        """Nothing goes by."""
        return None

    def read(self, position: int, into: Image | None) -> Shot | None:
        """Render one part."""
        if self._parts is not None and position >= self._parts:
            return None
        part = self._line.part(position)
        return Shot(as_bgr(part.image), part_id=part.part_id)

    def back(self, within_s: float) -> bool | None:
        """The demo line is not lost."""
        return None

    def close(self) -> None:
        """Nothing outlives the process."""
