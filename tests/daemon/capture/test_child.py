"""The capture process's own code, called in this process."""

import socket
import weakref
from collections.abc import Callable
from pathlib import Path

import cv2
import pytest
from support.tiny_bundle import good_part

from anoseg_engines.errors import CameraError
from anosegd.capture import child
from anosegd.capture.child import Capture
from anosegd.capture.config import CaptureConfig, DeviceSource, FileSource, FolderSource, HardwareTrigger
from anosegd.capture.link import Link
from anosegd.capture.protocol import Job, Tick, Uncaptured, decode_from_capture
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

    def source_of(job: Job, alive: Callable[[], None]) -> Refused:
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


@pytest.mark.parametrize("kind", ["video", "folder"])
def test_opening_that_takes_long_reports_that_it_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    """A video is read up to the position before a restart, and a folder with `preload` is decoded: neither hangs."""
    monkeypatch.setattr(child, "TICK_S", 0.0)
    film, images = tmp_path / "v.avi", tmp_path / "images"
    images.mkdir()
    writer = cv2.VideoWriter(str(film), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (80, 48))
    for i in range(9):
        writer.write(good_part())
        cv2.imwrite(str(images / f"{i}.png"), good_part())
    writer.release()
    source = FileSource(path=str(film)) if kind == "video" else FolderSource(path=str(images), preload=True)
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    slots = Slots.create(1, 1 << 20)
    camera = CaptureConfig(source=source, policy="wait")
    with ours, theirs:
        Capture(Job(camera=camera, slots=1, frame_bytes=slots.frame_bytes, start_at=9), Link(theirs), slots)._open()
        ours.settimeout(5)
        assert [type(decode_from_capture(ours.recv(4096))) for _ in range(9)] == [Tick] * 9
    slots.close_fd()
