"""Which images become the golden images of a bundle."""

from pathlib import Path

import pytest

from anoseg_trainer.bundle_creation import GOLDEN_EACH
from anoseg_trainer.config import load_config
from anoseg_trainer.pipeline import fit


def test_the_clearest_synthetic_defects_become_golden(product: Path, tmp_path: Path) -> None:
    """A golden image next to the threshold would keep a later threshold, INT8 or `learn-good` from proving itself."""
    (tmp_path / "train.yaml").write_text("input: {height: 96, width: 128}\nmemory: {vectors: 500}\nfalse_reject: 0.1\n")
    config = load_config(tmp_path / "train.yaml")
    fitted = fit(product, tmp_path / "store" / "plate", config, seed=0, work=tmp_path / "work", quick=True)
    rejected = [sample.score for sample in fitted.bundle.manifest.golden if sample.verdict == "FAIL"]
    assert len(rejected) == GOLDEN_EACH
    assert rejected == pytest.approx(sorted(fitted.study.synthetic, reverse=True)[:GOLDEN_EACH], abs=1e-4)
