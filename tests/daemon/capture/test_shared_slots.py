"""Frame slots in shared memory, and reading into them."""

import gc
import os
from pathlib import Path

import cv2
import numpy as np
import pytest

from anosegd.capture.config import CaptureConfig, FileSource
from anosegd.capture.protocol import Job
from anosegd.capture.shared_slots import Slots
from anosegd.capture.sources.opencv import VideoFile


def test_slots_are_shared_without_a_copy() -> None:
    """Both sides see the same memory, and a view outlives the descriptor and the Slots."""
    ours = Slots.create(3, 1000)
    theirs = Slots.attach(os.dup(ours.fd), 3, ours.frame_bytes)
    theirs.view(2, (10, 20, 3))[:] = 77
    view = ours.view(2, (10, 20, 3))
    assert (view == 77).all()
    assert not ours.view(1, (10, 20, 3)).any()
    theirs.view(2, (10, 20, 3))[0, 0, 0] = 5
    assert view[0, 0, 0] == 5
    theirs.close_fd()
    ours.close_fd()
    del ours, theirs
    gc.collect()
    assert view[0, 0, 0] == 5


def test_slots_take_memory_only_when_used() -> None:
    """Slots for large frames take no memory until they are written."""
    slots = Slots.create(8, 256 << 20)
    slots.view(0, (100, 100, 3))[:] = 1
    used = os.fstat(slots.fd).st_blocks * 512
    slots.close_fd()
    assert used < 1 << 20


def test_slots_cannot_be_shrunk() -> None:
    """A faulty capture process cannot take the memory away from the daemon."""
    slots = Slots.create(1, 4096)
    with pytest.raises(PermissionError):
        os.ftruncate(slots.fd, 0)
    slots.close_fd()


@pytest.mark.parametrize(
    ("slot", "shape"),
    [(-1, (1, 1, 3)), (3, (1, 1, 3)), (0, (0, 5, 3)), (0, (5, 0, 1)), (0, (2000, 2000, 1)), (0, (-4, -4, 3)), (0, (4, 4, 2))],
)
def test_impossible_frames_are_refused(slot: int, shape: tuple[int, int, int]) -> None:
    """No view can reach beyond its slot."""
    slots = Slots.create(3, 1000)
    with pytest.raises(ValueError, match="cannot hold"):
        slots.view(slot, shape)
    slots.close_fd()


def test_video_frames_are_read_into_the_slot(tmp_path: Path) -> None:
    """OpenCV decodes into shared memory: a frame is not copied between camera and engine."""
    path = str(tmp_path / "v.avi")
    writer = cv2.VideoWriter(path, cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (80, 48))
    for _ in range(2):
        writer.write(np.full((48, 80, 3), 120, np.uint8))
    writer.release()
    source = FileSource(path=path)
    slots = Slots.create(1, 1 << 20)
    video = VideoFile(source, Job(camera=CaptureConfig(source=source, policy="wait"), slots=1, frame_bytes=slots.frame_bytes))
    video.open()
    view = slots.view(0, (48, 80, 3))
    shot = video.read(0, view)
    assert shot is not None
    assert shot.image is not None
    assert np.shares_memory(shot.image, view)
    assert abs(float(view.mean()) - 120) < 3
    slots.close_fd()
