"""The judgement: from an anomaly map and a score to PASS or FAIL and the defects. Pure functions.

Used by the trainer's evaluation and by the daemon alike, so that both decide the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from anoseg_engines.errors import EngineError
from anoseg_engines.placement import Placement

MAX_DEFECTS = 50
"""At most so many defects are listed, the highest peaks first: a verdict stays small whatever the map shows."""


class Thresholds(msgspec.Struct, frozen=True):
    """score: part score ≥ it is FAIL. pixel: map value ≥ it belongs to a defect."""

    score: float
    pixel: float


class Defect(msgspec.Struct, frozen=True):
    """One connected area of the map at or above the pixel threshold.

    x, y, width, height: its box in camera pixels. area: camera pixels². peak: largest map value.
    centroid_x, centroid_y: camera pixels. width_mm, height_mm, area_mm2: where the camera's scale is known.
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

    def in_mm(self, mm_per_pixel: float) -> Defect:
        """The same with its size in mm."""
        return msgspec.structs.replace(
            self,
            width_mm=round(self.width * mm_per_pixel, 3),
            height_mm=round(self.height * mm_per_pixel, 3),
            area_mm2=round(self.area * mm_per_pixel**2, 4),
        )


@dataclass(frozen=True, slots=True)
class Inspection:
    """What the network says of one part. anomaly_map: float32 [part_height, part_width], the receiver's to keep.

    score: the largest tile score. inference_ns: time in the runtime alone.
    """

    score: float
    anomaly_map: NDArray[np.float32]
    inference_ns: int = 0


@dataclass(frozen=True, slots=True)
class Judgement:
    """The decision on one part."""

    outcome: Literal["PASS", "FAIL"]
    score: float
    threshold: float
    defects: tuple[Defect, ...]


def judge(inspection: Inspection, thresholds: Thresholds, placement: Placement) -> Judgement:
    """Decide one part: score ≥ threshold is FAIL, anything else PASS; list what the map shows.

    Raises:
        EngineError: score or map is not finite. A part whose score is no number was not inspected and must not pass.
    """
    if not np.isfinite(inspection.score) or not np.isfinite(inspection.anomaly_map).all():
        raise EngineError(
            f"the network answered with a score of {inspection.score} and a map that is not finite everywhere",
            hint="the part is not inspected; run `anoseg-engine verify` on the bundle",
        )
    outcome: Literal["PASS", "FAIL"] = "FAIL" if inspection.score >= thresholds.score else "PASS"
    defects = find_defects(inspection.anomaly_map, thresholds.pixel, placement)
    return Judgement(outcome, inspection.score, thresholds.score, defects)


def find_defects(anomaly_map: NDArray[np.float32], pixel_threshold: float, placement: Placement) -> tuple[Defect, ...]:
    """Connected areas (8 neighbours) of the part map at or above the threshold, highest peak first, in camera pixels."""
    above = (anomaly_map >= pixel_threshold).astype(np.uint8)
    if not above.any():
        return ()
    n, labels, stats, centroids = cv2.connectedComponentsWithStats(above, connectivity=8)
    peaks = np.zeros(n, np.float32)
    np.maximum.at(peaks, np.asarray(labels, np.int32), anomaly_map)
    scale_x, scale_y = placement.scale_xy
    order = sorted(range(1, n), key=lambda i: -peaks[i])[:MAX_DEFECTS]
    defects = []
    for i in order:
        left, top, width, height, area = (int(v) for v in stats[i])
        defects.append(
            Defect(
                x=round(placement.region.x + left / scale_x, 2),
                y=round(placement.region.y + top / scale_y, 2),
                width=round(width / scale_x, 2),
                height=round(height / scale_y, 2),
                area=round(area / (scale_x * scale_y), 2),
                peak=round(float(peaks[i]), 4),
                centroid_x=round(placement.region.x + (float(centroids[i][0]) + 0.5) / scale_x, 2),
                centroid_y=round(placement.region.y + (float(centroids[i][1]) + 0.5) / scale_y, 2),
            )
        )
    return tuple(defects)
