"""Loads the bundle for both kinds of calibration, and finds out whether the good images were used for its training."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from anoseg_engines.bundle import Bundle, load_bundle, store_of
from anoseg_engines.runtimes.tensorrt.plan_store import PlanStore
from anoseg_trainer.data.good_images import GoodImages
from anoseg_trainer.data.parts import Parts, find_parts

OnImage = Callable[[int, int], None]
"""Called after each image with the number of images inspected and the total."""


@dataclass(frozen=True, slots=True)
class CalibrationImages:
    """The good images of a calibration.

    Attributes:
        parts: The parts that they show.
        used: Number of images that the training used.
        notes: Remarks for the user.
    """

    parts: Parts
    used: int
    notes: tuple[str, ...]

    @classmethod
    def of(cls, images: GoodImages, bundle: Bundle, group: str | None = None) -> CalibrationImages:
        """Compare the images with each other, and with those that `bundle` was trained on.

        Args:
            images: The good images.
            bundle: The bundle that is calibrated.
            group: Regular expression over file names that says which images show the same part; None: as in the training.
        """
        training = bundle.manifest.training
        config = training.get("config")
        holdout = config.get("holdout") if isinstance(config, dict) else None
        trained_with = holdout.get("group") if isinstance(holdout, dict) else ""
        notes = list(images.notes)
        parts = find_parts(images, str(trained_with or "") if group is None else group, notes.append)
        used = len(images.used_in(training))
        if images.fingerprint == training.get("data_fingerprint"):
            used = len(images.paths)
        found = cls(parts, used, tuple(notes))
        if used:
            note = f"{found.not_held_out}: calibrate with good images that were not used for training"
            found = dataclasses.replace(found, notes=(*notes, note))
        return found

    @property
    def held_out(self) -> bool:
        """Whether none of the images was used for training."""
        return not self.used

    @property
    def not_held_out(self) -> str:
        """Say what the images were used for."""
        which = "these images" if self.used == len(self.parts.numbers) else f"{self.used} of these images"
        return f"the network was trained on {which}, so this says little about other parts"

    def qualify(self, guarantee: str) -> str:
        """If the images were not held out, add a sentence to the guarantee that says so."""
        return guarantee if self.held_out else f"{guarantee}; but {self.not_held_out}"


def load_version(path: Path) -> tuple[Bundle, Path]:
    """Load a bundle, and find STORE/NAME where its next version goes.

    Raises:
        ConfigError: There is no bundle, or it is not in a store.
        EngineError: The bundle is damaged.
    """
    bundle = load_bundle(path)
    return bundle, store_of(bundle)


def plan_notes(before: Bundle) -> list[str]:
    """Remind of the TensorRT plan, if the earlier version has one."""
    if not PlanStore.of(before).folder.is_dir():
        return []
    return ["a TensorRT plan belongs to one version: run `anoseg-engine build` for the new one before a line uses it"]
