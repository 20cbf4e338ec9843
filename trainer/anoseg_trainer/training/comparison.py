"""Gives the network in training the memory's map of its windows. It runs on the main thread, on the training's device."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from anoseg_trainer.data.batches import Batch
from anoseg_trainer.model.memory import Memory

DROPPED = 3
"""One window in so many is without a map, so that the network does not rely on the memory alone."""


@dataclass(frozen=True, slots=True)
class Comparison:
    """Compares training windows with good parts, each window with the parts that it does not show.

    Attributes:
        memory: The memory of good parts.
        vector_parts: Part of each vector of the memory, int64 [vectors].
        image_parts: Part of each image in the store, int64 [images].
    """

    memory: Memory
    vector_parts: Tensor
    image_parts: Tensor

    @torch.no_grad()
    def memory_map(self, batch: Batch, step: int, levels: list[Tensor]) -> Tensor:
        """Return the memory's map of a batch's windows, [N, h, w]; 0, as at a common place, where it is left out.

        Args:
            batch: The batch.
            step: The step; it decides which windows are without a map.
            levels: The levels of the network's backbone that the memory reads.
        """
        device = levels[0].device
        own = self.image_parts[batch.images][:, None] == self.vector_parts[None, :]
        own &= ~own.all(dim=1, keepdim=True)  # if there is one part only, its windows are compared with it
        # In FP32, as bundles compute it: a distance is a small difference of large numbers.
        with torch.autocast(device.type, enabled=False):
            embedded = self.memory.embed([level.float() for level in levels])
            compared = self.memory.standardised(self.memory.distance(embedded, own.to(device)))
        without = (torch.arange(len(compared), device=device) + step) % DROPPED == 0
        return compared.masked_fill(without[:, None, None], 0.0)
