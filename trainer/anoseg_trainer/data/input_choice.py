"""Chooses the network's input where the configuration leaves it open.

The sizes of the images decide, and for large parts also whether they always lie the same way.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

import msgspec
import numpy as np

from anoseg_engines.errors import ConfigError, DataError
from anoseg_trainer.config import NETWORK_STRIDE, InputConfig
from anoseg_trainer.data.good_images import THUMBNAIL, read_good_images
from anoseg_trainer.data.variation_choice import FIXED_POSE

RESIZE_AREA = 448 * 448
"""Network pixels of a whole part in resize mode, at most."""
LARGE_AREA = 900_000
"""Network pixels of a large part, about: one input, or a dozen tiles."""
TILE = 384
"""Largest side of a tile: many parts that differ in shape fit into one tile of this size."""
OVERLAP = 160
"""Network pixels that large tiles share: as far as the network sees, so that no seam shows."""
MIN_SCALE = 0.4
"""A part that would shrink further than this to fit one input is large."""
SAME_ASPECT = 1.15
"""The aspect ratios of the middle 80 % count as equal if they differ by less than this factor."""
ONE_INPUT = 4.0
"""Images whose aspect ratios differ by more than this factor are cut into tiles: one input would be mostly padding."""
VIEWED = 16
"""Images of large parts that are looked at before all are read."""

Sizes = tuple[tuple[int, int], ...]
"""Height and width of each image in camera pixels."""


def choose_input(given: InputConfig, sizes_hw: Sizes, same_view: Callable[[], bool] = lambda: False) -> InputConfig:
    """Choose mode, size, scale and overlap; values that are given stay.

    Parts shrink only as far as the running time requires. The network sees each whole image. If all have one aspect ratio,
    the input has that shape. If not, the input holds three quarters of the images as they are, and each is letterboxed into
    it. If one side of a whole input is given, the other one follows from the images' shape.

    Parts that would shrink below `MIN_SCALE` are large. Large parts of one shape that always lie the same way are one large
    input: only there can each place be compared with the same place of good parts, and it has half the pixels of overlapping
    tiles of the same scale. Other large parts, and parts that differ very much in shape, are cut into tiles at one scale; so
    are all if a scale is given.

    Args:
        given: The configured input.
        sizes_hw: Height and width of each image.
        same_view: Says whether parts always lie the same way and may be compared place by place. It is called only if the
            answer matters.

    Raises:
        ConfigError: The given sides, scale and overlap do not fit together.
    """
    try:
        return _choose_input(given, sizes_hw, same_view)
    except ValueError as error:
        raise ConfigError(f"input: {error}", hint="leave height, width, scale and overlap out, or change them") from error


def _choose_input(given: InputConfig, sizes_hw: Sizes, same_view: Callable[[], bool]) -> InputConfig:
    sizes = np.array(sizes_hw, np.float64)
    low, high = np.percentile(sizes[:, 1] / sizes[:, 0], [10, 90])
    usual = np.percentile(sizes, 75, axis=0)
    height, width = np.median(sizes, axis=0) if high / low <= SAME_ASPECT else usual
    shrink = min(1.0, math.sqrt(RESIZE_AREA / (height * width)))
    mode = given.mode
    if mode == "auto":
        whole = high / low <= ONE_INPUT and shrink >= MIN_SCALE
        if given.scale is not None:
            mode = "tile"
        elif given.sides_given or whole:
            mode = "resize"
        else:
            mode, large = "tile", math.sqrt(LARGE_AREA / (height * width))
            nothing_given = (given.height, given.width, given.overlap) == (None, None, None)
            fits = high / low <= SAME_ASPECT and min(height, width) * large >= 2 * NETWORK_STRIDE
            if nothing_given and fits and same_view():
                mode, shrink = "resize", min(1.0, large)
    if mode == "resize":
        if given.height is not None:
            shrink = given.height / height
        elif given.width is not None:
            shrink = given.width / width
        return msgspec.structs.replace(
            given,
            mode="resize",
            height=given.height or _side(height * shrink),
            width=given.width or _side(width * shrink),
            scale=1.0,
            overlap=given.overlap or 0,
        )
    height, width = np.median(sizes, axis=0)
    scale = given.scale or min(1.0, math.sqrt(LARGE_AREA / (height * width)))
    # Rounded up: a part that is a few pixels wider than its tile would need a second, nearly equal one.
    tile_height, tile_width = (min(TILE, _side(math.ceil(side * scale / NETWORK_STRIDE) * NETWORK_STRIDE)) for side in usual)
    tile_height, tile_width = given.height or tile_height, given.width or tile_width
    overlap = min(OVERLAP, min(tile_height, tile_width) - NETWORK_STRIDE) if given.overlap is None else given.overlap
    return msgspec.structs.replace(
        given, mode="tile", height=tile_height, width=tile_width, scale=round(scale, 3), overlap=overlap
    )


def _side(pixels: float) -> int:
    """Return the multiple of the network's stride nearest to `pixels`, at least two strides."""
    return max(2, round(pixels / NETWORK_STRIDE)) * NETWORK_STRIDE


def show_one_view(paths: Sequence[Path]) -> bool:
    """Return whether images look alike at first sight, as where parts always lie the same way.

    A few images are read. If one cannot be used, the answer is no; the error comes when all are read.
    """
    some = sorted(int(i) for i in np.random.default_rng(561).permutation(len(paths))[:VIEWED])
    try:
        thumbnails = read_good_images([paths[i] for i in some]).thumbnails
    except DataError:
        return False
    y, x = np.mgrid[0:THUMBNAIL, 0:THUMBNAIL] - (THUMBNAIL - 1) / 2
    disc = (x * x + y * y <= (THUMBNAIL / 2) ** 2).reshape(-1)  # the corners around a round part always look alike
    inner = thumbnails * disc
    inner /= np.linalg.norm(inner, axis=1, keepdims=True) + 1e-6
    alike = (inner @ inner.T)[np.triu_indices(len(some), 1)]
    return bool(len(alike)) and float(np.median(alike)) > FIXED_POSE


def describe_input(given: InputConfig, chosen: InputConfig, sizes_hw: Sizes) -> str:
    """Say in a note for the user what was chosen, and why."""
    height, width = (int(v) for v in np.median(np.array(sizes_hw), axis=0))
    size = f"{chosen.width}×{chosen.height}"
    chosen_freely = given.mode == "auto" and given.scale is None
    why = ""
    if chosen.mode == "resize":
        no_side = given.height is None and given.width is None
        if chosen_freely and no_side and chosen.spec.height * chosen.spec.width > 2 * RESIZE_AREA:
            why = ", because the parts are large and always lie the same way; `input.mode: tile` cuts them into tiles"
        return f"the whole part is shown at {size} pixels (images: median {width}×{height}){why}"
    if chosen_freely:
        why = f", because the images (median {width}×{height}) differ in shape or are large"
    return f"parts are cut into tiles of {size} pixels at scale {chosen.scale:g}{why}"
