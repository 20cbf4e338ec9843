"""Measures a bundle on test images with masks, through the same engine code that the daemon runs.

Pixel metrics are computed at the image's own size. The anomaly map is enlarged linearly to that size, and the mask is used
as drawn. A defective image whose mask is empty counts for the image metrics, but not for the pixel metrics.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from anoseg_engines.engine import Engine
from anoseg_engines.images import Image, read_image
from anoseg_engines.judgement import Inspection, judge
from anoseg_engines.placement import Placement, Region
from anoseg_trainer.data.evaluation_images import GOOD, find_evaluation_images
from anoseg_trainer.metrics import PixelHistogram, image_auroc

METRICS = {
    "image_auroc": "image AUROC",
    "pixel_auroc": "pixel AUROC",
    "aupro_30": "AUPRO 30 %",
    "best_iou": "best IoU",
    "iou_at_pixel_threshold": "IoU at threshold",
}
"""The metrics that every table shows, with their titles."""


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
        overall: Metric name to value over all defect types; None where a metric cannot be computed.
        per_defect: The same for each defect type.
        images: Path below the data folder to score, outcome and defect.
        inference_ms: Median inference time of an image.
        iou_curve: (threshold, IoU) over all test images.
    """

    bundle: str
    digest: str
    runtime: str
    thresholds: dict[str, float]
    overall: dict[str, Any]
    per_defect: dict[str, dict[str, Any]]
    images: dict[str, dict[str, Any]]
    inference_ms: float
    iou_curve: list[tuple[float, float]]

    def table_rows(self) -> Iterator[list[str]]:
        """Yield the rows of the result table, one for each defect type and one for all: name, images, metrics, escapes."""
        for name, row in [*self.per_defect.items(), ("all", self.overall)]:
            yield [name, str(row["n_defective"]), *metric_cells(row), str(row["escapes"])]

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
    return Evaluation(
        bundle=engine.bundle.label,
        digest=engine.bundle.digest,
        runtime=engine.runtime_description,
        thresholds={"score": engine.thresholds.score, "pixel": engine.thresholds.pixel},
        overall=_figures(good, list(counts.values())),
        per_defect={name: _figures(good, [of_defect]) for name, of_defect in counts.items()},
        images=images,
        inference_ms=round(statistics.median(nanoseconds) / 1e6, 3),
        iou_curve=pixels.iou_points() if pixels.n_regions else [],
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
        "left_out_of_pixel_metrics": sum(of_defect.without_mask for of_defect in defective),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)
