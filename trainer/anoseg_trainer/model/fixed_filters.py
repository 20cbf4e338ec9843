"""Features without any weights from elsewhere: responses of fixed filters, for a memory of good parts with `encoder: scratch`.

Complex Gabor filters of 8 directions are applied at 5 octaves, and their moduli are taken. Filters of 4 directions are applied
to those moduli an octave lower. This is a scattering transform of order two (Bruna and Mallat, arXiv 1203.1513). Nothing is
learned. The module runs where it is called.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn
from torch.nn import functional

from anoseg_trainer.model.encoder import STRIDES

DIRECTIONS, SECOND_DIRECTIONS = 8, 4
KERNEL = 7
"""Side of a filter."""
FREQUENCY = 0.35
"""Waves of a filter for each pixel of its octave."""
WIDTH = 1.6
"""Standard deviation of a filter's envelope, pixels of its octave."""
SLENDER = 0.7
"""How much wider the envelope is along the waves than across."""
FLOOR = 1e-4
"""Added to squared responses, so that flat places have a modulus of nearly 0 and no noise of half precision."""
LEAST_WAVE = 1e-6
"""Added to squared magnitudes of the Fourier series over the directions."""


def gabor_bank(directions: int) -> Tensor:
    """Return the real and imaginary parts of complex Gabor filters, [2 · directions, 1, KERNEL, KERNEL]; each has mean 0."""
    steps = torch.arange(KERNEL) - KERNEL // 2
    y, x = torch.meshgrid(steps, steps, indexing="ij")
    filters = []
    for k in range(directions):
        angle = math.pi * k / directions
        along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
        envelope = torch.exp(-(along.square() + (SLENDER * across).square()) / (2 * WIDTH**2))
        real = envelope * torch.cos(2 * math.pi * FREQUENCY * along)
        imaginary = envelope * torch.sin(2 * math.pi * FREQUENCY * along)
        real = real - envelope * (real.sum() / envelope.sum())
        length = (real.square() + imaginary.square()).sum().sqrt()
        filters += [real / length, imaginary / length]
    return torch.stack(filters)[:, None]


class FixedFilters(nn.Module):
    """Computes the responses at strides 2 to 32 from frames, as an encoder computes its levels.

    Attributes:
        channels: Channels of each level.
    """

    first: Tensor
    second: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("first", gabor_bank(DIRECTIONS))
        self.register_buffer("second", gabor_bank(SECOND_DIRECTIONS).repeat(DIRECTIONS, 1, 1, 1))
        self.channels = tuple(
            DIRECTIONS * len(_octaves(level)) + (DIRECTIONS * SECOND_DIRECTIONS if _has_second(level) else 0) + 1
            for level in range(len(STRIDES))
        )

    def forward(self, image: Tensor, deepest: int = STRIDES[-1]) -> list[Tensor]:
        """Return one tensor for each level down to the stride `deepest`: [N, channels[i], H / STRIDES[i], W / STRIDES[i]].

        Args:
            image: [N, 3, H, W] as `encoder_input` makes it; only its grey is used.
            deepest: Largest stride to compute.
        """
        kind = image.device.type
        if torch.is_autocast_enabled(kind):  # in training; bf16 would round the responses too far
            with torch.autocast(kind, enabled=False):
                return self.forward(image.float(), deepest)
        octaves = [2 * image.mean(dim=1, keepdim=True)]
        for _ in STRIDES[1:]:
            octaves.append(functional.avg_pool2d(octaves[-1], 2))
        moduli = [_modulus(octave, self.first, groups=1) for octave in octaves]
        levels = []
        for level, stride in enumerate(STRIDES):
            found = [_at_stride(moduli[octave], 2**octave, stride) for octave in _octaves(level)]
            if _has_second(level):
                halved = functional.avg_pool2d(moduli[level - 1], 2)
                found.append(_at_stride(_modulus(halved, self.second, groups=DIRECTIONS), 2**level, stride))
            found.append(_at_stride(octaves[level], 2**level, stride))
            levels.append(torch.cat(found, dim=1))
            if stride >= deepest:
                break
        return levels


def _octaves(level: int) -> range:
    """Return the octaves whose first-order moduli a level has."""
    return range(max(level - 1, 0), min(level + 2, len(STRIDES)))


def _has_second(level: int) -> bool:
    """Return whether a level has second-order moduli."""
    return 1 <= level < len(STRIDES) - 1


class WithoutDirection(nn.Module):
    """Takes from the responses of a level what changes when the part is turned.

    Turning a part moves the first-order moduli along the directions. The magnitudes of their Fourier series over the directions
    stay. Of the second order, means over the pairs of filters with an equal angle between them stay.

    Attributes:
        channels: Channels that are left.
    """

    sums: Tensor

    def __init__(self, level: int) -> None:
        """Make the module for the responses at the stride `STRIDES[level]`."""
        super().__init__()
        octaves, waves = len(_octaves(level)), DIRECTIONS // 2
        angle = 2 * math.pi * torch.arange(1, waves + 1)[:, None] * torch.arange(DIRECTIONS) / DIRECTIONS
        of_octave = (torch.full((1, DIRECTIONS), 1 / DIRECTIONS), torch.cos(angle) / waves, torch.sin(angle) / waves)
        mean, real, imaginary = (torch.kron(torch.eye(octaves), rows) for rows in of_octave)
        pairs = _pairs_of_equal_angle() if _has_second(level) else torch.zeros(0, 0)
        first, second = mean.shape[1], pairs.shape[1]
        blocks = [
            functional.pad(mean, (0, second + 1)),
            functional.pad(pairs, (first, 1)),
            functional.pad(torch.ones(1, 1), (first + second, 0)),
            functional.pad(real, (0, second + 1)),
            functional.pad(imaginary, (0, second + 1)),
        ]
        self.register_buffer("sums", torch.cat(blocks))
        self._linear, self._waves = len(mean) + len(pairs) + 1, len(real)
        self.channels = self._linear + self._waves

    def forward(self, responses: Tensor) -> Tensor:
        """Map responses [N, C, h, w] to [N, channels, h, w], FP32."""
        summed = torch.matmul(self.sums, responses.float().flatten(2))
        squared = summed[:, self._linear :].square()
        magnitudes = torch.sqrt(squared[:, : self._waves] + squared[:, self._waves :] + LEAST_WAVE)
        found = torch.cat([summed[:, : self._linear], magnitudes], dim=1)
        return found.reshape(-1, self.channels, *responses.shape[2:])


def _pairs_of_equal_angle() -> Tensor:
    """Return the sums over pairs of first and second filters with equal angle between them, [DIRECTIONS, second order]."""
    step = DIRECTIONS // SECOND_DIRECTIONS
    sums = torch.zeros(DIRECTIONS, DIRECTIONS, SECOND_DIRECTIONS)
    for first in range(DIRECTIONS):
        for second in range(SECOND_DIRECTIONS):
            sums[(step * second - first) % DIRECTIONS, first, second] = 1 / SECOND_DIRECTIONS
    return sums.flatten(1)


def _modulus(x: Tensor, filters: Tensor, groups: int) -> Tensor:
    """Return the moduli of the complex responses; each group of channels is filtered by its own filters."""
    margin = KERNEL // 2
    padded = functional.pad(x, (margin, margin, margin, margin), mode="replicate")
    squared = functional.conv2d(padded, filters, groups=groups).square()
    return torch.sqrt(squared[:, 0::2] + squared[:, 1::2] + FLOOR)


def _at_stride(x: Tensor, stride: int, wanted: int) -> Tensor:
    """Bring a response from its stride to another one."""
    if stride < wanted:
        return functional.avg_pool2d(x, wanted // stride)
    if stride == wanted:
        return x
    return functional.interpolate(x, scale_factor=float(stride // wanted), mode="bilinear", align_corners=False)
