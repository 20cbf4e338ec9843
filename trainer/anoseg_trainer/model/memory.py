"""Measures how far the features of each place are from the nearest features that good parts showed.

The memory compares features of some strides of the backbone. It averages them over 3×3 places (PatchCore, arXiv 2106.08265).
It brings them to even length, centres them, and scales them so that every stride counts alike. Then it projects them to few
dimensions. A coreset of vectors of good parts was prepared in the same way by `memory_build`.

The nearest vector is found by a 1×1 convolution. Its filters are the coreset's vectors m, and its biases are −|m|² / 2. The
maximum over its channels gives the distance, because |z − m|² = |z|² − 2 (z·m − |m|² / 2). The module runs where it is called.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from anoseg_trainer.model.encoder import CHANNELS, STRIDES

CHUNK = 500
"""Number of vectors that are compared at a time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EmbeddingConfig:
    """Configures the vectors of places.

    Attributes:
        strides: Encoder strides whose features are compared.
        grid: Stride of the map.
        dims: Number of dimensions after the projection.
        softness: The features x of a place are divided by sqrt(|x|² + softness · median |x|²). 0 removes the contrast, which
            changes with the light. Large values keep it, and plain backgrounds stay quiet.
        whitening: 0 keeps the variances of the principal components, 1 makes them equal.
    """

    strides: tuple[int, ...] = (4, 8, 16)
    grid: int = 8
    dims: int = 64
    softness: float = 0.25
    whitening: float = 0.5

    def __post_init__(self) -> None:
        if not self.strides or any(s not in STRIDES for s in (*self.strides, self.grid)):
            raise ValueError(f"memory.strides and memory.grid take strides of the encoder: {STRIDES}")


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryConfig(EmbeddingConfig):
    """Configures a memory.

    Attributes:
        vectors: Number of vectors that are kept.
    """

    vectors: int = 6000


@dataclass(frozen=True, slots=True)
class Features:
    """Holds the encoder features of some images.

    Attributes:
        levels: One tensor for each stride of `STRIDES`: [N, C, H / stride, W / stride].
        parts: Number of the part that each image shows, int64 [N]; images of one part share it.
        valid: True where the input shows the part, bool [N, H, W]; padding is left out of the memory.
    """

    levels: list[Tensor]
    parts: Tensor
    valid: Tensor


class Embedding(nn.Module):
    """Brings the features of some strides to one vector for each place.

    Attributes:
        config: The configuration.
        projections: One 1×1 convolution for each stride.
        floors: Numbers that are added to the squared lengths, [len(strides)].
    """

    floors: Tensor

    def __init__(self, config: EmbeddingConfig, channels: tuple[int, ...] = CHANNELS) -> None:
        """Make an embedding whose projections are still to be fitted.

        Args:
            config: The configuration.
            channels: Channels of the backbone's features at each stride of `STRIDES`.
        """
        super().__init__()
        self.config = config
        self.projections = nn.ModuleList(nn.Conv2d(channels[STRIDES.index(s)], config.dims, 1) for s in config.strides)
        self.register_buffer("floors", torch.ones(len(config.strides)))
        self.requires_grad_(False)

    def embed(self, levels: list[Tensor]) -> Tensor:
        """Return the vectors of all places, [N, dims, H / grid, W / grid], in the precision of the weights.

        Over good parts their mean is 0 and their mean squared length is 1.
        """
        total: Tensor | None = None
        for stride, project, floor in zip(self.config.strides, self.projections, self.floors, strict=True):
            x = even_length(averaged(levels[STRIDES.index(stride)]), floor)
            # Projecting first is the same as resizing first, and touches fewer channels.
            x = resized(project(x.to(next(project.parameters()).dtype)), stride, self.config.grid)
            total = x if total is None else total + x
        assert total is not None
        return total


class Memory(Embedding):
    """Computes the standardised distance of each place to the nearest good features.

    A common place has the distance 0. The most uncommon place of a good part has the distance 1. A distance is a small
    difference of large numbers, so the vectors are centred and have a length of about 1. With weights and products in FP16,
    the map then changes by less than 0.01. Squared lengths and the difference itself are FP32 in any precision.

    Attributes:
        nearest: A 1×1 convolution with the vectors as filters.
        centre: Median distance on held-out good parts.
        scale: One over the distance from `centre` to the most uncommon place of a good part.
        left_out: Values of some training parts, each compared with the vectors of other parts alone, [n]; empty if they are
            not needed. They are not exported.
    """

    config: MemoryConfig
    centre: Tensor
    scale: Tensor

    def __init__(self, config: MemoryConfig, channels: tuple[int, ...] = CHANNELS, vectors: int | None = None) -> None:
        """Make an empty memory.

        Args:
            config: The configuration.
            channels: Channels of the backbone's features at each stride of `STRIDES`.
            vectors: Number of vectors; None: as in the configuration.
        """
        super().__init__(config, channels)
        self.nearest = nn.Conv2d(config.dims, config.vectors if vectors is None else vectors, 1)
        self.register_buffer("centre", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))
        self.left_out = torch.zeros(0)  # no buffer, because bundles do not have it
        self.requires_grad_(False)

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Return the standardised distances, FP32 [N, H / grid, W / grid].

        Args:
            levels: One tensor for each stride of `STRIDES`, as the encoder returns them.
        """
        return self.standardised(self.distance(self.embed(levels)))

    def standardised(self, distances: Tensor) -> Tensor:
        """Return distances on the scale of the map: 0 at a common place, 1 at the most uncommon one of a good part."""
        return (distances - self.centre.float()) * self.scale.float()

    def distance(self, embedded: Tensor, forbidden: Tensor | None = None) -> Tensor:
        """Return the distance to the nearest vector, [N, h, w].

        Args:
            embedded: Vectors of all places, [N, dims, h, w].
            forbidden: True for vectors that an image must not find, bool [N, vectors]; None allows all.
        """
        best: Tensor | None = None
        # All vectors at once would give 75 MB for one frame of 448², which neither a processor's cache nor a Jetson likes.
        for start in range(0, len(self.nearest.weight), CHUNK):
            some = slice(start, start + CHUNK)
            likeness = functional.conv2d(embedded, self.nearest.weight[some], self.nearest.bias[some])  # type: ignore[index]
            if forbidden is not None:
                likeness = likeness.masked_fill(forbidden[:, some, None, None], -torch.inf)
            largest = likeness.amax(dim=1)
            best = largest if best is None else torch.maximum(best, largest)
        assert best is not None
        squared = embedded.float().square().sum(dim=1) - 2 * best.float()
        distance: Tensor = squared.clamp(min=0).sqrt()
        return distance

    def keep(self, vectors: Tensor) -> None:
        """Set the vectors [n, dims], rounded as a bundle keeps them; they replace those that were kept before."""
        vectors = vectors.half().float()
        self.nearest = nn.Conv2d(vectors.shape[1], len(vectors), 1)
        self.nearest.requires_grad_(False)
        self.nearest.weight.copy_(vectors[:, :, None, None])
        assert self.nearest.bias is not None
        self.nearest.bias.copy_(-vectors.square().sum(dim=1) / 2)


@torch.no_grad()
def standardise(memory: Memory, features: Iterable[Features]) -> None:
    """Set centre and scale on held-out good parts: the median place becomes 0, the median of their largest places 1.

    Raises:
        ValueError: There are no features.
    """
    memory.centre.zero_()
    memory.scale.fill_(1.0)
    places, largest = [], []
    for batch in features:
        distances = memory(batch.levels)
        for distance, valid in zip(distances, valid_places(batch.valid, distances.shape[1:]), strict=True):
            if valid.any():
                places.append(distance[valid])
                largest.append(distance[valid].max())
    if not largest:
        raise ValueError("no held-out good parts to standardise the memory with")
    middle = torch.cat(places).median()
    memory.centre.copy_(middle)
    memory.scale.copy_(1 / (torch.stack(largest).median() - middle).clamp(min=1e-3))


def averaged(level: Tensor) -> Tensor:
    """Average features over 3×3 places, in FP32. The average precedes the division by length, which would amplify noise."""
    return functional.avg_pool2d(level.float(), 3, 1, 1, count_include_pad=False)


def even_length(x: Tensor, floor: Tensor) -> Tensor:
    """Divide the features [N, C, h, w] of each place by sqrt(|x|² + floor), in FP32: squares leave the range of FP16."""
    return x * torch.rsqrt(x.square().sum(dim=1, keepdim=True) + floor.float())


def resized(x: Tensor, stride: int, grid: int) -> Tensor:
    """Resize features at `stride` to the grid of the memory."""
    if stride < grid:
        return functional.avg_pool2d(x, grid // stride)
    if stride == grid:
        return x
    return functional.interpolate(x, scale_factor=float(stride // grid), mode="bilinear", align_corners=False)


def valid_places(valid: Tensor, size: Iterable[int]) -> Iterator[Tensor]:
    """Yield `valid` [N, H, W] at the places of the grid, one bool [h, w] for each image."""
    height, width = size
    coarse = functional.interpolate(valid[:, None].float(), size=(height, width), mode="area")[:, 0]
    return iter(coarse > (coarse.amax(dim=(1, 2), keepdim=True) / 2).clamp(max=0.5))
