import pytest

from anoseg_trainer.training.thread_count import PERIOD, TRIAL, ThreadCount


def run(count, steps, seconds_of):
    """Steps whose time is given by the number of threads; returns the numbers used."""
    used = []
    for _ in range(steps):
        count.before_step()
        used.append(count.current)
        count.after_step(seconds_of(count.current))
    return used


@pytest.mark.parametrize(
    ("seconds", "best"), [({4: 1.0, 2: 2.0, 1: 3.0}, 4), ({4: 9.0, 2: 2.0, 1: 3.0}, 2), ({4: 9.0, 2: 5.0, 1: 3.0}, 1)]
)
def test_the_fastest_number_is_taken_and_tried_anew(seconds, best):
    """All candidates are tried, the fastest stays until the next trial; when the load changes, so does the number."""
    settings = []
    count = ThreadCount(0, 4, settings.append)
    used = run(count, PERIOD, seconds.get)
    assert set(used[: 3 * TRIAL]) == {4, 2, 1}
    assert set(used[3 * TRIAL :]) == {best}
    assert settings[-1] == best
    assert set(run(count, PERIOD, {4: 1.0, 2: 2.0, 1: 2.0}.get)[3 * TRIAL :]) == {4}


def test_a_fixed_number_is_kept():
    """What the configuration says is not tried out."""
    settings = []
    assert set(run(ThreadCount(3, 8, settings.append), 2 * PERIOD, lambda _: 1.0)) == {3}
    assert settings == [3]


def test_one_core_has_no_choice():
    """A single core runs one thread."""
    assert set(run(ThreadCount(0, 1, lambda _: None), PERIOD, lambda _: 1.0)) == {1}
