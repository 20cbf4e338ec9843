"""Which frames are believed to be fresh: a model of a camera, a buffer that fills while nobody reads, and a reader."""

from collections.abc import Iterator
from itertools import pairwise

import pytest

from anosegd.capture.frame_period import FramePeriod


def frames(
    frame_period: FramePeriod, exposed: list[float], hold_ups: list[tuple[float, float]], decode_s: float
) -> Iterator[tuple[float, float]]:
    """Read every frame as soon as it is there, but for (beginning, end) in which the reader is held up: when each frame that is
    believed came, and how old it was then."""
    now = 0.0
    for at in exposed:
        now = next((end for begin, end in hold_ups if begin <= now < end), now)
        asked_at = now
        now = max(now, at) + decode_s
        if frame_period.waited_for(frame_period.came(asked_at, now)):
            yield now, now - at


def times(period_s: float, begin: float, end: float) -> list[float]:
    return [begin + period_s * i for i in range(1, int((end - begin) / period_s))]


HOLD_UPS = {
    "one": [(5.0, 6.4)],
    "four in a row": [(5 + 0.5 * i, 5.4 + 0.5 * i) for i in range(4)],
    "six in a row": [(5 + 0.25 * i, 5.2 + 0.25 * i) for i in range(6)],
    "two, the first long past": [(5.0, 6.0), (7.5, 8.4)],
    "eight seconds": [(5.0, 13.0)],
}


@pytest.mark.parametrize("decode_s", [0.0005, 0.004, 0.009])
@pytest.mark.parametrize("hold_ups", HOLD_UPS)
def test_a_frame_from_a_buffer_is_never_believed(hold_ups: str, decode_s: float) -> None:
    period_s = 1 / 30
    believed = list(frames(FramePeriod(), times(period_s, 0, 25), HOLD_UPS[hold_ups], decode_s))
    assert max(age for _, age in believed) < period_s + decode_s
    assert sum(came > 20 for came, _ in believed) > 100  # and afterwards frames are fresh again


def test_with_the_period_set_in_the_camera_its_second_frame_is_believed() -> None:
    for away_s in (0.0, 30.0):  # how long it took to give its first frame says nothing
        believed = list(frames(FramePeriod(1 / 30), times(1 / 30, away_s, away_s + 10), [], 0.004))
        assert believed[0][0] < away_s + 2.5 / 30
        assert len(believed) > 290


@pytest.mark.parametrize("set_s", [1 / 60, 1 / 30, 0.05])
@pytest.mark.parametrize("decode_s", [0.001, 0.004, 0.009])
def test_what_was_set_lets_no_old_frame_through_when_exposure_allows_less(set_s: float, decode_s: float) -> None:
    """The camera gives 20 frames/s, and its reader is held up among the first of them."""
    for begin in (0.01, 0.06, 0.11, 0.14, 0.16, 0.19, 0.21, 0.26):
        believed = list(frames(FramePeriod(set_s), times(0.05, 0, 10), [(begin, begin + 0.4)], decode_s))
        assert max(age for _, age in believed) < 0.05 + decode_s
        assert sum(came > 3 for came, _ in believed) > 100


def test_a_frame_that_lay_there_is_never_believed_however_fast_a_camera_was_set() -> None:
    frame_period = FramePeriod(0.002)
    frame_period.came(0.0, 0.05)
    assert not frame_period.waited_for(frame_period.came(0.05, 0.0515))


@pytest.mark.parametrize("set_s", [0.005, 0.25, 1.0])
def test_a_camera_that_does_not_keep_to_what_was_set_is_believed_all_the_same(set_s: float) -> None:
    believed = list(frames(FramePeriod(set_s), times(0.05, 0, 10), [], 0.001))
    assert sum(came > 2 for came, _ in believed) > 150


@pytest.mark.parametrize("slow_s", [1 / 15, 0.2, 0.5, 1.0])
@pytest.mark.parametrize("fast_s", [1 / 60, 1 / 30])
def test_a_camera_that_becomes_faster_is_believed(slow_s: float, fast_s: float) -> None:
    change = 20 * slow_s
    believed = list(frames(FramePeriod(), times(slow_s, 0, change) + times(fast_s, change, change + 10), [], 0.001))
    after = [came for came, _ in believed if came > change + slow_s + 0.8]
    assert after[0] < change + slow_s + 0.9
    assert max(later - earlier for earlier, later in pairwise(after)) < 0.1


def test_a_camera_that_becomes_slower_is_believed() -> None:
    believed = list(frames(FramePeriod(), times(0.033, 0, 5) + times(0.5, 5, 20), [], 0.001))
    assert sum(came > 12 for came, _ in believed) > 10


def test_nothing_is_believed_before_the_frame_period_is_known() -> None:
    frame_period = FramePeriod()
    assert len(list(frames(frame_period, times(0.05, 0, 0.25), [], 0.001))) == 0
    assert frame_period.period_s == 0
