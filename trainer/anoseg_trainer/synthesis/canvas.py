"""Holds the image that synthetic defects are added to, and places and sizes the defects. Sizes are in network pixels."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from anoseg_engines.images import Image
from anoseg_trainer.synthesis.background import point_on
from anoseg_trainer.synthesis.shapes import Mask, log_uniform, smooth_noise

Patch = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Canvas:
    """The image that a defect is added to.

    Attributes:
        image: uint8 [h, w, 3].
        donor: Returns another good image, uint8, any size.
        unit: A length in network pixels. Defects are sized in multiples of it, whatever the size of the part.
        grey: All channels of `image` are equal.
        at_rim: Share of defects placed at the rim of the image.
        on_part: Where the part is, bool, any size; None: everywhere.
    """

    image: Image
    donor: Callable[[Generator], Image]
    unit: int
    grey: bool
    at_rim: float = 0.0
    on_part: NDArray[np.bool_] | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """The change of one box of the image.

    Attributes:
        x: Left.
        y: Top.
        alpha: How much each pixel changes, float32 [h, w] in 0…1.
        content: The new pixels, float32 [h, w, 3].
    """

    x: int
    y: int
    alpha: Mask
    content: Patch


def sized(rng: Generator, canvas: Canvas, low: float, high: float) -> tuple[int, int]:
    """Draw height and width of a defect's box.

    The size is between `low` and `high` units, small ones as likely as large ones; the aspect ratio is at most 1:3.
    """
    size, aspect = canvas.unit * log_uniform(rng, low, high), log_uniform(rng, 0.33, 3.0)
    return fitted(canvas, size * np.sqrt(aspect), size / np.sqrt(aspect))


def fitted(canvas: Canvas, height: float, width: float) -> tuple[int, int]:
    """Round a box: at least 3 pixels a side, at most the image."""
    rows, columns = canvas.image.shape[:2]
    return min(max(3, round(height)), rows), min(max(3, round(width)), columns)


def placed(rng: Generator, canvas: Canvas, height: int, width: int) -> tuple[int, int]:
    """Draw left and top of a box: on the part if it is known, and at the rim for the share `at_rim`."""
    rows, columns = canvas.image.shape[:2]
    x, y = int(rng.integers(0, columns - width + 1)), int(rng.integers(0, rows - height + 1))
    aim = None if canvas.on_part is None else point_on(rng, canvas.on_part, rows, columns)
    if aim is not None:  # the box is centred there, as far as the image allows
        x = min(max(aim[0] - width // 2, 0), columns - width)
        y = min(max(aim[1] - height // 2, 0), rows - height)
    if canvas.at_rim and rng.random() < canvas.at_rim:
        x, y = ((x, 0), (x, rows - height), (0, y), (columns - width, y))[int(rng.integers(4))]
    return x, y


def strip(rng: Generator, canvas: Canvas) -> tuple[int, int, Mask]:
    """Draw a strip along one side of the image, its border slanted and wavy: left, top and outline."""
    rows, columns = canvas.image.shape[:2]
    across_x = rng.random() < 0.5
    across, along = (columns, rows) if across_x else (rows, columns)
    depth = min(across, max(4, round(across * log_uniform(rng, 0.15, 0.6))))
    at = np.linspace(-1, 1, along, dtype=np.float32)
    wave = smooth_noise(rng, 1, along, max(4.0, along / 3))[0]
    border = depth * (float(rng.uniform(0.5, 0.95)) + float(rng.normal(0, 0.15)) * at + float(rng.uniform(0, 0.06)) * wave)
    outline = (np.arange(depth, dtype=np.float32)[None, :] < border[:, None]).astype(np.float32)
    if rng.random() < 0.5:  # from the far side
        outline = outline[:, ::-1]
        start = across - depth
    else:
        start = 0
    return (start, 0, np.ascontiguousarray(outline)) if across_x else (0, start, np.ascontiguousarray(outline.T))


def region_of(rng: Generator, donor: Image, height: int, width: int, zoom: float = 1.0) -> Patch:
    """Cut a random region out of `donor`, enlarged by `zoom` or, if the donor is too small, by more."""
    rows, columns = donor.shape[:2]
    cut_h, cut_w = min(max(1, round(height / zoom)), rows), min(max(1, round(width / zoom)), columns)
    top, left = int(rng.integers(0, rows - cut_h + 1)), int(rng.integers(0, columns - cut_w + 1))
    cut = donor[top : top + cut_h, left : left + cut_w]
    if cut.shape[:2] != (height, width):
        cut = np.asarray(cv2.resize(cut, (width, height), interpolation=cv2.INTER_LINEAR), np.uint8)
    return cut.astype(np.float32)
