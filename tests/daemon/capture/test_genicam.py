"""GenICam cameras without a camera: what the numbers of their frames say. `test_real_cameras.py` has Aravis and its camera."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from anosegd.capture.config import CaptureConfig, GenicamSource, HardwareTrigger
from anosegd.capture.pixel_formats import CODES
from anosegd.capture.protocol import Job
from anosegd.capture.sources.genicam import Genicam

MONO8 = next(code for code, name in CODES.items() if name == "Mono8")
SUCCESS, MISSING_PACKETS, ABORTED = (SimpleNamespace(value_nick=name) for name in ("success", "missing-packets", "aborted"))
ARAVIS = SimpleNamespace(
    BufferStatus=SimpleNamespace(SUCCESS=SUCCESS, MISSING_PACKETS=MISSING_PACKETS, TIMEOUT=None, ABORTED=ABORTED)
)


class Buffer:
    def __init__(self, frame_id: int, status: Any = SUCCESS) -> None:
        self._id, self._status = frame_id, status

    def get_status(self) -> Any:
        return self._status

    def get_data(self) -> bytes:
        return bytes(16)

    def get_image_pixel_format(self) -> int:
        return MONO8

    def get_image_height(self) -> int:
        return 4

    def get_image_width(self) -> int:
        return 4

    def get_timestamp(self) -> int:
        return self._id * 1_000_000

    def get_frame_id(self) -> int:
        return self._id


class Stream:
    def __init__(self, buffers: list[Buffer]) -> None:
        self.buffers = buffers

    def timeout_pop_buffer(self, _: int) -> Buffer:
        return self.buffers.pop(0)

    def push_buffer(self, _: Buffer) -> None:
        pass


def missed(*buffers: Buffer, hardware: bool = True) -> list[int]:
    """How many frames each read says that were missed before it."""
    config = GenicamSource(camera="x")
    trigger = {"trigger": HardwareTrigger()} if hardware else {}
    camera = Genicam(config, Job(camera=CaptureConfig(source=config, policy="every", **trigger), slots=1, frame_bytes=100))
    camera._aravis, camera._stream = ARAVIS, Stream(list(buffers))
    shots = [camera.read(i, None) for i in range(len(buffers))]
    assert all(shot.image is None or isinstance(shot.image, np.ndarray) for shot in shots)
    return [shot.missed for shot in shots]


@pytest.mark.parametrize(
    ("ids", "expected"),
    [
        ((7, 8, 9), [0, 0, 0]),  # the first may have any number
        ((7, 8, 11), [0, 0, 2]),
        ((65534, 65535, 1), [0, 0, 0]),
        ((65534, 2), [0, 2]),
        ((70_000, 70_003), [0, 2]),
        ((500, 1, 2), [0, 0, 0]),  # it counts again
        ((5, 5), [0, 0]),
    ],
)
def test_a_gap_in_the_numbers_is_a_part_without_a_frame(ids: tuple[int, ...], expected: list[int]) -> None:
    assert missed(*map(Buffer, ids)) == expected


@pytest.mark.parametrize("stale", [0, 2, 97])
@pytest.mark.parametrize("status", [MISSING_PACKETS, ABORTED])
def test_an_incomplete_frame_is_a_part_whatever_its_number(stale: int, status: Any) -> None:
    """Its buffer may still have the number of an earlier frame, or none. It is reported as a part, so it is not missed."""
    assert missed(Buffer(100), Buffer(stale, status), Buffer(102)) == [0, 0, 0]
    assert missed(Buffer(100), Buffer(stale, status), Buffer(104)) == [0, 0, 2]


def test_a_camera_in_free_run_misses_no_part() -> None:
    assert missed(Buffer(1), Buffer(9), hardware=False) == [0, 0]
