"""Counts what a threshold does: defects that pass (escapes) and good parts that are rejected. Pure functions of scores.

A part with the threshold's score or more is rejected, as on the line.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FEW_REJECTED = 0.02
"""Share of the test's good images that may be rejected where escapes are counted beside the calibrated threshold."""
MANY_REJECTED = 0.2
"""Share of the good parts up to which a trade-off is shown."""
SHOWN_STEPS = 10_000
"""A table shows thresholds with four digits."""
REJECT_COUNTS = (0, 1, 2, 3, 5, 8, 13, 20, 30, 50, 80, 130, 200, 300, 500)
"""Rejected good parts for which a trade-off has a row."""


@dataclass(frozen=True, slots=True)
class OperatingPoint:
    """What one threshold does.

    Attributes:
        threshold: The score threshold.
        escapes: Defective images that pass.
        defective: Defective images.
        false_rejects: Good images that are rejected.
        good: Good images.
    """

    threshold: float
    escapes: int
    defective: int
    false_rejects: int
    good: int

    @property
    def recall(self) -> float | None:
        """Share of the defective images that are rejected; None if there are none."""
        return 1 - self.escapes / self.defective if self.defective else None

    @property
    def escapes_cell(self) -> str:
        """The escapes as a table shows them."""
        return share_of(self.escapes, self.defective)

    @property
    def false_rejects_cell(self) -> str:
        """The false rejects as a table shows them."""
        return share_of(self.false_rejects, self.good)


def share_of(count: int, total: int) -> str:
    """Write a count with its share, as `3 of 181 (1.7 %)`."""
    return f"{count} of {total} ({count / total:.1%})".replace("%", " %") if total else "–"


def count_of(count: int, total: int) -> str:
    """Write a count with its share, without the total, as `3 (1.7 %)`."""
    return f"{count} ({count / total:.1%})".replace("%", " %") if total else "–"


def at_threshold(good: Sequence[float], defective: Sequence[float], threshold: float) -> OperatingPoint:
    """Count escapes and false rejects at a threshold."""
    return OperatingPoint(
        threshold=threshold,
        escapes=sum(score < threshold for score in defective),
        defective=len(defective),
        false_rejects=sum(score >= threshold for score in good),
        good=len(good),
    )


def rejecting(good: Sequence[float], count: int) -> float:
    """Return the lowest threshold at which at most `count` of the good images are rejected."""
    highest = sorted(good, reverse=True)
    return float(np.nextafter(highest[count], math.inf)) if count < len(highest) else 0.0


def rejecting_share(good: Sequence[float], share: float) -> float:
    """Return the lowest threshold at which at most this share of the good images is rejected."""
    return rejecting(good, math.floor(share * len(good) + 1e-9))


def trade_off(good: Sequence[float], kinds: dict[str, Sequence[float]]) -> list[list[str]]:
    """Build a table: for each count of rejected good parts, the lowest threshold and what of each kind of defect passes.

    Args:
        good: Score of each good part.
        kinds: Name of each kind of defects to their scores. Kinds without scores are left out.

    Returns:
        Rows of text; the first is the head.
    """
    filled = {name: scores for name, scores in kinds.items() if len(scores)}
    rows = [["good parts rejected", "threshold", *(f"{name} that pass" for name in filled)]]
    for count in REJECT_COUNTS:
        if count and count > max(1, MANY_REJECTED * len(good)):
            break
        threshold = _as_shown(rejecting(good, count))
        points = [at_threshold(good, scores, threshold) for scores in filled.values()]
        rejected = share_of(sum(score >= threshold for score in good), len(good))
        row = [rejected, f"{threshold:.4f}", *(point.escapes_cell for point in points)]
        if row != rows[-1]:
            rows.append(row)
    return rows


def _as_shown(threshold: float) -> float:
    """Return the threshold rounded up to the digits that a table shows, so that a person can set what the table says."""
    steps = math.floor(threshold * SHOWN_STEPS)
    while steps / SHOWN_STEPS < threshold:
        steps += 1
    return min(1.0, steps / SHOWN_STEPS)


def curves(good: Sequence[float], kinds: dict[str, Sequence[float]], points: int = 201) -> dict[str, list[tuple[float, float]]]:
    """Return lines for a chart: against the threshold, the share of good parts rejected and of each kind of defect passed."""
    at = np.linspace(0, 1, points)
    lines = {"good parts rejected": _share_from(good, at)}
    for name, scores in kinds.items():
        if len(scores):
            lines[f"{name} that pass"] = [(t, 1 - share) for t, share in _share_from(scores, at)]
    return lines


def _share_from(scores: Sequence[float], at: NDArray[np.float64]) -> list[tuple[float, float]]:
    """Return (threshold, share of the scores at or above it)."""
    ordered = np.sort(np.asarray(scores, np.float64))
    above = len(ordered) - np.searchsorted(ordered, at, side="left")
    return [(float(t), float(n / max(len(ordered), 1))) for t, n in zip(at, above, strict=True)]
