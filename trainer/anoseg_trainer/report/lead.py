"""Builds the first screen of a report: is the bundle good enough, what would it reject and pass, what to do next."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from typing import Literal

from anoseg_trainer.operating_point import OperatingPoint
from anoseg_trainer.report.html import ReportCase, picture_html
from anoseg_trainer.report.overlays import marked

GOOD_ENOUGH, WITH_CARE = 0.95, 0.8
"""Shares of defects that a bundle must reject."""
MANY_REJECTED = 0.05
"""A larger share of rejected good parts is too many for a line."""
PICTURES = 3
"""Pictures of each group."""
REJECTED = "Defects that it rejects"
PASSED = "Defects that it passes"
NEAREST = "Good parts nearest to rejection"

PICTURE_WH = (168, 118)
"""Largest width and height of a picture, pixels: three rows fit on a screen."""
LEGEND = (
    "Left: the image. Right: the image under its anomaly map. Green: the defect. Red: where the map reaches the pixel "
    "threshold; on the line, only a rejected part is marked."
)
RELEASE = (
    "Release this version (anoseg-engine release), let it run on the line beside your present inspection for a shift, and look "
    "at what it rejects."
)
"""The next step of a bundle that is good enough."""

Level = Literal["good", "care", "bad"]


@dataclass(slots=True)
class Lead:
    """The first screen.

    Attributes:
        level: Colour of the answer.
        answer: Is it good enough to use?
        sentences: What it rejects and passes, in words.
        pictures: Title of each group to its pictures; an empty group is shown as "none".
        next_steps: What to do next, the most important first.
    """

    level: Level
    answer: str
    sentences: list[str]
    pictures: dict[str, list[ReportCase]] = field(default_factory=dict)
    next_steps: list[str] = field(default_factory=list)


def answer_of(point: OperatingPoint, defects: str, *, asked: float, promised: bool) -> tuple[Level, str]:
    """Say whether a bundle is good enough to use.

    Args:
        point: What its threshold does.
        defects: By which defects it is judged.
        asked: The share of good parts that may be rejected, as it was asked for.
        promised: Whether there is a promise about false rejects.
    """
    caught = point.recall
    if caught is None:
        return "bad", "Nothing is known: there are no defects to judge it by."
    passes = f"{point.escapes} of {point.defective} {defects} pass"
    if point.false_rejects > max(1, max(MANY_REJECTED, asked) * point.good):
        return "bad", f"Not good enough yet: {point.false_rejects} of {point.good} good parts are rejected, {passes}."
    if caught < WITH_CARE:
        return "bad", f"Not good enough yet: {passes}."
    if caught < GOOD_ENOUGH:
        return "care", f"Use it with care: {passes}."
    if not promised:
        return "care", f"It finds the defects ({passes}), but how many good parts it rejects is not known."
    return "good", f"Good enough to try on the line: {passes}."


def spread(indices: Sequence[int], scores: Sequence[float], most: int = PICTURES) -> list[int]:
    """Pick a few of the indices, evenly over their scores from low to high."""
    ordered = sorted(indices, key=lambda i: scores[i])
    if len(ordered) <= most:
        return ordered
    return [ordered[round(k * (len(ordered) - 1) / (most - 1))] for k in range(most)]


def lead_html(lead: Lead, pixel_threshold: float) -> str:
    """Return the first screen as HTML; the maps' outlines are drawn at `pixel_threshold`."""
    parts = [f'<section class="lead {lead.level}"><p class="answer">{escape(lead.answer)}</p>']
    parts += [f"<p>{escape(sentence)}</p>" for sentence in lead.sentences]
    groups = []
    for title, cases in lead.pictures.items():
        shown = "".join(_picture(case, pixel_threshold) for case in cases) or "<p>none</p>"
        groups.append(f"<div><h2>{escape(title)}</h2>{shown}</div>")
    parts.append(f'<div class="groups">{"".join(groups)}</div><p class="legend">{LEGEND}</p>')
    if lead.next_steps:
        steps = "".join(f"<li>{escape(step)}</li>" for step in lead.next_steps)
        parts.append(f"<h2>What to do next</h2><ol>{steps}</ol>")
    return "".join(parts) + "</section>"


def pictures_html(title: str, cases: Sequence[ReportCase], pixel_threshold: float) -> str:
    """Return a section of pictures like those of the first screen."""
    return f'<h2>{escape(title)}</h2><div class="row">{"".join(_picture(case, pixel_threshold) for case in cases)}</div>'


def _picture(case: ReportCase, pixel_threshold: float) -> str:
    """Show the image with the true defect's outline in green, and its map with the found outline in red."""
    height, width = case.image.shape[:2]
    scale = min(PICTURE_WH[0] / width, PICTURE_WH[1] / height)
    line = max(1, round(1 / scale))
    pictures = marked(case.image, case.anomaly_map, case.mask, pixel_threshold, line)
    images = "".join(picture_html(picture, scale) for picture in pictures)
    return f"<figure class='marked'>{images}<figcaption>{escape(case.caption)}</figcaption></figure>"
