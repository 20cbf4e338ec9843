"""Builds the report of `fit`: the results of a training on held-out good images and synthetic defects.

It uses no test images.
"""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
import torch

from anoseg_engines.bundle import Bundle, Manifest
from anoseg_engines.placement import InputSpec
from anoseg_trainer.model.inference import predict_part
from anoseg_trainer.model.network import AnoSegNetwork
from anoseg_trainer.report.charts import histogram, line_chart
from anoseg_trainer.report.evaluation_report import CASES_EACH, bundle_facts
from anoseg_trainer.report.html import Report, ReportCase, extremes
from anoseg_trainer.validation import BINARY, Validation, ValidationCase, scaled_spec


def fit_report(
    bundle: Bundle,
    network: AnoSegNetwork,
    validation: Validation,
    *,
    calibration_scores: Sequence[float],
    cases: list[ValidationCase],
    notes: Sequence[str],
) -> Report:
    """Build the report.

    Args:
        bundle: The finished bundle.
        network: The trained network.
        validation: Its figures on `cases`.
        calibration_scores: Scores of the good images that set the score threshold.
        cases: Held-out good images and synthetic defects.
        notes: Remarks for the user.
    """
    manifest = bundle.manifest
    good_scores, bad_scores = (_scores(network, p) for p in (validation.good_pooled, validation.defective_pooled))
    curve = manifest.training["curve"]
    spec = scaled_spec(manifest.input)
    good = [case for case in cases if case.label is None]
    bad = [case for case in cases if case.label is not None]
    lowest, highest = extremes(bad_scores, CASES_EACH)
    return Report(
        title=f"Training of {bundle.label}",
        notes=list(notes),
        facts=bundle_facts(manifest) | {"calibration": manifest.calibration.guarantee},
        tables={"On held-out good images and synthetic defects": _metric_rows(manifest)},
        charts={
            "Loss": line_chart({"loss": [(p["step"], p["loss"]) for p in curve]}, "step", "loss"),
            "Metrics on synthetic defects": line_chart(
                {
                    "image AUROC": [(p["step"], p["image_auroc"]) for p in curve],
                    "pixel average precision": [(p["step"], p["pixel_ap"]) for p in curve],
                },
                "step",
                "",
            ),
            "Scores": histogram(
                {"good, calibration": calibration_scores, "good, validation": good_scores, "synthetic defects": bad_scores},
                "score",
                {"threshold": manifest.score_threshold},
            ),
            "IoU against threshold, synthetic defects": line_chart(
                {"IoU": validation.pixels.iou_points()}, "threshold", "IoU", {"pixel threshold": manifest.pixel_threshold}
            ),
        },
        cases={
            "Synthetic defects with the lowest scores": [_case(network, spec, bad[i], "defect") for i in lowest],
            "Synthetic defects with the highest scores": [_case(network, spec, bad[i], "defect") for i in highest],
            "Held-out good images with the highest scores": [
                _case(network, spec, good[i], "good") for i in extremes(good_scores, CASES_EACH)[1]
            ],
        },
        settings=manifest.training["config"],
    )


def _scores(network: AnoSegNetwork, pooled: Sequence[tuple[float, ...]]) -> list[float]:
    return [float(s) for s in network.score_of(torch.tensor(pooled))] if pooled else []


def _metric_rows(manifest: Manifest) -> list[list[str]]:
    figures = {k: v for k, v in manifest.metrics.items() if isinstance(v, (int, float))}
    return [["", ""], *([_title(name), f"{value:.3f}"] for name, value in figures.items())]


def _title(name: str) -> str:
    """Write a metric's name for a reader: `synthetic_image_auroc` as `synthetic image AUROC`."""
    words = {"auroc": "AUROC", "ap": "average precision", "iou": "IoU"}
    return " ".join(words.get(word, word) for word in name.split("_"))


def _case(network: AnoSegNetwork, spec: InputSpec, case: ValidationCase, kind: str) -> ReportCase:
    prediction = predict_part(network, spec, case.image)
    height, width = case.image.shape[:2]
    mask = np.zeros((height, width), bool) if case.label is None else case.label >= BINARY
    anomaly_map = cv2.resize(prediction.anomaly_map, (width, height), interpolation=cv2.INTER_LINEAR)
    return ReportCase(f"{kind}, score {prediction.score:.3f}", case.image, np.asarray(anomaly_map, np.float32), mask)
