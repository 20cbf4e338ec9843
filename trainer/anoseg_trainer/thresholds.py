"""From held-out images to the numbers a line runs with: the score's scale, the score threshold, the pixel threshold.

Pure functions. The score threshold is a split-conformal quantile: with n held-out good images exchangeable with those of
the line, the chance that the next good image scores at or above it is at most 1 − k/(n+1). Region rules are fixed beforehand:
the rejected of n good images are counted, and the share is bounded as by Clopper and Pearson (Biometrika 26, 1934), one-sided.
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

CONFIDENCE = 0.95
"""Of what is said about fixed rules: it holds in so many of all such calibrations."""


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


@dataclass(frozen=True, slots=True)
class RejectedShare:
    """What is known of the share of good parts that fixed rules reject.

    rejected: of n good images. guaranteed: the share is no larger, with `CONFIDENCE`. met: whether that is at most what was
    wished. allowed: most rejected images with which n of them would show the wish; −1: none would be few enough.
    needed: good images with which the wish is shown if none is rejected.
    """

    rejected: int
    n: int
    guaranteed: float
    met: bool
    allowed: int
    needed: int


def chance_of_at_most(rejected: int, n: int, share: float) -> float:
    """Probability that of n parts at most `rejected` are, each with probability `share`, independently (binomial)."""
    if rejected >= n or share <= 0:
        return 1.0
    if share >= 1:
        return 0.0
    log_yes, log_no = math.log(share), math.log1p(-share)
    log_ways = [math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) for k in range(rejected + 1)]
    return min(1.0, math.fsum(math.exp(ways + k * log_yes + (n - k) * log_no) for k, ways in enumerate(log_ways)))


def largest_share(rejected: int, n: int) -> float:
    """Upper Clopper–Pearson bound of the share, one-sided: with any larger one, so few rejected would be seen in less than
    1 − `CONFIDENCE` of all trials."""
    low, high = 0.0, 1.0
    if rejected >= n:
        return high
    for _ in range(60):
        middle = (low + high) / 2
        if chance_of_at_most(rejected, n, middle) > 1 - CONFIDENCE:
            low = middle
        else:
            high = middle
    return high


def rejected_share(rejected: int, n: int, false_reject: float) -> RejectedShare:
    """What n held-out good images, of which fixed rules reject some, say of the share of good parts that they reject.

    Raises:
        DataError: no images.
    """
    if n == 0:
        raise DataError("no good images to calibrate with", hint="add good images")
    allowed = -1
    while allowed + 1 < n and chance_of_at_most(allowed + 1, n, false_reject) <= 1 - CONFIDENCE:
        allowed += 1
    needed = math.ceil(math.log(1 - CONFIDENCE) / math.log1p(-false_reject) - 1e-9)
    return RejectedShare(rejected, n, largest_share(rejected, n), rejected <= allowed, allowed, needed)


def share_in_words(found: RejectedShare, false_reject: float, parts: int) -> str:
    """The promise for region rules with its assumption, for the manifest and the user."""
    promise = (
        f"at most {found.guaranteed:.4g} of good parts are rejected, with {CONFIDENCE:.0%} confidence, since {found.rejected} "
        f"of {found.n} held-out good images are, if the parts of the line and these images are exchangeable (same product, "
        "camera and light; none chosen)"
    )
    if not found.met and found.allowed < 0:
        promise += (
            f"; {false_reject:g} was asked for, which needs {found.needed} held-out good images of which none is rejected"
        )
    elif not found.met:
        promise += f"; {false_reject:g} was asked for, which allows {found.allowed} rejected of {found.n}"
    if parts < found.n:
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
