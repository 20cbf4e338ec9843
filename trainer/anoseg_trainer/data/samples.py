"""Makes training samples: a window of a good part, often with synthetic defects. Pure functions of a random generator."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from anoseg_engines.images import Image
from anoseg_engines.placement import InputSpec, Tile, cut_tile, seen_span, tile_coords
from anoseg_trainer.config import DefectConfig, VariationConfig
from anoseg_trainer.data.part_store import PartStore
from anoseg_trainer.synthesis.background import point_on, within
from anoseg_trainer.synthesis.canvas import Canvas
from anoseg_trainer.synthesis.defects import add_defects
from anoseg_trainer.synthesis.shapes import Mask
from anoseg_trainer.synthesis.variation import compressed, is_grey, littered, random_window, varied_window

MARGIN, MARGIN_ROTATED = 0.1, 0.21
"""Shares of a window's side that may enter it from around: when it is rotated a few degrees, and by any angle."""
ROTATED_DEG = 20
"""Largest rotation that counts as a few degrees."""

Window = tuple[int, int, int, int]
"""Left, top, width and height in pixels of the scaled part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SampleSettings:
    """Everything that training samples are made from; pickled for the worker processes.

    Attributes:
        store: The scaled parts.
        indices: The parts that may be used.
        input: The network's input.
        window: Size of the frames, at most the size of the input. Windows are cut from the area that the network's inputs
            show in production, padding included.
        variation: Differences between good parts.
        defects: Synthetic defects.
        batch: Samples in a batch.
        seed: Seed of everything random.
        unit: A length in network pixels. Defects are sized in multiples of it.
        share: (k, n): only every n-th sample of a batch is made, beginning with the k-th, because n processes share the batch.
        background: Whether the parts are on a plain background. If so, windows and defects are placed on the part.
    """

    store: PartStore
    indices: tuple[int, ...]
    input: InputSpec
    window: InputSpec
    variation: VariationConfig
    defects: DefectConfig
    batch: int
    seed: int
    unit: int = 256
    background: bool = False
    share: tuple[int, int] = (0, 1)


class Sample(NamedTuple):
    """One training sample.

    Attributes:
        frame: uint8 [H, W, 3].
        coords: FP16 [2, H, W].
        label: uint8 [H, W], 255 is certainly a defect.
        image: Number of the image in the store that it is cut from.
    """

    frame: NDArray[np.uint8]
    coords: NDArray[np.float16]
    label: NDArray[np.uint8]
    image: int


def make_sample(rng: Generator, settings: SampleSettings, defective: bool) -> Sample:
    """Make one sample."""
    spec = settings.window
    index = settings.indices[int(rng.integers(len(settings.indices)))]
    part = settings.store[index]
    part_height, part_width = part.shape[:2]
    seen = seen_span(settings.input, part_height, part_width)
    tile = random_window(rng, (part_height, part_width), (spec.height, spec.width), seen, aim=_aim(rng, settings, index))
    left, top = max(0, tile.x), max(0, tile.y)
    window = left, top, min(part_width, tile.x + spec.width) - left, min(part_height, tile.y + spec.height) - top
    around = _with_margin(window, part_height, part_width, settings.variation)
    piece = part[around[1] : around[1] + around[3], around[0] : around[0] + around[2]]
    drawn = np.zeros(piece.shape[:2], np.float32)
    if settings.background and rng.random() < settings.variation.litter:
        bare = within(settings.store.bare_mask(index), part_height, part_width, around)
        piece = littered(rng, piece, bare, settings.unit)
    if defective:
        piece, drawn = add_defects(rng, canvas_of(settings, piece, index, around), settings.defects)
    inside = left - around[0], top - around[1], window[2], window[3]
    image, label = varied_window(rng, piece, drawn, inside, config=settings.variation)
    if rng.random() < settings.variation.compression:
        image = compressed(rng, image, settings.store.scales[index])
    height, width = image.shape[:2]
    frame = np.empty((spec.height, spec.width, 3), np.uint8)
    cut_tile(image, Tile(min(tile.x, 0), min(tile.y, 0)), frame)
    labels = np.zeros((spec.height, spec.width), np.uint8)
    y, x = top - tile.y, left - tile.x
    labels[y : y + height, x : x + width] = np.rint(label * 255).astype(np.uint8)
    return Sample(frame, tile_coords(spec, part_width, part_height, tile), labels, index)


def defective_part(rng: Generator, settings: SampleSettings, index: int) -> tuple[Image, Mask]:
    """Add synthetic defects to a whole held-out part; return it with its label, for validation and golden samples.

    Its light stays as it is, as that of the good cases: another light alone would make some parts count as caught.
    """
    height, width = settings.store.shapes[index]
    canvas = canvas_of(settings, settings.store[index], index, (0, 0, width, height))
    return add_defects(rng, canvas, settings.defects)


def canvas_of(settings: SampleSettings, image: Image, index: int, window: Window) -> Canvas:
    """Describe what defects are added to.

    Args:
        settings: How samples are made.
        image: The window's pixels.
        index: The part that it is cut from. Only the whole image shows where the part is.
        window: The window's place on it.
    """
    height, width = settings.store.shapes[index]
    on_part = within(settings.store.part_mask(index), height, width, window) if settings.background else None
    return Canvas(image, _donor(settings), unit=settings.unit, grey=is_grey(image), on_part=on_part)


def _with_margin(window: Window, part_height: int, part_width: int, variation: VariationConfig) -> Window:
    """Enlarge the window, so that it includes the pixels that a rotation or shift may move into it."""
    left, top, width, height = window
    share = MARGIN_ROTATED if (variation.rotation_deg or 0) > ROTATED_DEG else MARGIN
    margin = round(share * max(width, height))
    x, y = max(0, left - margin), max(0, top - margin)
    return x, y, min(part_width, left + width + margin) - x, min(part_height, top + height + margin) - y


def _aim(rng: Generator, settings: SampleSettings, index: int) -> tuple[int, int] | None:
    """Draw a place on the part that the window must contain; None if any window will do."""
    height, width = settings.store.shapes[index]
    if not settings.background or (height <= settings.window.height and width <= settings.window.width):
        return None
    return point_on(rng, settings.store.part_mask(index), height, width)


def _donor(settings: SampleSettings) -> Callable[[Generator], Image]:
    """Return a function that cuts a window from a random good part."""

    def donor(rng: Generator) -> Image:
        index = settings.indices[int(rng.integers(len(settings.indices)))]
        part = settings.store[index]
        rows, columns = part.shape[:2]
        # If the part is on a background, the window is smaller, so that it shows mostly the part.
        closer = 2 if settings.background else 1
        height, width = min(rows, settings.window.height // closer), min(columns, settings.window.width // closer)
        mask = settings.store.part_mask(index) if settings.background else None
        aim = None if mask is None else point_on(rng, mask, rows, columns)
        tile = random_window(rng, (rows, columns), (height, width), ((0, rows), (0, columns)), aim=aim)
        return part[tile.y : tile.y + height, tile.x : tile.x + width]

    return donor
