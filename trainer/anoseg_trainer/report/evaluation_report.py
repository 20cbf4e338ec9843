"""Builds the report of `evaluate`: the results of a bundle on test images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from anoseg_engines.bundle import NOT_PROMISED, Manifest
from anoseg_engines.engine import Engine
from anoseg_engines.files import shown_name
from anoseg_engines.words import agreeing, counted
from anoseg_trainer.data.evaluation_images import GOOD, EvaluationImage
from anoseg_trainer.evaluation import ESCAPE_HEAD, METRICS, OPERATING_HEAD, Evaluation, inspect_file
from anoseg_trainer.operating_point import OperatingPoint, curves, trade_off
from anoseg_trainer.report.charts import histogram, line_chart
from anoseg_trainer.report.html import Report, ReportCase
from anoseg_trainer.report.lead import NEAREST, PASSED, PICTURES, REJECTED, RELEASE, Lead, answer_of, lead_html, spread

FEW_GOOD = 100
"""Fewer good test images say little about false rejects."""
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
    good, defective = evaluation.scores(good=True), evaluation.scores(good=False)
    kinds: dict[str, Sequence[float]] = {"defective images": defective}
    return Report(
        title=f"{evaluation.bundle} on test images",
        lead=lead_html(_lead(engine, data, evaluation), engine.thresholds.pixel),
        notes=list(evaluation.notes),
        facts=bundle_facts(engine.bundle.manifest)
        | {
            "runtime": f"{evaluation.runtime}, {evaluation.inference_ms:.1f} ms an image",
            "good images": f"{overall['n_good']}, {overall['false_rejects']} rejected",
            "calibration": engine.bundle.manifest.calibration.guarantee,
        },
        tables={
            "Operating point": [OPERATING_HEAD, *evaluation.operating_rows()],
            "Escapes by kind of defect": [ESCAPE_HEAD, *evaluation.escape_rows()],
            "What other thresholds would do": trade_off(good, kinds),
            "Metrics": [["defect", *METRICS.values()], *evaluation.metric_rows()],
        },
        charts={
            "Threshold: false rejects against defects that pass": line_chart(
                curves(good, kinds), "threshold", "share", {"threshold": evaluation.thresholds["score"]}
            ),
            "Scores": histogram(scores, "score", {"threshold": evaluation.thresholds["score"]}),
            "IoU against threshold": line_chart(
                {"IoU": evaluation.iou_curve}, "threshold", "IoU", {"pixel threshold": evaluation.thresholds["pixel"]}
            ),
        },
        cases=cases,
        settings=engine.bundle.manifest.training.get("config", {}),
    )


def _lead(engine: Engine, data: Path, evaluation: Evaluation) -> Lead:
    """Build the first screen; the defects shown are spread over their scores."""
    point = OperatingPoint(**evaluation.operating_point["calibrated"])
    promised = not evaluation.operating_point["promise"].startswith(NOT_PROMISED)
    asked = engine.bundle.manifest.calibration.false_reject_target
    level, answer = answer_of(point, "defective images", asked=asked, promised=promised)
    few = OperatingPoint(**evaluation.operating_point["at_most_2_percent_rejected"])
    recall = evaluation.operating_point["recall_at_no_false_reject"]
    keys = list(evaluation.images)
    scores = [float(row["score"]) for row in evaluation.images.values()]
    failed = [row["outcome"] == "FAIL" for row in evaluation.images.values()]
    good = [row["defect"] == GOOD for row in evaluation.images.values()]
    rejected = [i for i in range(len(keys)) if failed[i] and not good[i]]
    passed = [i for i in range(len(keys)) if not failed[i] and not good[i]]
    nearest = sorted((i for i in range(len(keys)) if good[i]), key=lambda i: -scores[i])[:PICTURES]
    groups = {REJECTED: spread(rejected, scores), PASSED: spread(passed, scores), NEAREST: nearest}
    steps = []
    if few.escapes < point.escapes and few.false_rejects:
        steps.append(
            f"A lower threshold finds more: at {few.threshold:.4f}, {few.escapes} pass instead of {point.escapes}, and "
            f"{few.false_rejects_cell} good images are rejected. anoseg-train calibrate --false-reject sets a new threshold."
        )
    if level == "bad":
        steps.append("Look at the defects that pass: does the picture show them? Train longer, or with better light on them.")
    if few.good < FEW_GOOD:
        say = f"{counted(few.good, 'image')} {agreeing(few.good, 'says', 'say')}"
        steps.append(f"Test with more good parts: {say} little about false rejects.")
    if level != "bad":
        steps.append(RELEASE)
    return Lead(
        level,
        answer,
        [
            f"At the calibrated threshold {point.threshold:.4f}, {point.escapes_cell} defective images pass, and "
            f"{point.false_rejects_cell} good images are rejected. {evaluation.parts_sentence()}",
            f"Where at most 2 % of these good images are rejected, {few.escapes_cell} pass. Without a false reject, "
            f"recall is {'–' if recall is None else f'{recall:.3f}'}.",
            f"The promise of the calibration: {evaluation.operating_point['promise']}.",
        ],
        pictures={title: [_case(engine, data, keys[i], evaluation) for i in group] for title, group in groups.items()},
        next_steps=steps,
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
    caption = f"{shown_name(key)}: {row['score']:.3f} {row['outcome']}"
    return ReportCase(caption, inspected.image, inspected.full_map(), test.read_mask(inspected.image))
