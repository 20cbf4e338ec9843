"""Explains a score threshold: which good images set it, and what other thresholds would reject and pass. Pure functions."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from anoseg_engines.files import shown_name
from anoseg_trainer.operating_point import OperatingPoint, at_threshold, curves, trade_off
from anoseg_trainer.thresholds import ScoreThreshold, conformal_rank, conformal_threshold, for_the_line, part_scores

SHOWN = 4
"""Good images that are shown, those with the highest scores first."""
ODD = 0.1
"""If a few good images cost more than this share of the defects, the user is asked to look at them."""
ODD_PARTS = 0.05
"""Share of the good parts that are a few."""
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

    @property
    def name(self) -> str:
        """The image's name, as it can be written."""
        return shown_name(self.path.name)


@dataclass(frozen=True, slots=True)
class Odd:
    """A few good parts that cost many defects.

    Attributes:
        paths: Their images.
        threshold: The threshold without them.
        kind: The kind of defects of which they cost the most.
        caught: The share of these that is rejected at that threshold.
    """

    paths: list[Path]
    threshold: float
    kind: str
    caught: float


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
        ranked = self._ranked()
        sets = self._sets(len(ranked))
        found = []
        for place, (part, score) in enumerate(ranked[:most]):
            without = self._threshold_without({part})
            found.append(HighGood(self._image_of(part), score, place == sets, without, self.caught(without)))
        return found

    def _ranked(self) -> list[tuple[int, float]]:
        """Return part number and score of each good part, the highest score first."""
        by_part = zip(sorted(set(self.parts)), self.good, strict=True)
        return sorted(by_part, key=lambda found: -found[1])

    def _sets(self, n: int) -> int:
        """Return the place, from 0, of the part of n that sets the threshold."""
        return n - min(conformal_rank(n, self.false_reject), n)

    def _image_of(self, part: int) -> Path:
        """Return the image with the part's highest score."""
        return self.paths[max((i for i, p in enumerate(self.parts) if p == part), key=lambda i: self.scores[i])]

    def _threshold_without(self, left_out: set[int]) -> float:
        """Return the threshold if these parts were not among the good ones."""
        kept = [i for i, part in enumerate(self.parts) if part not in left_out]
        if not kept:
            return self.threshold.value
        ranked = self._ranked()
        margin = self.threshold.value - ranked[self._sets(len(ranked))][1]
        scores, parts = np.array([self.scores[i] for i in kept]), [self.parts[i] for i in kept]
        return conformal_threshold(scores, self.false_reject, parts=parts, margin=margin).value

    def caught(self, threshold: float) -> dict[str, float]:
        """Return the share of each kind of defects that is rejected at a threshold."""
        return {name: at_threshold([], scores, threshold).recall or 0.0 for name, scores in self.kinds().items()}

    def odd(self) -> Odd | None:
        """Return the few good parts with the highest scores that cost many defects; None if there are none."""
        now = self.caught(self.threshold.value)
        ranked = self._ranked()
        worst, most = None, ODD
        for count in range(1, max(1, int(ODD_PARTS * len(ranked))) + 1):
            left_out = [part for part, _ in ranked[:count]]
            threshold = self._threshold_without(set(left_out))
            for kind, share in self.caught(threshold).items():
                if share - now[kind] > most:
                    most = share - now[kind]
                    worst = Odd([self._image_of(part) for part in left_out], threshold, kind, share)
        return worst

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
        yield for_the_line(self.threshold, promised=self.parts_known)
        high = self.highest_good()
        yield "good images with the highest scores: " + ", ".join(f"{part.name} {part.score:.4f}" for part in high)
        yield from (f"{part.name} sets the threshold" for part in high if part.sets)
        if words := self.odd_words():
            yield words

    def odd_words(self) -> str:
        """Ask the user to look at the good parts that cost many defects; empty if there are none."""
        odd = self.odd()
        if odd is None:
            return ""
        them, show, are = ("them", "they show", "are") if len(odd.paths) > 1 else ("it", "it shows", "is")
        names, now = ", ".join(shown_name(path.name) for path in odd.paths), self.caught(self.threshold.value)[odd.kind]
        return (
            f"Look at {names}: without {them} the threshold would be {odd.threshold:.4f}, and {odd.caught:.0%} of the "
            f"{odd.kind} would be rejected instead of {now:.0%}. If {show} a defect or {are} not typical, remove {them} and "
            "train again."
        )
