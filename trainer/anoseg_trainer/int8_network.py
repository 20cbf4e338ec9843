"""Makes the INT8 network of a bundle from its detector, and has it prove itself before the bundle gets it.

The features of a quantised encoder differ from those in FP32, so a memory of good parts in FP32 would find every part odd. The
memory, the whole-image model and all scales are therefore built again on the quantised features. The score is then moved so
that its own conformal threshold is a little below the bundle's: no more good parts may be rejected, although the runtime
rounds. Runs on the main thread.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from itertools import islice

import numpy as np
import torch
from numpy.typing import NDArray

from anoseg_engines.bundle import INT8, INT8_TOLERANCE, GoldenSample
from anoseg_engines.bundle_writer import BundleDraft, Int8Draft
from anoseg_engines.errors import PrecisionError
from anoseg_engines.images import Image
from anoseg_engines.placement import InputSpec
from anoseg_engines.runtimes.openvino import CpuRuntime
from anoseg_trainer.data.part_store import whole_placement
from anoseg_trainer.detector_build import with_good_parts
from anoseg_trainer.metrics import image_auroc
from anoseg_trainer.model.detector import Detector
from anoseg_trainer.model.inference import predict_part
from anoseg_trainer.model.int8 import Batch, int8_detector
from anoseg_trainer.thresholds import conformal_threshold
from anoseg_trainer.training_record import Product
from anoseg_trainer.validation import scaled_spec
from anoseg_trainer.view_scales import fit_views

RANGE_PARTS = 12
"""Good parts of the training from which the ranges of the integers are taken."""
RANGE_BATCH = 4
MOST_AUROC_LOST = 0.005
"""The network is left out if it loses more image AUROC on held-out images and synthetic defects."""
ROUNDED = 1e-4
"""Shares in the metrics are rounded."""
MARGIN = 0.05
"""Distance of the bundle's threshold from the conformal score of the quantised detector in PyTorch. In INT8, a runtime's scores
differ more from PyTorch's than in half precision."""


class NotProvedError(Exception):
    """The INT8 network is worse than the bundle's, so the bundle does not get it."""


def int8_network(detector: Detector, product: Product, draft: BundleDraft) -> Int8Draft:
    """Make the INT8 network, and measure it on the CPU runtime.

    Args:
        detector: The bundle's detector.
        product: The data.
        draft: The bundle.

    Raises:
        NotProvedError: The network changes a golden verdict, loses too much image AUROC, would reject more good parts, catches
            fewer synthetic defects, or cannot run here.
    """
    config, split, store = product.config, product.split, product.store
    spec = config.input.spec
    int8 = int8_detector(detector, list(_batches((store[i] for i in split.train), scaled_spec(spec))))
    if not int8.scales:
        raise NotProvedError("it has no convolutions that could be quantised")
    if detector.memory is not None:
        joined, _ = with_good_parts(Detector(int8.detector.network, encoder=int8.detector.encoder), product)
        int8 = dataclasses.replace(int8, detector=joined)
    fit_views(int8.detector, product)
    scores = np.array([predict_part(int8.detector, scaled_spec(spec), store[i]).score for i in split.calibration])
    own = conformal_threshold(scores, config.false_reject, parts=split.calibration_parts, margin=0.0).value
    wanted = draft.score_threshold - MARGIN
    if not 0 < wanted < 1:
        raise NotProvedError(f"the threshold {draft.score_threshold:.4f} leaves no room for its rounding")
    int8.detector.score_offset += _logit(wanted) - _logit(own)
    model = int8.onnx(spec)
    try:
        runtime = CpuRuntime.open(model, spec, precision=INT8)
    except PrecisionError as error:
        raise NotProvedError(error.what) from error
    try:
        return _proved(model, runtime, product, draft)
    finally:
        runtime.close()


def _proved(model: bytes, runtime: CpuRuntime, product: Product, draft: BundleDraft) -> Int8Draft:
    """Check what the runtime computes: verdicts on the golden images, image AUROC on the held-out images, the threshold."""
    config, split, store = product.config, product.split, product.store
    spec = config.input.spec
    golden = []
    for sample in draft.golden:
        score, anomaly_map = _inspected(runtime, spec, sample.image)
        if (score >= draft.score_threshold) != (sample.verdict == "FAIL"):
            raise NotProvedError(
                f"a golden image with the verdict {sample.verdict} (score {sample.score:.4f}, threshold "
                f"{draft.score_threshold:.4f}) scores {score:.4f} in INT8"
            )
        golden.append(GoldenSample(sample.image, anomaly_map, score, sample.verdict))
    spec = scaled_spec(spec)
    scores = np.array([_inspected(runtime, spec, store[i])[0] for i in split.calibration])
    # The self-test accepts a runtime on the line whose scores are higher by its tolerance.
    margin = INT8_TOLERANCE.score + 1e-4
    own = conformal_threshold(scores, config.false_reject, parts=split.calibration_parts, margin=margin).value
    if own > draft.score_threshold:
        raise NotProvedError(
            f"its score threshold for the same share of false rejects would be {own:.4f}, the bundle's is "
            f"{draft.score_threshold:.4f}"
        )
    good, defective = list[float](), list[float]()
    for case in product.cases:
        (good if case.label is None else defective).append(_inspected(runtime, spec, case.image)[0])
    auroc, first = image_auroc(good, defective) or 0.0, float(draft.metrics["synthetic_image_auroc"])
    if auroc < first - MOST_AUROC_LOST:
        raise NotProvedError(
            f"its image AUROC on held-out images and synthetic defects is {auroc:.4f}, that of the other network {first:.4f}"
        )
    caught = float(np.mean(np.array(defective) >= draft.score_threshold))
    caught_first = float(draft.metrics["synthetic_defects_caught"])
    if caught < caught_first - ROUNDED:
        raise NotProvedError(
            f"at the score threshold {draft.score_threshold:.4f} it catches {caught:.1%} of the synthetic defects, "
            f"the other network {caught_first:.1%}"
        )
    return Int8Draft(model_onnx=model, golden=golden, image_auroc=auroc, image_auroc_of_first=first)


def _inspected(runtime: CpuRuntime, spec: InputSpec, image: Image) -> tuple[float, NDArray[np.float32]]:
    """Return score and map of a whole image, as an engine does."""
    placement = whole_placement(spec, image)
    placement.fill(image, runtime.bind(placement.coords_N2HW))
    maps, scores = runtime.infer()
    return float(scores.max()), placement.stitch(maps)


def _batches(parts: Iterable[Image], spec: InputSpec) -> Iterable[Batch]:
    """Yield the inputs of the first `RANGE_PARTS` parts; of a part in tiles, the first tiles."""
    for part in islice(parts, RANGE_PARTS):
        placement = whole_placement(spec, part)
        frames = np.empty((len(placement.tiles), spec.height, spec.width, 3), np.uint8)
        placement.fill(part, frames)
        coords = placement.coords_N2HW[:RANGE_BATCH].astype(np.float32)
        yield torch.from_numpy(frames[:RANGE_BATCH].copy()), torch.from_numpy(coords)


def _logit(score: float) -> float:
    return math.log(score / (1 - score))
