"""Defines the settings of a camera that the capture process needs: source, trigger, policy and time-outs. Pure data."""

from __future__ import annotations

import re
from typing import Annotated, Literal

import cv2
import msgspec
from msgspec import Meta

from anosegd.capture.pixel_formats import CODES

Policy = Literal["latest", "every", "wait"]
Positive = Annotated[float, Meta(gt=0, le=1e9)]
Rate = Annotated[float, Meta(ge=1e-4, le=1e5)]
"""Frames per second."""
Side = Annotated[int, Meta(gt=0, le=1 << 16)]
"""Width or height in pixels."""
Timeout = Annotated[float, Meta(ge=0.5, le=604_800)]
"""Seconds, at most a week: the operating system's timers take no more than 24 days."""
NotEmpty = Annotated[str, Meta(min_length=1)]
BACKENDS = {"v4l2": cv2.CAP_V4L2, "ffmpeg": cv2.CAP_FFMPEG, "gstreamer": cv2.CAP_GSTREAMER}
"""OpenCV's number of each backend that a source may name."""


class DeviceSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="device"):
    """Describes a camera attached to this machine. Settings that are None stay as the camera has them.

    Attributes:
        device: Index or path.
        serial: Another camera than this one is refused.
        fourcc: Pixel format, requested from the driver like width, height and fps.
        exposure: Fixed, in the driver's unit, like gain.
    """

    device: Annotated[int, Meta(ge=0, le=255)] | NotEmpty
    serial: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    fourcc: Annotated[str, Meta(min_length=4, max_length=4)] | None = None
    width: Side | None = None
    height: Side | None = None
    fps: Rate | None = None
    exposure: Positive | None = None
    gain: Annotated[float, Meta(ge=0, le=1e9)] | None = None


class UrlSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="url"):
    """Describes a stream: RTSP or HTTP through FFmpeg, or a GStreamer pipeline that ends in appsink and decodes nothing."""

    url: NotEmpty
    backend: Literal["ffmpeg", "gstreamer"] = "ffmpeg"
    transport: Literal["tcp", "udp"] = "tcp"


class GenicamSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="genicam"):
    """Describes a GigE Vision or USB3 Vision camera, read through Aravis. Settings that are None stay as the camera has them.

    Attributes:
        camera: Its id as `anosegd cameras` shows it, its IP address, or its serial number, which takes a second longer to find.
        serial: Another camera than this one is refused.
        pixel_format: GenICam's name of it.
        exposure_us: Fixed exposure time.
        gain: Fixed, in the camera's unit (mostly dB).
        trigger_source: The camera's input for hardware triggers.
    """

    camera: Annotated[str, Meta(min_length=1, max_length=256)]
    serial: Annotated[str, Meta(min_length=1, max_length=256)] | None = None
    pixel_format: NotEmpty | None = None
    fps: Rate | None = None
    exposure_us: Positive | None = None
    gain: Annotated[float, Meta(ge=0, le=1e9)] | None = None
    trigger_source: NotEmpty | None = None

    def __post_init__(self) -> None:
        if self.pixel_format is not None and self.pixel_format not in CODES.values():
            raise ValueError(f"pixel_format: {self.pixel_format} cannot be read: choose one of {', '.join(CODES.values())}")

    @property
    def set_period_s(self) -> float:
        """The frame period that these settings give; 0 if they give none."""
        return max(1 / self.fps, (self.exposure_us or 0.0) / 1e6) if self.fps else 0.0


class FileSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="file"):
    """Describes a video file. With `fps` None, it plays at its own rate, or, with policy `wait`, as fast as it is inspected."""

    path: NotEmpty
    backend: Literal["ffmpeg", "gstreamer"] = "ffmpeg"
    fps: Rate | None = None
    loop: bool = False


class FolderSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="folder"):
    """Describes a folder of images, which are read in order of name.

    Attributes:
        fps: None reads as fast as the images are inspected (policy `wait`).
        preload: Decode all images at the start and keep them in memory.
    """

    path: NotEmpty
    recursive: bool = False
    preload: bool = False
    fps: Rate | None = None
    loop: bool = False


class DemoSource(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="demo"):
    """Describes the simulated production line. With `parts` None, the line has no end."""

    seed: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)] = 7
    fps: Rate = 4.0
    parts: Annotated[int, Meta(gt=0)] | None = None


_GST_DECODER = re.compile(r"(?i)avdec_|.*dec$|.*decod|.*playbin")


def concealing_element(source: SourceConfig) -> str | None:
    """Return the GStreamer element that decodes the source's frames and hides damage in them. None: no such element.

    OpenCV does not pass on what GStreamer's decoders report. JPEG images that a pipeline ends in are decoded by this program.
    """
    if isinstance(source, FileSource) and source.backend == "gstreamer":
        return "the decoder that OpenCV chooses"
    if not isinstance(source, UrlSource) or source.backend != "gstreamer":
        return None
    elements = (part.split()[0] for part in re.split(r"[!()]", source.url) if part.strip())
    return next((element for element in elements if _GST_DECODER.match(element)), None)


SourceConfig = DeviceSource | UrlSource | GenicamSource | FileSource | FolderSource | DemoSource
LIVE = (DeviceSource, UrlSource, GenicamSource)
"""Sources that are cameras: they keep their own time, may be lost, and may come back."""


def backend_of(source: DeviceSource | UrlSource | FileSource) -> str:
    """Return the OpenCV backend that reads the source, as named in `BACKENDS`."""
    return "v4l2" if isinstance(source, DeviceSource) else source.backend


class FreeRun(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="free"):
    """Makes every frame a part."""


class IntervalTrigger(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="interval"):
    """Makes a part every `every_ms` milliseconds, of the first frame whose exposure can have begun by then."""

    every_ms: Annotated[float, Meta(ge=1, le=3_600_000)]


class SoftwareTrigger(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="software"):
    """Makes a part for each request `trigger` at the control socket.

    Attributes:
        delay_ms: From the trigger until the part is in front of the camera.
        within_ms: How long the part stays there. A later frame is not used, because it may show the next part.
    """

    delay_ms: Annotated[float, Meta(ge=0, le=60_000)] = 0.0
    within_ms: Annotated[float, Meta(ge=1, le=60_000)] = 300.0


class HardwareTrigger(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="kind", tag="hardware"):
    """Makes a part of each frame that the camera takes after a signal at its input.

    Attributes:
        longest_pause_s: After this time without a frame the camera counts as lost.
    """

    longest_pause_s: Annotated[float, Meta(ge=1, le=604_800)] = 3600.0


TriggerConfig = FreeRun | IntervalTrigger | SoftwareTrigger | HardwareTrigger


class CaptureConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Says how one camera is read. `anosegd.config.CameraConfig` adds how its parts are inspected.

    Attributes:
        source: Where frames come from.
        rotate: Degrees clockwise, before anything else: region and defects are in pixels of the turned image.
        trigger: What makes a part.
        policy: What happens to frames that come faster than they are inspected: the newest replaces the one that waits
            (`latest`), parts that find no room become UNKNOWN: overrun (`every`), or the source waits (`wait`).
        repeats: A part whose frame equals that of the part before is UNKNOWN: repeated_frame (`unknown`), or it is inspected
            (`allowed`): the camera's frames of a still scene may be equal.
        open_timeout_s: The camera counts as lost if opening it, or its first frame, takes longer.
        stall_timeout_s: After that, it counts as lost if one read takes longer, or if it has frozen for longer.
        max_frame_mb: The largest frame in MiB; only the memory that frames really use is taken.
    """

    source: SourceConfig
    rotate: Literal[0, 90, 180, 270] = 0
    trigger: TriggerConfig = FreeRun()
    policy: Policy = "latest"
    repeats: Literal["unknown", "allowed"] = "unknown"
    open_timeout_s: Timeout = 10.0
    stall_timeout_s: Timeout = 1.5
    max_frame_mb: Annotated[int, Meta(ge=1, le=1024)] = 64

    @property
    def longest_read_s(self) -> float:
        """How long one read of an open camera may take."""
        return self.trigger.longest_pause_s if isinstance(self.trigger, HardwareTrigger) else self.stall_timeout_s
