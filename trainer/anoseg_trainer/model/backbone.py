"""Computes the features that the decoder and the memory of good parts read. There are two backbones.

`ScratchBackbone` is trained with the decoder. It may see the responses of fixed filters. `PretrainedBackbone` reads a
pretrained encoder, which stays as it is or is tuned at a low rate, and adds fine detail and coordinates to its features.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from anoseg_trainer.config import NetworkConfig
from anoseg_trainer.model.encoder import CHANNELS, Encoder, encoder_input
from anoseg_trainer.model.fixed_filters import FixedFilters
from anoseg_trainer.model.layers import Block, ConvNorm, NormConvNorm

DETAIL_CELLS = (4, 16)
"""Detail is measured against neighbourhoods of 28 and of 112 pixels: grain and small defects, and wide soft ones."""
STEM_INPUTS = 5 + len(DETAIL_CELLS)
"""Channels that enter the stem: colours, coordinates and detail."""


class Seen(NamedTuple):
    """The features of some frames.

    Attributes:
        skips: What the decoder reads: [N, widths[i], H / 2^(i+1), W / 2^(i+1)] for each level.
        levels: What the memory of good parts reads: [N, channels[i], H / 2^(i+1), W / 2^(i+1)] for each level.
    """

    skips: list[Tensor]
    levels: list[Tensor]


class ScratchBackbone(nn.Module):
    """Computes features at strides 2 to 32 with convolutions that start from random weights.

    If there are fixed filters, each level also sees the logarithms of their responses, and the memory reads the responses. The
    filters are then computed once for all views.

    Attributes:
        channels: Channels of the levels that the memory reads.
        encoder: The fixed filters, or None.
        from_filters: Brings the responses to the widths of the levels; None without filters.
    """

    def __init__(self, config: NetworkConfig, filters: FixedFilters | None = None) -> None:
        super().__init__()
        widths = config.widths
        self.encoder = filters
        self.channels: tuple[int, ...] = widths if filters is None else filters.channels
        self.from_filters = None
        if filters is not None:
            self.from_filters = nn.ModuleList(NormConvNorm(c, w) for c, w in zip(filters.channels, widths, strict=True))
        self.stem = ConvNorm(STEM_INPUTS, widths[0], stride=2)
        self.down = nn.ModuleList(ConvNorm(a, b, stride=2) for a, b in pairwise(widths))
        self.encode = nn.ModuleList(nn.Sequential(*(Block(w) for _ in range(config.blocks))) for w in widths)

    def forward(self, frames_NHWC: Tensor, places: Tensor, vary: Callable[[Tensor], Tensor] | None = None) -> Seen:
        """Compute the features of frames [N, H, W, 3] (0…255) with coordinates [N, 2, H, W].

        `vary` has no effect, because nothing is pretrained here.
        """
        responses = [] if self.encoder is None else self.encoder(encoder_input(frames_NHWC, places.dtype))
        x, skips = stem_input(frames_NHWC, places), []
        for level, (enter, encode) in enumerate(zip((self.stem, *self.down), self.encode, strict=True)):
            entered = enter(x)
            if self.from_filters is not None:
                entered = entered + self.from_filters[level](log_responses(responses[level]))
            x = encode(functional.relu(entered))
            skips.append(x)
        return Seen(skips, responses or skips)


class PretrainedBackbone(nn.Module):
    """Brings the features of a pretrained encoder to the widths of the decoder.

    Each level gets the coordinates, because the encoder does not see them. A stem of its own adds fine detail at stride 2.

    Attributes:
        channels: Channels of the levels that the memory reads.
        encoder: The pretrained encoder.
    """

    def __init__(self, config: NetworkConfig, encoder: Encoder) -> None:
        super().__init__()
        widths = config.widths
        self.channels = CHANNELS
        self.encoder = encoder
        self.stem = ConvNorm(STEM_INPUTS, widths[0], stride=2)
        self.detail = nn.Sequential(*(Block(widths[0]) for _ in range(config.blocks)))
        self.lateral = nn.ModuleList(ConvNorm(c + 2, w, size=1) for c, w in zip(CHANNELS, widths, strict=True))
        self.deepest = Block(widths[-1])

    def forward(self, frames_NHWC: Tensor, places: Tensor, vary: Callable[[Tensor], Tensor] | None = None) -> Seen:
        """Compute the features of frames [N, H, W, 3] (0…255) with coordinates [N, 2, H, W].

        In training, `vary` changes each level that the decoder reads; the memory reads the levels as they are.
        """
        levels = self.encoder(encoder_input(frames_NHWC, places.dtype))
        fine = self.detail(functional.relu(self.stem(stem_input(frames_NHWC, places))))
        skips = []
        for level, lateral in zip(levels if vary is None else map(vary, levels), self.lateral, strict=True):
            places = functional.avg_pool2d(places, 2)
            skips.append(lateral(torch.cat([level, places.to(level.dtype)], dim=1)))
        skips[0] = skips[0] + fine
        skips[-1] = self.deepest(functional.relu(skips[-1]))
        return Seen(skips, levels)


def stem_input(frames_NHWC: Tensor, places: Tensor) -> Tensor:
    """Return colours, detail and coordinates of each pixel, [N, STEM_INPUTS, H, W]."""
    image = normalised(frames_NHWC, places.dtype)
    return torch.cat([image, local_details(image), places], dim=1)


def log_responses(responses: Tensor) -> Tensor:
    """Return log(1 + response) of one level of the fixed filters: moduli vary over more than a thousandfold."""
    moduli, grey = responses[:, :-1], responses[:, -1:]
    return torch.cat([torch.log1p(moduli), grey], dim=1)


def normalised(frames_NHWC: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert frames [N, H, W, 3] of 0…255 to [N, 3, H, W] of −2…2."""
    # The cast comes first because TensorRT refuses a transposed uint8.
    return ((frames_NHWC.to(dtype) - 127.5) * (1 / 64)).permute(0, 3, 1, 2)


def local_details(image: Tensor) -> Tensor:
    """Measure grey detail against its neighbourhood: [N, 3, H, W] to [N, len(DETAIL_CELLS), H, W], about ±3 each.

    The measure is (value − local mean) / local deviation. It is the same at every exposure, so the network need not learn what
    light does. The local means are computed on a small picture and enlarged linearly, which makes them smooth and cheap.
    """
    grey = image.mean(dim=1, keepdim=True)
    details = []
    for cell in DETAIL_CELLS:
        detail = grey - _neighbourhood(grey, cell)
        # 0.06 is four grey values, so that the noise of flat surfaces is not amplified.
        details.append(detail / torch.sqrt(_neighbourhood(detail * detail, cell) + 0.06**2))
    return torch.cat(details, dim=1)


def _neighbourhood(x: Tensor, cell: int) -> Tensor:
    """Return the mean over about 7×7 cells, smooth."""
    small = functional.avg_pool2d(x, cell)
    small = functional.avg_pool2d(small, 7, stride=1, padding=3, count_include_pad=False)
    # Linear up to half the size, then repeated: linear to the full size would take a quarter of the network's time on a CPU.
    half = functional.interpolate(small, scale_factor=cell / 2, mode="bilinear", align_corners=False)
    return functional.interpolate(half, scale_factor=2.0, mode="nearest")
