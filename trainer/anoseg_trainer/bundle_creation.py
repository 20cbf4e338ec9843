"""Makes a bundle from a detector: fits the score, calibrates, chooses golden samples, exports and writes.

Runs on the main thread.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import cv2
import msgspec
import numpy as np

from anoseg_engines.bundle import Bundle, Calibration, GoldenSample, GoldenTolerance, Origin, load_bundle, versions
from anoseg_engines.bundle_writer import BundleDraft, write_bundle
from anoseg_engines.errors import ConfigError, DataError, EngineError, SelfTestError
from anoseg_engines.images import Image
from anoseg_engines.placement import InputSpec
from anoseg_trainer.int8_network import NotProvedError, int8_network
from anoseg_trainer.model.detector import MEMORY, NETWORK, NO_LEVEL, PLACES, WHOLE_IMAGE, Detector
from anoseg_trainer.model.export import onnx_from_detector
from anoseg_trainer.model.inference import predict_part
from anoseg_trainer.recalibration import missing_verdicts
from anoseg_trainer.thresholds import ScoreThreshold, conformal_threshold, describe_threshold, pixel_threshold
from anoseg_trainer.training import TrainingResult
from anoseg_trainer.training_record import GOOD_VALUES, Product, training_record
from anoseg_trainer.validation import Validation, scaled_spec, scores_of
from anoseg_trainer.view_scales import fit_views

FEW_CAUGHT = 0.5
"""If a bundle catches a smaller share of the synthetic defects than this, the user is warned."""
SAME_TRAINING = ("config", "seed", "data_fingerprint", "steps", "seconds", "curve")
"""Keys of the training record that are equal only if the training is the same: the curve has its times."""
GOLDEN_EACH = 3
"""Golden samples of each verdict."""
CLEAR = 4 * GoldenTolerance().margin
"""How far above the threshold a golden defect scores at least, if there are such defects."""


@dataclass(frozen=True, slots=True)
class CreatedBundle:
    """A written bundle.

    Attributes:
        bundle: The new version.
        validation: The detector on held-out good images and synthetic defects.
        threshold: The score threshold.
        calibration_scores: Scores of the good images that set the threshold.
        good_scores: Scores of the good cases of the validation.
        defective_scores: Scores of its cases with synthetic defects.
    """

    bundle: Bundle
    validation: Validation
    threshold: ScoreThreshold
    calibration_scores: list[float]
    good_scores: list[float]
    defective_scores: list[float]


def create_bundle(
    target: Path,
    product: Product,
    detector: Detector,
    result: TrainingResult | None,
    on_note: Callable[[str], None],
    *,
    int8: bool = False,
    once: bool = False,
) -> CreatedBundle:
    """Calibrate the detector, export it, and write the next version of the bundle `target` (STORE/NAME).

    Args:
        target: The bundle.
        product: The data.
        detector: The views; their scales are set here.
        result: The training of the detector's network; None if it has none.
        on_note: Receives remarks for the user.
        int8: Whether to add a network that computes in INT8.
        once: Return the version of this very training if the bundle has it already: an earlier call was stopped after it.

    Raises:
        DataError: No held-out image can serve as a golden sample.
        EngineError: The exported detector does not reproduce the golden samples.
    """
    config, split, store = product.config, product.split, product.store
    spec = config.input.spec
    validation, good_values = fit_views(detector, product)
    calibration_parts = [store[i] for i in split.calibration]
    scores = [predict_part(detector, scaled_spec(spec), part).score for part in calibration_parts]
    threshold = conformal_threshold(np.array(scores), config.false_reject, parts=split.calibration_parts)
    guarantee = describe_threshold(threshold, config.false_reject, parts_known=split.parts_known)
    if split.parts_known and not threshold.met:
        on_note(guarantee)
    good_scores = scores_of(detector, validation.good_values)
    defective_scores = scores_of(detector, validation.defective_values)
    caught = float(np.mean(np.array(defective_scores) >= threshold.value))
    if caught < FEW_CAUGHT:
        longer = "" if result is None else "train longer, "
        on_note(
            f"at this threshold only {caught:.0%} of the synthetic defects are caught: this bundle would pass most defective "
            f"parts. What can help: {longer}look for defects among the good images, accept more false rejects (--false-reject)"
        )
    training = {
        **training_record(product, detector, result),
        GOOD_VALUES: np.round(np.median(good_values, axis=0), 6).tolist(),
    }
    earlier = _version_of(target, training) if once else None
    # An earlier version of this program may have scaled scores otherwise. Then its bundle is not the one described here.
    if earlier is not None and abs(earlier.manifest.score_threshold - threshold.value) <= GoldenTolerance().score:
        threshold = dataclasses.replace(threshold, value=earlier.manifest.score_threshold)
        return CreatedBundle(earlier, validation, threshold, scores, good_scores, defective_scores)
    golden = _GoldenSamples(detector, spec, threshold.value)
    golden.add("PASS", chain(calibration_parts, (case.image for case in product.cases if case.label is None)))
    defective = [case.image for case in product.cases if case.label is not None]
    golden.add("FAIL", (defective[i] for i in golden_defects(defective_scores, threshold.value)))
    samples = golden.samples()
    for text in missing_verdicts(samples):
        on_note(text)
    draft = BundleDraft(
        product=target.name,
        input=spec,
        score=describe_score(detector),
        score_threshold=threshold.value,
        pixel_threshold=pixel_threshold(validation.pixels),
        calibration=Calibration(
            method="split conformal over held-out good images",
            n_images=threshold.n,
            false_reject_target=config.false_reject,
            guarantee=guarantee,
        ),
        metrics=_metrics(validation, caught),
        training=training,
        model_onnx=onnx_from_detector(detector, spec),
        golden=samples,
        origin=Origin(command="fit"),
    )
    return CreatedBundle(
        bundle=_written(target, draft, detector, product, on_note) if int8 else write_bundle(target, draft),
        validation=validation,
        threshold=threshold,
        calibration_scores=scores,
        good_scores=good_scores,
        defective_scores=defective_scores,
    )


def _version_of(target: Path, training: dict[str, Any]) -> Bundle | None:
    """Return the newest complete version that the same run of a training has written (see `SAME_TRAINING`), or None."""

    def identity(record: dict[str, Any]) -> bytes:
        return msgspec.json.encode([record.get(key) for key in SAME_TRAINING])

    wanted = identity(training)
    for version in reversed(versions(target)):
        with contextlib.suppress(ConfigError, EngineError):  # damaged: it is made again
            found = load_bundle(target / str(version))
            origin = found.manifest.origin
            if isinstance(origin, Origin) and origin.command == "fit" and identity(found.manifest.training) == wanted:
                return found
    return None


def _written(target: Path, draft: BundleDraft, detector: Detector, product: Product, on_note: Callable[[str], None]) -> Bundle:
    """Write the bundle with an INT8 network; without it if it does not prove itself."""
    try:
        int8 = int8_network(detector, product, draft)
        bundle = write_bundle(target, dataclasses.replace(draft, int8=int8))
    except (NotProvedError, SelfTestError) as error:
        on_note(f"the bundle has no INT8 network: {error}")
        return write_bundle(target, draft)
    on_note(
        f"the bundle also has an INT8 network (runtime cpu-int8): image AUROC on synthetic defects {int8.image_auroc:.4f}, "
        f"{int8.image_auroc_of_first:.4f} without INT8"
    )
    return bundle


def describe_score(detector: Detector) -> str:
    """Say how the score is defined, for the manifest: by the views and the pools that count in it."""
    used = detector.score_scale.bool()
    pools = [f"{k} of {cell}×{cell} cells" for (cell, k), counts in zip(detector.pools, used, strict=False) if counts]
    above = " above the level of its map" if float(detector.level_limit) > NO_LEVEL else ""
    words = {
        NETWORK: f"means of the network's largest map logits ({', '.join(pools)}){above}",
        MEMORY: "how far the memory's largest mean over 3×3 places rises above the part's mean",
        WHOLE_IMAGE: "the whole-image distance",
        PLACES: "the largest distance of a place from the Gaussian of good parts at that place",
    }
    counted = [name for name, columns in detector.columns.items() if used[list(columns)].any()]
    limited = NETWORK in counted and (MEMORY in counted or WHOLE_IMAGE in counted)
    limit = "; beside the network, memory and whole image count up to a limit" if limited else ""
    return (
        "largest tile score; a tile's score is the sigmoid of the weighted sum of these values, each in units of what good "
        f"parts show: {', '.join(words[name] for name in counted)}{limit}"
    )


def golden_defects(scores: Sequence[float], threshold: float) -> list[int]:
    """Order synthetic defects, those first that serve best as golden samples.

    Of those that are at least `CLEAR` above the threshold, the first three are the clearest, the faintest, and the one in the
    middle. They stay rejected by a somewhat higher threshold, in half precision and after `learn-good`, and the fainter ones
    show if much less is found. The others follow, the clearest first.

    Args:
        scores: Their scores.
        threshold: The score threshold.
    """
    ordered = [int(i) for i in np.argsort(-np.array(scores), kind="stable")]
    clear = [i for i in ordered if scores[i] >= threshold + CLEAR]
    first = list(dict.fromkeys([clear[0], clear[-1], clear[len(clear) // 2]])) if clear else []
    return first + [i for i in ordered if i not in first]


class _GoldenSamples:
    """Collects held-out parts whose score is well away from the threshold, a few for each verdict."""

    def __init__(self, detector: Detector, spec: InputSpec, threshold: float) -> None:
        self._detector, self._spec, self._threshold = detector, spec, threshold
        self._margin = GoldenTolerance().margin
        self._found: dict[Literal["PASS", "FAIL"], list[GoldenSample]] = {"PASS": [], "FAIL": []}

    def add(self, verdict: Literal["PASS", "FAIL"], parts: Iterable[Image]) -> None:
        """Predict scaled parts until enough of them clearly have this verdict."""
        found = self._found[verdict]
        for part in parts:
            if len(found) >= GOLDEN_EACH:
                return
            image = self._unscaled(part)
            prediction = predict_part(self._detector, self._spec, image)
            above = prediction.score - self._threshold
            if (above if verdict == "FAIL" else -above) >= self._margin:
                found.append(GoldenSample(image, prediction.anomaly_map, prediction.score, verdict))

    def samples(self) -> list[GoldenSample]:
        """Return the samples, those that pass first.

        Raises:
            DataError: There are none.
        """
        samples = [*self._found["PASS"], *self._found["FAIL"]]
        if not samples:
            raise DataError(
                f"no held-out image scores {self._margin} or more away from the threshold {self._threshold:.3f}: the network "
                "does not distinguish good from defective",
                hint="train longer, or look for defects among the good images",
            )
        return samples

    def _unscaled(self, part: Image) -> Image:
        """Enlarge a scaled part to a camera image, so that it passes through the same scaling as any other image."""
        if self._spec.mode == "resize" or self._spec.scale == 1:
            return np.ascontiguousarray(part)
        size = (round(part.shape[1] / self._spec.scale), round(part.shape[0] / self._spec.scale))
        return np.asarray(cv2.resize(part, size, interpolation=cv2.INTER_LINEAR), np.uint8)


def _metrics(validation: Validation, caught: float) -> dict[str, Any]:
    """Return the metrics that need no test images; `caught` is the share of synthetic defects at the score threshold."""
    best_iou, _ = validation.pixels.best_iou()
    return {
        "synthetic_image_auroc": round(validation.image_auroc, 5),
        "synthetic_pixel_auroc": round(validation.pixels.auroc() or 0.0, 5),
        "synthetic_pixel_ap": round(validation.pixel_ap, 5),
        "synthetic_best_iou": round(best_iou, 5),
        "synthetic_defects_caught": round(caught, 5),
        "images": {"good": len(validation.good_values), "with synthetic defects": len(validation.defective_values)},
    }
