"""Finds the defects in an anomaly map, in camera pixels. Pure functions."""

from __future__ import annotations

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from anoseg_engines.judgement.rules import RuleMaps
from anoseg_engines.placement import Placement

MAX_DEFECTS = 50
"""The most defects that are listed, highest peaks first, so that a verdict stays small."""


class Defect(msgspec.Struct, frozen=True):
    """One connected area of the map at or above the pixel threshold.

    Attributes:
        x, y, width, height: Its box in camera pixels.
        area: Camera pixels².
        peak: The largest map value.
        centroid_x, centroid_y: Camera pixels.
        width_mm, height_mm, area_mm2: The size in mm; None if the camera's scale is not known.
        rule: The region rule at its peak, if there is one.
    """

    x: float
    y: float
    width: float
    height: float
    area: float
    peak: float
    centroid_x: float
    centroid_y: float
    width_mm: float | None = None
    height_mm: float | None = None
    area_mm2: float | None = None
    rule: str | None = None

    def in_mm(self, mm_per_pixel: float) -> Defect:
        """Return the defect with its size in mm."""
        return msgspec.structs.replace(
            self,
            width_mm=round(self.width * mm_per_pixel, 3),
            height_mm=round(self.height * mm_per_pixel, 3),
            area_mm2=round(self.area * mm_per_pixel**2, 4),
        )


def find_defects(
    anomaly_map: NDArray[np.float32],
    threshold: float | NDArray[np.float32],
    placement: Placement,
    rules: RuleMaps | None = None,
) -> tuple[Defect, ...]:
    """Find connected areas (8 neighbours) of the part map at or above the threshold, highest peak first.

    Args:
        threshold: One threshold for all pixels, or one threshold for each pixel.
        rules: Defects below the rules' least area are omitted; the others get their rule's name.

    Returns:
        The defects in camera pixels.
    """
    above = (anomaly_map >= threshold).astype(np.uint8)
    if not above.any():
        return ()
    x0, y0, box_width, box_height = cv2.boundingRect(above)  # the steps below take time for every pixel of the box
    box = slice(y0, y0 + box_height), slice(x0, x0 + box_width)
    values = anomaly_map[box]
    n, labelled, stats, centroids = cv2.connectedComponentsWithStats(above[box], connectivity=8)
    labels: NDArray[np.int32] = np.asarray(labelled, np.int32)
    peaks = np.zeros(n, np.float32)
    inside = labels > 0
    np.maximum.at(peaks, labels[inside], values[inside])
    scale_x, scale_y = placement.scale_xy
    areas = stats[:, cv2.CC_STAT_AREA] / (scale_x * scale_y)
    min_areas = np.zeros(n, np.float32)
    if rules is not None:
        min_areas[:] = np.inf
        np.minimum.at(min_areas, labels, rules.min_areas[box])
    order = sorted((i for i in range(1, n) if areas[i] >= min_areas[i]), key=lambda i: -peaks[i])[:MAX_DEFECTS]
    defects = []
    for i in order:
        left, top, width, height, _ = (int(v) for v in stats[i])
        defects.append(
            Defect(
                x=round(placement.region.x + (x0 + left) / scale_x, 2),
                y=round(placement.region.y + (y0 + top) / scale_y, 2),
                width=round(width / scale_x, 2),
                height=round(height / scale_y, 2),
                area=round(float(areas[i]), 2),
                peak=round(float(peaks[i]), 4),
                centroid_x=round(placement.region.x + (x0 + float(centroids[i][0]) + 0.5) / scale_x, 2),
                centroid_y=round(placement.region.y + (y0 + float(centroids[i][1]) + 0.5) / scale_y, 2),
                rule=_rule_of(values, labels == i, rules.rule[box], rules.names) if rules is not None else None,
            )
        )
    return tuple(defects)


def _rule_of(
    values: NDArray[np.float32], inside: NDArray[np.bool_], rule: NDArray[np.int16], names: tuple[str, ...]
) -> str | None:
    """Return the rule at the defect's peak."""
    number = int(rule[np.unravel_index(int(np.where(inside, values, -1).argmax()), values.shape)])
    return names[number] if number >= 0 else None
