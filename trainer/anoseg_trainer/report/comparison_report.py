"""Builds the report of `compare`: what two bundles do with the same parts, with pictures of those that change sides."""

from __future__ import annotations

from html import escape
from pathlib import Path

from anoseg_engines.engine import Engine
from anoseg_engines.files import shown_name
from anoseg_engines.images import Image, read_image
from anoseg_trainer.data.evaluation_images import GOOD, EvaluationImage
from anoseg_trainer.evaluation import inspect_image
from anoseg_trainer.report.charts import scatter
from anoseg_trainer.report.evaluation_report import bundle_facts
from anoseg_trainer.report.html import Report, picture_html
from anoseg_trainer.report.lead import Level
from anoseg_trainer.report.overlays import marked
from anoseg_trainer.version_comparison import CHANGES, HEAD_OF_PARTS, ComparedPart, VersionComparison, part_rows

MOST_PICTURES = 24
"""Parts of each change that are shown; the tables list all."""
PICTURE_WH = (206, 200)
"""Largest width and height of a picture, pixels."""
LEGEND = (
    "From left to right: the image, the anomaly map of A, the anomaly map of B. Green: the defect, where there is a mask. Red: "
    "where a map reaches its bundle's pixel threshold; on the line, only a rejected part is marked."
)


def comparison_report(engines: tuple[Engine, Engine], data: Path, comparison: VersionComparison, notes: list[str]) -> Report:
    """Build the report; the parts that it shows are inspected once more.

    Args:
        engines: A and B.
        data: The folder of the images.
        comparison: The result.
        notes: Remarks beside those of the comparison.
    """
    a, b = comparison.bundles
    facts = [bundle_facts(engine.bundle.manifest) for engine in engines]
    tables = {"Both bundles": list(comparison.rows())}
    if kinds := list(comparison.kind_rows()):
        tables["Escapes by kind of defect"] = kinds
    for change, title in CHANGES.items():
        if parts := comparison.changed(change):
            tables[title] = [HEAD_OF_PARTS, *part_rows(parts)]
    tables["The bundles"] = [["", "A", "B"], *([name, facts[0][name], facts[1][name]] for name in facts[0])]
    tables["The bundles"].append(["runtime", a.runtime, b.runtime])
    return Report(
        title=f"{a.bundle} (A) and {b.bundle} (B) on the same images",
        lead=_lead(engines, data, comparison),
        tables=tables,
        charts={"Scores of each part, A across and B up": _chart(comparison)},
        notes=[*notes, *comparison.notes],
    )


def _lead(engines: tuple[Engine, Engine], data: Path, comparison: VersionComparison) -> str:
    """Return the answer and the pictures of what changes sides, the worst first."""
    parts = [f'<section class="lead {_level(comparison)}"><p class="answer">{escape(comparison.answer())}</p></section>']
    if any(part.change for part in comparison.parts):
        parts.append(f'<p class="legend">{LEGEND}</p>')
    for change, title in CHANGES.items():
        changed = comparison.changed(change)
        if changed:
            few = f", the {MOST_PICTURES} whose scores differ most" if len(changed) > MOST_PICTURES else ""
            figures = "".join(_figure(engines, data, part) for part in changed[:MOST_PICTURES])
            parts.append(f'<h2>{escape(title)} ({len(changed)}{few})</h2><div class="row">{figures}</div>')
    return "".join(parts)


def _level(comparison: VersionComparison) -> Level:
    """Return the colour of the answer: does B pass defects, or reject good parts, more than A?"""
    a, b = (each.point for each in comparison.bundles)
    if b.escapes > a.escapes:
        return "bad"
    worse = comparison.changed("passes_now") or b.false_rejects > a.false_rejects
    return "care" if worse or not a.defective else "good"


def _figure(engines: tuple[Engine, Engine], data: Path, part: ComparedPart) -> str:
    """Show a part's first image, and the maps of both bundles."""
    path = data / part.images[0]
    image = read_image(path)
    height, width = image.shape[:2]
    scale = min(PICTURE_WH[0] / width, PICTURE_WH[1] / height)
    mask = None
    if part.defect != GOOD:
        test = EvaluationImage.at(data, path)
        mask = test.read_mask(image) if test.mask is not None and test.mask.is_file() else None
    pictures: list[Image] = []
    for engine in engines:
        anomaly_map = inspect_image(engine, image).full_map()
        truth, warm = marked(image, anomaly_map, mask, engine.thresholds.pixel, max(1, round(1 / scale)))
        pictures += [warm] if pictures else [truth, warm]
    images = "".join(picture_html(picture, scale) for picture in pictures)
    said = [
        f"{name} {score:.3f} {'rejects' if rejected else 'passes'}"
        for name, score, rejected in zip("AB", part.scores, part.rejected, strict=True)
    ]
    others = f" (one of {len(part.images)} images)" if len(part.images) > 1 else ""
    caption = f"{shown_name(part.images[0])}{others}: {', '.join(said)}"
    return f"<figure class='compared'>{images}<figcaption>{escape(caption)}</figcaption></figure>"


def _chart(comparison: VersionComparison) -> str:
    groups: dict[str, list[tuple[float, float]]] = {"good": [], "defective": []}
    for part in comparison.parts:
        groups["good" if part.defect == GOOD else "defective"].append(part.scores)
    a, b = comparison.bundles
    return scatter(groups, "score of A", "score of B", (a.threshold, b.threshold))
