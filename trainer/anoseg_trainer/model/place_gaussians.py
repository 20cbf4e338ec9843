"""Measures how unusual the features of each place are at that very place of the part: one Gaussian for each place.

It serves parts that always lie the same way, so that a place of the input shows the same place of every part. It then knows
that dirt or reflections are usual here and not there, which the memory does not know. The distance is Mahalanobis's, as in
PaDiM (arXiv 2011.08785). Here, blocks of places share a covariance. Parts are shifted by a few pixels from image to image, so
differences between neighbouring places count as normal variation to some extent.

The features come from fine strides and have even length, see `Embedding`. The module runs where it is called.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from anoseg_trainer.model.encoder import CHANNELS
from anoseg_trainer.model.memory import Embedding, EmbeddingConfig, Features
from anoseg_trainer.model.memory_build import fit_projections

FEATURES_OF_PLACES = EmbeddingConfig(strides=(4, 8, 16), grid=8, dims=64, softness=0.0, whitening=0.0)
"""Without stride 4 or on a grid of 16, image AUROC on bsd_pitting falls from 0.93 to 0.90 or below (EXPERIMENTS.md)."""
BLOCK = 4
"""Side of a block of places that share a covariance. Sides of inputs are multiples of 32 pixels, which are 4 places."""
NEXT_PLACES = 0.25
"""Weight in a covariance of how the means of the eight next places differ from a place's own mean. Places are 8 pixels apart,
so 0.25 stands for parts that are moved by some 3.5 pixels in each direction (standard deviation), beside what the training
parts show. On rendered boards with sharp structure, and for few training images of the demo, 0.25 is better than 1
(EXPERIMENTS.md)."""
FEW_PARTS = 8
"""With so few different parts to learn from or fewer, the weight is 1, because they do not show how parts differ: on
bsd_pitting, with eight, 1 is better than 0.25. The weight falls with the square of the number of parts, to `NEXT_PLACES` for
16."""
LEAST_VARIANCE = 0.5
"""Share of the mean variance that is added to each direction, because few parts do not show how much each of the 64 dimensions
varies."""
SMALLEST_VARIANCE = 1e-4
"""Smallest mean variance of a block; over all places it is 1 / dims. Where parts hardly vary, rounding in half precision would
count otherwise."""
LEAST_SPREAD = 0.05
"""Least standard deviation of held-out parts' values, as a share of their median: a few parts may be alike by chance."""
SMALLEST_DISTANCE = 1e-3
"""Smallest distance that a place is brought to."""
ENOUGH = 1.001
"""A distance counts as reached if it is larger by a thousandth at most: the computed numbers are rounded."""
BORDER = 4
"""Places from the border at which the alignment is not measured, at most. With them, plain surfaces that differ in noise alone
have 0.49 to 0.57, without them 0.10 to 0.13."""
FEWEST_IMAGES = 8
FEWEST_PARTS = 3
"""With fewer images, or fewer different parts, nothing can be said of single places."""
KEPT_BYTES = 200_000_000
"""Vectors of training images that are kept until the Gaussians are fitted, at most; of more images, some are left out."""


class PlaceGaussians(Embedding):
    """Computes the standardised Mahalanobis distance of each place from the Gaussian of good parts at that place.

    Attributes:
        means: Mean vector of good parts at each place, FP32 [dims, h, w].
        whitening: For each block of places, maps centred vectors to unit covariance, FP32 [blocks, dims, dims]. The covariance
            is the block's and, with less weight, that of the blocks around it.
        centre: Median of the largest distances on held-out good parts; it becomes 0.
        scale: One over the standard deviation of those distances.
        above_usual: How far `centre` is above the median distance of all places of held-out good parts. It only serves to
            build the detector, and is not exported.
        alignment: Share of the features of good parts that depends on the place alone, see `fit_alignment`. It is in the
            record, not in the network.
    """

    means: Tensor
    whitening: Tensor
    centre: Tensor
    scale: Tensor

    def __init__(
        self, height: int, width: int, channels: tuple[int, ...] = CHANNELS, config: EmbeddingConfig = FEATURES_OF_PLACES
    ) -> None:
        """Make Gaussians that are still to be fitted.

        Args:
            height: Height of the input, pixels, a multiple of 32.
            width: Width of the input, pixels, a multiple of 32.
            channels: Channels of the features at each stride of `STRIDES`.
            config: The vectors.
        """
        super().__init__(config, channels)
        rows, columns = height // config.grid, width // config.grid
        blocks = (rows // BLOCK) * (columns // BLOCK)
        self.register_buffer("means", torch.zeros(config.dims, rows, columns))
        self.register_buffer("whitening", torch.eye(config.dims).repeat(blocks, 1, 1))
        self.register_buffer("centre", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))
        self.above_usual = 1.0
        self.alignment = 1.0

    def forward(self, levels: list[Tensor]) -> Tensor:
        """Return the standardised distances, FP32 [N, H / grid, W / grid].

        Args:
            levels: One tensor for each stride of `STRIDES`, as the encoder returns them.
        """
        return (self.distance(self.embed(levels)) - self.centre) * self.scale

    def distance(self, embedded: Tensor) -> Tensor:
        """Return the Mahalanobis distance of each place, divided by the root of the number of dimensions, FP32 [N, h, w].

        Args:
            embedded: Vectors of all places, [N, dims, h, w].
        """
        whitened = in_blocks(embedded.float() - self.means) @ self.whitening
        squared = whitened.square().mean(dim=3)
        rows, columns = self.means.shape[1] // BLOCK, self.means.shape[2] // BLOCK
        tiles = squared.reshape(-1, rows, columns, BLOCK, BLOCK).permute(0, 1, 3, 2, 4)
        return tiles.reshape(-1, rows * BLOCK, columns * BLOCK).sqrt()

    @torch.no_grad()
    def fit(self, vectors: Sequence[Tensor], parts: int) -> None:
        """Fit the Gaussians.

        Args:
            vectors: Embedded training images, each [dims, h, w].
            parts: Number of different parts that they show.
        """
        dims, columns = self.means.shape[0], self.means.shape[2] // BLOCK
        self.means.copy_(_mean(vectors))
        covariances = self._products(vector.float() - self.means for vector in vectors)
        share = min(1.0, max(NEXT_PLACES, (FEW_PARTS / parts) ** 2))
        covariances += share * self._products(_differences_of_next_places(self.means))
        covariances = _with_neighbours(covariances, columns)
        mean_variances = covariances.diagonal(dim1=1, dim2=2).mean(dim=1).clamp(min=SMALLEST_VARIANCE)
        covariances += LEAST_VARIANCE * mean_variances[:, None, None] * torch.eye(dims)
        inverse = torch.linalg.solve_triangular(torch.linalg.cholesky(covariances), torch.eye(dims), upper=False)
        self.whitening.copy_(inverse.mT)

    def _products(self, differences: Iterable[Tensor]) -> Tensor:
        """Return the mean product of vectors in each block with themselves, [blocks, dims, dims].

        Args:
            differences: Each [dims, h, w].
        """
        dims, n = self.means.shape[0], 0
        total = torch.zeros(len(self.whitening), dims, dims)
        for difference in differences:
            rows = in_blocks(difference[None])[0]
            total += rows.mT @ rows
            n += 1
        return total / (n * BLOCK**2)

    @torch.no_grad()
    def standardise(self, largest: Tensor, all_places: Tensor) -> None:
        """Set centre, scale and `above_usual` from distances on held-out good parts, before centre and scale.

        Args:
            largest: Largest distance of each part, [n].
            all_places: Distances of all their places, or of many, [m].
        """
        middle = largest.median()
        least = LEAST_SPREAD * float(middle)
        spread = largest.std(correction=0).clamp(min=least)
        self.above_usual = max(float(middle - all_places.median()), least, SMALLEST_DISTANCE)
        self.centre.copy_(middle)
        self.scale.copy_(1 / spread.clamp(min=1e-6))

    @torch.no_grad()
    def widen(self, embedded: Tensor, inside: Tensor, usual: float, most: int) -> int:
        """Make what a further good image shows usual at its places and in the blocks next to them.

        The most unusual place comes first. The covariances grow only in the direction in which it differs, until it is as
        unusual as a good part's most unusual place. A place that differs in another direction is about as unusual as before.

        Args:
            embedded: The vectors of the image, [dims, h, w].
            inside: Where the input shows the part, bool [h, w].
            usual: Standardised distance of a typical good part's most unusual place.
            most: Largest number of places.

        Returns:
            Number of places that were made usual.
        """
        wanted = max(float(usual / self.scale + self.centre), SMALLEST_DISTANCE)
        columns = self.means.shape[2]
        for done in range(most):
            distances = torch.where(inside, self.distance(embedded[None])[0], 0.0)
            if float(distances.max()) <= wanted * ENOUGH:
                return done
            row, column = divmod(int(distances.argmax()), columns)
            away = embedded[:, row, column].float() - self.means[:, row, column]
            for block in _block_and_neighbours(row // BLOCK, column // BLOCK, self.means.shape[1] // BLOCK, columns // BLOCK):
                along = away @ self.whitening[block]
                distance = float(along.square().mean().sqrt())
                if distance > wanted:
                    share = (1 - wanted / distance) / along.square().sum()
                    self.whitening[block] -= share * torch.outer(self.whitening[block] @ along, along)
        return most


class TrainingVectors:
    """Keeps the vectors of training images for the Gaussians, of as many images as fit into `KEPT_BYTES`.

    Attributes:
        vectors: The embedded images, FP16, each [dims, h, w].
    """

    def __init__(self, gaussians: PlaceGaussians, images: int) -> None:
        """Start with nothing; `images` will be offered."""
        self.vectors: list[Tensor] = []
        self._gaussians, self._offered = gaussians, 0
        most = max(1, KEPT_BYTES // (gaussians.means.numel() * 2))
        # Not every second one: file names may alternate between two cameras or exposures.
        self._chosen = {int(i) for i in np.random.default_rng(557).permutation(images)[:most]}

    @torch.no_grad()
    def add(self, features: Features) -> None:
        """Keep a batch of images, or some of them."""
        first = self._offered
        self._offered += len(features.parts)
        chosen = [i for i in range(len(features.parts)) if first + i in self._chosen]
        if chosen:
            levels = [level[chosen] if level.numel() else level for level in features.levels]
            self.vectors += list(self._gaussians.embed(levels).half())


@torch.no_grad()
def fit_alignment(gaussians: PlaceGaussians, sample: Sequence[Features], generator: torch.Generator) -> float:
    """Fit the projections of `gaussians`, and measure how much of the features the place alone tells.

    Args:
        gaussians: Their projections are set, and nothing else.
        sample: Features of some dozen training images, spread over all of them.
        generator: Randomness of the sampling.

    Returns:
        The share of the vectors' variance that depends on the place alone, 0…1: 1 if all parts look the same at the same
        place, 0 if a place tells nothing. 0 for fewer than `FEWEST_IMAGES` images or `FEWEST_PARTS` parts.
    """
    fit_projections(gaussians, sample, generator)
    parts = torch.cat([batch.parts for batch in sample])
    vectors = [_inner(image) for batch in sample for image in gaussians.embed(batch.levels)]
    numbers, images_of = torch.unique(parts, return_counts=True)
    n = len(vectors)
    if n < FEWEST_IMAGES or len(numbers) < FEWEST_PARTS:
        return 0.0
    everywhere = _mean(vectors).mean(dim=(1, 2), keepdim=True)
    # Two images of different parts have in common what the place alone tells. Two images of one part may be alike anyway.
    sums = {int(number): torch.zeros_like(vectors[0]) for number in numbers}
    whole = 0.0
    for vector, part in zip(vectors, parts.tolist(), strict=True):
        sums[part] += vector - everywhere
        whole += float((vector - everywhere).square().sum()) / n
    every = torch.stack(list(sums.values())).sum(dim=0)
    pairs = n**2 - int(images_of.square().sum())
    common = (float(every.square().sum()) - sum(float(one.square().sum()) for one in sums.values())) / pairs
    return min(1.0, max(0.0, common / whole)) if whole > 0 else 0.0


def _inner(vector: Tensor) -> Tensor:
    """Return the vectors [dims, h, w] without those near the border. The encoder pads there, so they depend on the place."""
    height, width = vector.shape[1:]
    y, x = min(BORDER, height // 4), min(BORDER, width // 4)
    return vector[:, y : height - y, x : width - x]


def in_blocks(vectors: Tensor) -> Tensor:
    """Bring vectors [N, dims, h, w] into blocks of places: [N, blocks, BLOCK², dims]."""
    n, dims, height, width = vectors.shape
    split = vectors.reshape(n, dims, height // BLOCK, BLOCK, width // BLOCK, BLOCK)
    return split.permute(0, 2, 4, 3, 5, 1).reshape(n, (height // BLOCK) * (width // BLOCK), BLOCK**2, dims)


def _block_and_neighbours(row: int, column: int, rows: int, columns: int) -> list[int]:
    """Return the numbers of a block and of up to eight blocks around it."""
    return [
        r * columns + c
        for r in range(max(0, row - 1), min(rows, row + 2))
        for c in range(max(0, column - 1), min(columns, column + 2))
    ]


def _with_neighbours(matrices: Tensor, columns: int) -> Tensor:
    """Average the matrix of each block, [blocks, d, d], with those of its neighbours, which count less."""
    blocks, dims, _ = matrices.shape
    grid = matrices.reshape(blocks // columns, columns, dims, dims)
    for axis in (0, 1):
        last = grid.shape[axis] - 1
        first_row, last_row = grid.narrow(axis, 0, 1), grid.narrow(axis, last, 1)
        before = torch.cat([first_row, grid.narrow(axis, 0, last)], dim=axis)
        after = torch.cat([grid.narrow(axis, 1, last), last_row], dim=axis)
        grid = grid / 2 + (before + after) / 4
    return grid.reshape(blocks, dims, dims)


def _differences_of_next_places(means: Tensor) -> Iterator[Tensor]:
    """Yield how the eight next places of each place differ from it, each [dims, h, w]; beyond the border, it is repeated."""
    height, width = means.shape[1:]
    padded = functional.pad(means[None], (1, 1, 1, 1), mode="replicate")[0]
    for row in range(3):
        for column in range(3):
            if (row, column) != (1, 1):
                yield padded[:, row : row + height, column : column + width] - means


def _mean(vectors: Sequence[Tensor]) -> Tensor:
    """Return the mean of vectors of any precision, FP32."""
    total = torch.zeros_like(vectors[0], dtype=torch.float32)
    for vector in vectors:
        total += vector
    return total / len(vectors)
