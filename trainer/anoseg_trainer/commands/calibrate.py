"""`anoseg-train calibrate`: a new score threshold for a finished bundle, from new good images, as the bundle's next version.

Network and pixel threshold stay as they were; the golden images are those that are clear of the new threshold.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np

from anoseg_engines.bundle.manifest import Calibration
from anoseg_engines.bundle.read import Bundle, GoldenSample, load_bundle
from anoseg_engines.errors import ConfigError, DataError
from anoseg_engines.loading import load_engine
from anoseg_engines.runtimes.tensorrt.plan_store import PlanStore
from anoseg_engines.seal import BundleDraft, write_bundle
from anoseg_trainer.commands.evaluate import inspect_image
from anoseg_trainer.data.dataset import group_images, load_good_images
from anoseg_trainer.thresholds import ScoreThreshold, conformal_threshold, guarantee_in_words

GOLDEN_EACH = 3
"""Golden samples that are picked where none of the bundle's own passes any more."""
NOT_HELD_OUT = "these are the images that the network was trained on, so this says little of other parts"

OnImage = Callable[[int, int], None]
"""Told after each image: how many are done, of how many."""


@dataclass(frozen=True, slots=True)
class NewThreshold:
    """bundle: the new version. before: the one it was made from. scores: of each good image, the highest first.

    notes: what a user should know, in words.
    """

    bundle: Bundle
    before: Bundle
    threshold: ScoreThreshold
    scores: tuple[tuple[Path, float], ...]
    runtime: str
    notes: tuple[str, ...]

    def in_words(self) -> Iterator[str]:
        """What a person should read, line by line."""
        old, new, n = self.before.manifest.score_threshold, self.threshold.value, len(self.scores)
        was, now = (sum(score >= value for _, score in self.scores) for value in (old, new))
        yield f"{n} good images on {self.runtime}: {was} rejected at the old threshold, {now} at the new one"
        yield f"score threshold {old:.4f} → {new:.4f}"
        yield f"highest scores: {', '.join(f'{path.name} {score:.4f}' for path, score in self.scores[:3])}"
        caught = self.before.manifest.metrics.get("synthetic_defects_caught")
        if isinstance(caught, float):
            bound = "exactly" if new == old else "at least" if new < old else "at most"
            yield f"synthetic defects of the training caught: {caught:.1%} at the old threshold, so {bound} that at the new one"
        yield f"calibration: {self.bundle.manifest.calibration.guarantee}"


@dataclass(frozen=True, slots=True)
class GoodOnes:
    """paths: sorted by name. parts: how many different ones they show. held_out: they are not the training's own."""

    paths: tuple[Path, ...]
    parts: int
    held_out: bool
    notes: list[str]


def calibrate_score(
    path: Path, data: Path, false_reject: float, *, runtime: str = "auto", on_image: OnImage = lambda _, __: None
) -> NewThreshold:
    """Take a new score threshold from the good images of `data`, each of which is the part's region; write the next version.

    Raises:
        ConfigError, DataError: `path` is no version in a store, or the images cannot be used.
        EngineError: the bundle is refused.
    """
    before, target = load_version(path)
    good = good_ones(data, before)
    engine = load_engine(before, runtime=runtime)
    try:
        ran_on = engine.runtime_description
        scores = []
        for n, image in enumerate(good.paths):
            scores.append(inspect_image(engine, image).inspection.score)
            on_image(n + 1, len(good.paths))
    finally:
        engine.close()
    threshold = conformal_threshold(np.array(scores), false_reject)
    promise = honest(guarantee_in_words(threshold, false_reject, good.parts), good)
    ranked = sorted(zip(good.paths, scores, strict=True), key=lambda row: -row[1])
    golden, said = _golden_at(threshold.value, before, good.paths, tuple(path for path, _ in ranked[:3]))
    draft = dataclasses.replace(
        BundleDraft.of(before),
        score_threshold=threshold.value,
        calibration=Calibration(
            method="split conformal over good images, calibrated after training",
            n_images=threshold.n,
            false_reject_target=false_reject,
            guarantee=promise,
        ),
        golden=golden,
        # what was known of the old threshold alone
        metrics={key: value for key, value in before.manifest.metrics.items() if key != "synthetic_defects_caught"},
    )
    notes = (*good.notes, *said, *plan_note(before))
    return NewThreshold(write_bundle(target, draft), before, threshold, tuple(ranked), ran_on, notes)


def load_version(path: Path) -> tuple[Bundle, Path]:
    """The bundle, and STORE/NAME where its next version goes.

    Raises:
        ConfigError: there is none, or it is not in a store. EngineError: it is damaged.
    """
    bundle = load_bundle(path)
    folder = bundle.path if bundle.path.name.isdigit() else bundle.path.resolve()  # `.` has neither name nor parent
    if folder.name != str(bundle.manifest.version):
        raise ConfigError(
            f"{bundle.path}: version {bundle.manifest.version} of {bundle.manifest.product} is not in a store, so the next "
            "version has no place",
            hint=f"copy the bundle to STORE/{bundle.manifest.product}/{bundle.manifest.version}",
        )
    return bundle, folder.parent


def good_ones(data: Path, bundle: Bundle) -> GoodOnes:
    """The good images of `data`, and whether `bundle` was trained on this very folder (a part of it cannot be recognised).

    Raises:
        DataError: see `load_good_images`.
    """
    images = load_good_images(data)
    training = bundle.manifest.training
    config = training.get("config")
    holdout = config.get("holdout") if isinstance(config, dict) else None
    pattern = holdout.get("group") if isinstance(holdout, dict) else ""
    notes = list(images.notes)
    groups = group_images(images, str(pattern or ""), notes.append)
    held_out = images.fingerprint != training.get("data_fingerprint")
    if not held_out:
        notes.append(f"{NOT_HELD_OUT}: calibrate with good images that training has not seen")
    return GoodOnes(images.paths, int(groups.max()) + 1, held_out, notes)


def honest(promise: str, good: GoodOnes) -> str:
    """The promise, with what speaks against it."""
    return promise if good.held_out else f"{promise}; but {NOT_HELD_OUT}"


def _golden_at(
    threshold: float, bundle: Bundle, good: tuple[Path, ...], highest: tuple[Path, ...]
) -> tuple[list[GoldenSample], list[str]]:
    """Golden samples for another score threshold, with notes.

    Those that are clear of it are kept, with the verdict that they have now. If none passes any more, some of the good images
    take their place: what the bundle's own network says of them in FP32 is recorded.

    Raises:
        DataError: no image is clear of the threshold, or no golden one fails any more; `highest` are named then.
    """
    margin = bundle.manifest.golden_tolerance.margin
    kept, notes = [], []
    for golden, sample in zip(bundle.manifest.golden, bundle.golden_samples(), strict=True):
        verdict: Literal["PASS", "FAIL"] = "FAIL" if sample.score >= threshold else "PASS"
        if abs(sample.score - threshold) < margin:
            notes.append(f"{golden.image} is left out: its score {sample.score:.4f} is too close to the new threshold")
            continue
        if verdict != sample.verdict:
            notes.append(f"{golden.image}, score {sample.score:.4f}, was {sample.verdict} and is {verdict} now")
        kept.append(dataclasses.replace(sample, verdict=verdict))
    if not any(sample.verdict == "PASS" for sample in kept):
        fresh = list(_fresh_golden(threshold - margin, bundle, good))
        if fresh:
            notes.append(f"no golden image passes any more: {len(fresh)} of the good images are golden images now")
        kept = [*fresh, *kept]
    if any(sample.verdict == "FAIL" for sample in bundle.golden_samples()) and all(s.verdict == "PASS" for s in kept):
        raise DataError(
            f"at the new threshold {threshold:.4f} every defective golden image would pass: nothing was written",
            hint=f"are there defects among the good images? The highest score {', '.join(path.name for path in highest)}",
        )
    if not kept:
        raise DataError(
            f"no image scores {margin} or more away from the new threshold {threshold:.4f}: the bundle could not prove itself",
            hint="look at the good images: are there defects among them? Otherwise train anew",
        )
    for verdict in ("PASS", "FAIL"):
        if not any(sample.verdict == verdict for sample in kept):
            notes.append(f"no golden image with the verdict {verdict} is left: the bundle proves itself with less")
    return kept, notes


def _fresh_golden(below: float, bundle: Bundle, good: tuple[Path, ...]) -> Iterator[GoldenSample]:
    """The first good images that score `below` at most, as the network says in FP32."""
    engine = load_engine(bundle, runtime="cpu-f32")
    try:
        found = 0
        for path in good:
            inspected = inspect_image(engine, path)
            if inspected.inspection.score <= below:
                found += 1
                yield GoldenSample(inspected.image, inspected.inspection.anomaly_map, inspected.inspection.score, "PASS")
            if found == GOLDEN_EACH:
                return
    finally:
        engine.close()


def plan_note(before: Bundle) -> list[str]:
    """What is to be done where the bundle has a TensorRT plan."""
    if not PlanStore.of(before).folder.is_dir():
        return []
    return ["TensorRT plans belong to one version: run `anoseg-engine build` for the new one before a line takes it"]
