"""Explains a score threshold: which good images set it, and what other thresholds would reject and pass. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from anoseg_trainer.operating_point import OperatingPoint, at_threshold, curves, trade_off
from anoseg_trainer.thresholds import ScoreThreshold, conformal_rank, conformal_threshold, for_the_line, part_scores

SHOWN = 4
"""Good images that are shown, those with the highest scores first."""
ODD = 0.1
"""If a good image costs this share of the defects, the user is asked to look at it."""
SYNTHETIC = "synthetic defects"
REAL = "real defects"


@dataclass(frozen=True, slots=True)
class HighGood:
    """A held-out good part with a high score.

    Attributes:
        path: The image with the part's highest score.
        score: That score.
        sets: Whether the threshold comes from this part. Parts with higher scores are rejected.
        threshold_without: The threshold if this part were not among the good ones.
        caught_without: For each kind of defects, the share that is rejected at that threshold.
    """

    path: Path
    score: float
    sets: bool
    threshold_without: float
    caught_without: dict[str, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class ThresholdStudy:
    """A score threshold with the scores that it comes from.

    Attributes:
        threshold: The threshold.
        false_reject: The requested share of good parts that may be rejected.
        parts_known: Whether it is known which images show the same part.
        paths: The held-out good images that set the threshold.
        scores: Their scores.
        parts: Their part numbers.
        synthetic: Scores of images with synthetic defects.
        real: Scores of images with real defects, where there are any. They were not used to choose anything.
    """

    threshold: ScoreThreshold
    false_reject: float
    parts_known: bool
    paths: Sequence[Path]
    scores: Sequence[float]
    parts: Sequence[int]
    synthetic: Sequence[float]
    real: dict[Path, float] = field(default_factory=dict)

    @property
    def good(self) -> list[float]:
        """The score of each good part."""
        return [float(score) for score in part_scores(np.array(self.scores), self.parts)]

    @property
    def defects(self) -> tuple[str, list[float]]:
        """The defects that the threshold is judged by: real ones where there are any, else synthetic ones."""
        return (REAL, list(self.real.values())) if self.real else (SYNTHETIC, list(self.synthetic))

    @property
    def point(self) -> OperatingPoint:
        """What the threshold does to the good parts and to `defects`."""
        return at_threshold(self.good, self.defects[1], self.threshold.value)

    def kinds(self) -> dict[str, Sequence[float]]:
        """Return the scores of each kind of defects."""
        return {name: found for name, found in ((SYNTHETIC, self.synthetic), (REAL, list(self.real.values()))) if found}

    def highest_good(self, most: int = SHOWN) -> list[HighGood]:
        """Return the good parts with the highest scores, the highest first."""
        numbers = sorted(set(self.parts))
        by_part = dict(zip(numbers, self.good, strict=True))
        ranked = sorted(numbers, key=lambda part: -by_part[part])
        sets = len(ranked) - min(conformal_rank(len(ranked), self.false_reject), len(ranked))
        found = []
        for place, part in enumerate(ranked[:most]):
            image = max((i for i, p in enumerate(self.parts) if p == part), key=lambda i: self.scores[i])
            others = [i for i, p in enumerate(self.parts) if p != part]
            without = self.threshold.value
            if others:
                scores, parts = np.array([self.scores[i] for i in others]), [self.parts[i] for i in others]
                margin = self.threshold.value - by_part[ranked[sets]]
                without = conformal_threshold(scores, self.false_reject, parts=parts, margin=margin).value
            found.append(HighGood(self.paths[image], by_part[part], place == sets, without, self.caught(without)))
        return found

    def caught(self, threshold: float) -> dict[str, float]:
        """Return the share of each kind of defects that is rejected at a threshold."""
        return {name: at_threshold([], scores, threshold).recall or 0.0 for name, scores in self.kinds().items()}

    def odd(self) -> tuple[HighGood, str] | None:
        """Return the good part that alone costs many defects, and of which kind; None if there is none."""
        now = self.caught(self.threshold.value)
        costs = [(part.caught_without[kind] - now[kind], part, kind) for part in self.highest_good() for kind in now]
        cost, part, kind = max(costs, key=lambda found: found[0], default=(0.0, None, ""))
        return (part, kind) if part is not None and cost >= ODD else None

    def trade_off(self) -> list[list[str]]:
        """Return a table of thresholds against rejected good parts and defects that pass; the first row is the head."""
        return trade_off(self.good, self.kinds())

    def curves(self) -> dict[str, list[tuple[float, float]]]:
        """Return the same as lines for a chart."""
        return curves(self.good, self.kinds())

    def lines(self) -> Iterator[str]:
        """Yield what is printed before the trade-off."""
        for name, scores in self.kinds().items():
            found = at_threshold([], scores, self.threshold.value)
            yield f"{name} that pass at the threshold {self.threshold.value:.4f}: {found.escapes_cell}"
        yield f"held-out good parts rejected there: {self.point.false_rejects_cell}"
        yield for_the_line(self.threshold, parts_known=self.parts_known)
        high = self.highest_good()
        yield "good images with the highest scores: " + ", ".join(f"{part.path.name} {part.score:.4f}" for part in high)
        yield from (f"{part.path.name} sets the threshold" for part in high if part.sets)
        if words := self.odd_words():
            yield words

    def odd_words(self) -> str:
        """Ask the user to look at a good part that alone costs many defects; empty if there is none."""
        odd = self.odd()
        if odd is None:
            return ""
        part, kind = odd
        return (
            f"Look at {part.path.name}: without it the threshold would be {part.threshold_without:.4f}, and "
            f"{part.caught_without[kind]:.0%} of the {kind} would be rejected instead of "
            f"{self.caught(self.threshold.value)[kind]:.0%}. If it shows a defect or is not typical, remove it and train again."
        )
