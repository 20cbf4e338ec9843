"""Rendered parts for the trainer's tests: brushed plates with a ring, some with a dark spot whose mask is known."""

import json
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.anoseg_train_command import run
from support.made_once import made_once


def plate(rng, height=96, width=128):
    """A good part, uint8 [h, w, 3]: vertical brush marks, a ring in the middle, changing light."""
    brushed = cv2.GaussianBlur(rng.normal(0, 14, (height, width)).astype(np.float32), (0, 0), sigmaX=0.6, sigmaY=9)
    image = np.repeat(150 + 3 * brushed[:, :, None] + rng.uniform(-12, 12), 3, axis=2)
    cv2.circle(image, (width // 2, height // 2), height // 4, (90, 95, 100), 5, cv2.LINE_AA)
    return np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)


def with_spot(rng, image):
    """The part with a dark spot, and its mask (bool [h, w])."""
    mask = np.zeros(image.shape[:2], np.uint8)
    centre = int(rng.integers(15, image.shape[1] - 15)), int(rng.integers(15, image.shape[0] - 15))
    cv2.circle(mask, centre, int(rng.integers(5, 9)), 255, -1)
    spoiled = image.copy()
    spoiled[mask > 0] = (spoiled[mask > 0] * 0.3).astype(np.uint8)
    return spoiled, mask


@pytest.fixture(name="plate", scope="session")
def plate_fixture():
    """`plate`, since test modules cannot import their conftest."""
    return plate


@pytest.fixture(scope="session")
def product(tmp_path_factory) -> Path:
    """A product in the MVTec AD layout: 60 good images, 8 + 8 test images, one of the masks empty."""
    return made_once(tmp_path_factory, "product", write_product)


def write_product(root: Path) -> None:
    rng = np.random.default_rng(5)
    for folder in ("train/good", "test/good", "test/spot", "ground_truth/spot"):
        (root / folder).mkdir(parents=True)
    for i in range(60):
        cv2.imwrite(str(root / f"train/good/{i:03d}.png"), plate(rng))
    for i in range(8):
        cv2.imwrite(str(root / f"test/good/{i:03d}.png"), plate(rng))
        spoiled, mask = with_spot(rng, plate(rng))
        cv2.imwrite(str(root / f"test/spot/{i:03d}.png"), spoiled)
        cv2.imwrite(str(root / f"ground_truth/spot/{i:03d}_mask.png"), mask * (i > 0))


@pytest.fixture(scope="session")
def trained(product, tmp_path_factory):
    """A bundle from a short training on the rendered product, and the output of the command."""

    def train(folder: Path) -> None:
        (folder / "train.yaml").write_text(
            "input: {height: 96, width: 128}\nnetwork: {widths: [16, 16, 32, 32, 32]}\nviews: {places: 0}\n"
            "training: {batch: 8, ema: 0.95, validate_every: 100, learning_rate: 0.004, threads: 1}\n"
        )
        options = ("--config", folder / "train.yaml", "--steps", 160, "--seed", 1, "--work", folder / "work", "--release")
        done = run("fit", "--data", product, "--out", folder / "store" / "plate", *options)
        assert done.returncode == 0, done.stderr
        (folder / "done.json").write_text(json.dumps([done.stdout, done.stderr]))

    folder = made_once(tmp_path_factory, "trained", train)
    stdout, stderr = json.loads((folder / "done.json").read_text())
    return folder / "store" / "plate", subprocess.CompletedProcess(["anoseg-train", "fit"], 0, stdout, stderr)
