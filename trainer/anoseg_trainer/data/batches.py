"""Training batches, made in worker processes from the part store; every batch is a function of (seed, step) alone.

So the order of workers does not matter, and a resumed training sees the batches that an undisturbed one would.
"""

from __future__ import annotations

import signal
from collections.abc import Generator as IteratorWithClose
from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np
import torch
from numpy.random import Generator
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from anoseg_engines.errors import AnosegError
from anoseg_engines.images import Image
from anoseg_engines.placement import InputSpec, Tile, cut_tile, seen_span, tile_coords
from anoseg_trainer.config import DefectConfig, VariationConfig
from anoseg_trainer.data.dataset import PartStore
from anoseg_trainer.synthesis.background import point_on, within
from anoseg_trainer.synthesis.canvas import Ground
from anoseg_trainer.synthesis.defects import add_defects
from anoseg_trainer.synthesis.shapes import Mask
from anoseg_trainer.synthesis.variation import littered, random_window, relit, varied_window

MARGIN, MARGIN_TURNED = 0.1, 0.21
"""Shares of a window's side that can turn or shift into it from around: by a few degrees, and by any angle."""


@dataclass(frozen=True, slots=True)
class Batch:
    """frames: uint8 [N, H, W, 3]. coords: float16 [N, 2, H, W]. labels: uint8 [N, H, W], 255 = surely a defect."""

    frames: Tensor
    coords: Tensor
    labels: Tensor


BatchStream = IteratorWithClose[Batch, None, None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """What a worker needs to make batches; pickled to it.

    indices: the parts it may use. input: the network's input. window: size of the frames, at most that of the input: they are
    cut from what the line's inputs show, padding included. unit: network pixels that defects are sized by.
    background: the parts lie on a plain background; windows and defects are put on the part then.
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


class BatchDataset(Dataset[tuple[NDArray[np.uint8], NDArray[np.float16], NDArray[np.uint8]]]):
    """Item `step` is a whole batch."""

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def __getitem__(self, step: int) -> tuple[NDArray[np.uint8], NDArray[np.float16], NDArray[np.uint8]]:
        r = self.recipe
        height, width = r.window.height, r.window.width
        frames = np.empty((r.batch, height, width, 3), np.uint8)
        coords = np.empty((r.batch, 2, height, width), np.float16)
        labels = np.empty((r.batch, height, width), np.uint8)
        for i in range(r.batch):
            rng = np.random.default_rng([r.seed, step, i])
            # The first share of a batch is defective: its make-up never swings from step to step.
            defective = i < round(r.defects.share * r.batch)
            frames[i], coords[i], labels[i] = make_sample(rng, r, defective)
        return frames, coords, labels


def make_sample(
    rng: Generator, recipe: Recipe, defective: bool
) -> tuple[NDArray[np.uint8], NDArray[np.float16], NDArray[np.uint8]]:
    """One training input: frame uint8 [H, W, 3], coords FP16 [2, H, W], label uint8 [H, W]."""
    spec = recipe.window
    index = recipe.indices[int(rng.integers(len(recipe.indices)))]
    part = recipe.store[index]
    part_height, part_width = part.shape[:2]
    seen = seen_span(recipe.input, part_height, part_width)
    tile = random_window(rng, (part_height, part_width), (spec.height, spec.width), seen, _aim(rng, recipe, index))
    left, top = max(0, tile.x), max(0, tile.y)
    window = left, top, min(part_width, tile.x + spec.width) - left, min(part_height, tile.y + spec.height) - top
    around = _with_margin(window, part_height, part_width, recipe.variation)
    piece = part[around[1] : around[1] + around[3], around[0] : around[0] + around[2]]
    drawn = np.zeros(piece.shape[:2], np.float32)
    if recipe.background and rng.random() < recipe.variation.litter:
        piece = littered(rng, piece, within(recipe.store.bare_mask(index), part_height, part_width, around), recipe.unit)
    if defective:
        piece, drawn = add_defects(rng, ground_of(recipe, piece, index, around), recipe.defects)
    inside = left - around[0], top - around[1], window[2], window[3]
    image, label = varied_window(rng, piece, drawn, inside, recipe.variation)
    height, width = image.shape[:2]
    frame = np.empty((spec.height, spec.width, 3), np.uint8)
    cut_tile(image, Tile(min(tile.x, 0), min(tile.y, 0)), frame)
    labels = np.zeros((spec.height, spec.width), np.uint8)
    y, x = top - tile.y, left - tile.x
    labels[y : y + height, x : x + width] = np.rint(label * 255).astype(np.uint8)
    return frame, tile_coords(spec, part_width, part_height, tile), labels


def _with_margin(
    window: tuple[int, int, int, int], part_height: int, part_width: int, variation: VariationConfig
) -> tuple[int, int, int, int]:
    """The window (left, top, width, height) with what may turn or shift into it."""
    left, top, width, height = window
    share = MARGIN_TURNED if (variation.rotation_deg or 0) > 20 else MARGIN
    margin = round(share * max(width, height))
    x, y = max(0, left - margin), max(0, top - margin)
    return x, y, min(part_width, left + width + margin) - x, min(part_height, top + height + margin) - y


def _aim(rng: Generator, recipe: Recipe, index: int) -> tuple[int, int] | None:
    """A place on the part that the window should hold; None where any window will do."""
    height, width = recipe.store.shapes[index]
    if not recipe.background or (height <= recipe.window.height and width <= recipe.window.width):
        return None
    return point_on(rng, recipe.store.part_mask(index), height, width)


def ground_of(recipe: Recipe, image: Image, index: int, window: tuple[int, int, int, int]) -> Ground:
    """What defects are put on: the picture with what is known of the product.

    image: the window (left, top, width, height) of part `index`. Where the part is, only the whole picture tells.
    """
    height, width = recipe.store.shapes[index]
    on_part = within(recipe.store.part_mask(index), height, width, window) if recipe.background else None
    return Ground(image, donor_of(recipe), unit=recipe.unit, grey=is_grey(image), on_part=on_part)


def donor_of(recipe: Recipe) -> _Donor:
    """Gives other good parts of the recipe, lightly varied in light."""
    return _Donor(recipe)


class _Donor:
    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe

    def __call__(self, rng: Generator) -> Image:
        index = self.recipe.indices[int(rng.integers(len(self.recipe.indices)))]
        part = self.recipe.store[index]
        # Of parts on a background a closer view, so that what is taken from it shows the part.
        near = 2 if self.recipe.background else 1
        height = min(part.shape[0], self.recipe.window.height // near)
        width = min(part.shape[1], self.recipe.window.width // near)
        mask = self.recipe.store.part_mask(index) if self.recipe.background else None
        aim = None if mask is None else point_on(rng, mask, part.shape[0], part.shape[1])
        rows, columns = part.shape[:2]
        tile = random_window(rng, (rows, columns), (height, width), ((0, rows), (0, columns)), aim)
        return part[tile.y : tile.y + height, tile.x : tile.x + width]


def is_grey(image: Image) -> bool:
    """Whether all three channels are equal, judged on a coarse grid of pixels."""
    few = image[::8, ::8]
    return bool((few[:, :, 0] == few[:, :, 1]).all() and (few[:, :, 1] == few[:, :, 2]).all())


def defective_part(rng: Generator, recipe: Recipe, index: int) -> tuple[Image, Mask]:
    """A whole held-out part with synthetic defects on it, and its label; for validation and golden samples."""
    height, width = recipe.store.shapes[index]
    image, label = add_defects(rng, ground_of(recipe, recipe.store[index], index, (0, 0, width, height)), recipe.defects)
    return relit(rng, image, recipe.variation), label


def batches(recipe: Recipe, steps: range, workers: int) -> BatchStream:
    """Batches for `steps` in order, prefetched by `workers` processes (0: made in this one).

    Close the iterator when training ends early: the workers are then let finish, not cut off.

    Raises:
        AnosegError: a worker died.
    """
    wanted = _Steps(steps)
    loader: DataLoader[Batch] = DataLoader(
        BatchDataset(recipe),  # type: ignore[arg-type]
        batch_size=None,
        sampler=wanted,
        num_workers=workers,
        multiprocessing_context="spawn" if workers else None,
        prefetch_factor=2 if workers else None,
        worker_init_fn=_quiet_worker if workers else None,
    )
    made: Iterator[tuple[Tensor, Tensor, Tensor]] = iter(loader)
    try:
        for frames, coords, labels in made:
            yield Batch(frames, coords, labels)
    except RuntimeError as error:  # how DataLoader tells that a worker is gone; nothing is left to be drained then
        made = iter(())
        raise AnosegError(
            f"a process that makes training images ended: {str(error).splitlines()[0]}",
            hint="out of memory or of shared memory (/dev/shm)? lower training.batch or training.workers",
        ) from error
    finally:
        wanted.ended = True
        for _ in made:
            pass


class _Steps:
    """The steps to make batches for; ends early when told so."""

    def __init__(self, steps: range) -> None:
        self.steps = steps
        self.ended = False

    def __iter__(self) -> Iterator[int]:
        for step in self.steps:
            if self.ended:
                return
            yield step

    def __len__(self) -> int:
        return len(self.steps)


def _quiet_worker(_: int) -> None:
    """Ctrl-C is answered by the main process alone; one thread a worker, or they fight the training for the cores."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
