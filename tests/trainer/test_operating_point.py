import numpy as np
import pytest

from anoseg_trainer.operating_point import at_threshold, curves, rejecting, rejecting_share, trade_off

GOOD = [k / 100 for k in range(50)]  # 0.00 … 0.49
BAD = [0.2, 0.47, 0.48, 0.49, 0.9]


def test_a_score_at_the_threshold_is_a_reject():
    """The line rejects a part at the threshold or above, so escapes are those below."""
    point = at_threshold(GOOD, BAD, 0.49)
    assert (point.escapes, point.false_rejects) == (3, 1)
    assert point.escapes_cell == "3 of 5 (60.0 %)"
    assert point.recall == pytest.approx(0.4)


def test_escapes_are_counted_where_at_most_two_percent_of_the_good_are_rejected():
    """One of 50 good images is 2 %: the threshold is just above the second highest. Of 49 images none may be rejected."""
    threshold = rejecting_share(GOOD, 0.02)
    assert 0.48 < threshold < 0.4801
    assert at_threshold(GOOD, BAD, threshold).false_rejects == 1
    assert at_threshold(GOOD, BAD, threshold).escapes == 3
    assert at_threshold(GOOD[1:], BAD, rejecting_share(GOOD[1:], 0.02)).false_rejects == 0


def test_recall_without_a_false_reject_counts_what_scores_above_every_good_image():
    """A defect with the score of the best good image is not found without rejecting that image."""
    assert at_threshold(GOOD, BAD, rejecting(GOOD, 0)).recall == pytest.approx(0.2)
    assert at_threshold(GOOD, [], rejecting(GOOD, 0)).recall is None


def test_equal_scores_are_rejected_together():
    """Three good images share the highest score: to reject at most one, none may be."""
    good = [0.1, 0.5, 0.5, 0.5]
    assert at_threshold(good, [], rejecting(good, 1)).false_rejects == 0
    assert rejecting(good, 4) == 0


def test_a_trade_off_has_a_row_for_each_count_and_a_column_for_each_kind():
    """More rejected good parts, fewer defects that pass; a kind without images has no column."""
    head, *rows = trade_off(GOOD, {"synthetic defects": BAD, "real defects": []})
    assert head == ["good parts rejected", "threshold", "synthetic defects that pass"]
    assert rows[0] == ["0 of 50 (0.0 %)", "0.4901", "4 of 5 (80.0 %)"]
    assert [row[0].split()[0] for row in rows] == ["0", "1", "2", "3", "5", "8"]


def test_a_threshold_of_the_trade_off_does_what_its_row_says():
    """Set to the digits that the table shows, it rejects the good parts that the row counts, and not one more."""
    good = [0.12961, 0.12816, 0.12814, 0.1227, 0.1190, 0.99999, 1.0] + [0.05] * 20
    rows = trade_off(good, {"defects": BAD})[1:]
    assert len(rows) == len({row[1] for row in rows})
    for rejected, threshold, passed in rows:
        point = at_threshold(good, BAD, float(threshold))
        assert (point.false_rejects_cell, point.escapes_cell) == (rejected, passed)


def test_curves_are_the_shares_of_the_table():
    """At each threshold: good parts rejected, and defects that pass."""
    lines = curves(GOOD, {"defects": BAD}, points=5)
    rejected, passed = (dict(np.round(lines[name], 6).tolist()) for name in ("good parts rejected", "defects that pass"))
    assert rejected[0.0] == 1
    assert rejected[0.25] == pytest.approx(0.5)
    assert passed[0.25] == pytest.approx(0.2)
    assert passed[1.0] == 1
