"""Builds the report of `evaluate`: the results of a bundle on test images."""

from __future__ import annotations

from pathlib import Path

from anoseg_engines.bundle import Manifest
from anoseg_engines.engine import Engine
from anoseg_trainer.data.evaluation_images import GOOD, EvaluationImage
from anoseg_trainer.evaluation import METRICS, Evaluation, inspect_file
from anoseg_trainer.report.charts import histogram, line_chart
from anoseg_trainer.report.html import Report, ReportCase

CASES_EACH = 4
"""Cases shown of each group."""


def evaluation_report(engine: Engine, data: Path, evaluation: Evaluation) -> Report:
    """Build the report; the images that it shows are inspected once more."""
    scores: dict[str, list[float]] = {GOOD: []}
    for row in evaluation.images.values():
        scores.setdefault(str(row["defect"]), []).append(float(row["score"]))
    cases: dict[str, list[ReportCase]] = {}
    for group, key in evaluation.extreme_images(CASES_EACH):
        cases.setdefault(group.replace("_", " ").capitalize(), []).append(_case(engine, data, key, evaluation))
    overall = evaluation.overall
    return Report(
        title=f"{evaluation.bundle} on test images",
        facts=bundle_facts(engine.bundle.manifest)
        | {
            "runtime": f"{evaluation.runtime}, {evaluation.inference_ms:.1f} ms an image",
            "good images": f"{overall['n_good']}, {overall['false_rejects']} rejected",
            "calibration": engine.bundle.manifest.calibration.guarantee,
        },
        tables={"Figures": [["", "images", *METRICS.values(), "escapes"], *evaluation.table_rows()]},
        charts={
            "Scores": histogram(scores, "score", {"threshold": evaluation.thresholds["score"]}),
            "IoU against threshold": line_chart(
                {"IoU": evaluation.iou_curve}, "threshold", "IoU", {"pixel threshold": evaluation.thresholds["pixel"]}
            ),
        },
        cases=cases,
        settings=engine.bundle.manifest.training.get("config", {}),
    )


def bundle_facts(manifest: Manifest) -> dict[str, str]:
    """Return the facts about a bundle that every report begins with."""
    training = manifest.training
    spec = manifest.input
    seconds = training.get("seconds")
    return {
        "bundle": f"{manifest.product} version {manifest.version}",
        "input": f"{spec.width}×{spec.height}, {spec.mode}" + (f", scale {spec.scale:g}" if spec.mode == "tile" else ""),
        "seed": str(training.get("seed", "–")),
        "steps": f"{training.get('steps', '–')}" + (f" in {seconds / 60:.1f} minutes" if seconds else ""),
        "data fingerprint": str(training.get("data_fingerprint", "–")),
        "source commit": str(training.get("source_commit") or "–"),
        "score threshold": f"{manifest.score_threshold:.4f}",
        "pixel threshold": f"{manifest.pixel_threshold:.4f}",
    }


def _case(engine: Engine, data: Path, key: str, evaluation: Evaluation) -> ReportCase:
    test, row = EvaluationImage.at(data, data / key), evaluation.images[key]
    inspected = inspect_file(engine, test.path)
    caption = f"{key}: {row['score']:.3f} {row['outcome']}"
    return ReportCase(caption, inspected.image, inspected.full_map(), test.read_mask(inspected.image))
