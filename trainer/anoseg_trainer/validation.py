"""Measures a detector on held-out good images and on synthetic defects on them. It sees no test images.

`keep_if_best` in `training/state.py` keeps the best weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import msgspec
import numpy as np
import torch
from numpy.typing import NDArray

from anoseg_engines.images import Image
from anoseg_engines.placement import InputSpec
from anoseg_trainer.data.samples import SampleSettings, defective_part
from anoseg_trainer.metrics import PixelHistogram, average_precision, image_auroc
from anoseg_trainer.model.detector import Detector
from anoseg_trainer.model.inference import predict_part
from anoseg_trainer.synthesis.shapes import Mask

MAX_IMAGES = 72
"""Good cases, at most; there are about as many defective ones."""
BINARY = 0.5
"""Label from which a pixel counts as defective where a yes or no is needed."""
IMAGE_SHARE = 0.75
"""Share of the image AUROC in the metric that chooses the weights."""
PIXEL_STRIDE = 3
"""Every third row and column counts for the pixel average precision."""


@dataclass(frozen=True, slots=True)
class ValidationCase:
    """One held-out part.

    Attributes:
        image: The scaled part, uint8 [h, w, 3].
        label: Its synthetic defects, float32 [h, w]; None: good.
    """

    image: Image
    label: Mask | None


@dataclass(frozen=True, slots=True)
class Validation:
    """The result of one validation.

    Attributes:
        image_auroc: Image AUROC on synthetic defects.
        pixel_ap: Pixel average precision on synthetic defects.
        good_values: The views' values of each good case, [tiles, V].
        defective_values: The views' values of each defective case, [tiles, V].
        pixels: Histogram of the map values.
    """

    image_auroc: float
    pixel_ap: float
    good_values: tuple[NDArray[np.float64], ...]
    defective_values: tuple[NDArray[np.float64], ...]
    pixels: PixelHistogram

    @property
    def metric(self) -> float:
        """The metric that chooses the weights. It combines image AUROC and pixel AP, because each of them alone saturates.

        Where held-out parts look new to the network, pixel AP on synthetic defects goes on rising while image AUROC falls. So
        image AUROC counts more.
        """
        return IMAGE_SHARE * self.image_auroc + (1 - IMAGE_SHARE) * self.pixel_ap

    def rescored(self, detector: Detector) -> Validation:
        """Return the same validation with the image AUROC of the scores that `detector` now gives."""
        good, bad = (scores_of(detector, values) for values in (self.good_values, self.defective_values))
        return dataclasses.replace(self, image_auroc=image_auroc(good, bad) or 0.0)


def scores_of(detector: Detector, values: Sequence[NDArray[np.float64]]) -> list[float]:
    """Return the score of each part from the values of its tiles, [tiles, V]: its largest tile score."""
    return [float(detector.score_of(torch.from_numpy(tiles).float()).max()) for tiles in values]


def make_cases(settings: SampleSettings) -> list[ValidationCase]:
    """Make good and defective cases from the parts and the seed of `settings`: the same in every validation and run."""
    picked = np.random.default_rng([settings.seed, 555]).permutation(settings.indices)[:MAX_IMAGES]
    cases = [ValidationCase(settings.store[int(i)], None) for i in picked]
    for round_ in range(MAX_IMAGES // 2 // len(picked) + 1):  # few held-out parts: each is used several times
        for i in picked:
            rng = np.random.default_rng([settings.seed, 556, round_, int(i)])
            image, label = defective_part(rng, settings, int(i))
            if label.max() >= BINARY:  # an invisible defect proves nothing
                cases.append(ValidationCase(image, label))
    return cases


def validate(detector: Detector, spec: InputSpec, cases: list[ValidationCase]) -> Validation:
    """Measure `detector` on all cases."""
    # Without their maps, which take more memory than all else.
    good: list[tuple[float, NDArray[np.float64]]] = []
    defective: list[tuple[float, NDArray[np.float64]]] = []
    pixels = PixelHistogram()
    values, truth = [], []
    for case in cases:
        prediction = predict_part(detector, scaled_spec(spec), case.image)
        (good if case.label is None else defective).append((prediction.score, prediction.values))
        mask = np.zeros(case.image.shape[:2], bool) if case.label is None else case.label >= BINARY
        anomaly_map = prediction.anomaly_map
        if anomaly_map.shape != mask.shape:
            anomaly_map = np.asarray(cv2.resize(anomaly_map, (mask.shape[1], mask.shape[0])), np.float32)
        pixels.add(anomaly_map, mask)
        values.append(anomaly_map[::PIXEL_STRIDE, ::PIXEL_STRIDE].reshape(-1))
        truth.append(mask[::PIXEL_STRIDE, ::PIXEL_STRIDE].reshape(-1))
    return Validation(
        image_auroc=image_auroc([score for score, _ in good], [score for score, _ in defective]) or 0.0,
        pixel_ap=average_precision(np.concatenate(truth), np.concatenate(values)) or 0.0,
        good_values=tuple(found for _, found in good),
        defective_values=tuple(found for _, found in defective),
        pixels=pixels,
    )


def scaled_spec(spec: InputSpec) -> InputSpec:
    """Return the input for parts that are scaled already: in tile mode, its scale is 1."""
    return msgspec.structs.replace(spec, scale=1.0)
