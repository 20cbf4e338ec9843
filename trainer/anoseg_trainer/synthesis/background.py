"""Finds the part on a plain background, so that synthetic defects can be placed on it. Pure functions.

Background is connected to the rim of the image, flat, and of a similar colour. An image that the part fills (a surface) has no
background.
"""

from __future__ import annotations

from collections.abc import Iterable

import cv2
import numpy as np
from numpy.typing import NDArray

from anoseg_engines.images import Image
from anoseg_trainer.synthesis.shapes import channel_max

SIDE = 96
"""Longer side of the image that is analysed: fine grain of the background is averaged away."""
PLAIN_RIM = 0.8
"""Share of the rim that must be plain in the median image of a product, for its parts to count as on a background."""
PART_SHARES = (0.02, 0.9)
"""Smallest and largest share of the image that a part takes; outside, the mask is not trusted."""


def part_mask(image: Image) -> NDArray[np.bool_]:
    """Find the part in an image that shows all of it on a plain background; a soft shadow counts as background.

    Args:
        image: uint8 [h, w, 3].

    Returns:
        bool [h', w'], whose longer side is `SIDE` or, if smaller, the image's.
    """
    return _segment(image, shadows=True)[0]


def bare_mask(image: Image) -> NDArray[np.bool_]:
    """Find the pixels that are certainly background, neither part nor shadow; shape as of `part_mask`."""
    return ~(_segment(image, shadows=False)[0] | part_mask(image))


def within(mask: NDArray[np.bool_], height: int, width: int, window: tuple[int, int, int, int]) -> NDArray[np.bool_]:
    """Cut the mask of a window (left, top, width, height) out of the mask of an image of height × width."""

    def cells(start: int, length: int, size: int, n: int) -> NDArray[np.intp]:
        at = np.arange(max(1, round(length * n / size))) + start * n / size
        return np.asarray(np.clip(np.rint(at), 0, n - 1), np.intp)

    left, top, window_width, window_height = window
    rows, columns = cells(top, window_height, height, len(mask)), cells(left, window_width, width, mask.shape[1])
    return np.asarray(mask[rows[:, None], columns], np.bool_)


def has_background(images: Iterable[Image]) -> bool:
    """Return whether most of these images of one product show parts on a plain background."""
    found = [_segment(image, shadows=False) for image in images]
    share = float(np.median([mask.mean() for mask, _ in found]))
    return bool(np.median([rim for _, rim in found]) >= PLAIN_RIM and PART_SHARES[0] <= share <= PART_SHARES[1])


def _segment(image: Image, *, shadows: bool) -> tuple[NDArray[np.bool_], float]:
    """Find the part, and the share of the rim that is plain.

    Args:
        image: uint8 [h, w, 3].
        shadows: If true, slopes much flatter than the part's outline belong to the background. If false, only flat areas
            belong to the background. `has_background` and `bare_mask` pass false.
    """
    height, width = image.shape[:2]
    scale = min(1.0, SIDE / max(height, width))
    size = max(4, round(width * scale)), max(4, round(height * scale))
    small = cv2.resize(image, size, interpolation=cv2.INTER_AREA).astype(np.float32)
    slope = channel_max(cv2.magnitude(cv2.Sobel(small, cv2.CV_32F, 1, 0), cv2.Sobel(small, cv2.CV_32F, 0, 1))) / 8
    rim = np.ones(small.shape[:2], bool)
    rim[2:-2, 2:-2] = False
    spread = float(small.std())
    far = channel_max(np.abs(small - np.median(small[rim], axis=0)))
    # If a part is hardly darker than the table, print on the part may be far steeper than the part's outline.
    steepest, farthest = (min(0.35 * float(np.percentile(slope, 98)), 8.0), 2.0) if shadows else (0.06 * spread, 0.8)
    plain = (slope < max(1.5, steepest)) & (far < max(15.0, farthest * spread))
    labels = cv2.connectedComponents(plain.astype(np.uint8), connectivity=4)[1]
    at_rim = np.zeros(int(labels.max()) + 1, bool)
    at_rim[labels[rim & plain]] = True
    background = plain & at_rim[labels]
    part = cv2.morphologyEx((~background).astype(np.uint8), cv2.MORPH_OPEN, np.ones((3, 3), np.uint8))
    return part.astype(bool), float(plain[rim].mean())


def point_on(rng: np.random.Generator, mask: NDArray[np.bool_], height: int, width: int) -> tuple[int, int] | None:
    """Draw a random place on the part.

    Args:
        rng: Random generator.
        mask: The part; it covers an image of height × width.
        height: Height of the image.
        width: Width of the image.

    Returns:
        x and y; None if the mask is empty.
    """
    places = np.flatnonzero(mask)
    if not len(places):
        return None
    row, column = divmod(int(places[int(rng.integers(len(places)))]), mask.shape[1])
    x, y = (column + rng.random()) * width / mask.shape[1], (row + rng.random()) * height / mask.shape[0]
    return min(int(x), width - 1), min(int(y), height - 1)
