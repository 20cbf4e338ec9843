"""Region rules: properties of the decision, and the geometry of the regions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anoseg_engines.errors import ConfigError
from anoseg_engines.judgement import Inspection, Rule, RuleMaps, Thresholds, ignore_everything, judge, rules_digest
from anoseg_engines.placement import InputSpec, Placement, Region

PLACEMENT = Placement.of(InputSpec(32, 32), Region(100, 200, 64, 64))  # half a map pixel per camera pixel
THRESHOLDS = Thresholds(score=0.5, pixel=0.5)
MAPS = st.integers(0, 2**32 - 1).map(
    lambda seed: (np.random.default_rng(seed).random((32, 32)) ** np.random.default_rng(seed).integers(1, 40)).astype(
        np.float32
    )
)
REGIONS = st.builds(Region, st.integers(90, 160), st.integers(190, 260), st.integers(8, 80), st.integers(8, 80))


def outcome(anomaly_map: np.ndarray, *rules: Rule, score: float = 0.1, review_from: float | None = None) -> str:
    maps = RuleMaps.of(rules, THRESHOLDS.pixel, PLACEMENT) if rules else None
    return judge(Inspection(score, anomaly_map), THRESHOLDS, PLACEMENT, rules=maps, review_from=review_from).outcome


def spot(y: int, x: int, side: int = 2, value: float = 0.9) -> np.ndarray:
    anomaly_map = np.zeros((32, 32), np.float32)
    anomaly_map[y : y + side, x : x + side] = value
    return anomaly_map


def test_with_rules_the_map_alone_decides() -> None:
    """A high score without a defect in the map passes, a low score with one fails."""
    whole = Rule(name="whole")
    assert outcome(spot(5, 5, value=0.4), whole, score=0.99) == "PASS"
    assert outcome(spot(5, 5), whole, score=0.01) == "FAIL"
    assert outcome(spot(5, 5), score=0.01) == "PASS"


@given(MAPS, REGIONS)
def test_an_ignored_region_changes_nothing(anomaly_map: np.ndarray, region: Region) -> None:
    """Whatever the map values in an ignored region, the outcome is as if they were 0."""
    rules = (Rule(name="whole"), Rule(name="label", region=region, ignore=True))
    try:
        maps = RuleMaps.of(rules, THRESHOLDS.pixel, PLACEMENT)
    except ConfigError:
        return
    blank = np.where(np.isinf(maps.thresholds), np.float32(0), anomaly_map)
    assert outcome(anomaly_map, *rules) == outcome(blank, *rules)


@given(MAPS, st.floats(0.01, 1), st.floats(0.01, 1))
def test_a_lower_threshold_never_turns_fail_into_pass(anomaly_map: np.ndarray, a: float, b: float) -> None:
    """The outcome is monotonic in the threshold."""
    low, high = sorted((a, b))
    if outcome(anomaly_map, Rule(name="w", threshold=high)) == "FAIL":
        assert outcome(anomaly_map, Rule(name="w", threshold=low)) == "FAIL"


@given(MAPS, st.floats(0, 200), st.floats(0, 200))
def test_a_smaller_minimum_area_never_turns_fail_into_pass(anomaly_map: np.ndarray, a: float, b: float) -> None:
    """The outcome is monotonic in the area, and without a minimum every defect counts."""
    small, large = sorted((a, b))
    if outcome(anomaly_map, Rule(name="w", min_area=large)) == "FAIL":
        assert outcome(anomaly_map, Rule(name="w", min_area=small)) == "FAIL"
    assert (outcome(anomaly_map, Rule(name="w")) == "FAIL") == bool((anomaly_map >= 0.5).any())


@given(MAPS, st.floats(0.01, 0.99), st.floats(0, 1))
def test_review_never_hides_a_fail_nor_makes_one(anomaly_map: np.ndarray, review_from: float, score: float) -> None:
    """With a review threshold, FAIL stays FAIL, and parts that are no longer PASS are REVIEW."""
    for rules in ((), (Rule(name="w"),)):
        plain = outcome(anomaly_map, *rules, score=score)
        reviewed = outcome(anomaly_map, *rules, score=score, review_from=review_from)
        assert reviewed == plain or (plain, reviewed) == ("PASS", "REVIEW")


def test_areas_are_camera_pixels_and_the_least_of_touched_regions_counts() -> None:
    """2×2 map pixels are 16 camera pixels². A defect across a border is judged by the stricter side."""
    assert outcome(spot(5, 5), Rule(name="w", min_area=16)) == "FAIL"
    assert outcome(spot(5, 5), Rule(name="w", min_area=16.1)) == "PASS"
    left = Rule(name="left", region=Region(100, 200, 32, 64))  # map columns 0…15
    assert outcome(spot(5, 15), Rule(name="w", min_area=100), left) == "FAIL"
    assert outcome(spot(5, 16), Rule(name="w", min_area=100), left) == "PASS"


def test_the_last_of_overlapping_rules_counts_and_names_the_defect() -> None:
    """A strict region inside an ignored one is inspected, and the defect has its name."""
    rules = (
        Rule(name="label", region=Region(100, 200, 64, 32), ignore=True),
        Rule(name="code", region=Region(110, 210, 12, 12), threshold=0.3),
    )
    maps = RuleMaps.of(rules, THRESHOLDS.pixel, PLACEMENT)
    judged = judge(Inspection(0.0, spot(6, 6, value=0.4)), THRESHOLDS, PLACEMENT, rules=maps)
    assert (judged.outcome, judged.threshold, [d.rule for d in judged.defects]) == ("FAIL", None, ["code"])
    assert outcome(spot(0, 25), *rules) == "PASS"
    assert outcome(spot(25, 25), *rules) == "FAIL"  # outside both the bundle's pixel threshold holds


def test_a_rule_outside_the_part_is_refused() -> None:
    """It would have no effect, so it must be a mistake."""
    with pytest.raises(ConfigError, match="rule 'label': its region x=0 y=0 50×50 does not touch the part"):
        RuleMaps.of((Rule(name="label", region=Region(0, 0, 50, 50), ignore=True),), 0.5, PLACEMENT)
    with pytest.raises(ValueError, match="ignores its region"):
        Rule(name="label", ignore=True, threshold=0.5)


def test_the_digest_covers_everything_that_decides() -> None:
    """A name, or 12.0 for 12, does not change it; order, region, rotation, threshold, area and ignore do."""
    a = Rule(name="a", region=Region(100, 200, 32, 64), threshold=0.4)
    b = Rule(name="b", min_area=12)
    part = Region(100, 200, 64, 64)
    known = rules_digest((a, b), part, 0)
    assert known == rules_digest((a, Rule(name="other", min_area=12.0)), part, 0)
    others = [
        rules_digest((b, a), part, 0),
        rules_digest((a,), part, 0),
        rules_digest((a, b), None, 0),
        rules_digest((a, b), Region(100, 200, 64, 63), 0),
        rules_digest((a, b), part, 90),
        rules_digest((a, Rule(name="b", min_area=13)), part, 0),
        rules_digest((Rule(name="a", region=a.region, threshold=0.5), b), part, 0),
        rules_digest((Rule(name="a", region=a.region), b), part, 0),
        rules_digest((Rule(name="a", region=a.region, ignore=True), b), part, 0),
        rules_digest((Rule(name="a", threshold=0.4), b), part, 0),
    ]
    assert len({known, *others}) == len(others) + 1


LEFT, RIGHT = Region(100, 200, 32, 64), Region(132, 200, 32, 64)
NOTHING_LEFT = {
    "whole part": (Rule(name="w", ignore=True),),
    "last rule": (Rule(name="left", region=LEFT), Rule(name="w", ignore=True)),
    "two halves": (Rule(name="left", region=LEFT, ignore=True), Rule(name="right", region=RIGHT, ignore=True)),
    "larger than the part": (Rule(name="w", region=Region(0, 0, 999, 999), ignore=True),),
    "min_area of the whole": (Rule(name="w", min_area=64 * 64 + 1),),
    "min_area of the rest": (Rule(name="w", min_area=64 * 32 + 1), Rule(name="left", region=LEFT, ignore=True)),
}


@pytest.mark.parametrize("rules", NOTHING_LEFT.values(), ids=NOTHING_LEFT.keys())
def test_rules_that_leave_nothing_to_inspect_are_refused(rules: tuple[Rule, ...]) -> None:
    """Every part would pass, whatever it shows."""
    with pytest.raises(ConfigError, match="every part would pass"):
        RuleMaps.of(rules, 0.5, PLACEMENT)


def test_rules_that_leave_something_are_not() -> None:
    """One pixel is enough, and so is a later rule that inspects; a least area that the rest can just reach counts."""
    strip = Region(100, 200, 62, 64)
    assert np.isfinite(RuleMaps.of((Rule(name="s", region=strip, ignore=True),), 0.5, PLACEMENT).thresholds).any()
    RuleMaps.of((Rule(name="w", ignore=True), Rule(name="left", region=LEFT)), 0.5, PLACEMENT)
    RuleMaps.of((Rule(name="w", min_area=64 * 64),), 0.5, PLACEMENT)


def test_rules_that_ignore_everything_are_known_without_the_size() -> None:
    """Only the last rules that count everywhere decide."""
    whole, left = Rule(name="w", ignore=True), Rule(name="left", region=LEFT)
    assert ignore_everything((whole,))
    assert ignore_everything((left, whole))
    assert ignore_everything((whole, Rule(name="label", region=LEFT, ignore=True)))
    assert not ignore_everything((whole, left))
    assert not ignore_everything((left, Rule(name="right", region=RIGHT, ignore=True)))
    assert not ignore_everything(())


def test_a_pass_lists_no_defects() -> None:
    """By the score: what the map shows is no defect. A part in review lists it, for the person who looks."""
    below = THRESHOLDS.score - 0.01
    for review_from, outcome, listed in ((None, "PASS", 0), (below, "REVIEW", 1)):
        judged = judge(Inspection(below, spot(6, 6, value=1.0)), THRESHOLDS, PLACEMENT, review_from=review_from)
        assert (judged.outcome, len(judged.defects)) == (outcome, listed)
