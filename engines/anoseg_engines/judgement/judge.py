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
from anoseg_engines.judgement.rules import RulePlan
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
    rule: the region rule at its peak, where there is one.
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

    score: the largest tile score. inference_ns: time in the runtime alone. queued_ns: time before that, waiting for it.
    """

    score: float
    anomaly_map: NDArray[np.float32]
    inference_ns: int = 0
    queued_ns: int = 0


@dataclass(frozen=True, slots=True)
class Judgement:
    """The decision on one part. REVIEW: a person looks. threshold: of the score; None where region rules decided."""

    outcome: Literal["PASS", "FAIL", "REVIEW"]
    score: float
    threshold: float | None
    defects: tuple[Defect, ...]


def judge(
    inspection: Inspection,
    thresholds: Thresholds,
    placement: Placement,
    *,
    rules: RulePlan | None = None,
    review_from: float | None = None,
) -> Judgement:
    """Decide one part, and list what the map shows.

    Without rules, score ≥ threshold is FAIL. With rules, a defect that they find is FAIL, whatever the score. review_from: a
    score, with rules a map value, from which what is no FAIL is REVIEW. Anything else is PASS.

    Raises:
        EngineError: score or map is not finite. A part whose score is no number was not inspected and must not pass.
    """
    found = inspection.anomaly_map
    if not np.isfinite(inspection.score) or not np.isfinite(found).all():
        raise EngineError(
            f"the network answered with a score of {inspection.score} and a map that is not finite everywhere",
            hint="the part is not inspected; run `anoseg-engine verify` on the bundle",
        )
    outcome: Literal["PASS", "FAIL", "REVIEW"]
    if rules is None:
        defects = find_defects(found, thresholds.pixel, placement)
        doubtful = review_from is not None and inspection.score >= review_from
        outcome = "FAIL" if inspection.score >= thresholds.score else "REVIEW" if doubtful else "PASS"
        return Judgement(outcome, inspection.score, thresholds.score, defects)
    defects = find_defects(found, rules.thresholds, placement, rules)
    outcome = "FAIL" if defects else "PASS"
    if not defects and review_from is not None:
        defects = find_defects(found, np.where(np.isinf(rules.thresholds), np.inf, review_from), placement, rules)
        outcome = "REVIEW" if defects else "PASS"
    return Judgement(outcome, inspection.score, None, defects)


def find_defects(
    anomaly_map: NDArray[np.float32],
    threshold: float | NDArray[np.float32],
    placement: Placement,
    rules: RulePlan | None = None,
) -> tuple[Defect, ...]:
    """Connected areas (8 neighbours) of the part map at or above the threshold, highest peak first, in camera pixels.

    threshold: one, or one a pixel. rules: those smaller than the least area that these ask for are left out, others named.
    """
    above = (anomaly_map >= threshold).astype(np.uint8)
    if not above.any():
        return ()
    x0, y0, box_width, box_height = cv2.boundingRect(above)  # what follows takes time for every pixel, defective or not
    box = slice(y0, y0 + box_height), slice(x0, x0 + box_width)
    values = anomaly_map[box]
    n, labelled, stats, centroids = cv2.connectedComponentsWithStats(above[box], connectivity=8)
    labels: NDArray[np.int32] = np.asarray(labelled, np.int32)
    peaks = np.zeros(n, np.float32)
    inside = labels > 0
    np.maximum.at(peaks, labels[inside], values[inside])
    scale_x, scale_y = placement.scale_xy
    areas = stats[:, cv2.CC_STAT_AREA] / (scale_x * scale_y)
    wanted = np.zeros(n, np.float32)
    if rules is not None:
        wanted[:] = np.inf
        np.minimum.at(wanted, labels, rules.min_areas[box])
    order = sorted((i for i in range(1, n) if areas[i] >= wanted[i]), key=lambda i: -peaks[i])[:MAX_DEFECTS]
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
    """The rule at the defect's peak."""
    number = int(rule[np.unravel_index(int(np.where(inside, values, -1).argmax()), values.shape)])
    return names[number] if number >= 0 else None
