"""Builds a memory of good parts from the features of the training images, without a gradient step.

The projection to few dimensions comes from principal components. The memory keeps a coreset of the candidates: random places of
all training parts. Pure functions; the module runs where it is called.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import accumulate

import torch
from torch import Tensor
from torch.nn import functional

from anoseg_trainer.model.encoder import CHANNELS, STRIDES
from anoseg_trainer.model.memory import (
    Embedding,
    EmbeddingConfig,
    Features,
    Memory,
    MemoryConfig,
    averaged,
    even_length,
    resized,
    valid_places,
)

LEAST_SPREAD = 1e-4
"""Levels that hardly vary on good parts are divided by no less than this standard deviation."""
LEAST_LENGTH = 1e-3
"""Smallest number that is added to a squared length."""
STATISTICS_PATCHES = 20_000
"""Number of vectors from which the projection is computed."""
CANDIDATES_PER_VECTOR = 10
"""Number of candidates for each vector that is kept."""
ODD = 4.0
"""Robust standard deviations above the median from which a part is odd. With one defective part in ten on mvtec_screw, 5 of 30
defective and 3 of 203 good parts are odd; without defective parts, 1 of 207. Leaving odd places out of the memory costs more
than it gains: what is rare on one small part is rare on all (EXPERIMENTS.md)."""
FEWEST_PARTS = 10
"""With fewer parts, none is called odd."""
LEAST_ODDITY = 0.05
"""Least robust standard deviation, as a share of the median: on very uniform parts, tiny differences are not odd."""
QUARTILE = 0.6745
"""Median absolute deviation of a normal distribution, in standard deviations."""
EXACT_CHUNK = 2048
"""Number of vectors whose distances are computed at a time."""


@dataclass(frozen=True, slots=True)
class Patches:
    """Holds the projected features of single places.

    Attributes:
        vectors: Float32 [M, dims].
        parts: Part of each vector, int64 [M].
    """

    vectors: Tensor
    parts: Tensor

    def picked(self, indices: Tensor) -> Patches:
        """Return the patches at `indices`, which are int64 or bool."""
        return Patches(self.vectors[indices], self.parts[indices])

    def joined(self, more: Patches) -> Patches:
        """Return these patches and `more`."""
        return Patches(torch.cat([self.vectors, more.vectors]), torch.cat([self.parts, more.parts]))


@dataclass(frozen=True, slots=True)
class BuiltMemory:
    """Holds a memory and what its construction showed.

    Attributes:
        memory: The memory.
        parts: Part of each vector, int64 [vectors]. So a training part can be compared with the vectors of other parts alone.
        odd: Parts that show something that no other part shows, the oddest first.
        explained: Share of the variance of the features that the projection keeps.
    """

    memory: Memory
    parts: Tensor
    odd: tuple[int, ...]
    explained: float


def build_memory(
    sample: Sequence[Features],
    features: Iterable[Features],
    config: MemoryConfig,
    *,
    images: int,
    seed: int,
    varied: Iterable[Features] = (),
    channels: tuple[int, ...] = CHANNELS,
) -> BuiltMemory:
    """Build a memory of good parts.

    Args:
        sample: Features of some dozen training images, spread over all of them; the projection is computed from these.
        features: Features of all training images in batches; each batch is used once and not kept.
        config: The configuration.
        images: Number of images in `features`.
        seed: Seed of the sampling.
        varied: Features of varied copies of some training images, which count as good as well. No part is called odd for them.
        channels: Channels of the features at each stride of `STRIDES`.

    Raises:
        ValueError: No place of any image shows a part.
    """
    generator = torch.Generator().manual_seed(seed)
    memory = Memory(config, channels)
    explained = fit_projections(memory, sample, generator)
    patches = _candidates(memory, features, images, generator)
    every = patches.joined(_candidates(memory, varied, images, generator))
    chosen = every.picked(coreset(every.vectors, config.vectors, generator))
    memory.keep(chosen.vectors)
    return BuiltMemory(memory, chosen.parts, unlike_others(patches, chosen), explained)


@torch.no_grad()
def coreset(vectors: Tensor, n: int, generator: torch.Generator) -> Tensor:
    """Choose n vectors that cover all of `vectors` [M, d]: each next one is the farthest from those already chosen (k-centre).

    Random vectors would mostly show what is frequent. If a small part is on a plain background, nearly all random vectors
    would show background.

    Returns:
        Their indices, int64 [min(n, M)].
    """
    n = min(n, len(vectors))
    half_norms = vectors.square().sum(dim=1) / 2
    nearest = torch.full((len(vectors),), torch.inf)
    chosen = torch.empty(n, dtype=torch.int64)
    index = int(torch.randint(len(vectors), (), generator=generator))
    for k in range(n):
        chosen[k] = index
        half_squared = half_norms - vectors @ vectors[index] + half_norms[index]
        nearest = torch.minimum(nearest, half_squared)
        nearest[index] = -torch.inf
        index = int(nearest.argmax())
    return chosen


def unlike_others(patches: Patches, memory: Patches) -> tuple[int, ...]:
    """Return the parts that show something that no other part shows, the oddest first: they may be dirty or defective.

    A part's measure is the largest distance of its patches from the nearest vector of another part. It is odd if the measure is
    more than `ODD` robust standard deviations above the median.

    Args:
        patches: Patches of all parts.
        memory: Vectors that cover them.
    """
    numbers, own = torch.unique(patches.parts, return_inverse=True)
    if len(numbers) < FEWEST_PARTS:
        return ()
    distances, _ = nearest_of_others(patches, memory)
    largest = torch.zeros(len(numbers)).scatter_reduce(0, own, distances, "amax")
    above = largest - largest.median()
    spread = (above.abs().median() / QUARTILE).clamp(min=LEAST_ODDITY * float(largest.median()))
    order = above.argsort(descending=True)
    return tuple(int(numbers[i]) for i in order if above[i] > ODD * spread)


def nearest_of_others(patches: Patches, memory: Patches) -> tuple[Tensor, Tensor]:
    """Return distance [M] and index [M] of the nearest vector of `memory` that belongs to another part."""
    bias = -memory.vectors.square().sum(dim=1) / 2
    distances, indices = [], []
    for start in range(0, len(patches.vectors), EXACT_CHUNK):
        some = patches.picked(torch.arange(start, min(start + EXACT_CHUNK, len(patches.vectors))))
        likeness = torch.addmm(bias, some.vectors, memory.vectors.T)
        likeness.masked_fill_(some.parts[:, None] == memory.parts[None, :], -torch.inf)
        best = likeness.max(dim=1)
        distances.append((some.vectors.square().sum(dim=1) - 2 * best.values).clamp(min=0).sqrt())
        indices.append(best.indices)
    return torch.cat(distances), torch.cat(indices)


@torch.no_grad()
def fit_projections(embedding: Embedding, sample: Sequence[Features], generator: torch.Generator) -> float:
    """Set the projections to the principal components of all strides together; return the share of variance that they keep.

    Raises:
        ValueError: No place of any image shows a part.
    """
    config = embedding.config
    embedding.floors.copy_(_length_floors(config, sample))
    per_image = -(-STATISTICS_PATCHES // sum(len(batch.parts) for batch in sample))
    rows: list[Tensor] = []
    for batch in sample:
        side_by_side = [
            resized(even_length(averaged(batch.levels[STRIDES.index(stride)]), floor), stride, config.grid)
            for stride, floor in zip(config.strides, embedding.floors, strict=True)
        ]
        rows += _picked(torch.cat(side_by_side, dim=1), batch.valid, per_image, generator)
    if not rows:
        raise ValueError("no place of any good image shows a part")
    stacked = torch.cat(rows)
    sizes = [int(project.in_channels) for project in embedding.projections]  # type: ignore[arg-type]
    mean = stacked.mean(dim=0)
    # One scale for each stride: a scale for each channel would amplify channels that hardly vary.
    ends = list(accumulate(sizes))
    lengths = [(stacked - mean)[:, end - n : end].square().sum(dim=1) for n, end in zip(sizes, ends, strict=True)]
    spreads = [float(squared.mean().sqrt()) for squared in lengths]
    weights = torch.cat([torch.full((n,), 1 / max(spread, LEAST_SPREAD)) for n, spread in zip(sizes, spreads, strict=True)])
    scaled = (stacked - mean) * weights
    variances, vectors = torch.linalg.eigh(scaled.T @ scaled / len(scaled))
    variances, vectors = variances.flip(0).clamp(min=0), vectors.flip(1)
    dims = min(config.dims, len(variances))
    kept = variances[:dims]
    whitened = (kept / kept[0]).clamp(min=1e-6) ** (-config.whitening / 2)
    matrix = weights[:, None] * vectors[:, :dims] * whitened
    matrix = matrix / ((kept * whitened**2).sum().sqrt())
    if dims < config.dims:
        matrix = functional.pad(matrix, (0, config.dims - dims))
    start = 0
    for project, size in zip(embedding.projections, sizes, strict=True):
        part = matrix[start : start + size]
        project.weight.copy_(part.T[:, :, None, None].half())  # type: ignore[operator]
        project.bias.copy_(-(mean[start : start + size] @ part).half())  # type: ignore[operator]
        start += size
    return float(kept.sum() / variances.sum())


@torch.no_grad()
def _length_floors(config: EmbeddingConfig, sample: Sequence[Features]) -> Tensor:
    """Return `softness` times the median squared length of the features on the part, for each stride: [len(strides)]."""
    lengths: list[list[Tensor]] = [[] for _ in config.strides]
    for batch in sample:
        for stride, found in zip(config.strides, lengths, strict=True):
            squared = averaged(batch.levels[STRIDES.index(stride)]).square().sum(dim=1)
            for image, inside in zip(squared, valid_places(batch.valid, squared.shape[1:]), strict=True):
                if inside.any():
                    found.append(image[inside].median())
    if not lengths[0]:
        raise ValueError("no place of any good image shows a part")
    medians = torch.stack([torch.stack(found).median() for found in lengths])
    return (config.softness * medians).clamp(min=LEAST_LENGTH)


@torch.no_grad()
def _candidates(memory: Memory, features: Iterable[Features], images: int, generator: torch.Generator) -> Patches:
    """Return random places of all images, equally many of each."""
    per_image = -(-CANDIDATES_PER_VECTOR * memory.config.vectors // images)
    vectors = [torch.zeros(0, memory.config.dims)]
    parts = [torch.zeros(0, dtype=torch.int64)]
    for batch in features:
        picked = _picked(memory.embed(batch.levels), batch.valid, per_image, generator)
        vectors += picked
        parts += [part.repeat(len(rows)) for part, rows in zip(batch.parts, picked, strict=True)]
    return Patches(torch.cat(vectors), torch.cat(parts))


def _picked(x: Tensor, valid: Tensor, per_image: int, generator: torch.Generator) -> list[Tensor]:
    """Return up to `per_image` random valid places of each image of x [N, C, h, w], as one [n, C] for each image."""
    picked = []
    for image, inside in zip(x, valid_places(valid, x.shape[2:]), strict=True):
        rows = image[:, inside].T
        picked.append(rows[torch.randperm(len(rows), generator=generator)[:per_image]])
    return picked
