"""Computes the score's scale, the score threshold and the pixel threshold from held-out images. Pure functions.

The score threshold is a split-conformal quantile. Sort the scores of the n held-out good images. Assume that the line's good
parts are like these images (in statistics: exchangeable with them). Then the next good part reaches the k-th smallest score
with probability at most 1 − k/(n+1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anoseg_engines.errors import DataError
from anoseg_trainer.metrics import PixelHistogram

MAX_SLOPE = 1.5
"""Largest slope of the score: half-precision noise of 0.02 in the pooled logit then moves the score by less than 0.01."""
LEAST_SPREAD = 0.3
"""Least spread of a pool's logits: on a very uniform product, a pool would otherwise react to tiny differences."""
ABOVE = 2e-3
"""Distance of the threshold from the conformal score: in half precision a good part may score this much higher."""
SAME_KIND = "same product, camera and light, not hand-picked"
"""The assumption of every bound, as the user reads it."""


@dataclass(frozen=True, slots=True)
class ScoreThreshold:
    """A score threshold and the false rejects to expect at it.

    Attributes:
        value: A part that scores at or above this fails.
        n: Held-out good images used.
        reject_probability: Upper bound on the probability that the next good part is rejected.
        met: Whether this bound is at most the requested share.
        needed: Good images that the requested share needs.
    """

    value: float
    n: int
    reject_probability: float
    met: bool
    needed: int


def images_needed(false_reject: float) -> int:
    """Return the fewest held-out good images with which a threshold can guarantee this share of false rejects."""
    return math.ceil(1 / false_reject - 1e-9) - 1


def conformal_threshold(scores: NDArray[np.floating], false_reject: float) -> ScoreThreshold:
    """Find the threshold at or above which at most the share `false_reject` of good parts score.

    The threshold is `ABOVE` the k-th smallest of n scores, k = ⌈(n+1)(1−false_reject)⌉. If n is too small for this k, the
    threshold comes from the largest score. The bound is then 1/(n+1).

    Raises:
        DataError: There are no scores.
    """
    n = len(scores)
    if n == 0:
        raise DataError("no held-out good images to calibrate with", hint="add good images or raise holdout.calibration")
    # ceil((n+1)(1-a)) as n+1 - floor((n+1)a): the small constant keeps 0.01 * 100 from being rounded below 1.
    k = n + 1 - math.floor((n + 1) * false_reject + 1e-9)
    rank = min(k, n)
    return ScoreThreshold(
        value=min(float(np.sort(scores)[rank - 1]) + ABOVE, 1.0),
        n=n,
        reject_probability=(n + 1 - rank) / (n + 1),
        met=k <= n,
        needed=images_needed(false_reject),
    )


def describe_threshold(threshold: ScoreThreshold, false_reject: float, parts: int) -> str:
    """State the guarantee and its assumption, for the manifest and the user.

    Args:
        threshold: The threshold.
        false_reject: The requested share.
        parts: Number of different parts among the images.
    """
    text = (
        f"a good part is rejected with probability at most {threshold.reject_probability:.4g}, provided that parts on the line "
        f"are like the {threshold.n} good images of the calibration ({SAME_KIND})"
    )
    if not threshold.met:
        text += (
            f"; {false_reject:g} was asked for, which needs {threshold.needed} held-out good images, so the largest of the "
            f"{threshold.n} scores was taken"
        )
    return text + few_parts(parts, threshold.n)


def few_parts(parts: int, n: int) -> str:
    """Return a remark if several of the n images show the same part. The guarantee is then weaker than n suggests."""
    return f"; the images show only {parts} different parts, which weakens this guarantee" if parts < n else ""


def fit_detector(good: NDArray[np.floating]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Fit the units of the image-level detector: centre and spread of each pool over held-out good parts.

    A pool's value is (pooled − centre) / spread. It says how far the part is beyond good parts in this pool. The largest value
    of all pools counts. Synthetic defects have no influence, because real defects differ from them.

    Args:
        good: Pooled logits, [n, p].

    Returns:
        Centre and spread, float64 [p] each.
    """
    spread = np.maximum(good.std(axis=0), LEAST_SPREAD)
    return np.asarray(np.median(good, axis=0), np.float64), np.asarray(spread, np.float64)


def score_scale(
    good: NDArray[np.floating], defective: NDArray[np.floating], steepest: float = MAX_SLOPE
) -> tuple[float, float]:
    """Return slope and shift that give the median good part a score of 0.1, and the median defective one 0.9.

    The slope is kept within 0.05…`steepest`; the middle between both medians then scores 0.5.
    """
    low, high = float(np.median(good)), float(np.median(defective))
    spread = 2 * math.log(9.0)
    slope = min(max(spread / max(high - low, 1e-6), 0.05), steepest) if high > low else steepest
    return slope, -slope * (low + high) / 2


def pixel_threshold(histogram: PixelHistogram) -> float:
    """Return the map value with the best IoU on held-out synthetic defects, kept within 0.05…0.95."""
    return float(np.clip(histogram.best_iou()[1], 0.05, 0.95))
