"""Finds the part on a plain background, so that synthetic defects can be placed on it. Pure functions.

Background is connected to the rim of the image, flat, and of a similar colour. An image that the part fills (a surface) has no
background.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

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

OUTLINE = 1.4
"""How much steeper than the background a part's outline is, at least. A surface under a lamp is brighter in the middle too, and
nothing is steep there: 0.8 to 1.0. On mvtec_screw it is 2.8."""


def part_mask(image: Image) -> NDArray[np.bool_]:
    """Find the part in an image that shows all of it on a plain background; a soft shadow counts as background.

    Args:
        image: uint8 [h, w, 3].

    Returns:
        bool [h', w'], whose longer side is `SIDE` or, if smaller, the image's.
    """
    return _segment(image, shadows=True).part


def bare_mask(image: Image) -> NDArray[np.bool_]:
    """Find the pixels that are certainly background, neither part nor shadow; shape as of `part_mask`."""
    return ~(_segment(image, shadows=False).part | part_mask(image))


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
    share = float(np.median([segment.part.mean() for segment in found]))
    is_plain = np.median([segment.plain_rim for segment in found]) >= PLAIN_RIM
    has_outline = np.median([segment.outline for segment in found]) >= OUTLINE
    return bool(is_plain and has_outline and PART_SHARES[0] <= share <= PART_SHARES[1])


class _Segment(NamedTuple):
    """Where the part is.

    Attributes:
        part: bool [h', w'].
        plain_rim: The share of the rim that is plain.
        outline: How many times steeper the part's outline is than the background, medians; 0 without outline or background.
    """

    part: NDArray[np.bool_]
    plain_rim: float
    outline: float


def _segment(image: Image, *, shadows: bool) -> _Segment:
    """Find the part.

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
    cells = np.ones((3, 3), np.uint8)
    outline = cv2.dilate(part, cells) > cv2.erode(part, cells)
    beside = slope[(part == 0) & ~outline]
    steeper = float(np.median(slope[outline]) / (np.median(beside) + 1e-6)) if outline.any() and len(beside) else 0.0
    return _Segment(part.astype(bool), float(plain[rim].mean()), steeper)


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
