"""Reads GenICam cameras (GigE Vision, USB3 Vision) through Aravis. Runs in the capture process.

Aravis and its GObject bindings are imported when a camera is opened.
"""

from __future__ import annotations

import contextlib
import importlib
import os
import threading
import time
from typing import Any, NamedTuple, cast

from anoseg_engines.errors import CameraError
from anoseg_engines.images import Image
from anosegd.capture.config import GenicamSource, HardwareTrigger
from anosegd.capture.pixel_formats import CODES, image_from_raw
from anosegd.capture.protocol import Job
from anosegd.capture.sources.aravis import listed_by, load_aravis
from anosegd.capture.sources.base import LIBRARY_SHARE, Shot, Stamp

BUFFERS = 4
SLICE_S = 0.2
"""Waits are cut into slices of this length, so that a lost camera is noticed however long the wait for a trigger may be."""
FRAME_IDS_16_BIT = 65_535
"""GigE Vision: after this id the next one is 1, unless the camera has longer ids."""
MOST_MISSED = 1000
"""If more ids than this are missing, the camera has begun to count again."""
RELEASE_S = 0.1
ASK_AFTER_S = 0.4
CONTROL_REGISTER, CONTROL_BITS = 0x0A00, 0b11
"""GigE Vision: control channel privilege; 0 means that the camera has no controller."""
HEARTBEAT_S = 3.5
"""GigE Vision: by default a camera drops a controller that is silent for 3 s."""


class Raw(NamedTuple):
    """Holds a frame as the camera sent it; `code` is its pixel format."""

    data: bytes
    code: int
    height: int
    width: int
    stamp: Stamp


class Genicam:
    """Reads one camera. All waits in this class are bounded; a call of Aravis may take some seconds."""

    live = True
    inter_coded = False
    fps: float | None = None  # a camera keeps its own time

    def __init__(self, config: GenicamSource, job: Job) -> None:
        self._config = config
        self._hardware = isinstance(job.camera.trigger, HardwareTrigger)
        share = 1.0 if self._hardware else LIBRARY_SHARE
        self._patience_s = job.camera.longest_read_s * share
        self._limit_s = max(self._patience_s, job.camera.open_timeout_s * LIBRARY_SHARE)
        self._last: Raw | None = None
        self._lost = threading.Event()
        self._asked = True  # whether the camera was asked since its last frame; its first may take long
        self._heard_at = 0.0  # when the last complete frame came
        self._frame_id: int | None = None  # of the last frame that was a part
        self._missed = 0  # triggered frames of which nothing came, since the last read
        self._glib_error: type[Exception] = Exception
        self._aravis = self._camera = self._stream = cast(Any, None)
        self.description = f"GenICam {config.camera}"

    def open(self) -> None:
        """Open the camera, set it up and start the stream.

        Raises:
            ConfigError: Aravis is not installed.
            CameraError: It cannot be opened, is another camera, or does not accept a setting.
        """
        self._aravis = load_aravis()
        self._glib_error = importlib.import_module("gi.repository.GLib").Error
        try:
            self._camera = self._opened(self._config)
            self._set_up(self._config)
            self._stream = self._streaming()
        except self._glib_error as error:
            reason = getattr(error, "message", error)
            raise CameraError(f"{self.description} cannot be opened: {reason}") from error
        self._heard_at = time.monotonic()

    def upcoming(self, position: int) -> str | None:
        """Frames of a camera have no files."""
        return None

    def skip(self) -> Stamp | None:
        """Let the next frame pass. Keep the frame undecoded."""
        buffer = self._next()
        while (newer := self._stream.try_pop_buffer()) is not None:  # frames in the buffer are old
            self._stream.push_buffer(buffer)
            buffer = newer
        raw = self._raw(buffer)
        self._last = raw if isinstance(raw, Raw) else None
        return None if self._last is None else self._last.stamp

    def skipped(self) -> Image | None:
        """Return the frame that passed last, unless it was incomplete."""
        return None if self._last is None else _decoded(self._last)

    def read(self, position: int, into: Image | None) -> Shot:
        """Return the next frame. If some of its packets were lost, the part has no image."""
        raw = self._raw(self._next())
        missed, self._missed = self._missed, 0
        if isinstance(raw, Raw):
            return Shot(_decoded(raw), stamp=raw.stamp, missed=missed)
        return Shot(None, error=raw, missed=missed)

    def back(self, within_s: float) -> bool | None:
        """Return whether frames come again.

        After a short interruption the camera still accepts this process as its controller. It would
        refuse a new connection until its heartbeat has run out. After that, the old connection is dead.
        """
        silent_s = time.monotonic() - self._heard_at
        if self._hardware or self._lost.is_set() or not self._patience_s <= silent_s <= HEARTBEAT_S:
            return None  # with hardware triggers this frame would be a part
        buffer = self._stream.timeout_pop_buffer(int(within_s * 1e6))
        return buffer is not None and isinstance(self._raw(buffer), Raw)

    def close(self) -> None:
        """Release the camera, so that it can be opened again at once; does not wait for one that does not answer."""
        device = self._camera.get_device()
        if hasattr(device, "leave_control"):  # GigE Vision; waits for an answer, which may not come
            leave = threading.Thread(target=self._leave, args=(device,), name="leave-control", daemon=True)
            leave.start()
            leave.join(RELEASE_S)

    def _leave(self, device: Any) -> None:
        with contextlib.suppress(self._glib_error):
            device.leave_control()

    def _ask(self) -> None:
        """Ask a silent camera whether it still has a controller, sooner than Aravis does (once a second)."""
        device = self._camera.get_device()
        with contextlib.suppress(self._glib_error):
            if hasattr(device, "leave_control") and not device.read_register(CONTROL_REGISTER) & CONTROL_BITS:
                self._lost.set()

    def _next(self) -> Any:
        """Aravis' next buffer, which has to be pushed back.

        Raises:
            CameraError: No frame came in time, or the camera is gone.
        """
        while True:
            left_s = self._heard_at + self._limit_s - time.monotonic()
            buffer = self._stream.timeout_pop_buffer(int(max(0.0, min(left_s, SLICE_S)) * 1e6))
            if buffer is not None:
                return buffer
            if self._lost.is_set():
                raise CameraError(f"{self.description}: the camera has dropped its connection to this program")
            if not self._asked and not self._hardware and time.monotonic() - self._heard_at > ASK_AFTER_S:
                self._asked = True
                threading.Thread(target=self._ask, name="ask-control", daemon=True).start()
            if left_s <= 0:
                raise CameraError(f"{self.description}: no frame for {self._limit_s:.1f} s")

    def _raw(self, buffer: Any) -> Raw | str:
        """Return the frame in the buffer, or the reason why it cannot be used. The buffer goes back to Aravis."""
        try:
            status = buffer.get_status()
            if status != self._aravis.BufferStatus.SUCCESS:
                # It may still have the id of an earlier frame. It is reported as a part, so it counts as the next one.
                self._frame_id = None if self._frame_id is None else self._frame_id + 1
                return f"{self.description}: the frame is incomplete ({status.value_nick}): is net.core.rmem_max too small?"
            self._count_missed(buffer.get_frame_id())
            self._limit_s, self._heard_at, self._asked = self._patience_s, time.monotonic(), False
            return Raw(
                buffer.get_data(),
                buffer.get_image_pixel_format(),
                buffer.get_image_height(),
                buffer.get_image_width(),
                Stamp(buffer.get_timestamp() / 1e9, buffer.get_frame_id()),
            )
        finally:
            self._stream.push_buffer(buffer)

    def _count_missed(self, frame_id: int) -> None:
        """Count the triggered frames between the last one and this one: their packets were all lost, or no buffer was free."""
        before, self._frame_id = self._frame_id, frame_id
        if before is None or not self._hardware:
            return
        step = frame_id - before
        if step < 0 and before <= FRAME_IDS_16_BIT:
            step += FRAME_IDS_16_BIT
        if 1 < step <= MOST_MISSED:
            self._missed += step - 1

    def _opened(self, config: GenicamSource) -> Any:
        # Aravis also tries an unknown name as a host name: a name server that does not answer must not delay it.
        os.environ.setdefault("RES_OPTIONS", "timeout:1 attempts:1 no-tld-query")
        try:
            camera = self._searched(config.camera)
        except (CameraError, self._glib_error):  # its answer to the search can have been lost
            camera = self._searched(config.camera)
        serial = camera.get_device_serial_number()
        if config.serial is not None and serial != config.serial:
            raise CameraError(f"{self.description} is the camera {serial}; source.serial: {config.serial}")
        device = camera.get_device()
        if hasattr(device, "is_controller") and not device.is_controller():
            raise CameraError(f"{self.description} is in use by another program, or was until a moment ago")
        device.connect("control-lost", lambda *_: self._lost.set())
        self.description = f"GenICam {camera.get_vendor_name()} {camera.get_model_name()}, serial {serial}"
        return camera

    def _searched(self, name: str) -> Any:
        """Return Aravis' camera with this id, serial number or address."""
        if not set(name) & set("-.:"):  # neither an id nor an address: a serial number
            id_of = {camera.serial: camera.id for camera in listed_by(self._aravis)}
            if name not in id_of:
                raise CameraError(f"{self.description} cannot be opened: no camera with this serial number answers")
            name = id_of[name]
        return self._aravis.Camera.new(name)

    def _set_up(self, config: GenicamSource) -> None:
        camera, off = self._camera, self._aravis.Auto.OFF
        with contextlib.suppress(self._glib_error):  # a camera whose last user crashed still streams and accepts no settings
            camera.stop_acquisition()
        camera.set_acquisition_mode(self._aravis.AcquisitionMode.CONTINUOUS)
        if config.pixel_format is not None:
            camera.set_pixel_format_from_string(config.pixel_format)
        if camera.get_pixel_format() not in CODES:
            name = camera.get_pixel_format_as_string()
            offered = [o for o in camera.dup_available_pixel_formats_as_strings() if o in CODES.values()]
            advice = f"set pixel_format: {' or '.join(offered)}" if offered else "the camera offers no format that can be read"
            raise CameraError(f"{self.description} delivers {name}, which cannot be read: {advice}")
        # Order matters: a trigger sets the frame rate, and an automatic setting has to be off before a value is accepted.
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
            # Raw sockets need root, which the service is not. The plain socket's buffer must hold the packets that arrive while
            # this process does not run; the kernel's limit is net.core.rmem_max.
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
            raise CameraError(f"{self.description} accepts a {name} of {bounds.min:g} to {bounds.max:g}, not {value:g}")
        return value


def _decoded(raw: Raw) -> Image:
    return image_from_raw(raw.data, raw.code, raw.height, raw.width)
