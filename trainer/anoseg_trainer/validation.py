"""How well the network does on held-out good images and synthetic defects on them: chooses weights, never sees test images."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
from sklearn.metrics import average_precision_score

from anoseg_engines.images import Image
from anoseg_engines.placement import InputSpec
from anoseg_trainer.data.batches import Recipe, defective_part
from anoseg_trainer.metrics import PixelHistogram, image_auroc
from anoseg_trainer.model.inference import Reading, read_part
from anoseg_trainer.model.network import AnoSegNetwork
from anoseg_trainer.synthesis.shapes import Mask

MAX_IMAGES = 72
BINARY = 0.5
"""Label from which a pixel counts as defective where a yes or no is needed."""


@dataclass(frozen=True, slots=True)
class Case:
    """One held-out part, good (label None) or with synthetic defects; image uint8 at the size of the scaled part."""

    image: Image
    label: Mask | None


@dataclass(frozen=True, slots=True)
class Validation:
    """Image AUROC and pixel average precision on synthetic defects, the pooled logits of each case, and the pixel counts."""

    image_auroc: float
    pixel_ap: float
    good_pooled: tuple[tuple[float, ...], ...]
    defective_pooled: tuple[tuple[float, ...], ...]
    pixels: PixelHistogram

    @property
    def merit(self) -> float:
        """What weights are chosen by: both count, since either alone saturates."""
        return (self.image_auroc + self.pixel_ap) / 2


def make_cases(recipe: Recipe) -> list[Case]:
    """Good and defective cases, drawn from the recipe's parts and seed: the same at every validation and on every run."""
    picked = np.random.default_rng([recipe.seed, 555]).permutation(recipe.indices)[:MAX_IMAGES]
    cases = [Case(recipe.store[int(i)], None) for i in picked]
    for round_ in range(MAX_IMAGES // 2 // len(picked) + 1):  # few held-out parts: each gets several defects
        for i in picked:
            rng = np.random.default_rng([recipe.seed, 556, round_, int(i)])
            image, label = defective_part(rng, recipe, int(i))
            if label.max() >= BINARY:  # a defect that can hardly be seen is no test
                cases.append(Case(image, label))
    return cases


def validate(network: AnoSegNetwork, spec: InputSpec, cases: list[Case]) -> Validation:
    """Run all cases through `network`."""
    good: list[Reading] = []
    defective: list[Reading] = []
    pixels = PixelHistogram()
    values, truth = [], []
    for case in cases:
        reading = read_part(network, as_scaled(spec), case.image)
        (good if case.label is None else defective).append(reading)
        mask = np.zeros(case.image.shape[:2], bool) if case.label is None else case.label >= BINARY
        found = reading.anomaly_map
        if found.shape != mask.shape:
            found = np.asarray(cv2.resize(found, (mask.shape[1], mask.shape[0])), np.float32)
        pixels.add(found, mask)
        values.append(found[::3, ::3].reshape(-1))
        truth.append(mask[::3, ::3].reshape(-1))
    flat_truth = np.concatenate(truth)
    pixel_ap = float(average_precision_score(flat_truth, np.concatenate(values))) if flat_truth.any() else 0.0
    auroc = image_auroc([r.score for r in good], [r.score for r in defective]) or 0.0
    return Validation(auroc, pixel_ap, tuple(r.pooled for r in good), tuple(r.pooled for r in defective), pixels)


def as_scaled(spec: InputSpec) -> InputSpec:
    """The same input for parts that are scaled already (tile mode scales by 1 then)."""
    return InputSpec(spec.height, spec.width, spec.mode, 1.0, spec.overlap)
