"""Runs `anoseg-train calibrate`: sets a new score threshold for a finished bundle, and writes a new version.

The network and the pixel threshold stay. With a camera's region rules, `calibrate_rules` does the work instead.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress

from anoseg_engines.bundle import Bundle, Calibration, GoldenSample, Origin, how_to_release, note_on_candidates
from anoseg_engines.bundle_writer import BundleDraft, write_bundle
from anoseg_engines.errors import DataError
from anoseg_engines.files import shown_name
from anoseg_engines.images import Image
from anoseg_engines.loading import load_engine
from anoseg_engines.result_files import try_folder
from anoseg_engines.words import agreeing
from anoseg_trainer.commands.calibrate_rules import RulesCalibrated, calibrate_rules
from anoseg_trainer.data.good_images import find_good_images, read_good_images
from anoseg_trainer.data.station_camera import load_camera_rules
from anoseg_trainer.evaluation import inspect_image
from anoseg_trainer.recalibration import (
    CALIBRATED,
    CALIBRATED_AFTER_TRAINING,
    CalibrationImages,
    OnImage,
    check_runtime,
    load_version,
    missing_verdicts,
    plan_notes,
    rejudged,
)
from anoseg_trainer.thresholds import MARGIN, ScoreThreshold, conformal_threshold, describe_threshold, for_the_line

GOLDEN_EACH = 3
"""Good images that become golden samples if none of the bundle's own passes."""


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    camera = None if options.config is None else load_camera_rules(options.config, options.camera)
    if note := note_on_candidates(options.bundle):
        print(f"note: {note}", file=sys.stderr)
    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task("inspecting", total=None)
        common: dict[str, Any] = {
            "runtime": options.runtime,
            "group": options.group,
            "on_image": lambda n, total: progress.update(task, completed=n, total=total),
        }
        found: ScoreCalibrated | RulesCalibrated
        if camera is None:
            found = calibrate_score(options.bundle, options.data, options.false_reject, **common)
        else:
            found = calibrate_rules(options.bundle, options.data, camera, options.false_reject, **common)
    for note in found.notes:
        print(f"note: {note}", file=sys.stderr)
    for line in found.summary():
        print(line)
    print(f"{found.bundle.path}: finished, self-test passed; {found.before.path} is unchanged")
    print(how_to_release(found.bundle))


@dataclass(frozen=True, slots=True)
class ScoreCalibrated:
    """A bundle with a new score threshold.

    Attributes:
        bundle: The new version.
        before: The version that it was made from.
        threshold: The new threshold.
        promised: Whether the images say anything about parts on the line: none was used for training, and it is known which
            ones show the same part.
        scores: Each good image with its score, the highest first.
        runtime: The runtime that was used.
        notes: Remarks for the user.
    """

    bundle: Bundle
    before: Bundle
    threshold: ScoreThreshold
    promised: bool
    scores: tuple[tuple[Path, float], ...]
    runtime: str
    notes: tuple[str, ...]

    def summary(self) -> Iterator[str]:
        """Yield the lines to print."""
        old, new, n = self.before.manifest.score_threshold, self.threshold.value, len(self.scores)
        at_old, at_new = (sum(score >= value for _, score in self.scores) for value in (old, new))
        yield f"{n} good images on {self.runtime}: {at_old} rejected at the old threshold, {at_new} at the new one"
        yield f"score threshold {old:.4f} → {new:.4f}"
        yield f"highest scores: {', '.join(f'{shown_name(path.name)} {score:.4f}' for path, score in self.scores[:3])}"
        caught = self.before.manifest.metrics.get("synthetic_defects_caught")
        if isinstance(caught, float):
            bound = "exactly" if new == old else "at least" if new < old else "at most"
            yield f"synthetic defects of the training caught: {caught:.1%} at the old threshold, so {bound} that at the new one"
        yield f"calibration: {self.bundle.manifest.calibration.guarantee}"
        yield for_the_line(self.threshold, promised=self.promised)


def calibrate_score(
    path: Path,
    data: Path,
    false_reject: float,
    *,
    group: str | None = None,
    runtime: str = "auto",
    on_image: OnImage = lambda _, __: None,
) -> ScoreCalibrated:
    """Set a new score threshold from good images, and write the next version.

    Args:
        path: STORE/NAME or STORE/NAME/VERSION.
        data: Folder of good images, each of which shows the part's region.
        false_reject: Share of good parts that may be rejected.
        group: Regular expression over file names that says which images show the same part; None: as in the training.
        runtime: The runtime to use.
        on_image: Called after each image.

    Raises:
        ConfigError: `path` is not a version in a store, or the runtime is `cpu-int8`.
        DataError: The images cannot be used.
        EngineError: The bundle is refused.
    """
    check_runtime(runtime)
    before, target = load_version(path)
    try_folder(target, "--bundle")
    paths = find_good_images(data)
    scores: list[float] = []
    lowest: list[tuple[float, int, Image]] = []  # score, index and pixels of the images that may become golden samples
    engine = load_engine(before, runtime=runtime)
    try:

        def inspect(_: Path, image: Image) -> None:
            nonlocal lowest
            score = inspect_image(engine, image).inspection.score
            lowest = sorted([*lowest, (score, len(scores), image)], key=lambda row: row[:2])[:GOLDEN_EACH]
            scores.append(score)
            on_image(len(scores), len(paths))

        images = read_good_images(paths, inspect)
        ran_on = engine.runtime_description
        # Each runtime may differ from FP32 by the tolerance: the one that calibrates, and the one on the line.
        runtimes = 1 if engine.precision == "f32" else 2
    finally:
        engine.close()
    good = CalibrationImages.of(images, before, group)
    margin = MARGIN * runtimes
    threshold = conformal_threshold(np.array(scores), false_reject, parts=good.parts.numbers.tolist(), margin=margin)
    ranked = sorted(zip(paths, scores, strict=True), key=lambda row: -row[1])
    highest = ", ".join(shown_name(path.name) for path, _ in ranked[:3])
    golden, golden_notes = _golden_at(threshold.value, before, [image for _, _, image in lowest], highest)
    draft = dataclasses.replace(
        BundleDraft.of(before),
        score_threshold=threshold.value,
        calibration=Calibration(
            method=CALIBRATED_AFTER_TRAINING,
            n_images=threshold.n,
            false_reject_target=false_reject,
            guarantee=good.qualify(describe_threshold(threshold, false_reject, parts_known=good.parts.known)),
        ),
        training={**before.manifest.training, CALIBRATED: good.record()},
        golden=golden,
        origin=Origin(command="calibrate", parent_version=before.manifest.version, parent_digest=before.digest),
        # measured at the old threshold
        metrics={key: value for key, value in before.manifest.metrics.items() if key != "synthetic_defects_caught"},
    )
    return ScoreCalibrated(
        bundle=write_bundle(target, draft),
        before=before,
        threshold=threshold,
        promised=good.parts.known and good.held_out,
        scores=tuple(ranked),
        runtime=ran_on,
        notes=(*good.notes, *golden_notes, *plan_notes(before)),
    )


def _golden_at(threshold: float, bundle: Bundle, lowest: list[Image], highest: str) -> tuple[list[GoldenSample], list[str]]:
    """Choose the golden samples for another score threshold.

    Samples whose score is well away from the new threshold stay, with their new verdict. If no sample passes, good images
    are added. Their map and score come from the bundle's own network in FP32.

    Args:
        threshold: The new threshold.
        bundle: The bundle with its samples.
        lowest: The good images with the lowest scores.
        highest: Names of the good images with the highest scores, for errors.

    Returns:
        The samples, and notes for the user.

    Raises:
        DataError: No image is well away from the threshold, or no defective sample fails any more.
    """
    margin = bundle.manifest.golden_tolerance.margin
    names = [golden.image for golden in bundle.manifest.golden]
    kept, notes = rejudged(zip(names, bundle.golden_samples(), strict=True), threshold, margin)
    if not any(sample.verdict == "PASS" for sample in kept):
        new = _golden_from(lowest, bundle, below=threshold - margin)
        if new:
            are = agreeing(len(new), "is a golden image", "are golden images")
            notes.append(f"no golden image passes any more: {len(new)} of the good images {are} now")
        kept = [*new, *kept]
    if any(sample.verdict == "FAIL" for sample in bundle.golden_samples()) and all(s.verdict == "PASS" for s in kept):
        raise DataError(
            f"at the new threshold {threshold:.4f} every defective golden image would pass: nothing was written",
            hint=f"are there defects among the good images? The highest scores have {highest}",
        )
    if not kept:
        raise DataError(
            f"no image scores {margin} or more away from the new threshold {threshold:.4f}: the bundle could not be verified",
            hint="look at the good images: are there defects among them? Otherwise train again",
        )
    return kept, [*notes, *missing_verdicts(kept)]


def _golden_from(images: list[Image], bundle: Bundle, *, below: float) -> list[GoldenSample]:
    """Make golden samples of the images that score at most `below` in FP32."""
    engine = load_engine(bundle, runtime="cpu-f32")
    try:
        inspections = [inspect_image(engine, image).inspection for image in images]
        return [
            GoldenSample(image, inspection.anomaly_map, inspection.score, "PASS")
            for image, inspection in zip(images, inspections, strict=True)
            if inspection.score <= below
        ]
    finally:
        engine.close()
