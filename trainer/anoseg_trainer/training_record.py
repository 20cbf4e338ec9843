"""Records a training in the manifest: all that is needed to repeat it, and the versions with which it was made."""

from __future__ import annotations

import platform
import subprocess
import time
from pathlib import Path
from typing import Any

import cv2
import msgspec
import torch

from anoseg_engines.version import installed_version
from anoseg_trainer.config import TrainConfig
from anoseg_trainer.data.good_images import GoodImages
from anoseg_trainer.data.split import Split
from anoseg_trainer.model.network import count_macs
from anoseg_trainer.training import TrainingResult


def training_record(
    config: TrainConfig, images: GoodImages, split: Split, result: TrainingResult, *, seed: int
) -> dict[str, Any]:
    """Return the record as plain data."""
    return {
        "config": msgspec.to_builtins(config),
        "seed": seed,
        "data_fingerprint": images.fingerprint,
        "images": {
            "train": len(split.train),
            "validation": len(split.validation),
            "calibration": len(split.calibration),
            "calibration_parts": split.calibration_groups,
        },
        "steps": result.steps,
        "seconds": round(result.seconds, 1),
        "macs": count_macs(result.network, config.input.spec.height, config.input.spec.width),
        "parameters": sum(p.numel() for p in result.network.parameters()),
        "curve": result.curve,
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
