"""Records a training in the manifest: all that is needed to repeat it, and the versions with which it was made."""

from __future__ import annotations

import dataclasses
import platform
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from anoseg_engines.version import installed_version
from anoseg_trainer.config import TrainConfig
from anoseg_trainer.data.good_images import CALIBRATION_DIGESTS, DIGEST, PIXEL_DIGESTS, GoodImages
from anoseg_trainer.data.part_store import PartStore
from anoseg_trainer.data.split import Split
from anoseg_trainer.model.detector import Detector, count_macs
from anoseg_trainer.model.encoder import WeightsOrigin
from anoseg_trainer.model.from_bundle import detector_record
from anoseg_trainer.training import TrainingResult
from anoseg_trainer.validation import ValidationCase

GOOD_VALUES = "good_values"
"""Key of the training record: median of each value of the detector over held-out good parts."""


@dataclass(frozen=True, slots=True)
class Product:
    """The data of a product and the choices made for it: all that its bundles are made from, besides a trained network.

    Attributes:
        config: The configuration, with every value chosen.
        images: The good images.
        groups: Group of each image, int64 [n]: images that are held out together, and not compared with each other.
        split: Which images are for what.
        store: The scaled parts.
        cases: Held-out good images and synthetic defects.
        background: Whether parts are on a plain background.
        origin: Where the pretrained encoder's weights come from; None if there is none.
        seed: Seed of all random choices.
    """

    config: TrainConfig
    images: GoodImages
    groups: NDArray[np.int64]
    split: Split
    store: PartStore
    cases: list[ValidationCase]
    background: bool
    origin: WeightsOrigin | None
    seed: int


def training_record(product: Product, detector: Detector, result: TrainingResult | None) -> dict[str, Any]:
    """Return the record as plain data; `result` is None if no network was trained."""
    config, split = product.config, product.split
    return {
        "config": msgspec.to_builtins(config),
        "seed": product.seed,
        "data_fingerprint": product.images.fingerprint,
        PIXEL_DIGESTS: [product.images.pixel_digests[i][:DIGEST] for i in (*split.train, *split.validation)],
        CALIBRATION_DIGESTS: [product.images.pixel_digests[i][:DIGEST] for i in split.calibration],
        "images": {
            "train": len(split.train),
            "validation": len(split.validation),
            "calibration": len(split.calibration),
            "calibration_parts": split.calibration_groups,
        },
        "encoder": None if product.origin is None else dataclasses.asdict(product.origin),
        "detector": detector_record(detector),
        "steps": 0 if result is None else result.steps,
        "seconds": 0.0 if result is None else round(result.seconds, 1),
        "macs": count_macs(detector, config.input.spec.height, config.input.spec.width),
        "parameters": sum(p.numel() for p in detector.parameters()),
        "curve": [] if result is None else result.curve,
        "finished": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "source_commit": _source_commit(),
        "versions": {
            "anoseg-edge": installed_version(),
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "opencv": cv2.__version__,
        },
    }


def _source_commit() -> str | None:
    """Return the commit of the source tree that this runs from; None if it was installed from a package."""
    try:
        done = subprocess.run(
            ["git", "rev-parse", "HEAD"],
            cwd=Path(__file__).resolve().parent,
            capture_output=True,
            text=True,
            timeout=10,
            check=True,
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.strip() or None
