"""Writes images of the demo line in the MVTec AD layout, for training and evaluating the demo's bundle."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from anoseg_engines.errors import ConfigError
from anosegd.demo.line import DEFECTS, DemoLine


def write_demo_images(folder: Path, *, n_train: int = 600, n_test: int = 40, n_calibration: int = 400, seed: int = 1) -> int:
    """Render images for training, evaluation and calibration.

    The seed differs from the demo's, so the demo shows parts that training has not seen.

    Args:
        folder: A new or empty folder.
        n_train: Number of good parts for training.
        n_test: Number of parts of each kind (good and every defect) for evaluation.
        n_calibration: Number of further good parts, from which the score threshold is calibrated.
        seed: Another seed gives other parts.

    Returns:
        The number of images written.

    Raises:
        ConfigError: The folder is not empty, or cannot be written.
    """
    if folder.exists() and any(folder.iterdir()):
        raise ConfigError(f"{folder}: is not empty", hint="give a new folder, or delete this one")
    kinds: list[tuple[str, str | None, int]] = [("train/good", None, n_train), ("test/good", None, n_test)]
    kinds += [(f"test/{defect}", defect, n_test) for defect in sorted(DEFECTS)]
    kinds.append(("calibration", None, n_calibration))
    written = 0
    for sub, defect, count in kinds:
        for i in range(count):
            part = DemoLine.render(np.random.default_rng([seed, written]), defect, f"{i:03d}")
            _save(folder / sub / f"{part.part_id}.png", part.image)
            if defect is not None:
                _save(folder / "ground_truth" / defect / f"{part.part_id}_mask.png", part.mask)
            written += 1
    return written


def _save(path: Path, image: NDArray[np.uint8]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    if not cv2.imwrite(str(path), image):
        raise ConfigError(f"{path}: cannot be written")
