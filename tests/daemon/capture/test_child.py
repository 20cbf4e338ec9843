"""The capture process's own code, called in this process."""

import socket
import weakref

import pytest

from anoseg_engines.errors import CameraError
from anosegd.capture import child
from anosegd.capture.child import Capture
from anosegd.capture.config import CaptureConfig, DeviceSource
from anosegd.capture.link import Link
from anosegd.capture.protocol import Job
from anosegd.capture.shared_slots import Slots


class Refused:
    """A camera that refuses its settings: it is open by then."""

    def open(self) -> None:
        raise CameraError("the camera does not accept gain 99")


def test_a_camera_that_cannot_be_set_up_is_closed_before_the_pause(monkeypatch: pytest.MonkeyPatch) -> None:
    """Between two attempts the camera is free for another program, which may have to put it right."""
    opened: list[weakref.ref[Refused]] = []
    held: list[bool] = []

    def source_of(job: Job) -> Refused:
        opened.append(weakref.ref(source := Refused()))
        return source

    class PauseError(Exception):
        pass

    def take_messages(self: Link, timeout_s: float) -> None:
        held.append(opened[-1]() is not None)
        raise PauseError

    monkeypatch.setattr(child, "source_of", source_of)
    monkeypatch.setattr(Link, "take_messages", take_messages)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    slots = Slots.create(1, 4096)
    job = Job(camera=CaptureConfig(source=DeviceSource(device=0)), slots=1, frame_bytes=slots.frame_bytes, reopen_s=(0.1, 0.1))
    with ours, theirs, pytest.raises(PauseError):
        Capture(job, Link(theirs), slots)._open()
    slots.close_fd()
    assert held == [False]
