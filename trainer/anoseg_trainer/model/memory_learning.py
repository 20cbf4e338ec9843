"""Adds places of further good parts to a finished memory. Pure functions; the module runs where it is called."""

from __future__ import annotations

import torch
from torch import Tensor

from anoseg_trainer.model.memory import Memory, valid_places


@torch.no_grad()
def far_vectors(memory: Memory, embedded: Tensor, valid: Tensor, most: int) -> Tensor:
    """Choose the vectors of an image that the memory does not know: each next one is the farthest from those known so far.

    This is how the memory's own vectors were chosen (`memory_build.coreset`). The choice ends where all that remains is as
    common as the median place of a good part.

    Args:
        memory: The memory; it stays as it is.
        embedded: Vectors of all places of the image's tiles, [N, dims, h, w].
        valid: Where the input shows the part, bool [N, H, W].
        most: Largest number of vectors to choose.

    Returns:
        The vectors, [n, dims].
    """
    distances = memory.distance(embedded)
    inside = torch.stack(list(valid_places(valid, distances.shape[1:])))
    vectors = embedded.permute(0, 2, 3, 1)[inside]
    nearest = distances[inside].square()
    chosen: list[int] = []
    for _ in range(min(most, len(vectors))):
        index = int(nearest.argmax())
        if nearest[index] <= memory.centre.square():
            break
        chosen.append(index)
        nearest = torch.minimum(nearest, (vectors - vectors[index]).square().sum(dim=1))
    return vectors[chosen]


def extend(memory: Memory, vectors: Tensor) -> None:
    """Add vectors [n, dims] to those that the memory keeps."""
    memory.keep(torch.cat([memory.nearest.weight[:, :, 0, 0], vectors]))
