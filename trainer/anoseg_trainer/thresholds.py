"""Computes the score's scale, the score threshold and the pixel threshold from held-out images. Pure functions.

The score threshold is a split-conformal quantile. Sort the scores of the n held-out good parts; a part that several images
show has the largest of their scores. Assume that the line's good parts are like these (in statistics: exchangeable with them).
Then the next good part reaches the k-th smallest score with probability at most 1 − k/(n+1).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anoseg_engines.bundle import NOT_PROMISED, GoldenTolerance
from anoseg_engines.errors import DataError
from anoseg_engines.words import counted, rounded_up
from anoseg_trainer.metrics import PixelHistogram

MAX_SLOPE = 1.5
"""Largest slope of the score: half-precision noise of 0.02 in the pooled logit then moves the score by less than 0.01."""
MIDDLE = 8.0
"""Standard deviations above the median good part at which the score is at least 0.5. Odd good parts of a calibration are up to
some ten above it. With 5, their scores would come close to 1, and no defect could be clearly above the threshold."""
LEAST_SPREAD = 1.0
"""Least standard deviation for `MIDDLE`, in units of the joined views: few held-out parts may be alike by chance, and on a very
uniform product tiny differences would count."""
MARGIN = GoldenTolerance().score + 1e-4
"""Distance of the threshold from the conformal score. A runtime on the line may score a good part higher than the FP32 network
that calibrates: by the tolerance of the self-test, which accepts such a runtime."""
PIXEL_THRESHOLDS = 0.05, 0.6
"""Least and largest pixel threshold. Synthetic defects alone would ask for 0.97 or more, because the network was trained on
their like. Maps of real defects rise less, and many rejected parts would have no mark (EXPERIMENTS.md)."""
SAME_KIND = "same product, camera and light, not hand-picked"
"""The assumption of every bound, as the user reads it."""


@dataclass(frozen=True, slots=True)
class ScoreThreshold:
    """A score threshold and the false rejects to expect at it.

    Attributes:
        value: A part that scores at or above this fails.
        n: Held-out good images used.
        parts: Different parts that these images show.
        reject_probability: Upper bound on the probability that the next good part is rejected.
        met: Whether this bound is at most the requested share.
        needed: Good parts that the requested share needs.
    """

    value: float
    n: int
    parts: int
    reject_probability: float
    met: bool
    needed: int


def images_needed(false_reject: float) -> int:
    """Return the fewest held-out good parts with which a threshold can guarantee this share of false rejects."""
    return math.ceil(1 / false_reject - 1e-9) - 1


def part_scores(scores: NDArray[np.floating], parts: Sequence[int]) -> NDArray[np.float64]:
    """Return the score of each part, which is the largest of its images' scores, in order of the part numbers."""
    numbers, index = np.unique(np.asarray(parts), return_inverse=True)
    largest = np.full(len(numbers), -np.inf)
    np.maximum.at(largest, index, scores)
    return largest


def conformal_threshold(
    scores: NDArray[np.floating], false_reject: float, *, parts: Sequence[int] | None = None, margin: float = MARGIN
) -> ScoreThreshold:
    """Find the threshold at or above which at most the share `false_reject` of good parts score.

    The threshold is `margin` above the k-th smallest score of n parts, k = ⌈(n+1)(1−false_reject)⌉. If n is too small for
    this k, the threshold comes from the largest score. The bound is then 1/(n+1).

    Args:
        scores: Score of each held-out good image.
        false_reject: The requested share.
        parts: Part number of each image; None: each image shows another part.
        margin: Distance from the conformal score.

    Raises:
        DataError: There are no scores.
    """
    by_part = part_scores(scores, range(len(scores)) if parts is None else parts)
    n = len(by_part)
    if n == 0:
        raise DataError("no held-out good images to calibrate with", hint="add good images or raise holdout.calibration")
    rank = conformal_rank(n, false_reject)
    return ScoreThreshold(
        value=min(float(np.sort(by_part)[min(rank, n) - 1]) + margin, 1.0),
        n=len(scores),
        parts=n,
        reject_probability=(n + 1 - min(rank, n)) / (n + 1),
        met=rank <= n,
        needed=images_needed(false_reject),
    )


def conformal_rank(n: int, false_reject: float) -> int:
    """Return k, the rank among n scores in ascending order of the one that sets the threshold; k > n: there are too few."""
    # ceil((n+1)(1-a)) as n+1 - floor((n+1)a): the small constant keeps 0.01 * 100 from being rounded below 1.
    return n + 1 - math.floor((n + 1) * false_reject + 1e-9)


def describe_threshold(threshold: ScoreThreshold, false_reject: float, *, parts_known: bool = True) -> str:
    """State the guarantee and its assumption, for the manifest and the user.

    Args:
        threshold: The threshold.
        false_reject: The requested share.
        parts_known: Whether it is known which images show the same part. If not, nothing is promised.
    """
    if not parts_known:
        return withheld(threshold.n)
    text = (
        f"a good part is rejected with probability at most {threshold.reject_probability:.4g}, provided that parts on the line "
        f"are like {named_images(threshold.parts, threshold.n)} of the calibration ({SAME_KIND})"
    )
    if not threshold.met:
        text += (
            f"; {false_reject:g} was asked for, which needs {threshold.needed} held-out good images of different parts, so the "
            f"largest of the {counted(threshold.parts, 'score')} was taken"
        )
    return text


def named_images(parts: int, images: int) -> str:
    """Name the good images and, if they are fewer, the parts that they show."""
    return f"the {images} good images" if parts == images else f"the {counted(parts, 'part')} on the {images} good images"


def withheld(images: int) -> str:
    """Say that there is no promise, why, and what to do."""
    return (
        f"{NOT_PROMISED}: the {images} good images look so much alike that images of one part cannot be told from images of "
        "different parts. Say which images show the same part (holdout.group; '.+' if each image shows another part)"
    )


def for_the_line(threshold: ScoreThreshold, *, promised: bool) -> str:
    """Say in plain words how many good parts the line will reject, or that this is not known."""
    if not promised:
        return "For the line: how many good parts will be rejected is not known. Count them during the first shifts."
    rejected = 1000 * rounded_up(threshold.reject_probability)
    return (
        f"For the line: of 1000 good parts like these, expect at most {rejected:.0f} to be rejected, on average over many "
        "calibrations; this one may reject somewhat more or fewer. It says nothing about defective parts that pass."
    )


def score_scale(
    good: NDArray[np.floating], defective: NDArray[np.floating], steepest: float = MAX_SLOPE
) -> tuple[float, float]:
    """Return slope and shift of the score's logit. The median good part scores 0.1, the median defective one at least 0.9.

    If the defects are far away, that slope would leave all good parts at 0.1, and the `MARGIN` of the threshold would hide
    faint defects. So a good part that is `MIDDLE` standard deviations above the median scores at least 0.5, unless the good
    parts hardly differ. The slope is kept within 0.05…`steepest`; if that is too flat, the middle between both medians scores
    0.5.

    Args:
        good: Joined values of held-out good parts, a weighted sum of the views' standardised values.
        defective: The same of parts with synthetic defects.
        steepest: Largest slope.
    """
    low, high = float(np.median(good)), float(np.median(defective))
    if high <= low:
        return steepest, -steepest * (low + high) / 2
    half = math.log(9.0)
    by_medians = 2 * half / max(high - low, 1e-6)
    by_spread = half / (MIDDLE * max(float(good.std()), LEAST_SPREAD))
    slope = min(max(by_medians, by_spread, 0.05), steepest)
    middle = low + min(half / slope, (high - low) / 2)
    return slope, -slope * middle


def pixel_threshold(histogram: PixelHistogram) -> float:
    """Return the map value with the best IoU on held-out synthetic defects, kept within the allowed range."""
    return float(np.clip(histogram.best_iou()[1], *PIXEL_THRESHOLDS))
