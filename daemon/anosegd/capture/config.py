"""Sources and triggers in the configuration: all of it that the capture process needs, which loads no more than this."""

from __future__ import annotations

from typing import Annotated, Literal

import cv2
import msgspec
from msgspec import Meta

from anosegd.capture.sources.pixel_formats import CODES

Policy = Literal["latest", "every", "wait"]
Positive = Annotated[float, Meta(gt=0)]
BACKENDS = {"v4l2": cv2.CAP_V4L2, "ffmpeg": cv2.CAP_FFMPEG, "gstreamer": cv2.CAP_GSTREAMER}
"""OpenCV is always told which backend to use: left to choose, it ignores time-outs."""


class DeviceSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="device"):
    """A camera at this machine. device: index or path. serial: the camera must have this one. fourcc, width, height, fps: asked
    of the driver; None leaves it be. exposure, gain: in the driver's units, fixed; None leaves them to the camera."""

    device: int | str
    serial: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    fourcc: Annotated[str, Meta(min_length=4, max_length=4)] | None = None
    width: Annotated[int, Meta(gt=0)] | None = None
    height: Annotated[int, Meta(gt=0)] | None = None
    fps: Positive | None = None
    exposure: Positive | None = None
    gain: Annotated[float, Meta(ge=0)] | None = None


class UrlSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="url"):
    """A stream: RTSP or HTTP through FFmpeg, or a GStreamer pipeline that ends in appsink."""

    url: Annotated[str, Meta(min_length=1)]
    backend: Literal["ffmpeg", "gstreamer"] = "ffmpeg"
    transport: Literal["tcp", "udp"] = "tcp"


class GenicamSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="genicam"):
    """A GigE Vision or USB3 Vision camera, through Aravis. camera: its id as `anosegd cameras` shows it, its IP address, or its
    serial number alone, which takes a second longer to find. serial: the camera must have this one. pixel_format: GenICam's
    name; None leaves it be. exposure_us, gain: fixed, gain in the camera's unit (mostly dB); None leaves them to the camera.
    fps: None leaves it be. trigger_source: with trigger hardware, the camera's input; None leaves the one that is set in it."""

    camera: Annotated[str, Meta(min_length=1, max_length=256)]
    serial: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    pixel_format: Annotated[str, Meta(min_length=1)] | None = None
    fps: Positive | None = None
    exposure_us: Positive | None = None
    gain: Annotated[float, Meta(ge=0)] | None = None
    trigger_source: Annotated[str, Meta(min_length=1)] | None = None

    def __post_init__(self) -> None:
        if self.pixel_format is not None and self.pixel_format not in CODES.values():
            raise ValueError(f"pixel_format {self.pixel_format} cannot be read: choose one of {', '.join(CODES.values())}")

    @property
    def set_period_s(self) -> float:
        """Between frames, as far as it is set here; 0 where it is not."""
        return max(1 / self.fps, (self.exposure_us or 0.0) / 1e6) if self.fps else 0.0


class FileSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="file"):
    """A video file. fps: None plays at the file's own rate, or with policy `wait` as fast as it is inspected."""

    path: str
    backend: Literal["ffmpeg", "gstreamer"] = "ffmpeg"
    fps: Positive | None = None
    loop: bool = False


class FolderSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="folder"):
    """A folder of images, in order of name. fps: None is as fast as they are inspected (policy `wait`). preload: decode all of
    them once and keep them in memory."""

    path: str
    recursive: bool = False
    preload: bool = False
    fps: Positive | None = None
    loop: bool = False


class DemoSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="demo"):
    """The simulated production line. parts: None goes on for ever."""

    seed: int = 7
    fps: Positive = 4.0
    parts: Annotated[int, Meta(gt=0)] | None = None


Source = DeviceSource | UrlSource | GenicamSource | FileSource | FolderSource | DemoSource
LIVE = (DeviceSource, UrlSource, GenicamSource)
"""Cameras: they keep their own time, and may go and come back."""


def backend_of(source: DeviceSource | UrlSource | FileSource) -> str:
    """The OpenCV backend that reads the source, as named in `BACKENDS`."""
    return "v4l2" if isinstance(source, DeviceSource) else source.backend


class FreeRun(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="free"):
    """Every frame is a part."""


class Interval(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="interval"):
    """A part every so many milliseconds: the first frame whose exposure can have begun then."""

    every_ms: Annotated[float, Meta(ge=1, le=3_600_000)]


class Software(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="software"):
    """A part for each request `trigger` at the control socket. delay_ms: from the trigger to the moment the part lies there.
    within_ms: how long it stays; a frame that comes later may show the next part, and is not taken for this one."""

    delay_ms: Annotated[float, Meta(ge=0, le=60_000)] = 0.0
    within_ms: Annotated[float, Meta(ge=1, le=60_000)] = 300.0


class Hardware(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="hardware"):
    """The camera gives a frame when it is triggered itself. longest_pause_s: without a frame for so long it counts as lost."""

    longest_pause_s: Annotated[float, Meta(ge=1, le=604_800)] = 3600.0


Trigger = FreeRun | Interval | Software | Hardware
