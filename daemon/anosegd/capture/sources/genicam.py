"""GenICam cameras (GigE Vision, USB3 Vision) through Aravis and its GObject bindings. Capture process only."""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
import time
from collections.abc import Iterator
from typing import Any, NamedTuple

from anoseg_engines.errors import CameraError
from anoseg_engines.images import Image
from anosegd.capture.config import GenicamSource, Hardware
from anosegd.capture.protocol import Job
from anosegd.capture.sources.aravis import listed_by, load_aravis
from anosegd.capture.sources.base import LIBRARY_SHARE, Shot
from anosegd.capture.sources.pixel_formats import CODES, bgr_from_raw

BUFFERS = 4
SLICE_S = 0.2
"""A wait is cut into such slices, so that a lost camera is noticed however long a trigger may be waited for."""
RELEASE_S = 0.1
ASK_AFTER_S = 0.4
CONTROL_REGISTER, CONTROL_BITS = 0x0A00, 0b11
"""GigE Vision: control channel privilege; 0 says that the camera has no controller."""
HEARTBEAT_S = 3.5
"""GigE Vision: after 3 s without its controller's word a camera is free for the next, unless told otherwise."""


class Raw(NamedTuple):
    """A frame as it came. code: its pixel format."""

    data: bytes
    code: int
    height: int
    width: int


class Genicam:
    """One camera, opened, set up and streaming. Every wait of its own ends in time; Aravis' own take up to some seconds."""

    live = True
    fps: float | None = None  # a camera keeps its own time

    def __init__(self, config: GenicamSource, job: Job) -> None:
        self._aravis = load_aravis()
        self._glib_error: type[Exception] = importlib.import_module("gi.repository.GLib").Error
        trigger = job.trigger
        self._hardware = isinstance(trigger, Hardware)
        self._patience_s = trigger.longest_pause_s if isinstance(trigger, Hardware) else job.stall_timeout_s * LIBRARY_SHARE
        self._limit_s = max(self._patience_s, job.open_timeout_s * LIBRARY_SHARE)
        self._last: Raw | None = None
        self._lost = threading.Event()
        self._asked = True  # whether the camera was asked since its last frame; it may be slow to give its first
        self.description = f"GenICam {config.camera}"
        with self._told("cannot be opened"):
            self._camera = self._opened(config)
            self._set_up(config)
            self._stream = self._streaming()
        self._heard_at = time.monotonic()  # when the last whole frame came

    def upcoming(self, position: int) -> str | None:
        """Frames of a camera have no files."""
        return None

    def skip(self) -> None:
        """Let the next frame go by; it is kept as it came."""
        buffer = self._next()
        while (newer := self._stream.try_pop_buffer()) is not None:  # those that lie there are none that can be waited for
            self._stream.push_buffer(buffer)
            buffer = newer
        raw = self._raw(buffer)
        self._last = raw if isinstance(raw, Raw) else None

    def skipped(self) -> Image | None:
        """The frame that went by last, unless it was incomplete."""
        return None if self._last is None else bgr_from_raw(*self._last)

    def read(self, position: int, into: Image | None) -> Shot:
        """The next frame; one of which packets were lost is a part without an image."""
        raw = self._raw(self._next())
        return Shot(bgr_from_raw(*raw)) if isinstance(raw, Raw) else Shot(None, error=raw)

    def back(self, within_s: float) -> bool | None:
        """Whether frames come again. A camera that was held up for a moment still knows us as its controller; opened anew, it
        would refuse us until its heartbeat has run out. After that the connection is of no use."""
        silent_s = time.monotonic() - self._heard_at
        if self._hardware or self._lost.is_set() or not self._patience_s <= silent_s <= HEARTBEAT_S:
            return None  # with hardware triggers the frame that tells that it is back would be a part
        buffer = self._stream.timeout_pop_buffer(int(within_s * 1e6))
        return buffer is not None and isinstance(self._raw(buffer), Raw)

    def close(self) -> None:
        """Give the camera back, so that it can be opened again at once; one that does not answer is left."""
        device = self._camera.get_device()
        if hasattr(device, "leave_control"):  # GigE Vision; waits for an answer, which need not come
            leave = threading.Thread(target=self._leave, args=(device,), name="leave-control", daemon=True)
            leave.start()
            leave.join(RELEASE_S)

    def _leave(self, device: Any) -> None:
        with contextlib.suppress(self._glib_error):
            device.leave_control()

    def _ask(self) -> None:
        """Whether the silent camera still knows us; Aravis asks once a second. Takes seconds where it does not answer."""
        device = self._camera.get_device()
        with contextlib.suppress(self._glib_error):
            if hasattr(device, "leave_control") and not device.read_register(CONTROL_REGISTER) & CONTROL_BITS:
                self._lost.set()

    def _next(self) -> Any:
        """Aravis' next buffer, to be given back.

        Raises:
            CameraError: no frame came in time, or the camera has gone.
        """
        while True:
            left_s = self._heard_at + self._limit_s - time.monotonic()
            buffer = self._stream.timeout_pop_buffer(int(max(0.0, min(left_s, SLICE_S)) * 1e6))
            if buffer is not None:
                return buffer
            if self._lost.is_set():
                raise CameraError(f"{self.description}: the camera no longer answers to us")
            if not self._asked and not self._hardware and time.monotonic() - self._heard_at > ASK_AFTER_S:
                self._asked = True
                threading.Thread(target=self._ask, name="ask-control", daemon=True).start()
            if left_s <= 0:
                raise CameraError(f"{self.description}: no frame for {self._limit_s:.1f} s")

    def _raw(self, buffer: Any) -> Raw | str:
        """The frame in it, or why it cannot be used; the buffer is Aravis' again."""
        try:
            status = buffer.get_status()
            if status != self._aravis.BufferStatus.SUCCESS:
                return f"{self.description}: the frame is incomplete ({status.value_nick}): is net.core.rmem_max too small?"
            self._limit_s, self._heard_at, self._asked = self._patience_s, time.monotonic(), False
            return Raw(buffer.get_data(), buffer.get_image_pixel_format(), buffer.get_image_height(), buffer.get_image_width())
        finally:
            self._stream.push_buffer(buffer)

    def _opened(self, config: GenicamSource) -> Any:
        # Aravis takes what it does not know for a host's name too: a name server that does not answer must not hold it up.
        os.environ.setdefault("RES_OPTIONS", "timeout:1 attempts:1 no-tld-query")
        name = config.camera
        if not set(name) & set("-.:"):  # no id, which joins maker, model and serial number; no address: a serial number
            name = next((camera.id for camera in listed_by(self._aravis) if camera.serial == name), "")
            if not name:
                raise CameraError(f"{self.description} cannot be opened: no camera with this serial number answers")
        camera = self._aravis.Camera.new(name)
        serial = camera.get_device_serial_number()
        if config.serial is not None and serial != config.serial:
            raise CameraError(f"{self.description} is the camera {serial}, {config.serial} is wanted")
        device = camera.get_device()
        if hasattr(device, "is_controller") and not device.is_controller():
            raise CameraError(f"{self.description} is in use by another program, or was until a moment ago")
        device.connect("control-lost", lambda *_: self._lost.set())
        self.description = f"GenICam {camera.get_vendor_name()} {camera.get_model_name()}, serial {serial}"
        return camera

    def _set_up(self, config: GenicamSource) -> None:
        camera, off = self._camera, self._aravis.Auto.OFF
        with contextlib.suppress(self._glib_error):  # whoever had it before may have died: streaming, it takes no settings
            camera.stop_acquisition()
        camera.set_acquisition_mode(self._aravis.AcquisitionMode.CONTINUOUS)
        if config.pixel_format is not None:
            camera.set_pixel_format_from_string(config.pixel_format)
        if camera.get_pixel_format() not in CODES:
            name = camera.get_pixel_format_as_string()
            offered = [o for o in camera.dup_available_pixel_formats_as_strings() if o in CODES.values()]
            advice = f"set pixel_format: {' or '.join(offered)}" if offered else "and it offers none that can"
            raise CameraError(f"{self.description} gives {name}, which cannot be read: {advice}")
        # What hangs on what: with a trigger the rate is the trigger's; an automatic value takes no other.
        if camera.is_feature_available("TriggerMode"):
            camera.clear_triggers()
            if self._hardware:
                camera.set_trigger(config.trigger_source or camera.get_trigger_source())
        elif self._hardware:
            raise CameraError(f"{self.description} has no trigger, which trigger.kind hardware needs")
        if config.fps is not None and not self._hardware:
            camera.set_frame_rate(self._within("fps", config.fps, camera.get_frame_rate_bounds()))
        if config.exposure_us is not None:
            if camera.is_exposure_auto_available():
                camera.set_exposure_time_auto(off)
            camera.set_exposure_time(self._within("exposure_us", config.exposure_us, camera.get_exposure_time_bounds()))
        if config.gain is not None:
            if camera.is_gain_auto_available():
                camera.set_gain_auto(off)
            camera.set_gain(self._within("gain", config.gain, camera.get_gain_bounds()))
        region = camera.get_region()
        self.description += f", {region.width}×{region.height}, {camera.get_pixel_format_as_string()}"

    def _streaming(self) -> Any:
        camera, payload = self._camera, self._camera.get_payload()
        if camera.is_gv_device():
            # Raw sockets are for root only: as the service has none, nobody has, and what was tried is what runs. The plain
            # socket's buffer must hold what comes while this process is held up; the kernel's limit is net.core.rmem_max.
            camera.gv_set_stream_options(self._aravis.GvStreamOption.PACKET_SOCKET_DISABLED)
        stream = camera.create_stream(None, None)
        if camera.is_gv_device():
            stream.set_property("socket-buffer", self._aravis.GvStreamSocketBuffer.FIXED)
            stream.set_property("socket-buffer-size", BUFFERS * payload)
        for _ in range(BUFFERS):
            stream.push_buffer(self._aravis.Buffer.new_allocate(payload))
        camera.start_acquisition()
        return stream

    def _within(self, name: str, value: float, bounds: Any) -> float:
        if not bounds.min <= value <= bounds.max:
            raise CameraError(f"{self.description} takes a {name} of {bounds.min:g} to {bounds.max:g}, not {value:g}")
        return value

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        """Errors of Aravis as ours."""
        try:
            yield
        except self._glib_error as error:
            raise CameraError(f"{self.description} {what}: {getattr(error, 'message', error)}") from error
