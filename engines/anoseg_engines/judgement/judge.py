"""Decides PASS, FAIL or REVIEW from an anomaly map and a score, and lists the defects.

Pure functions. The trainer's evaluation and the daemon both use this module, so both make the same decisions.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import msgspec
import numpy as np
from numpy.typing import NDArray

from anoseg_engines.errors import EngineError
from anoseg_engines.judgement.defects import Defect, find_defects
from anoseg_engines.judgement.rules import RuleMaps
from anoseg_engines.placement import Placement


class Thresholds(msgspec.Struct, frozen=True):
    """A part with this score or more is FAIL. A pixel with this map value or more belongs to a defect."""

    score: float
    pixel: float


@dataclass(frozen=True, slots=True)
class Inspection:
    """The network's result for one part.

    Attributes:
        score: The largest tile score.
        anomaly_map: float32 [part_height, part_width], belongs to the receiver.
        inference_ns: Time in the runtime.
        queued_ns: Time before that, waiting for the runtime.
    """

    score: float
    anomaly_map: NDArray[np.float32]
    inference_ns: int = 0
    queued_ns: int = 0


@dataclass(frozen=True, slots=True)
class Judgement:
    """The decision on one part.

    Attributes:
        outcome: REVIEW means that a person has to look.
        threshold: The threshold of the score; None if region rules decided.
        defects: What is wrong with the part; empty for PASS.
    """

    outcome: Literal["PASS", "FAIL", "REVIEW"]
    score: float
    threshold: float | None
    defects: tuple[Defect, ...]


def judge(
    inspection: Inspection,
    thresholds: Thresholds,
    placement: Placement,
    *,
    rules: RuleMaps | None = None,
    review_from: float | None = None,
) -> Judgement:
    """Decide one part, and list the defects of one that does not pass.

    Without rules, score ≥ threshold is FAIL. With rules, any defect under these rules is FAIL, whatever the score.

    Args:
        review_from: A part that is not FAIL is REVIEW if its score reaches this value. With rules, the map must reach it.

    Raises:
        EngineError: Score or map is not finite. Such a part was not inspected and must not pass.
    """
    found = inspection.anomaly_map
    if not np.isfinite(inspection.score) or not np.isfinite(found).all():
        raise EngineError(
            f"the network's score is {inspection.score}, or its map has values that are not finite",
            hint="the part was not inspected; run `anoseg-engine verify` on the bundle",
        )
    outcome: Literal["PASS", "FAIL", "REVIEW"]
    if rules is None:
        in_review = review_from is not None and inspection.score >= review_from
        outcome = "FAIL" if inspection.score >= thresholds.score else "REVIEW" if in_review else "PASS"
        defects = () if outcome == "PASS" else find_defects(found, thresholds.pixel, placement)
        return Judgement(outcome, inspection.score, thresholds.score, defects)
    defects = find_defects(found, rules.thresholds, placement, rules)
    outcome = "FAIL" if defects else "PASS"
    if not defects and review_from is not None:
        defects = find_defects(found, np.where(np.isinf(rules.thresholds), np.inf, review_from), placement, rules)
        outcome = "REVIEW" if defects else "PASS"
    return Judgement(outcome, inspection.score, None, defects)
