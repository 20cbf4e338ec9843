"""Adds synthetic defects with exact labels to good images. Pure functions of a random generator.

Labels are graded by how much the image really changed, as in NSA (arXiv 2109.15222).
"""

from __future__ import annotations

import dataclasses

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from anoseg_engines.images import Image
from anoseg_trainer.config import DefectConfig
from anoseg_trainer.synthesis.canvas import Canvas, Change
from anoseg_trainer.synthesis.kinds import KINDS
from anoseg_trainer.synthesis.shapes import Mask, channel_max, channel_mean

CHIPS = 4.0
"""Factor on the weight of chips where the whole outline of the part is visible, because parts break there."""


def add_defects(rng: Generator, canvas: Canvas, config: DefectConfig) -> tuple[Image, Mask]:
    """Add one or more defects to a good image.

    Returns:
        A new image uint8 [h, w, 3], and its label float32 [h, w]: 0 where the image is unchanged, closer to 1 the more it
        differs from the texture around.
    """
    kinds = [name for name in KINDS if getattr(config, name) > 0]
    if canvas.on_part is None and len(kinds) > 1:
        kinds = [name for name in kinds if name != "bend"]
    weights = np.array([getattr(config, name) for name in kinds])
    if canvas.on_part is not None and "chip" in kinds:
        weights[kinds.index("chip")] *= CHIPS
    image = canvas.image.copy()
    touched = np.zeros(image.shape[:2], bool)
    while True:
        kind = kinds[int(rng.choice(len(kinds), p=weights / weights.sum()))]
        change = KINDS[kind](rng, dataclasses.replace(canvas, image=image, at_rim=config.at_rim))
        apply(image, touched, change)
        if rng.random() >= config.more:
            break
    return image, grade(canvas.image, image, touched, config.visible)


def apply(image: Image, touched: NDArray[np.bool_], change: Change) -> None:
    """Carry out `change` on `image` and mark the touched pixels, both in place."""
    height, width = change.alpha.shape
    view = image[change.y : change.y + height, change.x : change.x + width]
    alpha = change.alpha[:, :, None]
    mixed = view + alpha * (change.content - view)
    view[:] = np.clip(np.rint(mixed), 0, 255).astype(np.uint8)
    touched[change.y : change.y + height, change.x : change.x + width] |= change.alpha > 0


def grade(good: Image, changed: Image, touched: NDArray[np.bool_], visible: float) -> Mask:
    """Return the label of a changed image, float32 [h, w]: d² / (d² + visible² + local variance) where touched, else 0.

    d is the local root mean square difference. The variance of the good image is in the sum because a change on a strong
    texture is less visible.
    """
    if not touched.any():
        return np.zeros(touched.shape, np.float32)
    ys, xs = np.flatnonzero(touched.any(1)), np.flatnonzero(touched.any(0))
    box = np.s_[max(ys[0] - 8, 0) : ys[-1] + 9, max(xs[0] - 8, 0) : xs[-1] + 9]
    before, after = good[box].astype(np.float32), changed[box].astype(np.float32)
    squared = channel_max(np.square(after - before))
    # A pixel inside a defect may keep its value by chance. It still belongs to the defect, so touched neighbours are averaged.
    inside = touched[box].astype(np.float32)
    near = cv2.GaussianBlur(squared, (0, 0), 2.0) / np.maximum(cv2.GaussianBlur(inside, (0, 0), 2.0), 1e-3)
    squared = np.asarray(near, np.float32) * inside
    grey = channel_mean(before)
    mean = cv2.GaussianBlur(grey, (0, 0), 4.0)
    variance = np.maximum(cv2.GaussianBlur(np.square(grey), (0, 0), 4.0) - np.square(mean), 0)
    label = np.zeros(touched.shape, np.float32)
    label[box] = squared / (squared + visible**2 + variance)
    return label
