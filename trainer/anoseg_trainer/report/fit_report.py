"""Builds the report of `fit`: the results of a training on held-out good images, synthetic defects and, if given, real ones.

The test images of the data folder are inspected by the finished bundle. They choose nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from anoseg_engines.bundle import Bundle, Manifest
from anoseg_engines.engine import Engine
from anoseg_engines.errors import DataError
from anoseg_engines.files import shown_name
from anoseg_engines.images import Image, list_images
from anoseg_engines.loading import load_engine
from anoseg_engines.placement import Placement, Region
from anoseg_trainer.data.evaluation_images import GOOD, EvaluationImage
from anoseg_trainer.evaluation import inspect_file
from anoseg_trainer.operating_point import at_threshold
from anoseg_trainer.report.charts import histogram, line_chart
from anoseg_trainer.report.evaluation_report import CASES_EACH, bundle_facts
from anoseg_trainer.report.html import Report, ReportCase, extremes
from anoseg_trainer.report.lead import (
    NEAREST,
    PASSED,
    PICTURES,
    REJECTED,
    RELEASE,
    Lead,
    answer_of,
    lead_html,
    pictures_html,
    spread,
)
from anoseg_trainer.threshold_study import REAL, SYNTHETIC, ThresholdStudy
from anoseg_trainer.thresholds import for_the_line
from anoseg_trainer.validation import BINARY, Validation, ValidationCase, scaled_spec

MOST_REAL = 100
"""Images with real defects that are inspected, spread evenly over all."""


def real_defects(engine: Engine, data: Path) -> dict[Path, float]:
    """Score images with real defects, if the data folder has some: test/<defect>. Images that cannot be read are left out."""
    test = data / "test"
    folders = sorted(p for p in test.iterdir() if p.is_dir() and p.name != GOOD) if test.is_dir() else []
    paths = [path for folder in folders for path in list_images(folder)]
    found = {}
    for path in paths[:: -(-len(paths) // MOST_REAL)] if paths else []:
        try:
            found[path] = inspect_file(engine, path).inspection.score
        except DataError:
            continue
    return found


def load_for_report(bundle: Bundle) -> Engine:
    """Load the finished bundle in FP32, in which its threshold was found."""
    return load_engine(bundle, runtime="cpu-f32")


def fit_report(
    engine: Engine,
    data: Path,
    study: ThresholdStudy,
    validation: Validation,
    *,
    good_part: Callable[[Path], Image],
    good_scores: Sequence[float],
    cases: list[ValidationCase],
    losses: Sequence[tuple[int, float]],
    notes: Sequence[str],
) -> Report:
    """Build the report.

    Args:
        engine: The finished bundle.
        data: The data folder.
        study: The score threshold and what it comes from.
        validation: The figures on `cases`.
        good_part: Returns the scaled part of a good image of the calibration.
        good_scores: Scores of the good ones of `cases`.
        cases: Held-out good images and synthetic defects.
        losses: (step, loss) during the training.
        notes: Remarks for the user.
    """
    manifest = engine.bundle.manifest
    show = _Pictures(engine, data, good_part)
    good = [case for case in cases if case.label is None]
    bad = [case for case in cases if case.label is not None]
    lowest, highest = extremes(study.synthetic, CASES_EACH)
    kind = study.defects[0]
    return Report(
        title=f"Training of {engine.bundle.label}",
        lead=lead_html(_lead(study, show, bad), manifest.pixel_threshold)
        + pictures_html("Good images that set the threshold", _high_good(study, show), manifest.pixel_threshold),
        tables={
            f"What other thresholds would do (calibrated: {study.threshold.value:.4f})": study.trade_off(),
            "On held-out good images and synthetic defects": _metric_rows(manifest),
        },
        charts={
            "Threshold: false rejects against defects that pass": line_chart(
                study.curves(), "threshold", "share", {"threshold": study.threshold.value}
            ),
            "Scores": histogram(
                {
                    "good, calibration": study.scores,
                    "good, validation": good_scores,
                    SYNTHETIC: study.synthetic,
                    REAL: list(study.real.values()),
                },
                "score",
                {"threshold": study.threshold.value},
            ),
            **_training_charts(losses, manifest.training.get("curve", [])),
            "IoU against threshold, synthetic defects": line_chart(
                {"IoU": validation.pixels.iou_points()}, "threshold", "IoU", {"pixel threshold": manifest.pixel_threshold}
            ),
        },
        cases={
            "Synthetic defects with the lowest scores": [show.case(bad[i], "defect") for i in lowest],
            "Synthetic defects with the highest scores": [show.case(bad[i], "defect") for i in highest],
            "Good images for validation with the highest scores": [
                show.case(good[i], "good") for i in extremes(good_scores, CASES_EACH)[1]
            ],
        },
        notes=list(notes),
        facts=bundle_facts(manifest)
        | {"judged by": f"{len(study.defects[1])} {kind}", "calibration": manifest.calibration.guarantee},
        settings=manifest.training.get("config", {}),
    )


def _training_charts(losses: Sequence[tuple[int, float]], curve: list[dict[str, float]]) -> dict[str, str]:
    """Draw the curves of a training; nothing if no network was trained."""
    if not curve:
        return {}
    return {
        "Loss": line_chart({"loss": losses or [(p["step"], p["loss"]) for p in curve]}, "step", "loss"),
        "Metrics on synthetic defects": line_chart(
            {
                "image AUROC": [(p["step"], p["image_auroc"]) for p in curve],
                "pixel average precision": [(p["step"], p["pixel_ap"]) for p in curve],
            },
            "step",
            "",
        ),
    }


class _Pictures:
    """Inspects images again for their pictures."""

    def __init__(self, engine: Engine, data: Path, good_part: Callable[[Path], Image]) -> None:
        self._engine, self._data, self._good_part = engine, data, good_part
        self._scaled = scaled_spec(engine.spec)

    def case(self, case: ValidationCase, kind: str) -> ReportCase:
        """Show a held-out image, with synthetic defects or without; it is scaled already."""
        anomaly_map, score = self._map(case.image)
        mask = np.zeros(anomaly_map.shape, bool) if case.label is None else case.label >= BINARY
        return ReportCase(f"{kind}, score {score:.3f}", case.image, anomaly_map, mask)

    def _map(self, image: Image) -> tuple[NDArray[np.float32], float]:
        """Inspect a scaled part; return its map at the part's size, and its score."""
        height, width = image.shape[:2]
        inspection = self._engine.inspect(image, Placement.of(self._scaled, Region(0, 0, width, height)))
        anomaly_map = cv2.resize(inspection.anomaly_map, (width, height), interpolation=cv2.INTER_LINEAR)
        return np.asarray(anomaly_map, np.float32), inspection.score

    def good(self, path: Path, caption: str) -> ReportCase:
        """Show a good image of the calibration."""
        image = self._good_part(path)
        return ReportCase(caption, image, self._map(image)[0], None)

    def real(self, path: Path, score: float) -> ReportCase:
        """Show an image with a real defect, and its mask if there is a usable one."""
        inspected = inspect_file(self._engine, path)
        test = EvaluationImage.at(self._data, path)
        try:
            mask = test.read_mask(inspected.image)
        except DataError:
            mask = None
        return ReportCase(
            f"{shown_name(test.defect)}/{shown_name(path.name)}: {score:.3f}", inspected.image, inspected.full_map(), mask
        )


def _lead(study: ThresholdStudy, show: _Pictures, bad: list[ValidationCase]) -> Lead:
    point, kind = study.point, study.defects[0]
    level, answer = answer_of(point, kind, asked=study.false_reject, promised=study.parts_known)
    defects = "; ".join(
        f"{at_threshold([], scores, study.threshold.value).escapes_cell} {name} pass" for name, scores in study.kinds().items()
    )
    threshold = study.threshold.value
    sentences = [
        f"At its threshold {threshold:.4f}, {point.false_rejects_cell} held-out good parts are rejected; {defects}.",
        for_the_line(study.threshold, promised=study.parts_known),
    ]
    if not study.real:
        sentences.append("This is judged by synthetic defects alone, which the trainer drew: real ones may be harder to find.")
    scores = study.defects[1]
    rejected = [i for i, score in enumerate(scores) if score >= study.threshold.value]
    passed = [i for i, score in enumerate(scores) if score < study.threshold.value]
    if study.real:
        files = list(study.real)

        def picture(i: int) -> ReportCase:
            return show.real(files[i], scores[i])

    else:

        def picture(i: int) -> ReportCase:
            return show.case(bad[i], "synthetic defect")

    return Lead(
        level,
        answer,
        sentences,
        pictures={
            REJECTED: [picture(i) for i in spread(rejected, scores)],
            PASSED: [picture(i) for i in spread(passed, scores)],
            NEAREST: [show.good(p.path, f"{p.name}: {p.score:.3f}") for p in study.highest_good(PICTURES)],
        },
        next_steps=_next_steps(study, level),
    )


def _next_steps(study: ThresholdStudy, level: str) -> list[str]:
    steps = []
    if words := study.odd_words():
        steps.append(words)
    if not study.parts_known:
        steps.append(
            "Say which images show the same part: holdout.group in the configuration ('.+' if each image shows another part). "
            "Then train again. Without this, nothing can be promised about false rejects."
        )
    elif not study.threshold.met:
        steps.append(
            f"The share of false rejects that you asked for ({study.false_reject:g}) needs {study.threshold.needed} good parts "
            "that the training has not used: collect images of so many, and run anoseg-train calibrate with them. Or accept a "
            "larger share (--false-reject)."
        )
    if level == "bad":
        steps.append(
            "Look for defects among your good images, and at the pictures below. Train longer (--minutes). Or accept more "
            "false rejects (--false-reject): a table below shows what that would bring."
        )
    if not study.real:
        steps.append(
            "Photograph some 20 defective parts, and some good ones that the training has not used. Put them into "
            "test/<defect> and test/good of the data folder, and run anoseg-train evaluate. Only real defects show what will "
            "be found."
        )
    if level != "bad":
        steps.append(RELEASE)
    return steps


def _high_good(study: ThresholdStudy, show: _Pictures) -> list[ReportCase]:
    """Show the good parts with the highest scores, and what each costs."""
    cases, now = [], study.caught(study.threshold.value)
    for part in study.highest_good():
        role = "sets the threshold" if part.sets else "is rejected" if part.score >= study.threshold.value else "is below it"
        gains = ", ".join(
            f"{part.caught_without[kind]:.0%} of the {kind} rejected (now {share:.0%})" for kind, share in now.items()
        )
        caption = f"{part.name}: {part.score:.4f}, {role}; without it: threshold {part.threshold_without:.4f}, {gains}"
        cases.append(show.good(part.path, caption))
    return cases


def _metric_rows(manifest: Manifest) -> list[list[str]]:
    figures = {k: v for k, v in manifest.metrics.items() if isinstance(v, (int, float))}
    return [["", ""], *([_title(name), f"{value:.3f}"] for name, value in figures.items())]


def _title(name: str) -> str:
    """Write a metric's name for a reader: `synthetic_image_auroc` as `synthetic image AUROC`."""
    words = {"auroc": "AUROC", "ap": "average precision", "iou": "IoU"}
    return " ".join(words.get(word, word) for word in name.split("_"))
