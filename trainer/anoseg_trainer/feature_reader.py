"""Computes the features of good parts, in batches of inputs that are encoded together and not kept. Runs on the main thread."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from anoseg_engines.images import Image
from anoseg_engines.placement import InputSpec
from anoseg_trainer.config import VariationConfig
from anoseg_trainer.data.part_store import PartStore, whole_placement
from anoseg_trainer.heap import return_free_memory
from anoseg_trainer.model.detector import Detector
from anoseg_trainer.model.encoder import STRIDES
from anoseg_trainer.model.memory import Features
from anoseg_trainer.model.network import valid_pixels
from anoseg_trainer.synthesis.variation import compressed, noisy, turned
from anoseg_trainer.training.step import Arithmetic

BATCH = 8
"""Inputs that are encoded together, at most."""
BATCH_PIXELS = 1_800_000
"""Their network pixels, at most, but one input in any case: eight of 1088×832 would take 1.4 GB."""
RETURN_EVERY = 64
"""Free memory is returned to the system after this many parts."""


@dataclass(frozen=True, slots=True)
class FeatureReader:
    """Computes the features of scaled parts.

    Attributes:
        detector: The detector; its network or encoder is used, and no other view.
        spec: The input for parts that are scaled already.
        store: The scaled parts.
        groups: Part number of each image, int64 [n].
        strides: Strides to keep; the other levels are left empty.
        arithmetic: The precision.
        variation: What counts as normal. Each part gets noise, compression, or both; None: parts are read as they are.
        turn: Whether each part is turned by any angle as well.
        seed: Seed of these changes.
    """

    detector: Detector
    spec: InputSpec
    store: PartStore
    groups: NDArray[np.int64]
    strides: tuple[int, ...]
    arithmetic: Arithmetic
    variation: VariationConfig | None = None
    turn: bool = False
    seed: int = 0

    @torch.no_grad()
    def features(self, indices: Sequence[int]) -> Iterator[Features]:
        """Yield the features of the parts at `indices`, in batches of tiles."""
        frames: list[NDArray[np.uint8]] = []
        coords: list[NDArray[np.float16]] = []
        parts: list[int] = []
        batch = max(1, min(BATCH, BATCH_PIXELS // (self.spec.height * self.spec.width)))
        for done, index in enumerate(indices):
            if done % RETURN_EVERY == 0:
                return_free_memory()
            part = self._part(index, done)
            placement = whole_placement(self.spec, part)
            tiles = np.empty((len(placement.tiles), self.spec.height, self.spec.width, 3), np.uint8)
            placement.fill(part, tiles)
            frames += list(tiles)
            coords += list(placement.coords_N2HW)
            parts += [int(self.groups[index])] * len(tiles)
            while len(parts) >= batch:
                yield self._encoded(frames[:batch], coords[:batch], parts[:batch])
                del frames[:batch], coords[:batch], parts[:batch]
        if parts:
            yield self._encoded(frames, coords, parts)

    def _part(self, index: int, copy: int) -> Image:
        """Return the scaled part at `index`; if the reader varies parts, its copy of this number, always in the same way."""
        part: Image = self.store[index]
        if self.variation is None:
            return part
        rng = np.random.default_rng([self.seed, 557, index, copy] if self.turn else [self.seed, 557, index])
        if self.turn:
            part = turned(rng, part, self.variation)
        kind = rng.integers(3)  # noise, compression, both
        if self.variation.noise and (kind != 1 or not self.variation.compression):
            part = noisy(rng, part, self.variation.noise)
        if self.variation.compression and (kind != 0 or not self.variation.noise):
            part = compressed(rng, part, self.store.scales[index])
        return part

    def _encoded(self, frames: list[NDArray[np.uint8]], coords: list[NDArray[np.float16]], parts: list[int]) -> Features:
        places = torch.from_numpy(np.stack(coords).astype(np.float32))
        device = self.detector.score_scale.device
        with self.arithmetic.autocast():
            levels = self.detector.encoded(torch.from_numpy(np.stack(frames)).to(device), places.to(device), max(self.strides))
        kept = [
            level.float().cpu() if stride in self.strides else torch.zeros(0)
            for stride, level in zip(STRIDES, levels, strict=False)
        ]
        return Features(kept, torch.tensor(parts), valid_pixels(places))

    def n_inputs(self, indices: Sequence[int]) -> int:
        """Return the number of tiles of the parts at `indices`."""
        return sum(len(whole_placement(self.spec, self.store[i]).tiles) for i in indices)
