"""What a training chooses from the images where the configuration leaves it open: input size, mode, scale, and poses.

Each choice is told in one note with its reason, and the configuration that is recorded holds what was chosen. Pure.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from anoseg_engines.errors import ConfigError
from anoseg_trainer.config import NETWORK_STRIDE, InputConfig, TrainConfig, VariationConfig
from anoseg_trainer.data.dataset import THUMBNAIL, GoodImages, Split

RESIZE_AREA = 384 * 384
"""Network pixels of a whole part in resize mode, at most."""
TILED_AREA = 900_000
"""Network pixels of a whole part in tile mode, at most: about a dozen tiles."""
TILE = 384
"""Largest side of a tile: many parts that differ in shape fit one, and are seen whole."""
OVERLAP = 160
"""Network pixels that tiles share, where they are large enough: as far as the network sees, so that no seam shows."""
MIN_SCALE = 0.4
"""A part that would shrink further than this to fit one input is cut into tiles instead."""
SAME_ASPECT = 1.15
"""Aspect ratios of the middle 80 % of the images may differ by this factor for one input to suit all."""
ALIKE = 0.6
"""Correlation of the thumbnails of two images drawn at random from which a product lies always the same way."""
STILL_LIKE = 0.95
"""A turned image belongs among the good ones if its distance to the nearest is below this; unrelated ones are 1.41 away."""
PROBES = 200
Thumbnails = NDArray[np.float32]


def resolve(
    config: TrainConfig, images: GoodImages, groups: NDArray[np.int64], split: Split, seed: int
) -> tuple[TrainConfig, list[str]]:
    """The configuration with every open choice made, and a note for each.

    groups: part number of each image, int64 [n]; images of one part are no witnesses for each other's pose. What is normal is
    learned without the calibration images of `split`: what only they show must stay as rare as it is on the line.

    Raises:
        ConfigError: the input's sides, scale and overlap do not go together.
    """
    notes = []
    given = config.input
    try:
        chosen = choose_input(given, images.sizes_hw)
    except ValueError as error:
        raise ConfigError(f"input: {error}", hint="leave height, width, scale and overlap out, or change them") from error
    if chosen != given:
        notes.append(_input_note(chosen, images.sizes_hw))
    seen = sorted((*split.train, *split.validation))
    images, groups = images.only(seen), groups[seen]
    variation, words = choose_poses(config.variation, images, groups, seed)
    if variation != config.variation:
        notes.append(words)
    posed = variation
    variation = choose_light(posed, images)
    if variation != posed:
        notes.append(
            f"light differs between good images as much as: brightness {variation.brightness:.2f}, contrast "
            f"{variation.contrast:.2f}, shading {variation.shading:.2f}, colour {variation.tint:.2f} (logarithms)"
        )
    return msgspec.structs.replace(config, input=chosen, variation=variation), notes


def choose_input(given: InputConfig, sizes_hw: tuple[tuple[int, int], ...]) -> InputConfig:
    """Mode, size and scale: parts are never enlarged, and shrink only as far as the network's time asks.

    Images of one aspect ratio are shown whole, in an input of their shape; those that differ in shape, or would shrink
    below `MIN_SCALE`, are cut into tiles at one scale.
    """
    sizes = np.array(sizes_hw, np.float64)
    height, width = np.median(sizes, axis=0)
    low, high = np.percentile(sizes[:, 1] / sizes[:, 0], [10, 90])
    shrink = min(1.0, math.sqrt(RESIZE_AREA / (height * width)))
    mode = given.mode
    if mode == "auto":
        mode = "resize" if given.sides_given or (high / low <= SAME_ASPECT and shrink >= MIN_SCALE) else "tile"
    if mode == "resize":
        return msgspec.structs.replace(
            given,
            mode="resize",
            height=given.height or _side(height * shrink),
            width=given.width or _side(width * shrink),
            scale=1.0,
            overlap=given.overlap or 0,
        )
    scale = given.scale or min(1.0, math.sqrt(TILED_AREA / (height * width)))
    height, width = np.percentile(sizes, 75, axis=0)
    tile_height = given.height or min(TILE, _side(height * scale))
    tile_width = given.width or min(TILE, _side(width * scale))
    overlap = min(OVERLAP, min(tile_height, tile_width) - NETWORK_STRIDE) if given.overlap is None else given.overlap
    return msgspec.structs.replace(
        given, mode="tile", height=tile_height, width=tile_width, scale=round(scale, 3), overlap=overlap
    )


def _side(pixels: float) -> int:
    """The nearest multiple of the network's stride that the input can have."""
    return max(2, round(pixels / NETWORK_STRIDE)) * NETWORK_STRIDE


def _input_note(chosen: InputConfig, sizes_hw: tuple[tuple[int, int], ...]) -> str:
    height, width = (int(v) for v in np.median(np.array(sizes_hw), axis=0))
    size = f"{chosen.width}×{chosen.height}"
    if chosen.mode == "resize":
        return f"the whole part is shown at {size} pixels, the shape of the images (median {width}×{height})"
    why = f"images (median {width}×{height}) differ in shape or are large"
    return f"parts are cut into tiles of {size} at scale {chosen.scale:g}: {why}"


def choose_poses(
    given: VariationConfig, images: GoodImages, groups: NDArray[np.int64], seed: int
) -> tuple[VariationConfig, str]:
    """Turns and mirror images that good parts show themselves: such ones are taught as normal, others are not.

    A pose counts as usual when a thumbnail brought to it still has a near neighbour among the other parts.
    """
    if None not in (given.rotation_deg, given.flip_x, given.flip_y):
        return given, ""
    witness = _Witness(images, groups, seed)
    fixed = witness.alike() > ALIKE
    mirrored_x = not fixed and witness.distance(lambda t: t[:, ::-1]) < STILL_LIKE
    mirrored_y = not fixed and witness.distance(lambda t: t[::-1]) < STILL_LIKE
    any_way = not fixed and all(witness.distance(_turn(angle)) < STILL_LIKE for angle in (45, 90, 135, 225, 270, 315))
    own = witness.distance(lambda t: t)
    small = next((a for a in (4.0, 2.0) if witness.distance(_turn(a)) < own + 0.15), 1.0)
    rotation = 180.0 if any_way else small
    variation = msgspec.structs.replace(
        given,
        rotation_deg=rotation if given.rotation_deg is None else given.rotation_deg,
        flip_x=(0.5 if mirrored_x else 0.0) if given.flip_x is None else given.flip_x,
        flip_y=(0.5 if mirrored_y else 0.0) if given.flip_y is None else given.flip_y,
    )
    mirrored = [name for name, found in (("left-right", mirrored_x), ("upside down", mirrored_y)) if found]
    words = "good parts lie any way round" if any_way else f"good parts lie one way: turned by up to {small:g}° in training"
    return variation, words + (f"; mirrored {' and '.join(mirrored)} they look as good" if mirrored else "")


def choose_light(given: VariationConfig, images: GoodImages) -> VariationConfig:
    """How much the light changes between good images, a little widened: as much is normal.

    Under a fixed lamp a small change of brightness may be a defect; with several exposures it is nothing.
    """
    mean = images.levels.mean(axis=(1, 2)) + 4.0
    fields = np.log(images.levels + 4.0) - np.log(mean)[:, None, None]
    brightness = 1.5 * float(np.log(mean).std())
    contrast = 1.5 * float(np.log((images.spreads + 2.0) / mean).std())
    # Parts that lie any way round change the picture's levels themselves: that is no light.
    shading = 1.5 * float(np.median(fields.std(axis=0))) if (given.rotation_deg or 0) < 90 else 0.0
    casts = np.log(images.tints + 4.0) - np.log(images.tints.mean(axis=1, keepdims=True) + 4.0)
    colourless = bool((np.abs(casts) < 1e-3).all())
    # The farthest counts: another white balance is rare, and normal all the same.
    tint = 0.0 if colourless else _within(float(np.abs(casts - np.median(casts, axis=0)).max()), 0.03, 0.3)
    return msgspec.structs.replace(
        given,
        tint=tint if given.tint is None else given.tint,
        brightness=_within(brightness, 0.1, 0.4) if given.brightness is None else given.brightness,
        contrast=_within(contrast, 0.1, 0.4) if given.contrast is None else given.contrast,
        shading=_within(shading, 0.1, 0.3) if given.shading is None else given.shading,
    )


def _within(value: float, low: float, high: float) -> float:
    return round(min(max(value, low), high), 3)


class _Witness:
    """Distances between thumbnails of different parts, judged in the disc that turning keeps."""

    def __init__(self, images: GoodImages, groups: NDArray[np.int64], seed: int) -> None:
        y, x = np.mgrid[0:THUMBNAIL, 0:THUMBNAIL] - (THUMBNAIL - 1) / 2
        self.disc = (x * x + y * y <= (THUMBNAIL / 2) ** 2).astype(np.float32)
        self.all = images.thumbnails.reshape(-1, THUMBNAIL, THUMBNAIL)
        self.units = self._unit(self.all)
        self.picked = np.random.default_rng([seed, 78]).permutation(len(self.all))[:PROBES]
        self.same = groups[self.picked][:, None] == groups[None, :]

    def _unit(self, thumbnails: Thumbnails) -> Thumbnails:
        flat = (thumbnails * self.disc).reshape(len(thumbnails), -1)
        return np.asarray(flat / (np.linalg.norm(flat, axis=1, keepdims=True) + 1e-6), np.float32)

    def distance(self, pose: Callable[[Thumbnails], Thumbnails]) -> float:
        """Median distance of a thumbnail brought to `pose` to the nearest of another part, 0…2."""
        moved = self._unit(np.stack([pose(self.all[i]) for i in self.picked]))
        likeness = np.where(self.same, -1.0, moved @ self.units.T).max(axis=1)
        return float(np.median(np.sqrt(np.maximum(2 - 2 * likeness, 0))))

    def alike(self) -> float:
        """Median correlation of images of different parts, as they are."""
        likeness = self.units[self.picked] @ self.units.T
        different = likeness[~self.same]
        return float(np.median(different)) if len(different) else 1.0


def _turn(angle: float) -> Callable[[Thumbnails], Thumbnails]:
    centre = (THUMBNAIL - 1) / 2
    matrix = cv2.getRotationMatrix2D((centre, centre), angle, 1.0)
    return lambda t: np.asarray(
        cv2.warpAffine(t, matrix, (THUMBNAIL, THUMBNAIL), borderMode=cv2.BORDER_REFLECT_101), np.float32
    )
