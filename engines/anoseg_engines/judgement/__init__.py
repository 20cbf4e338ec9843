"""Judges parts: `judge` decides PASS, FAIL or REVIEW, with `defects` and region `rules`.

`image_quality` refuses unusable images.
"""

from anoseg_engines.judgement.defects import MAX_DEFECTS, Defect
from anoseg_engines.judgement.image_quality import Quality, QualityLimits, complaint, measure, reference
from anoseg_engines.judgement.judge import Inspection, Judgement, Thresholds, judge
from anoseg_engines.judgement.rules import Rule, RuleMaps, ignore_everything, rules_digest

__all__ = [
    "MAX_DEFECTS",
    "Defect",
    "Inspection",
    "Judgement",
    "Quality",
    "QualityLimits",
    "Rule",
    "RuleMaps",
    "Thresholds",
    "complaint",
    "ignore_everything",
    "judge",
    "measure",
    "reference",
    "rules_digest",
]
