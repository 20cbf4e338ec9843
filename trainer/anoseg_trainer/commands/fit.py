"""`anoseg-train fit`: from a folder of good images to a finished, proved bundle."""

from __future__ import annotations

import hashlib
import importlib.metadata
import platform
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import cv2
import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from anoseg_engines.bundle.manifest import NAME, Calibration, GoldenTolerance
from anoseg_engines.bundle.read import Bundle, GoldenSample
from anoseg_engines.errors import AnosegError, ConfigError, DataError
from anoseg_engines.images import Image
from anoseg_engines.placement import InputSpec
from anoseg_engines.seal import BundleDraft, write_bundle
from anoseg_trainer.config import TrainConfig
from anoseg_trainer.data.batches import Recipe
from anoseg_trainer.data.dataset import GoodImages, PartStore, Split, group_images, load_good_images, split_images
from anoseg_trainer.data.input_choice import resolve
from anoseg_trainer.model.export import onnx_from_network
from anoseg_trainer.model.inference import read_part
from anoseg_trainer.model.network import FIRST_POOL, NEVER, POOLS, AnoSegNetwork, count_macs
from anoseg_trainer.report.pages import fit_report
from anoseg_trainer.synthesis.background import has_background
from anoseg_trainer.thresholds import (
    MAX_SLOPE,
    ScoreThreshold,
    conformal_threshold,
    fit_detector,
    guarantee_in_words,
    images_needed,
    pixel_threshold,
    score_scale,
)
from anoseg_trainer.training import Result, Status, train
from anoseg_trainer.validation import Case, Validation, as_scaled, make_cases, validate

Verdict = Literal["PASS", "FAIL"]
FEW_CAUGHT = 0.5
"""A bundle that catches fewer of the synthetic defects is said to be one that passes bad parts."""
REPORT = "report.html"
BACKGROUND_PROBES = 40
"""Good images that are looked at for a plain background."""
MAX_UNIT = 256
"""Defects are sized by the input's shorter side, but by no more network pixels than this."""
GOLDEN_EACH = 3
"""Golden samples of each verdict."""
SCORE = (
    "largest tile score; a tile's score is sigmoid(max(scale · p + offset)), p the means of the largest map logits: "
    + ", ".join(f"{k} of {cell}×{cell} cells" for cell, k in POOLS)
)


Pooled = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Fitted:
    """What `fit` made, with what the user should be told."""

    bundle: Bundle
    result: Result
    validation: Validation
    threshold: ScoreThreshold
    notes: tuple[str, ...]


def fit(
    data: Path,
    target: Path,
    config: TrainConfig,
    *,
    seed: int,
    work: Path,
    resume: bool = False,
    on_status: Callable[[Status], None] = lambda _: None,
    on_note: Callable[[str], None] = lambda _: None,
) -> Fitted:
    """Train on the good images of `data` and write a new version of the bundle `target` (STORE/NAME).

    work: folder for checkpoint, scaled parts and report.html, made if missing.

    Raises:
        ConfigError, DataError, AnosegError: see the steps.
    """
    if not NAME.fullmatch(target.name):
        raise ConfigError(
            f"--out {target}: '{target.name}' is no product name", hint="letters, digits, '.', '_', '-'; at most 64"
        )
    images = load_good_images(data)
    notes = list(images.notes)
    for note in notes:
        on_note(note)

    def told(note: str) -> None:
        notes.append(note)
        on_note(note)

    groups = group_images(images, config.holdout.group, told)
    split = split_images(groups, config.holdout, seed, images_needed(config.false_reject))
    config, choices = resolve(config, images, groups, split, seed)
    for note in choices:
        told(note)
    on_note(
        f"{len(images.paths)} good images: {len(split.train)} to train, {len(split.validation)} to choose weights, "
        f"{len(split.calibration)} (of {split.calibration_groups} parts) for the threshold"
    )
    _make_folder(work)
    store = PartStore.write(work / "parts.u8", images, config.input.spec)
    try:
        background = has_background(store[i] for i in split.train[:BACKGROUND_PROBES])
        if background:
            on_note("parts lie on a plain background: defects are made on the part")
        recipe = _recipe(config, store, split.train, seed, background)
        cases = make_cases(_recipe(config, store, split.validation, seed, background))
        if all(case.label is None for case in cases):
            raise ConfigError(
                "none of the synthetic defects on the held-out images can be seen",
                hint="give `defects` more kinds, or a lower `visible`",
            )
        held_out = hashlib.sha256(msgspec.json.encode([split.validation, split.calibration])).hexdigest()
        identity = {"data": images.fingerprint, "seed": str(seed), "held-out images": held_out}
        result = train(config, recipe, cases, work=work, identity=identity, resume=resume, on_status=on_status)
        fitted, scores = _seal(target, config, images, split, store, cases, result, seed, notes, on_note)
        fit_report(fitted.bundle, result.network, fitted.validation, scores, cases, notes).write(work / REPORT)
        return fitted
    finally:
        store.path.unlink(missing_ok=True)


def _seal(
    target: Path,
    config: TrainConfig,
    images: GoodImages,
    split: Split,
    store: PartStore,
    cases: list[Case],
    result: Result,
    seed: int,
    notes: list[str],
    on_note: Callable[[str], None],
) -> tuple[Fitted, list[float]]:
    """Calibrate the trained network, export it, and write the bundle; returns the calibration scores too."""
    network = result.network
    validation = validate(network, config.input.spec, cases)
    _fit_score(network, np.array(validation.good_pooled), np.array(validation.defective_pooled), detector=config.detector)
    scaled = as_scaled(config.input.spec)
    readings = {i: read_part(network, scaled, store[i]) for i in split.calibration}
    threshold = conformal_threshold(np.array([r.score for r in readings.values()]), config.false_reject)
    promise = guarantee_in_words(threshold, config.false_reject, split.calibration_groups)
    if not threshold.met:
        notes.append(f"{promise}")
        on_note(notes[-1])
    defective = network.score_of(torch.tensor(validation.defective_pooled))
    caught = float((defective >= threshold.value).float().mean())
    if caught < FEW_CAUGHT:
        notes.append(
            f"at this threshold only {caught:.0%} of the synthetic defects are caught: "
            "the network would pass most defective parts. "
            "Train longer, look for defects among the good images, or accept more false rejects (--false-reject)"
        )
        on_note(notes[-1])
    draft = BundleDraft(
        product=target.name,
        input=config.input.spec,
        score=SCORE,
        score_threshold=threshold.value,
        pixel_threshold=pixel_threshold(validation.pixels),
        calibration=Calibration(
            method="split conformal over held-out good images",
            n_images=threshold.n,
            false_reject_target=config.false_reject,
            guarantee=promise,
        ),
        metrics=_metrics(validation, caught),
        training=_training_record(config, images, split, result, seed),
        model_onnx=onnx_from_network(network, config.input.spec),
        golden=_golden_samples(network, config, [store[i] for i in split.calibration], cases, threshold.value, store, split),
    )
    fitted = Fitted(write_bundle(target, draft), result, validation, threshold, tuple(notes))
    return fitted, [reading.score for reading in readings.values()]


def _fit_score(network: AnoSegNetwork, good: Pooled, bad: Pooled, *, detector: bool) -> None:
    """Set the network's score from pooled logits [n, p] of held-out parts."""
    looked_at = np.full(len(POOLS), detector)
    looked_at[FIRST_POOL] = True
    centre, spread = fit_detector(good)
    low, high = (((pooled - centre) / spread)[:, looked_at].max(axis=1) for pooled in (good, bad))
    slope, shift = score_scale(low, high, MAX_SLOPE * float(spread[looked_at].min()))
    network.score_scale.copy_(torch.from_numpy(np.where(looked_at, slope / spread, 0.0)))
    network.score_offset.copy_(torch.from_numpy(np.where(looked_at, shift - slope * centre / spread, NEVER)))


def _golden_samples(
    network: AnoSegNetwork,
    config: TrainConfig,
    good: list[Image],
    cases: list[Case],
    threshold: float,
    store: PartStore,
    split: Split,
) -> list[GoldenSample]:
    """Held-out parts, good and with synthetic defects, whose score is clear of the threshold; both verdicts if there are."""
    margin = GoldenTolerance().margin
    picked: dict[Verdict, list[GoldenSample]] = {"PASS": [], "FAIL": []}
    defective = [case.image for case in cases if case.label is not None]
    for candidates in (good, defective, [case.image for case in cases if case.label is None]):
        for part in candidates:
            image = _unscaled(part, config)
            reading = read_part(network, config.input.spec, image)
            verdict: Verdict = "FAIL" if reading.score >= threshold else "PASS"
            if abs(reading.score - threshold) < margin or len(picked[verdict]) >= GOLDEN_EACH:
                continue
            picked[verdict].append(GoldenSample(image, reading.anomaly_map, reading.score, verdict))
            if all(len(samples) >= GOLDEN_EACH for samples in picked.values()):
                break
    samples = [*picked["PASS"], *picked["FAIL"]]
    if not samples:
        raise DataError(
            f"no held-out image scores {margin} or more away from the threshold {threshold:.3f}: "
            "the network tells nothing apart",
            hint="train longer, or look at the good images: are there defects among them?",
        )
    return samples


def _unscaled(part: Image, config: TrainConfig) -> Image:
    """A scaled part as a camera image: golden images run through the same scaling as any other."""
    spec = config.input.spec
    if spec.mode == "resize" or spec.scale == 1:
        return np.ascontiguousarray(part)
    size = (round(part.shape[1] / spec.scale), round(part.shape[0] / spec.scale))
    return np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_LINEAR), np.uint8)


def _recipe(config: TrainConfig, store: PartStore, indices: tuple[int, ...], seed: int, background: bool) -> Recipe:
    spec, crop = config.input.spec, config.training.crop
    return Recipe(
        store=store,
        indices=indices,
        input=spec,
        window=InputSpec(min(spec.height, crop), min(spec.width, crop)),
        variation=config.variation,
        defects=config.defects,
        batch=config.training.batch,
        seed=seed,
        unit=min(spec.height, spec.width, MAX_UNIT),
        background=background,
    )


def _metrics(validation: Validation, caught: float) -> dict[str, Any]:
    """What is known of the network without test images. caught: share of synthetic defects at or above the score threshold."""
    best_iou, _ = validation.pixels.best_iou()
    return {
        "synthetic_image_auroc": round(validation.image_auroc, 5),
        "synthetic_pixel_auroc": round(validation.pixels.auroc() or 0.0, 5),
        "synthetic_pixel_ap": round(validation.pixel_ap, 5),
        "synthetic_best_iou": round(best_iou, 5),
        "synthetic_defects_caught": round(caught, 5),
        "images": {"good": len(validation.good_pooled), "with synthetic defects": len(validation.defective_pooled)},
    }


def _training_record(config: TrainConfig, images: GoodImages, split: Split, result: Result, seed: int) -> dict[str, Any]:
    """Everything needed to train the same again, and to know with what it was trained."""
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
            "anoseg-edge": _own_version(),
            "python": platform.python_version(),
            "torch": str(torch.__version__),
            "opencv": cv2.__version__,
        },
    }


def _own_version() -> str | None:
    """Version of the installed package; None when it runs from the source tree alone."""
    try:
        return importlib.metadata.version("anoseg-edge")
    except importlib.metadata.PackageNotFoundError:
        return None


def _source_commit() -> str | None:
    """Commit of the source tree this runs from; None when it was installed from a package."""
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


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise AnosegError(f"{folder}: cannot be made ({error.strerror})", hint="give another --work") from error
