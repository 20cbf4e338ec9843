"""How a V4L2 device is set up, with a driver that does as it likes. This machine has no such device."""

import cv2
import pytest

from anosegd.capture.config import CaptureConfig, DeviceSource
from anosegd.capture.protocol import Job
from anosegd.capture.sources import opencv
from anosegd.capture.sources.opencv import Device


class Driver:
    """Keeps its own frame rate and pixel format, whatever is asked for."""

    def __init__(self, fps: float) -> None:
        self._values = {
            cv2.CAP_PROP_FRAME_WIDTH: 640.0,
            cv2.CAP_PROP_FRAME_HEIGHT: 480.0,
            cv2.CAP_PROP_FPS: fps,
            cv2.CAP_PROP_FOURCC: float(cv2.VideoWriter.fourcc(*"YUYV")),
        }

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def get(self, prop: int) -> float:
        return self._values.get(prop, 0.0)

    def set(self, prop: int, value: float) -> bool:
        return False


@pytest.mark.parametrize(
    ("fps", "asked", "says"),
    [
        (30.0, {"fps": 60.0, "fourcc": "MJPG"}, ", 30 frames per second (60 asked for), YUYV (MJPG asked for)"),
        (29.97, {"fps": 30.0, "fourcc": "YUYV"}, ""),
        (30.0, {}, ""),
        (0.0, {"fps": 30.0}, ""),  # the driver does not say
    ],
)
def test_what_a_camera_chose_instead_is_said(monkeypatch: pytest.MonkeyPatch, fps: float, asked: dict, says: str) -> None:
    """Rate and pixel format are requests: the description, which the log has, says what the camera really uses."""
    monkeypatch.setattr(opencv, "_opened", lambda where, backend, parameters, description: Driver(fps))
    monkeypatch.setenv("OPENCV_VIDEOIO_V4L_SELECT_TIMEOUT", "1")
    source = DeviceSource(device=0, **asked)
    device = Device(source, Job(camera=CaptureConfig(source=source), slots=1, frame_bytes=1))
    device.open()
    assert device.description == f"device 0, 640×480{says}"
