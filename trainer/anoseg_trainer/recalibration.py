"""What the commands that change a finished bundle share.

They load the bundle, find out which good images its training used or held out, and judge the golden images again.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from anoseg_engines.bundle import INT8, NOT_PROMISED, Bundle, GoldenSample, load_bundle, store_of
from anoseg_engines.errors import ConfigError
from anoseg_engines.runtimes.tensorrt.plan_store import PlanStore
from anoseg_trainer.data.good_images import CALIBRATION_DIGESTS, DIGEST, GoodImages, find_good_images, read_good_images
from anoseg_trainer.data.parts import Parts, find_parts

CALIBRATED_AFTER_TRAINING = "split conformal over good images, calibrated after training"
"""Method of a calibration by `calibrate`, for the manifest."""
CALIBRATED = "calibrated"
"""Key of the manifest's training record: digests of the images that `calibrate` set the threshold from, and `holdout.group`."""
OnImage = Callable[[int, int], None]
"""Called after each image with the number of images inspected and the total."""


@dataclass(frozen=True, slots=True)
class CalibrationImages:
    """The good images of a calibration.

    Attributes:
        parts: The parts that they show.
        used: Number of images that the training used.
        digests: Digest of each image.
        group: Regular expression over file names that says which images show the same part.
        notes: Remarks for the user.
    """

    parts: Parts
    used: int
    digests: tuple[str, ...]
    group: str
    notes: tuple[str, ...]

    @classmethod
    def of(
        cls, images: GoodImages, bundle: Bundle, group: str | None = None, *, cut: Mapping[Path, str] | None = None
    ) -> CalibrationImages:
        """Compare the images with each other, and with those that `bundle` was trained on.

        Args:
            images: The good images.
            bundle: The bundle that is calibrated.
            group: Regular expression over file names that says which images show the same part; None: as in the training.
            cut: As in `GoodImages.used_in`.
        """
        training = bundle.manifest.training
        notes = list(images.notes)
        inherited = group is None
        group = _group_of(bundle) if group is None else group
        parts = find_parts(images, group, notes.append, inherited=inherited)
        used = len(images.used_in(training, cut))
        if images.fingerprint == training.get("data_fingerprint"):
            used = len(images.paths)
        found = cls(parts, used, images.pixel_digests, group, tuple(notes))
        if used:
            hint = "so this says little about other parts: calibrate with good images that were not used for training"
            found = dataclasses.replace(found, notes=(*notes, f"{found._trained_on}, {hint}"))
        return found

    @property
    def held_out(self) -> bool:
        """Whether none of the images was used for training."""
        return not self.used

    @property
    def _trained_on(self) -> str:
        which = "these images" if self.used == len(self.parts.numbers) else f"{self.used} of these images"
        return f"the network was trained on {which}"

    def qualify(self, guarantee: str) -> str:
        """If the images were not held out, return a guarantee that promises nothing, and says what it would be."""
        if self.held_out:
            return guarantee
        if guarantee.startswith(NOT_PROMISED):
            return f"{guarantee}; also, {self._trained_on}"
        return f"{NOT_PROMISED}, because {self._trained_on}; with images that were not used for training: {guarantee}"

    def record(self) -> dict[str, Any] | None:
        """Describe the images for the manifest's training record; None if they could not set a threshold with a promise."""
        return {"digests": [digest[:DIGEST] for digest in self.digests], "group": self.group} if self.held_out else None


@dataclass(frozen=True, slots=True)
class HeldOutImages:
    """The good images that set the score threshold, as far as they were found.

    These are the images of the last `calibrate`, or else those that the training held out.

    Attributes:
        paths: The images.
        parts: Part number of each.
        parts_known: Whether the part numbers can be relied on.
        missing: Number of images that were not found; None if the bundle does not say which images set the threshold.
    """

    paths: tuple[Path, ...]
    parts: tuple[int, ...]
    parts_known: bool
    missing: int | None

    @classmethod
    def find(cls, folder: Path, bundle: Bundle) -> HeldOutImages:
        """Look for the images in `folder` by their pixels; whatever their names are.

        Raises:
            DataError: The folder or one of its images cannot be used.
        """
        calibrated = bundle.manifest.training.get(CALIBRATED)
        wanted = set(calibrated["digests"]) if calibrated else _held_out_by_training(bundle)
        images = read_good_images(find_good_images(folder))
        parts = find_parts(images, str(calibrated["group"]) if calibrated else _group_of(bundle), inherited=True)
        digests = [digest[:DIGEST] for digest in images.pixel_digests]
        found = [i for i, digest in enumerate(digests) if digest in wanted]
        return cls(
            paths=tuple(images.paths[i] for i in found),
            parts=tuple(int(number) for number in parts.numbers[np.array(found, int)]),
            parts_known=parts.known,
            missing=len(wanted - set(digests)) if wanted else None,
        )


def held_out_digests(bundle: Bundle) -> set[str]:
    """Return the digests of the images that the training and the last `calibrate` held out for the score threshold."""
    calibrated = bundle.manifest.training.get(CALIBRATED) or {}
    return _held_out_by_training(bundle) | set(calibrated.get("digests") or ())


def threshold_images_known(bundle: Bundle) -> bool:
    """Return whether the bundle says which images set its score threshold."""
    training = bundle.manifest.training
    if bundle.manifest.calibration.method == CALIBRATED_AFTER_TRAINING:
        return bool(training.get(CALIBRATED))
    return CALIBRATION_DIGESTS in training


def rejudged(
    samples: Iterable[tuple[str, GoldenSample]], threshold: float, margin: float
) -> tuple[list[GoldenSample], list[str]]:
    """Judge golden samples at another threshold, or with other scores.

    Args:
        samples: Names and samples, with their new score and their old verdict.
        threshold: The score threshold.
        margin: Least distance of a golden sample from the threshold.

    Returns:
        The samples that are well away from the threshold, with their new verdict, and notes for the user.
    """
    kept, notes = [], []
    for name, sample in samples:
        verdict: Literal["PASS", "FAIL"] = "FAIL" if sample.score >= threshold else "PASS"
        if abs(sample.score - threshold) < margin:
            notes.append(f"{name} is left out: its score {sample.score:.4f} is too close to the new threshold")
            continue
        if verdict != sample.verdict:
            notes.append(f"{name}, score {sample.score:.4f}, was {sample.verdict} and is {verdict} now")
        kept.append(dataclasses.replace(sample, verdict=verdict))
    return kept, notes


def check_runtime(runtime: str) -> None:
    """Refuse the INT8 network as the source of a threshold: the next version, which gets the threshold, has none.

    Raises:
        ConfigError: It is `cpu-int8`.
    """
    if runtime == f"cpu-{INT8}":
        raise ConfigError(
            f"--runtime {runtime}: the next version has no INT8 network, so its scores say nothing about that version",
            hint="use --runtime cpu",
        )


def missing_verdicts(kept: Iterable[GoldenSample]) -> list[str]:
    """Say which verdict no golden sample has."""
    left = {sample.verdict for sample in kept}
    return [
        f"no golden image has the verdict {verdict}: the bundle's self-test checks less"
        for verdict in ("PASS", "FAIL")
        if verdict not in left
    ]


def load_version(path: Path) -> tuple[Bundle, Path]:
    """Load a bundle, and find STORE/NAME where its next version goes.

    Raises:
        ConfigError: There is no bundle, or it is not in a store.
        EngineError: The bundle is damaged.
    """
    bundle = load_bundle(path)
    return bundle, store_of(bundle)


def plan_notes(before: Bundle) -> list[str]:
    """Remind of the TensorRT plan and of the INT8 network, if the earlier version has them: the new one does not."""
    notes = []
    if PlanStore.of(before).folder.is_dir():
        notes.append("a TensorRT plan belongs to one version: run `anoseg-engine build` for the new one before a line uses it")
    if before.int8 is not None:
        notes.append("the new version has no INT8 network: it was fitted to the version before. Only `fit` makes one")
    return notes


def _held_out_by_training(bundle: Bundle) -> set[str]:
    return set(bundle.manifest.training.get(CALIBRATION_DIGESTS) or ())


def _group_of(bundle: Bundle) -> str:
    """Return the training's regular expression over file names that says which images show the same part."""
    config = bundle.manifest.training.get("config")
    holdout = config.get("holdout") if isinstance(config, dict) else None
    return str(holdout.get("group") or "") if isinstance(holdout, dict) else ""
