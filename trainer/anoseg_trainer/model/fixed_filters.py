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
        octaves = range(len(STRIDES))
        self.channels = tuple(
            DIRECTIONS * sum(0 <= octave < len(STRIDES) for octave in (level - 1, level, level + 1))
            + (DIRECTIONS * SECOND_DIRECTIONS if self._has_second(level) else 0)
            + 1
            for level in octaves
        )

    @staticmethod
    def _has_second(level: int) -> bool:
        return 1 <= level < len(STRIDES) - 1

    def forward(self, image: Tensor, deepest: int = STRIDES[-1]) -> list[Tensor]:
        """Return one tensor for each level down to the stride `deepest`: [N, channels[i], H / STRIDES[i], W / STRIDES[i]].

        Args:
            image: [N, 3, H, W] as `encoder_input` makes it; only its grey is used.
            deepest: Largest stride to compute.
        """
        octaves = [2 * image.mean(dim=1, keepdim=True)]
        for _ in STRIDES[1:]:
            octaves.append(functional.avg_pool2d(octaves[-1], 2))
        moduli = [_modulus(octave, self.first, groups=1) for octave in octaves]
        levels = []
        for level, stride in enumerate(STRIDES):
            found = [
                _at_stride(moduli[octave], 2**octave, stride)
                for octave in (level - 1, level, level + 1)
                if 0 <= octave < len(octaves)
            ]
            if self._has_second(level):
                halved = functional.avg_pool2d(moduli[level - 1], 2)
                found.append(_at_stride(_modulus(halved, self.second, groups=DIRECTIONS), 2**level, stride))
            found.append(_at_stride(octaves[level], 2**level, stride))
            levels.append(torch.cat(found, dim=1))
            if stride >= deepest:
                break
        return levels


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
