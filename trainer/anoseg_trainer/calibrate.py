"""From held-out images to the numbers a line runs with: the score's scale, the score threshold, the pixel threshold.

Pure functions. The score threshold is a split-conformal quantile: with n held-out good images exchangeable with those of
the line, the chance that the next good image scores at or above it is at most 1 − k/(n+1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anoseg_engines.errors import DataError
from anoseg_trainer.metrics import PixelHistogram

MAX_SLOPE = 1.5
"""Bound on the score's slope: half-precision noise of 0.02 in the pooled logit then moves the score by less than 0.01."""
LEAST_SPREAD = 0.3
"""Pooled logits of good parts that lie closer than this are taken for equal: a clean product must not make a pool touchy."""
ABOVE = 2e-3
"""The threshold lies so far above the conformal score: a runtime in half precision may read a good part that much higher."""


@dataclass(frozen=True, slots=True)
class ScoreThreshold:
    """The threshold with what it promises.

    value: score ≥ it is FAIL. n: held-out good images. guaranteed: largest chance that a good part is rejected.
    met: whether that is at most what was wished. needed: good images needed for the wish.
    """

    value: float
    n: int
    guaranteed: float
    met: bool
    needed: int


def images_needed(false_reject: float) -> int:
    """Held-out good images without which no threshold can promise this share."""
    return math.ceil(1 / false_reject - 1e-9) - 1


def conformal_threshold(scores: NDArray[np.floating], false_reject: float) -> ScoreThreshold:
    """Threshold so that at most `false_reject` of good parts score at or above it.

    The k-th smallest of n scores, k = ⌈(n+1)(1−false_reject)⌉; when n is too small for that, the largest, whose guarantee is
    1/(n+1). The threshold lies `ABOVE` it, since a score equal to the threshold is rejected.

    Raises:
        DataError: no scores.
    """
    n = len(scores)
    if n == 0:
        raise DataError("no held-out good images to calibrate with", hint="add good images or raise holdout.calibration")
    # ceil((n+1)(1-a)) as n+1 - floor((n+1)a): the small constant keeps 0.01 * 100 from being rounded below 1.
    k = n + 1 - math.floor((n + 1) * false_reject + 1e-9)
    needed = images_needed(false_reject)
    met = k <= n
    rank = min(k, n)
    value = min(float(np.sort(scores)[rank - 1]) + ABOVE, 1.0)
    return ScoreThreshold(value, n, (n + 1 - rank) / (n + 1), met, needed)


def guarantee_in_words(threshold: ScoreThreshold, false_reject: float, parts: int) -> str:
    """The promise with its assumption, for the manifest and the user."""
    promise = (
        f"a good part is rejected with probability at most {threshold.guaranteed:.4g}, if the parts of the line and the "
        f"{threshold.n} held-out good images are exchangeable (same product, camera and light; none chosen)"
    )
    if not threshold.met:
        promise += (
            f"; {false_reject:g} was asked for, which needs {threshold.needed} held-out good images: the largest of "
            f"{threshold.n} scores was taken"
        )
    if parts < threshold.n:
        promise += f"; the images show only {parts} different parts, so the promise is weaker than their number says"
    return promise


def fit_detector(good: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Units of the image-level detector: centre and spread of each pool of held-out good parts [n, p], float64 [p] each.

    A pool's value is (pooled − centre) / spread, and the largest counts: as far as good parts never are, whichever pool shows
    it. Nothing is learnt from synthetic defects here, which are not those of the line.
    """
    spread = np.maximum(good.std(axis=0), LEAST_SPREAD)
    return np.asarray(np.median(good, axis=0), np.float64), np.asarray(spread, np.float64)


def score_scale(
    good: NDArray[np.floating], defective: NDArray[np.floating], steepest: float = MAX_SLOPE
) -> tuple[float, float]:
    """Slope and shift that bring the median of the good parts' values to a score of 0.1, of defective ones' to 0.9.

    The slope is at most `steepest`, and at least 0.05; then the middle between both medians scores 0.5.
    """
    low, high = float(np.median(good)), float(np.median(defective))
    spread = 2 * math.log(9.0)
    slope = min(max(spread / max(high - low, 1e-6), 0.05), steepest) if high > low else steepest
    return slope, -slope * (low + high) / 2


def pixel_threshold(histogram: PixelHistogram) -> float:
    """The map value with the best IoU on held-out synthetic defects, kept within 0.05…0.95."""
    return float(np.clip(histogram.best_iou()[1], 0.05, 0.95))
