"""Frames that wait for inspection: which one goes when there is no room, and whose turn is next."""

import threading

import numpy as np

from anosegd.inspection.queue import InspectionQueue
from anosegd.part import Frame, Part


def frame(camera: str, sequence: int) -> Frame:
    part = Part(camera=camera, sequence=sequence, part_id="")
    return Frame(part, np.zeros((1, 1, 3), np.uint8), lambda: None)


def taken(queue: InspectionQueue, n: int) -> list[tuple[str, int]]:
    frames = [queue.take(0.01) for _ in range(n)]
    return [(f.part.camera, f.part.sequence) for f in frames if f is not None]


def test_latest_keeps_the_newest() -> None:
    """The newer frame replaces the older one, which goes back to the caller."""
    queue = InspectionQueue()
    camera = queue.add("latest", 5)
    frames = [frame("a", i) for i in range(3)]
    assert [camera.put(f) for f in frames] == [None, frames[0], frames[1]]
    assert taken(queue, 2) == [("a", 2)]


def test_every_keeps_the_oldest() -> None:
    """The newest frame is refused."""
    queue = InspectionQueue()
    camera = queue.add("every", 2)
    frames = [frame("a", i) for i in range(3)]
    assert [camera.put(f) for f in frames] == [None, None, frames[2]]
    assert taken(queue, 3) == [("a", 0), ("a", 1)]


def test_wait_keeps_all() -> None:
    """No frame is refused; the number of slots is the limit."""
    queue = InspectionQueue()
    camera = queue.add("wait", 1)
    assert [camera.put(frame("a", i)) for i in range(9)] == [None] * 9
    assert taken(queue, 9) == [("a", i) for i in range(9)]
    assert queue.empty


def test_taking_ahead_keeps_the_turns() -> None:
    """Frames are taken ahead in turn, but none at the turn of a camera with policy latest."""
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
    assert None in heard[:2]  # within one round it is the turn of `newest`
    assert not queue.ahead
    newest.put(frame("newest", 1))
    assert taken(queue, 1) == [("newest", 1)]
    assert queue.ahead


def test_cameras_take_turns() -> None:
    """A camera with many frames does not delay another."""
    queue = InspectionQueue()
    busy, slow = queue.add("wait", 1), queue.add("wait", 1)
    for i in range(4):
        busy.put(frame("busy", i))
    slow.put(frame("slow", 0))
    assert ("slow", 0) in taken(queue, 2)


def test_a_frame_wakes_the_inspector() -> None:
    """`take` returns as soon as a frame is put."""
    queue = InspectionQueue()
    camera = queue.add("latest", 1)
    got: list[Frame | None] = []
    thread = threading.Thread(target=lambda: got.append(queue.take(30)))
    thread.start()
    camera.put(frame("a", 1))
    thread.join(20)
    assert not thread.is_alive()
    assert got[0] is not None
