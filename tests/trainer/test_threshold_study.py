from pathlib import Path

import numpy as np
import pytest

from anoseg_trainer.threshold_study import ThresholdStudy
from anoseg_trainer.thresholds import MARGIN, conformal_threshold


def study_of(scores, *, parts=None, synthetic=(), real=None, false_reject=0.01, known=True):
    parts = list(range(len(scores))) if parts is None else parts
    return ThresholdStudy(
        threshold=conformal_threshold(np.array(scores), false_reject, parts=parts),
        false_reject=false_reject,
        parts_known=known,
        paths=[Path(f"{i:03}.png") for i in range(len(scores))],
        scores=scores,
        parts=parts,
        synthetic=list(synthetic),
        real=real or {},
    )


def test_one_odd_good_image_is_named_with_what_it_costs():
    """It sets a threshold at which nearly all defects escape: its name, the threshold and the catch without it are said."""
    scores = [k / 100 for k in range(20)] + [0.9]
    study = study_of(scores, synthetic=[0.4, 0.5, 0.6, 0.95])
    assert study.threshold.value == pytest.approx(0.9 + MARGIN)
    first, second = study.highest_good(2)
    assert (first.path.name, first.sets, second.sets) == ("020.png", True, False)
    assert first.threshold_without == pytest.approx(0.19 + MARGIN)
    assert first.caught_without == {"synthetic defects": 1.0}
    assert second.caught_without == {"synthetic defects": 0.25}
    lines = "\n".join(study.lines())
    assert "020.png sets the threshold" in lines
    assert "Look at 020.png: without it the threshold would be 0.2001, and 100% of the synthetic defects" in lines
    assert "instead of 25%" in lines
    assert "synthetic defects that pass at the threshold 0.9101: 3 of 4 (75.0 %)" in lines


def test_a_few_odd_images_are_named_together():
    """Leaving one out changes little, because the next is as odd: all are named, up to one part in twenty."""
    study = study_of([k / 200 for k in range(57)] + [0.6, 0.62, 0.64], synthetic=[0.4, 0.5, 0.61, 0.95])
    words = study.odd_words()
    assert words.startswith("Look at 059.png, 058.png, 057.png: without them the threshold would be 0.2901")
    assert "100% of the synthetic defects would be rejected instead of 25%" in words


def test_no_image_is_suspected_where_none_costs_much():
    """Evenly spread good scores: nobody is asked to look at one."""
    study = study_of([k / 100 for k in range(20)], synthetic=[0.4, 0.5, 0.6])
    assert study.odd() is None
    assert "Look at" not in "\n".join(study.lines())


def test_rejected_images_are_above_the_one_that_sets_the_threshold():
    """With one reject allowed, the second highest sets the threshold."""
    study = study_of([k / 100 for k in range(39)], false_reject=0.05, synthetic=[0.9])
    high = study.highest_good(3)
    assert [part.sets for part in high] == [False, True, False]
    assert high[0].score > study.threshold.value or study.threshold.value < high[1].score + 2 * MARGIN


def test_a_part_of_several_images_is_one():
    """The image with the highest score stands for its part; without the part, none of its images counts."""
    scores = [0.1, 0.2, 0.8, 0.7]
    high = study_of(scores, parts=[0, 0, 1, 1], synthetic=[0.5]).highest_good()
    assert [(part.path.name, part.score) for part in high] == [("002.png", 0.8), ("001.png", 0.2)]
    assert high[0].threshold_without == pytest.approx(0.2 + MARGIN)


def test_real_defects_judge_where_there_are_some():
    """The report's answer is about real defects, if the data folder has some; both have a column in the table."""
    study = study_of([0.1] * 10, synthetic=[0.9] * 4, real={Path("a.png"): 0.05, Path("b.png"): 0.8})
    assert study.defects == ("real defects", [0.05, 0.8])
    assert study.point.escapes == 1
    assert study.trade_off()[0][2:] == ["synthetic defects that pass", "real defects that pass"]


def test_an_unknown_promise_is_not_a_number():
    """Where parts are not known, the line is told to count."""
    assert "is not known" in "\n".join(study_of([0.1] * 10, synthetic=[0.5], known=False).lines())
