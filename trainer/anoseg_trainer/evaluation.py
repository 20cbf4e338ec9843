"""Measures a bundle on test images with masks, through the same engine code that the daemon runs.

Pixel metrics are computed at the image's own size. The anomaly map is enlarged linearly to that size, and the mask is used
as drawn. A defective image whose mask is empty counts for the image metrics, but not for the pixel metrics.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from anoseg_engines.engine import Engine
from anoseg_engines.files import shown_name
from anoseg_engines.images import Image, read_image
from anoseg_engines.judgement import Inspection, judge
from anoseg_engines.placement import Placement, Region
from anoseg_engines.words import agreeing, counted
from anoseg_trainer.data.evaluation_images import GOOD, check_masks, find_evaluation_images, left_out
from anoseg_trainer.data.good_images import GoodImages, named, read_good_images
from anoseg_trainer.data.parts import Parts, find_parts
from anoseg_trainer.metrics import PixelHistogram, image_auroc
from anoseg_trainer.operating_point import (
    FEW_REJECTED,
    OperatingPoint,
    at_threshold,
    count_of,
    rejecting,
    rejecting_share,
)
from anoseg_trainer.thresholds import part_scores

METRICS = {
    "image_auroc": "image AUROC",
    "pixel_auroc": "pixel AUROC",
    "aupro_30": "AUPRO 30 %",
    "best_iou": "best IoU",
    "iou_at_pixel_threshold": "IoU at threshold",
}
"""The metrics that every table shows, with their titles."""
OPERATING_POINTS = {
    "calibrated": "calibrated",
    "at_most_2_percent_rejected": "rejects ≤ 2 % of good",
    "no_false_reject": "rejects no good image",
}
"""The thresholds of `Evaluation.operating_point`, with their titles."""
OPERATING_HEAD = ["threshold", "score", "defective that pass", "good rejected"]
ESCAPE_HEAD = ["defect", "images", "pass (escapes)", "pass at ≤ 2 % rejected", "recall at 0 rejected"]


@dataclass(slots=True)
class Counts:
    """Scores and pixel counts of one defect type, or of the good images.

    Attributes:
        scores: Image score of each image.
        failed: Images with the outcome FAIL.
        pixels: Histogram of map values, for the metrics over all thresholds.
        hits: Defective pixels at or above the pixel threshold.
        false: Normal pixels at or above the pixel threshold.
        misses: Defective pixels below the pixel threshold.
        without_mask: Images that are left out of the pixel metrics.
    """

    scores: list[float] = field(default_factory=list)
    failed: int = 0
    pixels: PixelHistogram = field(default_factory=PixelHistogram)
    hits: int = 0
    false: int = 0
    misses: int = 0
    without_mask: int = 0

    def add_pixels(self, anomaly_map: NDArray[np.float32], mask: NDArray[np.bool_] | None, threshold: float) -> None:
        """Count the pixels of one image; `mask` None leaves it out."""
        if mask is None:
            self.without_mask += 1
            return
        self.pixels.add(anomaly_map, mask)
        above = anomaly_map >= threshold
        self.hits += int((above & mask).sum())
        self.false += int((above & ~mask).sum())
        self.misses += int((~above & mask).sum())


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The figures of one bundle on one set of test images.

    Attributes:
        operating_point: What the calibrated threshold does, see `_operating_point`. The first figure of every table.
        overall: Metric name to value over all defect types; None where a metric cannot be computed.
        per_defect: The same for each defect type.
        images: Path below the data folder to score, outcome and defect.
        inference_ms: Median inference time of an image.
        iou_curve: (threshold, IoU) over all test images.
        notes: Remarks for the user: what was left out.
    """

    operating_point: dict[str, Any]
    bundle: str
    digest: str
    runtime: str
    thresholds: dict[str, float]
    overall: dict[str, Any]
    per_defect: dict[str, dict[str, Any]]
    images: dict[str, dict[str, Any]]
    inference_ms: float
    iou_curve: list[tuple[float, float]]
    notes: list[str]

    def scores(self, *, good: bool) -> list[float]:
        """Return the scores of the good or of the defective images."""
        return [float(row["score"]) for row in self.images.values() if (row["defect"] == GOOD) == good]

    def parts_sentence(self) -> str:
        """Say how many parts the good images show; empty if each shows another part."""
        found = self.operating_point
        if not found["good_parts_known"]:
            return "Which of them show the same part is not known."
        if found["good_parts"] == self.overall["n_good"]:
            return ""
        rejected = found["good_parts_rejected"]
        return (
            f"They show {counted(found['good_parts'], 'part')}, of which {rejected} {agreeing(rejected, 'is', 'are')} rejected."
        )

    def operating_rows(self) -> Iterator[list[str]]:
        """Yield the rows of `OPERATING_HEAD`: each threshold, the defective images that pass and the good ones rejected."""
        for key, title in OPERATING_POINTS.items():
            point = OperatingPoint(**self.operating_point[key])
            yield [title, f"{point.threshold:.4f}", point.escapes_cell, point.false_rejects_cell]

    def escape_rows(self) -> Iterator[list[str]]:
        """Yield the rows of `ESCAPE_HEAD`, one for each defect type and one for all."""
        for name, row in [*self.per_defect.items(), ("all", self.overall)]:
            n = row["n_defective"]
            few, none = (row[key] for key in ("escapes_at_2_percent_rejected", "recall_at_no_false_reject"))
            yield [
                shown_name(name),
                str(n),
                count_of(row["escapes"], n),
                count_of(few, n),
                "–" if none is None else f"{none:.3f}",
            ]

    def metric_rows(self) -> Iterator[list[str]]:
        """Yield a row of metrics for each defect type, and one for all: name, metrics."""
        for name, row in [*self.per_defect.items(), ("all", self.overall)]:
            yield [shown_name(name), *metric_cells(row)]

    def extreme_images(self, each: int = 4) -> Iterator[tuple[str, str]]:
        """Yield (group, image path) of the good and the defective images with the lowest and the highest scores."""
        by_score = sorted(self.images.items(), key=lambda item: float(item[1]["score"]))
        good = [path for path, row in by_score if row["defect"] == GOOD]
        defective = [path for path, row in by_score if row["defect"] != GOOD]
        for group, paths in (
            ("worst_defective", defective[:each]),
            ("worst_good", good[::-1][:each]),
            ("best_defective", defective[::-1][:each]),
            ("best_good", good[:each]),
        ):
            for path in paths:
                yield group, path


def metric_cells(figures: dict[str, Any]) -> list[str]:
    """Format the values of `METRICS` for a table."""
    return ["–" if figures[key] is None else f"{figures[key]:.3f}" for key in METRICS]


def evaluate(engine: Engine, data: Path, on_image: Callable[[int, int], None] = lambda _, __: None) -> Evaluation:
    """Inspect every test image and compute all metrics.

    Args:
        engine: The loaded bundle.
        data: Folder in the MVTec AD layout.
        on_image: Called after each image with the number of images inspected and the total.

    Raises:
        DataError: Images or masks cannot be used.
        EngineError: The runtime failed.
    """
    tests = find_evaluation_images(data)
    notes = [*check_masks(tests), *left_out(data, tests)]
    counts: dict[str, Counts] = {}
    images: dict[str, dict[str, Any]] = {}
    nanoseconds = []
    for n, test in enumerate(tests):
        inspected = inspect_file(engine, test.path)
        verdict = judge(inspected.inspection, engine.thresholds, inspected.placement)
        of_defect = counts.setdefault(test.defect, Counts())
        of_defect.scores.append(verdict.score)
        of_defect.failed += verdict.outcome == "FAIL"
        of_defect.add_pixels(inspected.full_map(), test.read_mask(inspected.image), engine.thresholds.pixel)
        key = test.path.relative_to(data).as_posix()
        images[key] = {"score": verdict.score, "outcome": verdict.outcome, "defect": test.defect}
        nanoseconds.append(inspected.inspection.inference_ns)
        on_image(n + 1, len(tests))
    good = counts.pop(GOOD)
    pixels = sum((of_defect.pixels for of_defect in counts.values()), good.pixels)
    good_images = read_good_images([test.path for test in tests if test.defect == GOOD])
    if used := good_images.used_in(engine.bundle.manifest.training):
        notes.append(f"these good test images were used for the training, so their figures say little: {named(used)}")
    parts = _parts_of(good_images, engine)
    defective = [score for of_defect in counts.values() for score in of_defect.scores]
    return Evaluation(
        operating_point=_operating_point(engine, good.scores, defective, parts),
        bundle=engine.bundle.label,
        digest=engine.bundle.digest,
        runtime=engine.runtime_description,
        thresholds={"score": engine.thresholds.score, "pixel": engine.thresholds.pixel},
        overall=_figures(good, list(counts.values())),
        per_defect={name: _figures(good, [of_defect]) for name, of_defect in counts.items()},
        images=images,
        inference_ms=round(statistics.median(nanoseconds) / 1e6, 3),
        iou_curve=pixels.iou_points() if pixels.n_regions else [],
        notes=notes,
    )


@dataclass(frozen=True, slots=True)
class InspectedImage:
    """An image with its placement and the engine's result."""

    image: Image
    placement: Placement
    inspection: Inspection

    def full_map(self) -> NDArray[np.float32]:
        """Return the anomaly map at the image's own size, float32 [h, w]."""
        height, width = self.image.shape[:2]
        found = self.inspection.anomaly_map
        if found.shape == (height, width):
            return np.asarray(found, np.float32)
        return np.asarray(cv2.resize(found, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def inspect_file(engine: Engine, path: Path) -> InspectedImage:
    """Read an image file and inspect the whole of it."""
    return inspect_image(engine, read_image(path))


def inspect_image(engine: Engine, image: Image) -> InspectedImage:
    """Inspect an image. The whole image is the part's region."""
    placement = engine.place(Region(0, 0, image.shape[1], image.shape[0]))
    return InspectedImage(image, placement, engine.inspect(image, placement))


def _parts_of(images: GoodImages, engine: Engine) -> Parts:
    """Find which of the good images show the same part, as the training of the bundle did."""
    config = engine.bundle.manifest.training.get("config")
    holdout = config.get("holdout") if isinstance(config, dict) else None
    return find_parts(images, str(holdout.get("group") or "") if isinstance(holdout, dict) else "", inherited=True)


def _operating_point(engine: Engine, good: list[float], defective: list[float], parts: Parts) -> dict[str, Any]:
    """Count escapes and false rejects at three thresholds: the calibrated one, and two that these test images choose.

    Returns:
        Plain data: the thresholds of `OPERATING_POINTS`, the recall at no false reject, the parts that the good images show
        and how many of them are rejected at the calibrated threshold, and the promise of the calibration.
    """
    points = {
        "calibrated": engine.thresholds.score,
        "at_most_2_percent_rejected": rejecting_share(good, FEW_REJECTED),
        "no_false_reject": rejecting(good, 0),
    }
    found = {name: at_threshold(good, defective, threshold) for name, threshold in points.items()}
    by_part = part_scores(np.array(good), parts.numbers.tolist())
    return {
        **{name: dataclasses.asdict(point) for name, point in found.items()},
        "recall_at_no_false_reject": _rounded(found["no_false_reject"].recall),
        "good_parts": parts.count,
        "good_parts_rejected": int((by_part >= engine.thresholds.score).sum()),
        "good_parts_known": parts.known,
        "promise": engine.bundle.manifest.calibration.guarantee,
    }


def _figures(good: Counts, defective: list[Counts]) -> dict[str, Any]:
    """Compute all metrics of some defect types against the good images; IoU is pooled over the pixels of all of them."""
    pixels = sum((of_defect.pixels for of_defect in defective), good.pixels)
    scores = [score for of_defect in defective for score in of_defect.scores]
    everything = [good, *defective]
    hits, union = sum(c.hits for c in everything), sum(c.hits + c.false + c.misses for c in everything)
    best_iou, best_at = pixels.best_iou()
    has_masks = bool(pixels.n_regions)
    return {
        "n_good": len(good.scores),
        "n_defective": len(scores),
        "image_auroc": _rounded(image_auroc(good.scores, scores)),
        "pixel_auroc": _rounded(pixels.auroc()),
        "aupro_30": _rounded(pixels.aupro()),
        "best_iou": _rounded(best_iou if has_masks else None),
        "best_iou_threshold": _rounded(best_at if has_masks else None),
        "iou_at_pixel_threshold": _rounded(hits / union if has_masks and union else None),
        "false_rejects": good.failed,
        "escapes": len(scores) - sum(of_defect.failed for of_defect in defective),
        "escapes_at_2_percent_rejected": at_threshold([], scores, rejecting_share(good.scores, FEW_REJECTED)).escapes,
        "recall_at_no_false_reject": _rounded(at_threshold([], scores, rejecting(good.scores, 0)).recall),
        "left_out_of_pixel_metrics": sum(of_defect.without_mask for of_defect in defective),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
