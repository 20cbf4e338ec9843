"""A good image is decoded once, however many consumers its pixels have."""

import hashlib
import weakref
from collections import Counter

import cv2
import msgspec
import numpy as np
import pytest
from support.tiny_bundle import write_tiny_bundle

from anoseg_trainer.commands.calibrate import calibrate_score
from anoseg_trainer.commands.calibrate_rules import calibrate_rules
from anoseg_trainer.config import InputConfig, NetworkConfig, TrainConfig, TrainingConfig
from anoseg_trainer.data.good_images import find_good_images, read_good_images
from anoseg_trainer.data.station_camera import CameraRules
from anoseg_trainer.pipeline import fit


@pytest.fixture
def decodes(monkeypatch):
    """How often each file's bytes were decoded, by their SHA-256."""
    counts = Counter()
    decode = cv2.imdecode

    def counted(data, flags):
        counts[hashlib.sha256(data.tobytes()).hexdigest()] += 1
        return decode(data, flags)

    monkeypatch.setattr(cv2, "imdecode", counted)
    return counts


def decodes_of(decodes, paths):
    return [decodes[hashlib.sha256(path.read_bytes()).hexdigest()] for path in paths]


def test_a_training_decodes_each_image_once(product, tmp_path, decodes):
    """Checks, thumbnails, choice of the input, scaled parts, calibration and golden samples: one decode for each file."""
    config = TrainConfig(
        input=InputConfig(),
        network=NetworkConfig(widths=(16, 16, 32, 32, 32)),
        training=TrainingConfig(steps=30, batch=8, ema=0.8, learning_rate=0.004, threads=1),
    )
    (tmp_path / "good").mkdir()
    for path in find_good_images(product):  # as BMP, because a golden sample in the bundle may have the bytes of its PNG file
        cv2.imwrite(str(tmp_path / "good" / f"{path.stem}.bmp"), cv2.imread(str(path)))
    fitted = fit(tmp_path / "good", tmp_path / "store" / "x", config, seed=1, work=tmp_path / "work")
    assert fitted.bundle.manifest.golden
    assert decodes_of(decodes, find_good_images(tmp_path / "good")) == [1] * 60


def test_a_calibration_decodes_each_image_once(tmp_path, decodes):
    """Of the score and of rules; also where good images become golden samples."""
    write_tiny_bundle(tmp_path / "tiny")
    rng = np.random.default_rng(0)
    (tmp_path / "good").mkdir()
    for i in range(12):
        image = np.clip(rng.normal(128, 4, (48, 80, 3)), 100, 156).astype(np.uint8)
        cv2.imwrite(str(tmp_path / "good" / f"{i:02d}.png"), image)
    paths = find_good_images(tmp_path / "good")
    calibrate_score(tmp_path / "tiny", tmp_path / "good", 0.1)
    assert decodes_of(decodes, paths) == [1] * 12
    calibrate_rules(tmp_path / "tiny", tmp_path / "good", msgspec.convert({"rules": [{"name": "all"}]}, CameraRules), 0.3)
    assert decodes_of(decodes, paths) == [2] * 12


def test_one_image_is_in_memory_at_a_time(product):
    """When an image is handed on, the earlier ones have been released: memory does not grow with the folder."""

    alive = []

    def consume(_, image):
        assert all(reference() is None for reference in alive)
        alive.append(weakref.ref(image))

    read_good_images(find_good_images(product), consume)
    assert len(alive) == 60
