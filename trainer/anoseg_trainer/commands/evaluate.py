"""`anoseg-train evaluate`: a bundle against test images with masks, through the engine, the same lines the daemon runs.

Pixel metrics are taken at the image's own size: the map is enlarged (linear) to it, the mask stays as drawn. An image of a
defect folder whose mask is empty is defective at image level and left out of pixel metrics.
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
from anoseg_engines.errors import DataError
from anoseg_engines.images import Image, list_images, read_image
from anoseg_engines.judgement.judge import judge
from anoseg_engines.placement import Placement, Region
from anoseg_trainer.metrics import PixelHistogram, image_auroc

GOOD = "good"


@dataclass(frozen=True, slots=True)
class TestImage:
    """One test image. defect: its folder's name, `good` for good ones. mask: its mask file, None for good ones."""

    path: Path
    defect: str
    mask: Path | None


@dataclass(slots=True)
class Tally:
    """What is counted of one defect type (or of the good images). hits, false, misses: pixels at the pixel threshold."""

    scores: list[float] = field(default_factory=list)
    failed: int = 0
    pixels: PixelHistogram = field(default_factory=PixelHistogram)
    hits: int = 0
    false: int = 0
    misses: int = 0
    without_mask: int = 0


@dataclass(frozen=True, slots=True)
class Evaluation:
    """overall and per_defect: metric → value (None where it cannot be computed). images: path → score, outcome, defect.

    iou_curve: (threshold, IoU) of all test images together.
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


def find_test_images(data: Path) -> list[TestImage]:
    """All test images of an MVTec AD layout, sorted by folder and name.

    Raises:
        DataError: no test folder, no good or no defective images, or a mask is missing.
    """
    test = data / "test"
    if not test.is_dir():
        raise DataError(
            f"{test}: no such folder", hint="evaluate needs the MVTec AD layout: test/good, test/<defect>, ground_truth"
        )
    found: list[TestImage] = []
    missing = []
    for folder in sorted(p for p in test.iterdir() if p.is_dir()):
        for path in list_images(folder):
            mask = None
            if folder.name != GOOD:
                mask = data / "ground_truth" / folder.name / f"{path.stem}_mask.png"
                if not mask.is_file():
                    missing.append(str(mask))
            found.append(TestImage(path, folder.name, mask))
    if missing:
        shown = "\n  ".join(missing[:10]) + (f"\n  and {len(missing) - 10} more" if len(missing) > 10 else "")
        raise DataError(
            f"{len(missing)} masks are missing:\n  {shown}", hint="an image without visible defect needs an empty mask"
        )
    if not any(t.defect == GOOD for t in found) or all(t.defect == GOOD for t in found):
        raise DataError(f"{test}: good and defective images are both needed", hint="test/good and test/<defect>")
    return found


def evaluate(engine: Engine, data: Path, on_image: Callable[[int, int], None] = lambda _, __: None) -> Evaluation:
    """Inspect every test image and compute all metrics.

    Raises:
        DataError: images or masks that cannot be used. EngineError: the runtime failed.
    """
    tests = find_test_images(data)
    tallies: dict[str, Tally] = {}
    images: dict[str, dict[str, Any]] = {}
    nanoseconds = []
    for n, test in enumerate(tests):
        inspected = inspect_image(engine, test.path)
        verdict = judge(inspected.inspection, engine.thresholds, inspected.placement)
        tally = tallies.setdefault(test.defect, Tally())
        tally.scores.append(verdict.score)
        tally.failed += verdict.outcome == "FAIL"
        _count_pixels(tally, inspected.full_map(), read_mask(test, inspected.image), engine.thresholds.pixel)
        key = test.path.relative_to(data).as_posix()
        images[key] = {"score": verdict.score, "outcome": verdict.outcome, "defect": test.defect}
        nanoseconds.append(inspected.inspection.inference_ns)
        on_image(n + 1, len(tests))
    good = tallies[GOOD]
    kinds = {name: tally for name, tally in tallies.items() if name != GOOD}
    pixels = good.pixels
    for tally in kinds.values():
        pixels = pixels + tally.pixels
    return Evaluation(
        bundle=engine.bundle.label,
        digest=engine.bundle.digest,
        runtime=engine.runtime_description,
        thresholds={"score": engine.thresholds.score, "pixel": engine.thresholds.pixel},
        overall=_metrics(good, list(kinds.values())),
        per_defect={name: _metrics(good, [tally]) for name, tally in kinds.items()},
        images=images,
        inference_ms=round(statistics.median(nanoseconds) / 1e6, 3),
        iou_curve=pixels.iou_points() if pixels.n_regions else [],
    )


@dataclass(frozen=True, slots=True)
class Inspected:
    """An image with what the engine said of it."""

    image: Image
    placement: Placement
    inspection: Any

    def full_map(self) -> NDArray[np.float32]:
        """The map at the image's own size, float32 [h, w]."""
        height, width = self.image.shape[:2]
        found = self.inspection.anomaly_map
        if found.shape == (height, width):
            return np.asarray(found, np.float32)
        return np.asarray(cv2.resize(found, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)


def inspect_image(engine: Engine, path: Path) -> Inspected:
    """Read a file, place the whole image as the part's region, inspect it."""
    image = read_image(path)
    placement = engine.place(Region(0, 0, image.shape[1], image.shape[0]))
    return Inspected(image, placement, engine.inspect(image, placement))


def read_mask(test: TestImage, image: Image) -> NDArray[np.bool_] | None:
    """The mask as bool [h, w]; None: it is empty. Good images have one of zeros.

    Raises:
        DataError: unreadable, or of another size than the image.
    """
    if test.mask is None:
        return np.zeros(image.shape[:2], bool)
    mask = read_image(test.mask)[:, :, 0] >= 128
    if mask.shape != image.shape[:2]:
        raise DataError(f"{test.mask}: mask is {mask.shape[1]}×{mask.shape[0]}, its image {image.shape[1]}×{image.shape[0]}")
    return mask if mask.any() else None


def _count_pixels(tally: Tally, anomaly_map: NDArray[np.float32], mask: NDArray[np.bool_] | None, threshold: float) -> None:
    if mask is None:
        tally.without_mask += 1
        return
    tally.pixels.add(anomaly_map, mask)
    above = anomaly_map >= threshold
    tally.hits += int((above & mask).sum())
    tally.false += int((above & ~mask).sum())
    tally.misses += int((~above & mask).sum())


def _metrics(good: Tally, kinds: list[Tally]) -> dict[str, Any]:
    """All metrics of some defect types against the good images. IoU is pooled over all their pixels, good images included."""
    pixels = good.pixels
    for kind in kinds:
        pixels = pixels + kind.pixels
    scores = [s for kind in kinds for s in kind.scores]
    tallies = [good, *kinds]
    hits, union = sum(t.hits for t in tallies), sum(t.hits + t.false + t.misses for t in tallies)
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
        "escapes": len(scores) - sum(kind.failed for kind in kinds),
        "left_out_of_pixel_metrics": sum(kind.without_mask for kind in kinds),
    }


def _rounded(value: float | None) -> float | None:
    return None if value is None else round(value, 6)


def noteworthy(evaluation: Evaluation, each: int = 4) -> Iterator[tuple[str, str]]:
    """(what it is, image path) of the images worth looking at: lowest and highest scores of both sorts."""
    by_score = sorted(evaluation.images.items(), key=lambda item: float(item[1]["score"]))
    good = [path for path, row in by_score if row["defect"] == GOOD]
    defective = [path for path, row in by_score if row["defect"] != GOOD]
    for name, paths in (
        ("worst_defective", defective[:each]),
        ("worst_good", good[::-1][:each]),
        ("best_defective", defective[::-1][:each]),
        ("best_good", good[:each]),
    ):
        for path in paths:
            yield name, path
