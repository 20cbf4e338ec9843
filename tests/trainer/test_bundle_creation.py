"""Which images become the golden images of a bundle."""

from pathlib import Path

import pytest

from anoseg_engines.bundle import GoldenTolerance
from anoseg_trainer.bundle_creation import GOLDEN_EACH, golden_defects
from anoseg_trainer.config import load_config
from anoseg_trainer.pipeline import fit


def test_golden_defects_are_the_clearest_the_faintest_and_one_between() -> None:
    """All are clearly above the threshold, so that a later one, INT8 or `learn-good` still rejects them."""
    scores = [0.31, 0.99, 0.2, 0.6, 0.99, 0.45, 0.9]
    assert golden_defects(scores, 0.2) == [1, 5, 6, 4, 3, 0, 2]
    assert golden_defects(scores, 0.7) == [1, 6, 4, 3, 5, 0, 2]
    assert golden_defects([0.5, 0.6], 0.9) == [1, 0], "none is clear: the clearest first"
    assert golden_defects([], 0.5) == []


def test_no_good_part_becomes_a_golden_defect(product: Path, tmp_path: Path) -> None:
    """The threshold may reject some good parts. If they were golden images, `learn-good` would refuse parts like them."""
    (tmp_path / "train.yaml").write_text("input: {height: 96, width: 128}\nmemory: {vectors: 500}\nfalse_reject: 0.3\n")
    config = load_config(tmp_path / "train.yaml")
    fitted = fit(product, tmp_path / "store" / "plate", config, seed=0, work=tmp_path / "work", quick=True)
    threshold = fitted.bundle.manifest.score_threshold
    assert max(fitted.study.scores) >= threshold + GoldenTolerance().margin, "a good part is clearly rejected"
    rejected = [sample.score for sample in fitted.bundle.manifest.golden if sample.verdict == "FAIL"]
    wanted = [fitted.study.synthetic[i] for i in golden_defects(fitted.study.synthetic, threshold)[:GOLDEN_EACH]]
    assert rejected == pytest.approx(wanted, abs=1e-3)
