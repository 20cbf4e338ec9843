"""Says what is to do for each product: train, go on, or nothing. Reads files and writes none. Main thread."""

from __future__ import annotations

import contextlib
import hashlib
from pathlib import Path
from typing import Literal, NamedTuple

from anoseg_engines.bundle import MANIFEST
from anoseg_trainer.fit_status import FitStatus, one_line, read_status
from anoseg_trainer.fleet.products_file import ProductTraining

CHECKPOINT = "checkpoint.pt"
"""As `model.checkpoint.NAME`, whose module imports PyTorch; a test compares them."""


class Plan(NamedTuple):
    """What is to do for a product.

    Attributes:
        action: `go on`: there is a checkpoint of this training.
        why: In words.
    """

    action: Literal["train", "go on", "skip"]
    why: str


def plan_of(training: ProductTraining) -> Plan:
    """Look at what is there of a product."""
    status = read_status(training.work)
    if status is None:
        return Plan("train", "new")
    if differing := list(training.key.differences(status.key)):
        return Plan("train", "; ".join(differing))
    if (finished := finished_version(training, status)) is not None:
        return Plan("skip", f"finished: version {finished}")
    if status.figures is not None:
        return Plan("train", f"version {status.figures.version} is no longer in {training.out}, or was changed")
    failed = status.state == "failed"
    reason = f": {one_line(status.error)}" if failed and status.error else ""
    if (training.work / CHECKPOINT).is_file():
        return Plan("go on", f"{'failed' if failed else 'was'} at step {status.step}{reason}")
    return Plan("train", f"{'failed' if failed else 'ended'} before its first checkpoint{reason}")


def finished_version(training: ProductTraining, status: FitStatus | None) -> int | None:
    """Return the version of a training that is finished and whose bundle is there; None otherwise."""
    if status is None or status.key != training.key or status.state != "finished" or status.figures is None:
        return None
    found = manifest_digest(training.out / str(status.figures.version))
    return status.figures.version if found == status.figures.digest else None


def manifest_digest(bundle: Path) -> str | None:
    """Return a bundle's digest; None if it is not there."""
    with contextlib.suppress(OSError):
        return hashlib.sha256((bundle / MANIFEST).read_bytes()).hexdigest()
    return None
