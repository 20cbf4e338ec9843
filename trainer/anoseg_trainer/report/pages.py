"""The two reports: what `fit` writes about a training, and what `evaluate` writes about a bundle on test images."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from anoseg_engines.bundle.manifest import Manifest
from anoseg_engines.bundle.read import Bundle
from anoseg_engines.engine import Engine
from anoseg_engines.placement import InputSpec
from anoseg_trainer.commands.evaluate import GOOD, Evaluation, TestImage, inspect_image, noteworthy, read_mask
from anoseg_trainer.metrics import PixelHistogram
from anoseg_trainer.model.inference import read_part
from anoseg_trainer.model.network import AnoSegNetwork
from anoseg_trainer.report.charts import histogram, line_chart
from anoseg_trainer.report.html import Report, Shown, extremes
from anoseg_trainer.validation import BINARY, Case, Validation, as_scaled

EACH = 4
"""Cases shown of each sort."""
FIGURES = ("image_auroc", "pixel_auroc", "aupro_30", "best_iou", "iou_at_pixel_threshold")


def fit_report(
    bundle: Bundle,
    network: AnoSegNetwork,
    validation: Validation,
    calibration_scores: Sequence[float],
    cases: list[Case],
    notes: Sequence[str],
) -> Report:
    """How the training went, on held-out good images and synthetic defects: nothing in it has seen test images."""
    manifest = bundle.manifest
    good, bad = (_scores(network, pooled) for pooled in (validation.good_pooled, validation.defective_pooled))
    curve = manifest.training["curve"]
    spec = as_scaled(manifest.input)
    good_cases = [case for case in cases if case.label is None]
    bad_cases = [case for case in cases if case.label is not None]
    missed, found = extremes(bad, EACH)
    return Report(
        title=f"Training of {bundle.label}",
        notes=list(notes),
        facts=_facts(manifest) | {"calibration": manifest.calibration.guarantee},
        tables={"On held-out good images and synthetic defects": _metric_rows(manifest)},
        charts={
            "loss": line_chart({"loss": [(p["step"], p["loss"]) for p in curve]}, "step", "loss"),
            "on synthetic defects": line_chart(
                {
                    "image AUROC": [(p["step"], p["image_auroc"]) for p in curve],
                    "pixel average precision": [(p["step"], p["pixel_ap"]) for p in curve],
                },
                "step",
                "",
            ),
            "scores": histogram(
                {"good, for the threshold": calibration_scores, "good, to choose weights": good, "synthetic defects": bad},
                "score",
                {"threshold": manifest.score_threshold},
            ),
            "IoU against threshold, synthetic defects": iou_chart(validation.pixels, manifest.pixel_threshold),
        },
        cases={
            "Synthetic defects with the lowest scores": [_read(network, spec, bad_cases[i], "defect") for i in missed],
            "Synthetic defects with the highest scores": [_read(network, spec, bad_cases[i], "defect") for i in found],
            "Held-out good images with the highest scores": [
                _read(network, spec, good_cases[i], "good") for i in extremes(good, EACH)[1]
            ],
        },
        settings=manifest.training["config"],
    )


def evaluation_report(engine: Engine, data: Path, evaluation: Evaluation) -> Report:
    """Figures, curves and the best and worst cases of a bundle on test images; inspects the images shown once more."""
    rows = [["", "images", "image AUROC", "pixel AUROC", "AUPRO 30 %", "best IoU", "IoU at threshold", "escapes"]]
    for name, row in [*evaluation.per_defect.items(), ("all", evaluation.overall)]:
        figures = ["–" if row[key] is None else f"{row[key]:.3f}" for key in FIGURES]
        rows.append([name, str(row["n_defective"]), *figures, str(row["escapes"])])
    scores: dict[str, list[float]] = {}
    for row in evaluation.images.values():
        scores.setdefault(str(row["defect"]), []).append(float(row["score"]))
    good = scores.pop(GOOD, [])
    cases: dict[str, list[Shown]] = {}
    for sort, key in noteworthy(evaluation, EACH):
        cases.setdefault(sort.replace("_", " ").capitalize(), []).append(_inspect(engine, data, key, evaluation))
    overall = evaluation.overall
    return Report(
        title=f"{evaluation.bundle} on test images",
        facts=_facts(engine.bundle.manifest)
        | {
            "runtime": f"{evaluation.runtime}, {evaluation.inference_ms:.1f} ms an image",
            "good images": f"{overall['n_good']}, {overall['false_rejects']} rejected",
            "calibration": engine.bundle.manifest.calibration.guarantee,
        },
        tables={"Figures": rows},
        charts={
            "scores": histogram({"good": good} | scores, "score", {"threshold": evaluation.thresholds["score"]}),
            "IoU against threshold": line_chart(
                {"IoU": evaluation.iou_curve}, "threshold", "IoU", {"pixel threshold": evaluation.thresholds["pixel"]}
            ),
        },
        cases=cases,
        settings=engine.bundle.manifest.training.get("config", {}),
    )


def iou_chart(pixels: PixelHistogram, threshold: float) -> str:
    """IoU over all thresholds, with the one in use."""
    return line_chart({"IoU": pixels.iou_points()}, "threshold", "IoU", {"pixel threshold": threshold})


def _scores(network: AnoSegNetwork, pooled: Sequence[tuple[float, ...]]) -> list[float]:
    return [float(s) for s in network.score_of(torch.tensor(pooled))] if pooled else []


def _facts(manifest: Manifest) -> dict[str, str]:
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


def _metric_rows(manifest: Manifest) -> list[list[str]]:
    figures = {k: v for k, v in manifest.metrics.items() if isinstance(v, (int, float))}
    return [["", ""], *([name.replace("_", " "), f"{value:.3f}"] for name, value in figures.items())]


def _read(network: AnoSegNetwork, spec: InputSpec, case: Case, sort: str) -> Shown:
    reading = read_part(network, spec, case.image)
    mask = np.zeros(case.image.shape[:2], bool) if case.label is None else case.label >= BINARY
    return Shown(f"{sort}, score {reading.score:.3f}", case.image, _to_size(reading.anomaly_map, case.image), mask)


def _inspect(engine: Engine, data: Path, key: str, evaluation: Evaluation) -> Shown:
    path, row = data / key, evaluation.images[key]
    defect = str(row["defect"])
    mask_file = None if defect == GOOD else data / "ground_truth" / defect / f"{path.stem}_mask.png"
    inspected = inspect_image(engine, path)
    mask = read_mask(TestImage(path, defect, mask_file), inspected.image)
    return Shown(f"{key}: {row['score']:.3f} {row['outcome']}", inspected.image, inspected.full_map(), mask)


def _to_size(anomaly_map: NDArray[np.float32], image: NDArray[np.uint8]) -> NDArray[np.float32]:
    height, width = image.shape[:2]
    return np.asarray(cv2.resize(anomaly_map, (width, height), interpolation=cv2.INTER_LINEAR), np.float32)
