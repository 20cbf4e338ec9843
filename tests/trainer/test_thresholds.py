import numpy as np
import pytest

from anoseg_engines.bundle import GoldenTolerance
from anoseg_engines.errors import DataError
from anoseg_trainer.metrics import PixelHistogram
from anoseg_trainer.thresholds import (
    MARGIN,
    MAX_SLOPE,
    PIXEL_THRESHOLDS,
    conformal_threshold,
    describe_threshold,
    for_the_line,
    pixel_threshold,
    score_scale,
)


@pytest.mark.parametrize(("n", "target"), [(50, 0.05), (120, 0.01), (120, 0.05), (99, 0.01), (19, 0.05)])
def test_the_bound_on_false_rejects_holds(n, target):
    """Over many simulated lines, the next good part is rejected no more often than the target."""
    rng = np.random.default_rng(1)
    scores = rng.beta(2, 8, (20000, n + 1))
    rejected = [row[-1] >= conformal_threshold(row[:-1], target).value for row in scores[:4000]]
    # 4000 trials: three standard errors above the target
    assert np.mean(rejected) <= target + 3 * np.sqrt(target / 4000)


def test_threshold_lies_above_the_conformal_score():
    """A part that scores as the calibrating one passes, since score ≥ threshold is FAIL."""
    scores = np.linspace(0, 0.5, 99)
    found = conformal_threshold(scores, 0.01)
    assert found.met
    assert found.reject_probability == pytest.approx(0.01)
    assert found.value > scores[98]


def test_too_few_images_say_how_many_are_needed():
    """98 images cannot support 1 %: the largest score is taken, and its bound and the needed number are stated."""
    found = conformal_threshold(np.linspace(0, 0.5, 98), 0.01)
    assert not found.met
    assert found.needed == 99
    assert found.reject_probability == pytest.approx(1 / 99)
    assert found.value > 0.5
    assert "needs 99 held-out good images of different parts" in describe_threshold(found, 0.01)


def test_the_guarantee_counts_parts():
    """99 images of 26 parts promise 1/27, not 1/100; a part has the largest score of its images."""
    rng = np.random.default_rng(0)
    parts = [i % 26 for i in range(99)]
    scores = rng.beta(2, 8, 99)
    found = conformal_threshold(scores, 0.01, parts=parts)
    assert (found.n, found.parts, found.met) == (99, 26, False)
    assert found.reject_probability == pytest.approx(1 / 27)
    words = describe_threshold(found, 0.01)
    assert "probability at most 0.03704" in words
    assert "the 26 parts on the 99 good images" in words
    assert "at most 38 to" in for_the_line(found, promised=True)  # 1000/27 is more than 37
    largest = sorted(max(scores[i] for i in range(99) if parts[i] == part) for part in range(26))
    third = conformal_threshold(scores, 0.08, parts=parts)
    assert third.value == pytest.approx(largest[24] + MARGIN)


def test_the_bound_holds_for_parts_of_several_images():
    """Images of one part are nearly equal: the next part is still rejected no more often than promised."""
    rng = np.random.default_rng(1)
    parts = np.repeat(np.arange(19), 5)
    trials = 4000
    rejected = 0
    for _ in range(trials):
        own = rng.beta(2, 8, 20)
        images = np.clip(np.repeat(own, 5) + rng.normal(0, 0.01, 100), 0, 1)
        found = conformal_threshold(images[:95], 0.05, parts=parts, margin=1e-9)
        assert found.met
        rejected += images[95:].max() >= found.value
    assert rejected / trials <= 0.05 + 3 * np.sqrt(0.05 / trials)


def test_nothing_is_promised_where_parts_are_not_known():
    """If it cannot be known which images show the same part, there is no number that reads like a promise."""
    found = conformal_threshold(np.linspace(0, 0.5, 99), 0.01)
    words = describe_threshold(found, 0.01, parts_known=False)
    assert words.startswith("nothing is promised about false rejects")
    assert "at most" not in words + for_the_line(found, promised=False)


def test_the_margin_covers_what_runtimes_may_differ():
    """A good part that a runtime scores higher by the tolerance of the self-test still passes."""
    scores = np.linspace(0, 0.5, 99)
    assert 0.5 + GoldenTolerance().score < conformal_threshold(scores, 0.01).value


def test_no_scores_is_an_error():
    """Without held-out images there is no threshold."""
    with pytest.raises(DataError):
        conformal_threshold(np.array([]), 0.01)


def test_scale_puts_medians_at_a_tenth_and_nine_tenths():
    """Held-out good parts score about 0.1, defective ones about 0.9, unless that would be too steep."""
    good, bad = np.array([-6.0, -5.0, -4.0]), np.array([1.0, 3.0, 5.0])
    slope, shift = score_scale(good, bad)
    score = 1 / (1 + np.exp(-(slope * np.array([-5.0, 3.0]) + shift)))
    assert score == pytest.approx([0.1, 0.9], abs=1e-6)
    assert score_scale(np.array([0.0]), np.array([0.01]))[0] == MAX_SLOPE
    assert score_scale(np.array([1.0]), np.array([0.0]))[0] == MAX_SLOPE


def test_good_parts_differ_in_their_scores_however_far_away_the_defects_are():
    """Otherwise the threshold's margin, 0.01, would be as large as all that good parts differ by."""
    good, bad = np.linspace(-2, 2, 41), np.array([60.0, 80.0, 100.0])
    slope, shift = score_scale(good, bad)
    at = np.array([0, 3, 8, 18]) * good.std()
    median, three, eight, eighteen = 1 / (1 + np.exp(-(slope * at + shift)))
    assert (median, eight) == (pytest.approx(0.1), pytest.approx(0.5))
    assert three > median + 0.08
    assert eighteen < 0.95, "above an odd good part that sets the threshold, a defect can still be clearly rejected"
    flat, _ = score_scale(good / 1000, bad)
    assert flat == pytest.approx(np.log(9) / 8), "on a very uniform product, tiny differences do not count"
    assert score_scale(good, bad, steepest=0.1)[0] == 0.1


@pytest.mark.parametrize(
    ("normal", "defective", "expected"), [(0.1, 0.4, (0.1, 0.4)), (0.9, 0.99, (0.6, 0.6)), (0.0, 0.01, (0.05, 0.05))]
)
def test_the_pixel_threshold_separates_within_its_range(normal, defective, expected):
    """Synthetic defects choose it, but at most 0.6: the network is surer of them than of real ones."""
    histogram = PixelHistogram()
    mask = np.zeros((10, 10), bool)
    mask[:5] = True
    histogram.add(np.where(mask, defective, normal), mask)
    found = pixel_threshold(histogram)
    assert expected[0] - 0.01 <= found <= expected[1] + 0.01
    assert PIXEL_THRESHOLDS[0] <= found <= PIXEL_THRESHOLDS[1]
