"""Adds places of further good parts to a finished memory. Pure functions; the module runs where it is called."""

from __future__ import annotations

import torch
from torch import Tensor

from anoseg_trainer.model.detector import most_prominent
from anoseg_trainer.model.memory import Memory, valid_places


@torch.no_grad()
def far_vectors(memory: Memory, embedded: Tensor, valid: Tensor, most: int, enough: float = -torch.inf) -> Tensor:
    """Choose the vectors of an image that the memory does not know: each next one is the farthest from those known so far.

    This is how the memory's own vectors were chosen (`memory_build.coreset`). The choice ends where all that remains is as
    common as the median place of a good part, or where no place is more prominent than on a typical good part. To learn more
    would not lower the score: it counts how far the largest place rises above the mean, which falls too.

    Args:
        memory: The memory; it stays as it is.
        embedded: Vectors of all places of the image's tiles, [N, dims, h, w].
        valid: Where the input shows the part, bool [N, H, W].
        most: Largest number of vectors to choose.
        enough: Value of the memory for a typical good part.

    Returns:
        The vectors, [n, dims].
    """
    distances = memory.distance(embedded)
    inside = torch.stack(list(valid_places(valid, distances.shape[1:])))
    vectors = embedded.permute(0, 2, 3, 1)
    nearest = distances.square()
    chosen: list[Tensor] = []
    for _ in range(min(most, int(inside.sum()))):
        index = int(torch.where(inside, nearest, -1.0).argmax())
        if nearest.flatten()[index] <= memory.centre.square():
            break
        if float(most_prominent(memory.standardised(nearest.sqrt()), valid).max()) <= enough:
            break
        chosen.append(vectors.reshape(-1, vectors.shape[-1])[index])
        nearest = torch.minimum(nearest, (vectors - chosen[-1]).square().sum(dim=-1))
    return torch.stack(chosen) if chosen else embedded.new_zeros(0, embedded.shape[1])


def extend(memory: Memory, vectors: Tensor) -> None:
    """Add vectors [n, dims] to those that the memory keeps."""
    memory.keep(torch.cat([memory.nearest.weight[:, :, 0, 0], vectors]))
