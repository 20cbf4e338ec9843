"""Scales the region of a camera image to the size of the part. Trainer and line use this one function. Pure functions.

To average every camera pixel in one step is slow where the factor is no whole number: 3.2 ms for 1280×1024 → 448×358 in colour.
OpenCV is many times faster at halving an image, and at linear interpolation. So a region that shrinks to less than half its
size is halved until it is two to four times as large as the part, interpolated to exactly twice the part, and halved again.
"""

from __future__ import annotations

from typing import Literal

import cv2
import numpy as np

from anoseg_engines.images import Image

Shrink = Literal["area", "blocks"]
"""How a region is made smaller. The part's pixels are means of the camera's pixels either way.

area: in one step, with the exact share of every camera pixel; bundles made before there was a choice.
blocks: by means of blocks of 2×2, 4×4, … pixels and one interpolation. Below a factor of two the rules are the same. Above it
    they differ by a quarter of a grey value on average in pictures of screws.
"""


def scale_part(region_HWC: Image, part_width: int, part_height: int, shrink: Shrink) -> Image:
    """Scale a region to the size of the part. Pixels are averaged if the region shrinks, and interpolated if it grows.

    Args:
        region_HWC: uint8 [H, W, C] with one or three channels.

    Returns:
        uint8 [part_height, part_width, C]. If nothing has to be scaled, this is `region_HWC` itself.
    """
    height, width = region_HWC.shape[:2]
    if (width, height) == (part_width, part_height):
        return region_HWC
    if part_width >= width and part_height >= height:
        return _resized(region_HWC, part_width, part_height, cv2.INTER_LINEAR)
    factor = min(width / part_width, height / part_height)
    if shrink == "area" or factor < 2:
        return _resized(region_HWC, part_width, part_height, cv2.INTER_AREA)
    block = block_size(factor)
    blocks = block_means(region_HWC, block)
    # The last blocks may be narrower. Given as factors, the scale is exact to a fraction of a block: only the size is rounded.
    fx, fy = 2 * part_width * block / width, 2 * part_height * block / height
    doubled = cv2.resize(blocks, None, fx=fx, fy=fy, interpolation=cv2.INTER_LINEAR)[: 2 * part_height, : 2 * part_width]
    return block_means(_with_channels(doubled, region_HWC), 2)


def block_size(factor: float) -> int:
    """Return the largest power of two that is at most half the factor, and at least 1."""
    return 1 << max(0, int(factor / 2).bit_length() - 1)


def block_means(region_HWC: Image, block: int) -> Image:
    """Return the mean of each block of block×block pixels: uint8 [⌈H / block⌉, ⌈W / block⌉, C].

    Where the size is no multiple, the blocks at the right and at the bottom are the means of fewer pixels.

    Args:
        block: A power of two, at most H and W.
    """
    height, width, channels = region_HWC.shape
    rows, columns = height // block, width // block
    right, bottom = width - columns * block, height - rows * block
    whole = region_HWC[: rows * block, : columns * block]
    for size in _halvings(block):
        whole = _resized(whole, columns * size, rows * size, cv2.INTER_AREA)
    if not right and not bottom:
        return whole
    means = np.empty((rows + bool(bottom), columns + bool(right), channels), np.uint8)
    means[:rows, :columns] = whole
    if right:
        means[:rows, columns:] = _resized(region_HWC[: rows * block, columns * block :], 1, rows, cv2.INTER_AREA)
    if bottom:
        means[rows:, :columns] = _resized(region_HWC[rows * block :, : columns * block], columns, 1, cv2.INTER_AREA)
    if right and bottom:
        means[rows:, columns:] = _resized(region_HWC[rows * block :, columns * block :], 1, 1, cv2.INTER_AREA)
    return means


def _halvings(block: int) -> list[int]:
    """How many pixels are left of a block's side after each halving: 4, 2, 1 for a block of 8."""
    return [1 << i for i in reversed(range(block.bit_length() - 1))]


def _resized(image: Image, width: int, height: int, method: int) -> Image:
    return _with_channels(cv2.resize(image, (width, height), interpolation=method), image)


def _with_channels(scaled: cv2.typing.MatLike, image: Image) -> Image:
    """Give the result of OpenCV, which drops a single channel, the channels of `image`."""
    return np.asarray(scaled, np.uint8).reshape(*scaled.shape[:2], image.shape[2])
