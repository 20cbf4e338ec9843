"""The judgement: outcome from the score, defects from the map, in camera pixels."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anoseg_engines.errors import EngineError
from anoseg_engines.judgement import MAX_DEFECTS, Inspection, Thresholds, judge
from anoseg_engines.placement import InputSpec, Placement, Region

PLACEMENT = Placement.of(InputSpec(64, 64), Region(100, 200, 128, 128))  # half a map pixel per camera pixel
THRESHOLDS = Thresholds(score=0.5, pixel=0.5)


def flat_map() -> np.ndarray:
    return np.zeros((64, 64), np.float32)


@given(st.floats(0, 1), st.floats(0, 1))
def test_score_at_or_above_the_threshold_fails(score: float, threshold: float) -> None:
    """The rule is score ≥ threshold → FAIL, equality included."""
    outcome = judge(Inspection(score, flat_map()), Thresholds(threshold, 0.5), PLACEMENT).outcome
    assert outcome == ("FAIL" if score >= threshold else "PASS")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_score_or_map_that_is_not_a_number_never_passes(value: float) -> None:
    """NaN or infinity from the network is an error, not PASS."""
    with pytest.raises(EngineError):
        judge(Inspection(float(value), flat_map()), THRESHOLDS, PLACEMENT)
    broken = flat_map()
    broken[3, 4] = value
    with pytest.raises(EngineError):
        judge(Inspection(0.1, broken), THRESHOLDS, PLACEMENT)


def test_defects_are_in_camera_pixels_highest_peak_first() -> None:
    """Box, area, peak and centroid of two areas are mapped back through region and scale."""
    anomaly_map = flat_map()
    anomaly_map[10:14, 20:22] = 0.6
    anomaly_map[40, 50] = 0.9
    first, second = judge(Inspection(0.9, anomaly_map), THRESHOLDS, PLACEMENT).defects
    assert (first.x, first.y, first.width, first.height, first.area) == (200, 280, 2, 2, 4)
    assert first.peak == pytest.approx(0.9)
    assert (second.x, second.y, second.width, second.height, second.area) == (140, 220, 4, 8, 32)
    assert (second.centroid_x, second.centroid_y) == (142, 224)


def test_touching_corners_are_one_defect() -> None:
    """Areas are connected over eight neighbours, so a diagonal scratch is one defect."""
    anomaly_map = flat_map()
    np.fill_diagonal(anomaly_map, 1.0)
    assert len(judge(Inspection(1.0, anomaly_map), THRESHOLDS, PLACEMENT).defects) == 1


def test_a_speckled_map_lists_a_bounded_number_of_defects() -> None:
    """The number of defects in a verdict is limited."""
    anomaly_map = flat_map()
    anomaly_map[::2, ::2] = 1.0
    assert len(judge(Inspection(1.0, anomaly_map), THRESHOLDS, PLACEMENT).defects) == MAX_DEFECTS
