"""Which frames are equal to which, and since when the picture has not changed."""

import itertools

import numpy as np
import pytest

from anosegd.capture import last_frame
from anosegd.capture.last_frame import LastFrame


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now = 100.0
        monkeypatch.setattr(last_frame.time, "monotonic", lambda: self.now)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


def picture(seed: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (48, 80, 3), dtype=np.uint8)


def test_a_part_is_compared_with_the_part_before_and_with_the_frame_before() -> None:
    """One pixel is enough to differ."""
    frames = LastFrame(None)
    assert not frames.repeats_part(picture(1))
    frames.taken(picture(1), 0)
    assert frames.repeats_part(picture(1))
    assert frames.repeats_passed(picture(1))
    frames.passed(picture(2))
    assert frames.repeats_part(picture(1))
    assert frames.repeats_passed(picture(2))
    assert not frames.repeats_passed(picture(1))
    other = picture(1)
    other[7, 3, 1] += 1
    assert not frames.repeats_part(other)
    assert frames.slot == 0


def test_a_picture_stands_still_while_frames_show_it_again(clock: Clock) -> None:
    """Frames show that, not the time: a camera that waits for its trigger for hours shows nothing."""
    frames = LastFrame(None)
    frames.taken(picture(1), 0)
    clock.now += 3600
    assert (frames.unchanged_s, frames.still) == (0.0, False)
    frames.taken(picture(2), 1)
    for _ in range(12):
        clock.now += 1
        frames.passed(picture(2))
    assert (frames.unchanged_s, frames.still) == (12.0, True)
    clock.now += 1
    frames.passed(picture(3))
    assert (frames.unchanged_s, frames.still) == (0.0, False)


def test_after_an_absence_nothing_is_compared(clock: Clock) -> None:
    frames = LastFrame(None)
    for seed in itertools.repeat(1, 3):
        clock.now += 10
        frames.passed(picture(seed))
    assert frames.still
    frames.forget()
    assert not frames.still
    assert not frames.repeats_passed(picture(1))


def test_another_size_than_before_is_a_problem() -> None:
    """The first frame's size counts, or the one that the camera had in an earlier process."""
    assert LastFrame((48, 80)).size_problem(picture(1)) is None
    problem = LastFrame((24, 80)).size_problem(picture(1))
    assert problem is not None
    assert "80×48 pixels, the camera gave 80×24 before" in problem
