"""Reads V4L2 devices, streams and video files through OpenCV. Runs in the capture process."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Literal

import cv2

from anoseg_engines.errors import CameraError, EndedEarlyError, StreamRefusedError
from anoseg_engines.images import Image
from anoseg_engines.passwords import address_of, mask_passwords
from anoseg_engines.words import counted
from anosegd.capture.config import BACKENDS, DeviceSource, FileSource, HardwareTrigger, UrlSource
from anosegd.capture.protocol import Job
from anosegd.capture.sources.avi_index import empty_frames
from anosegd.capture.sources.base import LIBRARY_SHARE, Shot, Stamp, StillSource
from anosegd.capture.sources.checked_video import CheckedVideo, fourcc
from anosegd.capture.sources.devices import check_serial, why_not
from anosegd.capture.sources.refusal import check_address, native_output, refusal, sends_login_in_settings, unexplained
from anosegd.capture.sources.transport_stream import StreamEnd, stream_end

V4L2_EXPOSURE_MANUAL = 1
"""Value of the V4L2 control exposure_auto for a fixed exposure."""
QUICK_LOOK_US = 100_000
QUICK_OPEN_S = 3.0
INTRA_CODED = frozenset({"MJPG", "mjpg", "jpeg", "JPEG", "YUYV", "UYVY", "GREY", "NV12", "BGR3", "RGB3"})
"""Codecs and pixel formats in which every frame is coded by itself."""
CAP_PROP_PTS = getattr(cv2, "CAP_PROP_PTS", None)
"""OpenCV before 4.12 does not have it."""
NO_PTS = -(1 << 63)
"""FFmpeg's AV_NOPTS_VALUE: the frame has no time stamp."""
KEY_FRAME_S = 12.0
"""After a loss a camera that sends no key frame for so long is opened again: most send one to a new client."""
LOG_ERRORS, LOG_WARNINGS = 2, 3
"""OpenCV's log levels."""
MXF_START = bytes.fromhex("060e2b34")
MOST_FRAMES = 1e9
"""A count above this is an unset field of a container."""
END_GAP_S = 1.0
"""A container's duration may be longer than its video by this much, for example because of its sound."""
SAME_FRAME_S = 0.004
"""Times of the same frame differ by at most this much."""
SAME_RATE = 0.01
"""Share by which a device's frame rate may differ from the one asked for: 29.97 instead of 30 is the same."""
DEFAULT_FPS = 25.0
"""The frame rate of a video file whose container names no usable rate."""


class VideoFile(StillSource):
    """Reads the frames of a video file."""

    def __init__(self, config: FileSource, job: Job, alive: Callable[[], None] = lambda: None) -> None:
        self._config = config
        self._job = job
        self._alive = alive
        self._frames = 0  # read since the file was opened
        self._damaged = self._last_damaged = False  # any frame since then, and the last one
        self._now_s = self._end_s = 0.0  # time of this frame, and the latest of all
        self._stream_end = StreamEnd()
        self._video = CheckedVideo()
        self.fps: float | None = None
        self.description = config.path

    def open(self) -> None:
        """Open the file and go to the job's position.

        Raises:
            CameraError: It cannot be opened.
        """
        self._open()
        self.fps = self._pace()
        if not self._config.loop:
            for _ in range(self._job.start_at):
                if not self._grabbed():
                    return
                self._alive()  # the position may be so far on that this takes longer than opening may

    def read(self, position: int, into: Image | None) -> Shot | None:
        """Return the next frame; a looped file begins again at its end.

        Raises:
            CameraError: The file contains no frame, or ended early.
        """
        while True:
            if self._grabbed():
                name = Path(self._config.path).name
                cut_s = self._stream_end.cut_frame_s
                if cut_s is not None and abs(self._now_s - cut_s) < SAME_FRAME_S:
                    shot = Shot(None, source=name, error="the file ends within this frame")
                else:
                    shot = self._video.shot(into, source=name)
                self._last_damaged = shot.image is None
                self._damaged = self._damaged or self._last_damaged
                return shot
            if self._frames == 0:
                raise CameraError(f"{self.description}: not one frame could be read")
            self._check_end()
            if not self._config.loop:
                return None
            self._open()  # seeking to the start is not reliable in every container

    def _grabbed(self) -> bool:
        """Take the next frame. Return whether there is one."""
        if self._video.grab() == "nothing":
            return False
        self._frames += 1
        self._now_s = self._video.capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
        self._end_s = max(self._end_s, self._now_s)
        return True

    def _check_end(self) -> None:
        """Check that the file has come to its end, and not to damage that its reader cannot pass.

        AVI and MXF files count their frames. Of other containers OpenCV calculates the number from duration and frame rate.
        Then fewer frames are a loss only if frames were damaged, or if the last one comes long before the announced end.

        Raises:
            EndedEarlyError: It has not.
        """
        capture = self._video.capture
        announced, rate = capture.get(cv2.CAP_PROP_FRAME_COUNT), capture.get(cv2.CAP_PROP_FPS)
        if not 0 < announced < MOST_FRAMES:
            announced = 0
        kind = _counting_container(Path(self._config.path))
        missing = announced - self._frames - (empty_frames(Path(self._config.path)) if announced and kind == "avi" else 0)
        gap_s = (missing and announced / rate - self._end_s) if 0 < rate < MOST_FRAMES else 0.0
        early = missing > 0 and (self._damaged or gap_s > END_GAP_S or kind is not None)
        if early:
            read = counted(self._frames, "frame was", "frames were")
            raise EndedEarlyError(f"{self._config.path}: the file ended early: {read} read, and it announces {announced:.0f}")
        if self._stream_end.cut:
            raise EndedEarlyError(f"{self._config.path}: the file was cut, after {counted(self._frames, 'frame')}")
        if self._last_damaged:
            raise EndedEarlyError(
                f"{self._config.path}: the file ends in a damaged frame, after {counted(self._frames, 'frame')}"
            )

    def _open(self) -> None:
        self._frames, self._end_s, self._damaged, self._last_damaged = 0, 0.0, False, False
        backend = self._config.backend
        self.description = self._config.path
        self._video.capture.release()

        def opened() -> cv2.VideoCapture:
            # With several threads a message of FFmpeg could not be traced to its frame.
            parameters = [*_timeouts(self._job), *([cv2.CAP_PROP_N_THREADS, 1] if backend == "ffmpeg" else [])]
            return _opened(self._config.path, BACKENDS[backend], parameters, self.description)

        if backend == "ffmpeg":
            self._video.open_with_ffmpeg(opened, self.description, live=False)
        else:
            self._video.capture = opened()
        _check_opened(self._video.capture, self.description, backend)
        self._stream_end = stream_end(Path(self._config.path))
        self.description += _size_text(self._video.capture)

    def _pace(self) -> float | None:
        if self._config.fps is not None or self._job.camera.policy == "wait":
            return self._config.fps
        rate = float(self._video.capture.get(cv2.CAP_PROP_FPS))
        return rate if 0 < rate < 1000 else DEFAULT_FPS


class LiveVideo:
    """Base of device and stream. A read that takes too long counts as a lost camera, even if it delivers a frame."""

    live = True
    inter_coded = False
    fps: float | None = None  # a live camera keeps its own time

    def __init__(self, job: Job, description: str) -> None:
        self._job = job
        self._video = CheckedVideo()
        self.description = description

    def upcoming(self, position: int) -> str | None:
        """Frames of a camera have no files."""
        return None

    def skip(self) -> Stamp | None:
        """Take a frame without decoding it, so that the next one is fresh.

        Raises:
            CameraError: The camera is lost.
        """
        return self._grab()

    def skipped(self) -> Image | None:
        """Return the frame grabbed last."""
        return self._video.shot(None).image

    def read(self, position: int, into: Image | None) -> Shot:
        """Return the next frame.

        Raises:
            CameraError: The camera is lost.
        """
        stamp = self._grab()
        return replace(self._video.shot(into), stamp=stamp)

    def back(self, within_s: float) -> bool | None:
        """Return None, because OpenCV has to open the camera again."""
        return None

    def close(self) -> None:
        """Do nothing: the end of the process releases the camera."""

    def _grab(self) -> Stamp | None:
        """Take a frame, unless its read took as long as FFmpeg's time-out. Return its stamp; one without a picture has none.

        After its time-out FFmpeg returns what the decoder still holds: an image from before the stall.
        """
        began = time.monotonic()
        came = self._video.grab()
        if came == "nothing" or time.monotonic() - began >= self._job.camera.longest_read_s * LIBRARY_SHARE:
            raise CameraError(f"{self.description}: no frame came")
        if self._video.changed:
            raise CameraError(f"{self.description}: the size or the pixel format of the pictures has changed")
        if self._video.waits_for_key_frame_s > KEY_FRAME_S:
            raise CameraError(f"{self.description}: data was lost, and no key frame came for {KEY_FRAME_S:g} s")
        return _stamp(self._video.capture) if came == "frame" else None


class Device(LiveVideo):
    """Reads a V4L2 device."""

    def __init__(self, config: DeviceSource, job: Job) -> None:
        super().__init__(job, f"device {config.device}")
        self._config = config

    def open(self) -> None:
        """Open the device and set it up.

        Raises:
            CameraError: It cannot be opened, is another camera, or does not accept a setting.
        """
        config = self._config
        if config.serial is not None:
            check_serial(config.device, config.serial)
        # OpenCV's own time-out for a V4L2 device, in whole seconds; a little longer than the daemon's.
        os.environ["OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT"] = str(math.ceil(self._job.camera.longest_read_s) + 1)
        capture = _opened(config.device, cv2.CAP_V4L2, [], self.description)
        if not capture.isOpened():
            raise CameraError(f"{self.description} cannot be opened: {why_not(config.device)}")
        self._set_up(capture)
        for name, prop, wanted in (
            ("width", cv2.CAP_PROP_FRAME_WIDTH, config.width),
            ("height", cv2.CAP_PROP_FRAME_HEIGHT, config.height),
        ):
            given = capture.get(prop)
            if wanted is not None and wanted != round(given):
                raise CameraError(f"{self.description} gives a {name} of {given:.0f} pixels, {wanted} was asked for")
        self.inter_coded = fourcc(capture) in ("H264", "HEVC", "H265")
        self.description += _size_text(capture) + self._otherwise(capture)
        self._video.open_device(capture)

    def _otherwise(self, capture: cv2.VideoCapture) -> str:
        """Say which rate and pixel format the camera takes in place of those that were asked for. This is no error."""
        config, text = self._config, ""
        fps = float(capture.get(cv2.CAP_PROP_FPS))
        if config.fps is not None and fps > 0 and abs(fps - config.fps) > SAME_RATE * config.fps:
            text += f", {fps:g} frames per second ({config.fps:g} asked for)"
        if config.fourcc and (found := fourcc(capture)) and found != config.fourcc:
            text += f", {found} ({config.fourcc} asked for)"
        return text

    def _set_up(self, capture: cv2.VideoCapture) -> None:
        config = self._config
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
                raise CameraError(f"{self.description} does not accept {name} {value:g}", hint=f"leave {name} out")
        if not isinstance(self._job.camera.trigger, HardwareTrigger):  # then each frame is a part, and the driver keeps some
            capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # an old frame judged late is worth less than a new one


class Stream(LiveVideo):
    """Reads an RTSP or HTTP stream through FFmpeg, or a GStreamer pipeline."""

    def __init__(self, config: UrlSource, job: Job) -> None:
        super().__init__(job, "stream")  # not the address: it may contain a password
        self._config = config

    def open(self) -> None:
        """Connect.

        Raises:
            CameraError: It cannot be opened.
        """
        config, timeouts = self._config, _timeouts(self._job)
        if config.backend == "ffmpeg":
            check_address(config.url)
            self._video.open_with_ffmpeg(lambda: self._open_with_ffmpeg(timeouts), self.description, live=True)
            self._refuse_snapshot()
        else:
            self._video.capture = self._open_with_gstreamer(timeouts)
        self.inter_coded = fourcc(self._video.capture) not in INTRA_CODED
        self.description += _size_text(self._video.capture)

    def _refuse_snapshot(self) -> None:
        """Refuse an address that gives one image and ends. It would be opened again and again, and give no second frame.

        Raises:
            CameraError: It is the address of a snapshot.
        """
        scheme = self._config.url.partition("://")[0].lower()
        if not self._video.may_be_image or scheme not in ("http", "https"):
            return
        began = time.monotonic()
        frames = next((n for n in range(2) if self._video.grab() == "nothing"), 2)
        if frames < 2 and time.monotonic() - began < self._job.camera.longest_read_s * LIBRARY_SHARE:
            what = "it gives one image and ends, so it is the address of a snapshot"
            raise StreamRefusedError(
                f"{address_of(self._config.url)} cannot be used: {what}; give the address of the camera's video (RTSP or MJPEG)"
            )

    def _open_with_ffmpeg(self, timeouts: list[int]) -> cv2.VideoCapture:
        """Open with a short analysis of the stream, and with FFmpeg's default if that does not find the image size.

        By default FFmpeg analyses a second of frames, and delivers them late. One thread decodes: with n threads each frame
        comes n frames late, and a part would be judged by a frame from before its trigger.
        """
        # Losses in a camera's sound would count as losses in its picture.
        options = f"rtsp_transport;{self._config.transport}|allowed_media_types;video"
        if self._config.transport == "tcp":
            options += "|reorder_queue_size;2"  # without a queue FFmpeg does not report that a camera left packets out
        if self._config.url.lower().startswith("http") and sends_login_in_settings(self._config.url):
            options += "|auth_type;basic"  # otherwise FFmpeg asks twice, and sends the password in the address twice
        parameters = [*timeouts, cv2.CAP_PROP_N_THREADS, 1]
        began = time.monotonic()
        for analysis in (f"|analyzeduration;{QUICK_LOOK_US}", ""):
            os.environ["OPENCV_FFMPEG_CAPTURE_OPTIONS"] = options + analysis
            with native_output() as output:
                capture = _opened(self._config.url, cv2.CAP_FFMPEG, parameters, self.description)
            if capture.isOpened() and (not analysis or capture.get(cv2.CAP_PROP_FRAME_WIDTH) > 0):
                return capture
            capture.release()
            if (error := refusal(self._config.url, output.lines)) is not None:
                raise error  # not tried again: each attempt sends the password
            if time.monotonic() - began > QUICK_OPEN_S:  # it does not answer: there is no time for another attempt
                break
        raise unexplained(self._config.url, output.lines)

    def _open_with_gstreamer(self, timeouts: list[int]) -> cv2.VideoCapture:
        _set_log_level(LOG_WARNINGS)  # GStreamer's reasons are warnings of OpenCV
        try:
            with native_output() as output:
                capture = _opened(self._config.url, cv2.CAP_GSTREAMER, timeouts, self.description)
            if any("can't set property" in line for line in output.lines):  # OpenCV before 4.7 knows no time-outs here
                with native_output() as output:
                    capture = _opened(self._config.url, cv2.CAP_GSTREAMER, [], self.description)
        finally:
            _set_log_level(LOG_ERRORS)
        if not capture.isOpened():
            said = f": {mask_passwords(output.lines[-1], self._config.url)}" if output.lines else ""
            raise refusal(self._config.url, output.lines) or CameraError(
                f"{self.description} cannot be opened (gstreamer){said}"
            )
        return capture


def _counting_container(path: Path) -> Literal["avi", "mxf"] | None:
    """Return the container if it is one that says how many frames it has."""
    if not path.is_file():  # a pipe has only one reader
        return None
    with path.open("rb") as file:
        head = file.read(12)
    if head.startswith(b"RIFF") and head[8:] == b"AVI ":
        return "avi"
    return "mxf" if head.startswith(MXF_START) else None


def _set_log_level(level: int) -> None:
    """Set OpenCV's log level. OpenCV 5 has the function in another place."""
    set_level = getattr(cv2, "setLogLevel", None) or cv2.utils.logging.setLogLevel
    set_level(level)


def _opened(where: int | str, backend: int, parameters: list[int], description: str) -> cv2.VideoCapture:
    """Open with a named backend. If OpenCV chose the backend, OpenCV would ignore the time-outs."""
    capture = cv2.VideoCapture()
    try:
        if parameters:
            capture.open(where, backend, parameters)
        else:
            capture.open(where, backend)
    except cv2.error as error:
        raise CameraError(f"{description} cannot be opened: {error.err}") from error
    return capture


def _check_opened(capture: cv2.VideoCapture, description: str, backend: str) -> None:
    if not capture.isOpened():
        raise CameraError(f"{description} cannot be opened ({backend})")


def _stamp(capture: cv2.VideoCapture) -> Stamp | None:
    """Return the stamp of the frame grabbed last. Where a stream has none, FFmpeg says so, and OpenCV counts frames instead."""
    number = 0 if CAP_PROP_PTS is None else round(capture.get(CAP_PROP_PTS))
    return None if number == NO_PTS else Stamp(capture.get(cv2.CAP_PROP_POS_MSEC) / 1000, number)


def _size_text(capture: cv2.VideoCapture) -> str:
    return f", {capture.get(cv2.CAP_PROP_FRAME_WIDTH):.0f}×{capture.get(cv2.CAP_PROP_FRAME_HEIGHT):.0f}"


def _timeouts(job: Job) -> list[int]:
    """Return the library's own time-outs, as parameters of `VideoCapture.open`."""
    return [
        cv2.CAP_PROP_OPEN_TIMEOUT_MSEC,
        round(job.camera.open_timeout_s * LIBRARY_SHARE * 1000),
        cv2.CAP_PROP_READ_TIMEOUT_MSEC,
        round(job.camera.longest_read_s * LIBRARY_SHARE * 1000),
    ]
