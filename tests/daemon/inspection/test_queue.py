"""Hand-off and slots: who owns a frame when, and what becomes of those that do not fit."""

import gc
import os
import threading
from pathlib import Path

import cv2
import numpy as np
import pytest

from anosegd.capture.buffers import Slots
from anosegd.capture.config import CaptureConfig, FileSource
from anosegd.capture.protocol import Job
from anosegd.capture.sources.opencv import VideoFile
from anosegd.inspection.queue import InspectionQueue
from anosegd.part import Frame, Part


def frame(camera: str, sequence: int) -> Frame:
    part = Part(camera=camera, sequence=sequence, part_id="")
    return Frame(part, np.zeros((1, 1, 3), np.uint8), lambda: None)


def taken(queue: InspectionQueue, n: int) -> list[tuple[str, int]]:
    frames = [queue.take(0.01) for _ in range(n)]
    return [(f.part.camera, f.part.sequence) for f in frames if f is not None]


def test_latest_keeps_the_newest() -> None:
    """The frame that has to go is the older one, and the giver gets it back."""
    queue = InspectionQueue()
    camera = queue.add("latest", 5)
    frames = [frame("a", i) for i in range(3)]
    assert [camera.put(f) for f in frames] == [None, frames[0], frames[1]]
    assert taken(queue, 2) == [("a", 2)]


def test_every_keeps_the_oldest() -> None:
    """The frame that has to go is the new one."""
    queue = InspectionQueue()
    camera = queue.add("every", 2)
    frames = [frame("a", i) for i in range(3)]
    assert [camera.put(f) for f in frames] == [None, None, frames[2]]
    assert taken(queue, 3) == [("a", 0), ("a", 1)]


def test_wait_keeps_all() -> None:
    """Nothing has to go; the number of slots bounds it."""
    queue = InspectionQueue()
    camera = queue.add("wait", 1)
    assert [camera.put(frame("a", i)) for i in range(9)] == [None] * 9
    assert taken(queue, 9) == [("a", i) for i in range(9)]
    assert queue.empty


def test_what_is_taken_ahead_keeps_the_turns() -> None:
    """Ahead come frames that keep their order; at the turn of a camera whose newest frame counts, nothing does."""
    queue = InspectionQueue()
    every, newest, waits = queue.add("every", 5), queue.add("latest", 1), queue.add("wait", 1)
    assert queue.take_ahead() is None
    for i in range(3):
        every.put(frame("every", i))
        waits.put(frame("waits", i))
    assert queue.ahead
    first = [queue.take_ahead() for _ in range(2)]
    assert sorted(f.part.camera for f in first if f) == ["every", "waits"]
    newest.put(frame("newest", 0))
    heard = [f.part.camera if (f := queue.take_ahead()) else None for _ in range(3)]
    assert None in heard[:2]  # within one round it is the newest's turn
    assert not queue.ahead
    newest.put(frame("newest", 1))
    assert taken(queue, 1) == [("newest", 1)]
    assert queue.ahead


def test_cameras_take_turns() -> None:
    """A camera with many frames does not keep another one waiting."""
    queue = InspectionQueue()
    busy, slow = queue.add("wait", 1), queue.add("wait", 1)
    for i in range(4):
        busy.put(frame("busy", i))
    slow.put(frame("slow", 0))
    assert ("slow", 0) in taken(queue, 2)


def test_taker_is_woken() -> None:
    """A frame that arrives ends the inspector's sleep."""
    queue = InspectionQueue()
    camera = queue.add("latest", 1)
    got: list[Frame | None] = []
    thread = threading.Thread(target=lambda: got.append(queue.take(30)))
    thread.start()
    camera.put(frame("a", 1))
    thread.join(20)
    assert not thread.is_alive()
    assert got[0] is not None


def test_slots_are_shared_without_a_copy() -> None:
    """What one side writes the other sees, and a view outlives descriptor and Slots."""
    ours = Slots.create(3, 1000)
    theirs = Slots.attach(os.dup(ours.fd), 3, ours.frame_bytes)
    theirs.view(2, 10, 20)[:] = 77
    view = ours.view(2, 10, 20)
    assert (view == 77).all()
    assert not ours.view(1, 10, 20).any()
    theirs.view(2, 10, 20)[0, 0, 0] = 5
    assert view[0, 0, 0] == 5
    theirs.close_fd()
    ours.close_fd()
    del ours, theirs
    gc.collect()
    assert view[0, 0, 0] == 5


def test_slots_take_memory_only_when_used() -> None:
    """Room for large frames costs nothing until they come."""
    slots = Slots.create(8, 256 << 20)
    slots.view(0, 100, 100)[:] = 1
    used = os.fstat(slots.fd).st_blocks * 512
    slots.close_fd()
    assert used < 1 << 20


def test_slots_cannot_be_shrunk() -> None:
    """A capture process gone mad cannot pull the memory away from under the daemon."""
    slots = Slots.create(1, 4096)
    with pytest.raises(PermissionError):
        os.ftruncate(slots.fd, 0)
    slots.close_fd()


@pytest.mark.parametrize(
    ("slot", "height", "width"), [(-1, 1, 1), (3, 1, 1), (0, 0, 5), (0, 5, 0), (0, 2000, 2000), (0, -4, -4)]
)
def test_impossible_frames_are_refused(slot: int, height: int, width: int) -> None:
    """No message can make a view beyond its slot."""
    slots = Slots.create(3, 1000)
    with pytest.raises(ValueError, match="cannot hold"):
        slots.view(slot, height, width)
    slots.close_fd()


def test_video_frames_are_read_into_the_slot(tmp_path: Path) -> None:
    """OpenCV decodes straight into shared memory: between camera and engine a frame is not copied."""
    path = str(tmp_path / "v.avi")
    writer = cv2.VideoWriter(path, cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (80, 48))
    for _ in range(2):
        writer.write(np.full((48, 80, 3), 120, np.uint8))
    writer.release()
    source = FileSource(path=path)
    slots = Slots.create(1, 1 << 20)
    video = VideoFile(source, Job(camera=CaptureConfig(source=source, policy="wait"), slots=1, frame_bytes=slots.frame_bytes))
    video.open()
    view = slots.view(0, 48, 80)
    shot = video.read(0, view)
    assert shot is not None
    assert shot.image is not None
    assert np.shares_memory(shot.image, view)
    assert abs(float(view.mean()) - 120) < 3
    slots.close_fd()
