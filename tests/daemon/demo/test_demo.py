"""The demo: the real daemon inspects rendered parts, and its verdicts are compared with the truth."""

import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.tiny_bundle import write_tiny_bundle

from anoseg_engines.errors import ConfigError
from anoseg_engines.images import read_image
from anosegd.demo.images import write_demo_images
from anosegd.demo.line import DEFECTS, DemoLine, part_index


def test_the_line_is_a_function_of_seed_and_index() -> None:
    """Equal seed and index give equal pixels and defect, so two processes can render the same part."""
    for index in range(12):
        one, other = DemoLine(7).part(index), DemoLine(7).part(index)
        assert (one.image == other.image).all()
        assert one.defect == other.defect
        assert part_index(one.part_id) == index
    assert (DemoLine(8).part(0).image != DemoLine(7).part(0).image).any()


@pytest.mark.parametrize("defect", sorted(DEFECTS))
def test_only_defective_parts_have_a_mask(defect: str) -> None:
    """A defective part has a mask of a plausible size, a good one has none."""
    for seed in range(5):
        bad = DemoLine.render(np.random.default_rng(seed), defect, "x")
        assert bad.mask.any()
        assert not DemoLine.render(np.random.default_rng(seed), None, "x").mask.any()
        share = (bad.mask > 0).mean()
        assert 0.0005 < share < 0.05


def test_demo_images_are_in_the_mvtec_layout(tmp_path: Path) -> None:
    """Good images for training, every defect with its mask for evaluation. Old files are never overwritten."""
    folder = tmp_path / "images"
    assert write_demo_images(folder, n_train=3, n_test=2, n_calibration=4) == 3 + 2 + 2 * len(DEFECTS) + 4
    for defect in DEFECTS:
        stems = [p.stem for p in sorted((folder / "test" / defect).iterdir())]
        masks = [p.name for p in sorted((folder / "ground_truth" / defect).iterdir())]
        assert masks == [f"{stem}_mask.png" for stem in stems]
    assert read_image(folder / "train" / "good" / "000.png").shape == (320, 320, 3)
    with pytest.raises(ConfigError, match="not empty"):
        write_demo_images(folder)


def test_every_part_of_the_demo_gets_a_verdict(tmp_path: Path) -> None:
    """The command starts the daemon, receives its verdicts, compares them with the truth and names the pictures' folder."""
    write_tiny_bundle(tmp_path / "store" / "tiny")
    out = tmp_path / "out"
    bundle = str(tmp_path / "store" / "tiny")
    command = [sys.executable, "-m", "anosegd", "demo", "--out", str(out), "--parts", "20", "--fps", "20", "--bundle", bundle]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr + (out / "daemon.log").read_text()
    assert "20 of 20 parts have a verdict" in done.stdout
    assert str(out / "overlays") in done.stdout
    # the tiny network calls every part defective: the dark bore is far from middle grey
    pictures = sorted((out / "overlays").iterdir())
    assert len(pictures) == 20
    picture = cv2.imread(str(pictures[0]))
    assert picture is not None
    assert picture.shape == (320, 640, 3)


def test_the_shipped_bundle_finds_what_is_on_the_part(tmp_path: Path) -> None:
    """The committed bundle, trained by the trainer, catches defects of every kind on parts it has not seen."""
    from anoseg_engines.bundle import load_bundle
    from anoseg_engines.judgement import judge
    from anoseg_engines.loading import load_engine
    from anoseg_engines.placement import Region
    from anosegd.demo.line import SIZE
    from anosegd.demo.run import demo_bundle

    engine = load_engine(load_bundle(demo_bundle()))
    placement = engine.place(Region(0, 0, SIZE, SIZE))
    parts = [DemoLine(seed=99, defect_share=0.5).part(i) for i in range(120)]
    failed = [judge(engine.inspect(p.image, placement), engine.thresholds, placement).outcome == "FAIL" for p in parts]
    engine.close()
    defects = sorted({p.defect for p in parts if p.defect})
    assert defects == ["chip", "dent", "missing_hole", "scratch", "stain"]
    caught = {d: np.mean([f for f, p in zip(failed, parts, strict=True) if p.defect == d]) for d in defects}
    rejected = np.mean([f for f, p in zip(failed, parts, strict=True) if not p.defect])
    assert min(caught.values()) >= 0.85, caught
    assert rejected <= 0.05
