"""The capture process's own code, called in this process."""

import socket
import weakref

import pytest

from anoseg_engines.errors import CameraError
from anosegd.capture import child
from anosegd.capture.child import Capture
from anosegd.capture.config import CaptureConfig, DeviceSource, HardwareTrigger
from anosegd.capture.link import Link
from anosegd.capture.protocol import Job, Uncaptured
from anosegd.capture.shared_slots import Slots
from anosegd.capture.sources import Shot


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


def test_parts_whose_frames_did_not_arrive_are_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    """A hardware-triggered camera has counted two more parts than came: they are UNKNOWN, each with its own number."""

    class Triggered:
        live = True
        inter_coded = False
        fps = None
        description = "a camera"

        def upcoming(self, position: int) -> None:
            return None

        def read(self, position: int, into: object) -> Shot | None:
            if position > 1:
                return None
            return Shot(None, error="incomplete", missed=2 * position)

    sent: list[object] = []
    monkeypatch.setattr(Link, "send", lambda self, message: sent.append(message))
    monkeypatch.setattr(Link, "take_messages", lambda self, timeout_s: None)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    slots = Slots.create(2, 4096)
    config = CaptureConfig(source=DeviceSource(device=0), policy="every", trigger=HardwareTrigger())
    with ours, theirs:
        Capture(Job(camera=config, slots=2, frame_bytes=slots.frame_bytes), Link(theirs), slots)._read_all(Triggered())
    slots.close_fd()
    reported = [(m.origin.position, m.reason) for m in sent if isinstance(m, Uncaptured)]
    assert reported == [(0, "unreadable"), (1, "camera_lost"), (2, "camera_lost"), (3, "unreadable")]
