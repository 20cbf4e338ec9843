"""Computes image AUROC, pixel AUROC, pixel average precision, AUPRO and IoU.

Pixel metrics are computed from histograms, so that memory does not grow with the number of images. scikit-learn takes a second
to import, so it is imported only when it is used.
"""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

BINS = 1 << 16
"""Bins of a pixel histogram."""
LOGIT_RANGE = 12.0
"""The bins are even in the logit of the map value, from −12 to 12."""
AUPRO_LIMIT = 0.3
"""False-positive rate up to which AUPRO is computed."""


def image_auroc(good: Iterable[float], defective: Iterable[float]) -> float | None:
    """Return the area under the ROC curve of image scores; None if one side is empty."""
    from sklearn.metrics import roc_auc_score

    low, high = list(good), list(defective)
    if not low or not high:
        return None
    return float(roc_auc_score([0] * len(low) + [1] * len(high), low + high))


def average_precision(truth: NDArray[np.bool_], values: NDArray[np.floating]) -> float | None:
    """Return the average precision of `values` [n] for `truth` [n]; None if nothing is true."""
    from sklearn.metrics import average_precision_score

    return float(average_precision_score(truth, values)) if truth.any() else None


class PixelHistogram:
    """Histograms of map values.

    Values that differ by less than 4e-4 in logit count as equal, which changes an area under a curve by less than that.

    Attributes:
        normal: Counts of normal pixels, int64 [BINS].
        defective: Counts of defective pixels, int64 [BINS].
        regions: The same with each pixel weighted by 1 / area of its defective region, float64 [BINS].
        n_regions: Defective regions (8-connected).
    """

    def __init__(self) -> None:
        self.normal = np.zeros(BINS, np.int64)
        self.defective = np.zeros(BINS, np.int64)
        self.regions = np.zeros(BINS, np.float64)
        self.n_regions = 0

    def add(self, anomaly_map: NDArray[np.floating], mask: NDArray[np.bool_] | None) -> None:
        """Add one image: map [h, w] in 0…1 and mask [h, w]; None: all pixels are normal."""
        bins = bin_of(anomaly_map)
        if mask is None or not mask.any():
            self.normal += np.bincount(bins.reshape(-1), minlength=BINS)
            return
        self.normal += np.bincount(bins[~mask], minlength=BINS)
        self.defective += np.bincount(bins[mask], minlength=BINS)
        n, labels = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)
        areas = np.bincount(labels.reshape(-1), minlength=n)
        self.regions += np.bincount(bins[mask], weights=1 / areas[labels[mask]], minlength=BINS)
        self.n_regions += n - 1

    def __add__(self, other: PixelHistogram) -> PixelHistogram:
        total = PixelHistogram()
        total.normal = self.normal + other.normal
        total.defective = self.defective + other.defective
        total.regions = self.regions + other.regions
        total.n_regions = self.n_regions + other.n_regions
        return total

    def auroc(self) -> float | None:
        """Return the pixel AUROC; None unless there are normal and defective pixels."""
        if not self.normal.sum() or not self.defective.sum():
            return None
        fpr, tpr = _from_above(self.normal) / self.normal.sum(), _from_above(self.defective) / self.defective.sum()
        return _area(fpr, tpr)

    def aupro(self, limit: float = AUPRO_LIMIT) -> float | None:
        """Return AUPRO: the area under the per-region overlap over the false-positive rate up to `limit`, divided by `limit`.

        The overlap at a threshold is the mean, over all defective regions, of the share of the region at or above it
        (Bergmann et al., MVTec AD). The curve is linear between thresholds, also at the limit. None without normal pixels
        or regions.
        """
        if not self.normal.sum() or not self.n_regions:
            return None
        fpr = _from_above(self.normal) / self.normal.sum()
        overlap = _from_above(self.regions) / self.n_regions
        keep = fpr <= limit
        x = np.append(fpr[keep], limit)
        y = np.append(overlap[keep], np.interp(limit, fpr, overlap))
        return _area(x, y) / limit

    def iou_curve(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        """Return thresholds (map values, descending), and the IoU of all pixels at or above each, pooled over the images."""
        hits, false = _from_above(self.defective)[1:], _from_above(self.normal)[1:]
        union = self.defective.sum() + false
        return value_of(np.arange(BINS - 1, -1, -1)), hits / np.maximum(union, 1)

    def iou_points(self, n: int = 99) -> list[tuple[float, float]]:
        """Return (threshold, IoU) at n thresholds evenly spread over 0…1, ascending."""
        thresholds, iou = self.iou_curve()
        at = np.linspace(0, 1, n + 2)[1:-1]
        return [
            (round(float(t), 4), round(float(v), 5))
            for t, v in zip(at, np.interp(at, thresholds[::-1], iou[::-1]), strict=True)
        ]

    def best_iou(self) -> tuple[float, float]:
        """Return the best IoU over all thresholds, and its threshold."""
        thresholds, iou = self.iou_curve()
        best = int(np.argmax(iou))
        return float(iou[best]), float(thresholds[best])


def bin_of(values: NDArray[np.floating]) -> NDArray[np.int64]:
    """Return the histogram bins of map values in 0…1."""
    clipped = np.clip(values.astype(np.float64), 1e-6, 1 - 1e-6)
    logit = np.log(clipped / (1 - clipped))
    return np.clip((logit + LOGIT_RANGE) * (BINS / (2 * LOGIT_RANGE)), 0, BINS - 1).astype(np.int64)


def value_of(bins: NDArray[np.integer]) -> NDArray[np.float64]:
    """Return the smallest map value of each bin."""
    logit = bins.astype(np.float64) * (2 * LOGIT_RANGE / BINS) - LOGIT_RANGE
    return np.asarray(1 / (1 + np.exp(-logit)), np.float64)


def _from_above(histogram: NDArray[np.generic]) -> NDArray[np.float64]:
    """Return the counts at or above each bin's lower edge, from the highest bin down, with a leading 0: float64 [BINS + 1]."""
    return np.concatenate([[0.0], np.cumsum(histogram[::-1].astype(np.float64))])


def _area(x: NDArray[np.float64], y: NDArray[np.float64]) -> float:
    """Return the area under the line through the points; x ascending."""
    return float((np.diff(x) * (y[1:] + y[:-1]) / 2).sum())
