"""When frames were captured by their stamps, and which stamps are not believed: a model of a camera, a network and a reader."""

from collections.abc import Iterable, Iterator

import pytest

from anosegd.capture.sources.base import Stamp
from anosegd.capture.stream_clock import PROBATION_S, WINDOW_S, StreamClock

PERIOD_S = 0.04
BEGAN = 1000.0
KNOWN = BEGAN + WINDOW_S + 1.0


class Frame:
    """A frame: when it was exposed, and its stamp."""

    def __init__(self, at: float, stamp_s: float | None, number: int | None = None) -> None:
        self.at = at
        self.stamp = None if stamp_s is None else Stamp(stamp_s, number)


def exposures(seconds: float, period_s: float = PERIOD_S) -> list[float]:
    return [BEGAN + period_s * i for i in range(int(seconds / period_s))]


def read(
    clock: StreamClock, frames: Iterable[Frame], *, delay_s: float = 0.05, held_up: tuple[float, float] = (0.0, 0.0)
) -> Iterator[tuple[Frame, float, float | None]]:
    """Read every frame as soon as it is there, but for (beginning, end) in which the reader is held up.

    Yields each frame, when it came, and when the clock says that it was captured.
    """
    now = BEGAN
    for frame in frames:
        now = held_up[1] if held_up[0] <= now < held_up[1] else now
        asked_at, now = now, max(now, frame.at + delay_s)
        yield frame, now, clock.came(frame.stamp, asked_at, now)


def regular(seconds: float, *, rate: float = 1.0, period_s: float = PERIOD_S) -> list[Frame]:
    return [Frame(at, (at - BEGAN) * rate) for at in exposures(seconds, period_s)]


@pytest.mark.parametrize("period_s", [1 / 60, 0.04, 0.2, 1.0])
@pytest.mark.parametrize("rate", [0.9999, 1.0, 1.0001])
def test_frames_are_captured_at_their_stamps(period_s: float, rate: float) -> None:
    """Once the stamps are known, each frame's time is its exposure plus the delay that all frames have in common."""
    clock = StreamClock()
    told = [
        (f.at, captured) for f, _, captured in read(clock, regular(30, rate=rate, period_s=period_s)) if captured is not None
    ]
    assert told[0][0] < BEGAN + max(WINDOW_S, 8 * period_s) + 2 * period_s
    assert max(abs(captured - at - 0.05) for at, captured in told) < 0.005
    assert clock.problem is None


@pytest.mark.parametrize("held_s", [0.5, 8.0])
def test_a_frame_from_a_buffer_is_as_old_as_it_is(held_s: float) -> None:
    """The reader was held up: the frames that waited meanwhile have the times at which they were exposed."""
    frames = list(read(StreamClock(), regular(40), held_up=(KNOWN, KNOWN + held_s)))
    late = [(f.at, came, captured) for f, came, captured in frames if captured is not None and came - f.at > 0.1]
    assert len(late) > held_s / PERIOD_S / 2
    assert max(abs(captured - at - 0.05) for at, _, captured in late) < 0.02


def test_the_burst_at_a_streams_begin_does_not_mislead() -> None:
    """A server sends its last ten seconds at once: they are old, and the first frame that is given a time is not."""
    frames = [Frame(max(at, BEGAN + 10.0), at) for at in exposures(30)]
    told = [(f, came, captured) for f, came, captured in read(StreamClock(), frames) if captured is not None]
    assert told[0][1] < BEGAN + 10.0 + 2 * WINDOW_S
    assert all(abs(captured - f.at - 0.05) < 0.005 for f, _, captured in told)


def test_stamps_that_stop_are_seen_at_once() -> None:
    """Frames go on with one stamp: none of them is new, and the standing time counts from the last that was."""
    clock = StreamClock()
    stop_at = KNOWN
    for frame, came, _ in read(clock, [Frame(at, min(at, stop_at)) for at in exposures(8)]):
        assert clock.stands == (frame.at >= stop_at + PERIOD_S)
        if clock.stands:
            assert clock.standing_s(came) == pytest.approx(frame.at - stop_at, abs=PERIOD_S)


def test_one_of_time_and_counter_is_enough_to_show_life() -> None:
    """A camera whose clock is not set counts its blocks all the same; it is alive, and has no times."""
    clock = StreamClock()
    told = [captured for *_, captured in read(clock, [Frame(at, 0.0, i) for i, at in enumerate(exposures(8))])]
    assert clock.moves
    assert not clock.stands
    assert set(told) == {None}
    assert clock.problem == "its time stamps stand still"


def test_damaged_frames_without_a_stamp_say_nothing() -> None:
    """They are neither a camera without stamps nor a frozen one, and the stamps around them are used as before."""
    clock = StreamClock()
    damaged = KNOWN, KNOWN + 2.0
    frames = [Frame(at, None if damaged[0] <= at < damaged[1] else at) for at in exposures(12)]
    for frame, _, captured in read(clock, frames):
        assert not clock.stands
        assert clock.problem is None
        if frame.at >= KNOWN:
            assert (captured is None) == (frame.stamp is None)


@pytest.mark.parametrize("stamp_s", [None, 0.0])
def test_a_source_without_stamps_is_said_to_have_none(stamp_s: float | None) -> None:
    """Neither a missing stamp nor one that stands at zero from the start shows that the camera has frozen."""
    clock = StreamClock()
    told = [captured for *_, captured in read(clock, [Frame(at, stamp_s) for at in exposures(8)])]
    assert set(told) == {None}
    assert not clock.moves
    assert not clock.stands
    assert clock.problem is not None


@pytest.mark.parametrize(
    ("jump_s", "words"),
    [(3.2, "jumped ahead by 3.2 s"), (-3.2, "jumped back by 3.2 s"), (-95443.7, "jumped back by 95443.7 s")],
)
def test_stamps_that_jump_or_wrap_are_not_used(jump_s: float, words: str) -> None:
    """They are said to have jumped, give no times meanwhile, and are used again when they have kept time for long."""
    clock = StreamClock()
    problems: list[str] = []
    for frame, _, captured in read(clock, [Frame(at, at + (jump_s if at >= KNOWN else 0.0)) for at in exposures(30)]):
        problems += [clock.problem] if clock.problem is not None and clock.problem not in problems else []
        if captured is not None:
            assert captured == pytest.approx(frame.at + 0.05, abs=0.01)
        if KNOWN <= frame.at < KNOWN + PROBATION_S or frame.at >= KNOWN + PROBATION_S + 0.2:
            assert (captured is None) == (frame.at < KNOWN + PROBATION_S)
        assert not clock.stands
    assert len(problems) == 1
    assert words in problems[0]
    assert clock.problem is None


def test_a_line_that_stood_for_hours_has_not_jumped() -> None:
    """A hardware-triggered camera gives no frames meanwhile, and its clock drifts a little."""
    pause_s = 4 * 3600.0
    exposed = exposures(8)
    exposed += [at + 8 + pause_s for at in exposed]
    frames = list(read(clock := StreamClock(), [Frame(at, (at - BEGAN) * 1.00005) for at in exposed]))
    assert clock.problem is None
    assert max(abs(c - f.at - 0.05) for f, _, c in frames if c is not None) < 0.01


@pytest.mark.parametrize("rate", [0.6, 1.2])
def test_stamps_that_only_count_frames_are_not_used(rate: float) -> None:
    """A demuxer without times counts frames at 25 a second, whatever the camera gives."""
    clock = StreamClock()
    assert {captured for *_, captured in read(clock, regular(20, rate=rate))} == {None}
    assert clock.problem == "its time stamps do not keep time with this machine's clock"


def test_stamps_that_fall_behind_are_not_used() -> None:
    """A clock that suddenly runs at 90 %: its frames would be taken for older and older ones."""
    clock = StreamClock()
    slow = [Frame(at, min(at, KNOWN) + max(0.0, at - KNOWN) * 0.9) for at in exposures(40)]
    problems = {clock.problem for _ in read(clock, slow)}
    assert any(problem is not None and "have fallen behind" in problem for problem in problems)


def test_times_of_the_monotonic_clock_are_taken_as_they_are() -> None:
    """A V4L2 driver's times need no reference: the first frame has one."""
    clock = StreamClock(monotonic=True)
    told = [(f.at, captured) for f, _, captured in read(clock, [Frame(at, at) for at in exposures(2)])]
    assert all(captured == at for at, captured in told)


def test_a_drivers_times_of_another_clock_are_mapped() -> None:
    """A driver that gives Unix times, not monotonic ones, is treated like a stream."""
    clock = StreamClock(monotonic=True)
    told = [(f.at, c) for f, _, c in read(clock, [Frame(at, at + 1.7e9) for at in exposures(8)]) if c is not None]
    assert told
    assert max(abs(captured - at - 0.05) for at, captured in told) < 0.005
