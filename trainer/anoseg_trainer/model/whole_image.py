"""Scores a whole image: how far the means and deviations of its features are from those of good parts, under one Gaussian.

The memory compares places. A part may differ a little everywhere, or show something common too often. Such a part has no place
that is far from the memory, but this model detects it. The model takes almost no time, and gives one number for each image. The
module runs where it is called.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional

from anoseg_trainer.model.encoder import CHANNELS, STRIDES
from anoseg_trainer.model.fixed_filters import WithoutDirection
from anoseg_trainer.model.memory import even_length

WHOLE_IMAGE_STRIDES = (8, 16)
"""Strides whose features are measured unless others are given."""
LEAST_DEVIATION = 1e-3
"""Measures that hardly vary between good parts are divided by no less than this standard deviation."""
LEAST_LENGTH = 1e-3
"""Number that is added to the squared length of features."""
ROWS = 4096
"""Images whose measures are multiplied in double precision at a time."""
LEAST_SPREAD = 0.05
"""Least standard deviation of the distances, as a share of their median: a few held-out parts may be alike by chance."""


class WholeImage(nn.Module):
    """Computes the standardised Mahalanobis distance of an image's measures from those of good parts.

    Attributes:
        strides: Strides whose features are measured.
        even: Whether the features of each place are brought to even length first.
        without_direction: For each stride, takes from responses of fixed filters what changes when a part is turned; None: the
            features are measured as they are.
        mean: Mean of each measure over good parts, [M].
        whitening: Maps centred measures to unit covariance, [M, M].
        centre: Median distance of held-out good parts; it becomes 0.
        scale: One over the standard deviation of those distances.
    """

    mean: Tensor
    whitening: Tensor
    centre: Tensor
    scale: Tensor

    def __init__(
        self,
        strides: tuple[int, ...] = WHOLE_IMAGE_STRIDES,
        even: bool = False,
        *,
        channels: tuple[int, ...] = CHANNELS,
        turned: bool = False,
    ) -> None:
        """Make a model that is still to be fitted.

        Args:
            strides: Strides whose features are measured.
            even: Whether the features of each place are brought to even length first.
            channels: Channels of the features at each stride of `STRIDES`.
            turned: Whether the features are responses of fixed filters, and parts may be turned by any angle.
        """
        super().__init__()
        self.strides, self.even = strides, even
        levels = [STRIDES.index(stride) for stride in strides]
        measured = [channels[level] for level in levels]
        self.without_direction = None
        if turned:
            modules = [WithoutDirection(level) for level in levels]
            measured = [module.channels for module in modules]
            self.without_direction = nn.ModuleList(modules)
        measures = 2 * sum(measured)
        self.register_buffer("mean", torch.zeros(measures))
        self.register_buffer("whitening", torch.eye(measures))
        self.register_buffer("centre", torch.zeros(()))
        self.register_buffer("scale", torch.ones(()))

    def forward(self, levels: list[Tensor], valid: Tensor) -> Tensor:
        """Return the standardised distance of each image, FP32 [N].

        Args:
            levels: One tensor for each stride of `STRIDES`, as the encoder returns them.
            valid: 1 where the input shows the part, 0 in padding, float [N, H, W].
        """
        distance: Tensor = self.distance(self.measures(levels, valid))
        return (distance - self.centre) * self.scale

    def measures(self, levels: list[Tensor], valid: Tensor) -> Tensor:
        """Compute means and standard deviations of the features over the part, FP32 [N, M]."""
        found = []
        for i, stride in enumerate(self.strides):
            x = levels[STRIDES.index(stride)].float()
            if self.without_direction is not None:
                x = self.without_direction[i](x)
            if self.even:
                x = even_length(x, torch.tensor(LEAST_LENGTH))
            weights = functional.avg_pool2d(valid[:, None].float(), stride)
            weights = weights / weights.sum(dim=(2, 3), keepdim=True).clamp(min=1e-6)
            mean = (x * weights).sum(dim=(2, 3))
            variance = ((x - mean[:, :, None, None]).square() * weights).sum(dim=(2, 3))
            found += [mean, variance.sqrt()]
        return torch.cat(found, dim=1)

    def distance(self, measures: Tensor) -> Tensor:
        """Return the Mahalanobis distances [N] of measures [N, M]."""
        squared = ((measures - self.mean) @ self.whitening).square().sum(dim=1)
        return squared.sqrt()

    @torch.no_grad()
    def fit(self, training: Tensor, held_out: Tensor) -> None:
        """Fit the Gaussian on training parts, and standardise its distances on held-out parts.

        The covariance is shrunk towards a multiple of the identity (Ledoit and Wolf, J. Multivariate Analysis 88, 2004). There
        are about as many measures as parts, so it could not be inverted otherwise.

        Args:
            training: Measures of the training images, [n, M].
            held_out: Measures of the held-out good images, [m, M].

        Raises:
            ValueError: Fewer than two training or held-out images.
        """
        if len(training) < 2 or len(held_out) < 2:
            raise ValueError("the whole-image model needs at least two training and two held-out images")
        spread = training.std(dim=0).clamp(min=LEAST_DEVIATION)
        self.mean.copy_(training.mean(dim=0))
        covariance = shrunk_covariance((training - self.mean) / spread)
        variances, vectors = torch.linalg.eigh(covariance.double())
        self.whitening.copy_((vectors * variances.clamp(min=1e-9).rsqrt()).float() / spread[:, None])
        distances = self.distance(held_out)
        self.centre.copy_(distances.median())
        self.scale.copy_(1 / distances.std().clamp(min=LEAST_SPREAD * float(self.centre)))


def shrunk_covariance(centred: Tensor) -> Tensor:
    """Return Ledoit and Wolf's covariance [M, M] of centred rows [n, M]: (1 − a) S + a · trace(S) / M · I, with their a."""
    n, measures = centred.shape
    sample = torch.zeros(measures, measures, dtype=torch.float64)
    fourth = torch.zeros((), dtype=torch.float64)  # sum of the rows' lengths to the fourth power
    for start in range(0, n, ROWS):
        x = centred[start : start + ROWS].double()
        sample += x.T @ x / n
        fourth += x.square().sum(dim=1).square().sum()
    mean_variance = sample.diagonal().mean()
    noise = (fourth / n - sample.square().sum()) / (n * measures)
    spread = (sample.square().sum() - measures * mean_variance.square()) / measures
    share = (noise.clamp(min=0) / spread.clamp(min=1e-12)).clamp(max=1.0)
    return ((1 - share) * sample + share * mean_variance * torch.eye(measures, dtype=torch.float64)).float()
