"""AnoSeg's networks (arXiv 2110.03396): the generator, which draws map and reconstruction, and the discriminator.

The generator is a U-Net. Its input is the image with coordinate channels (CoordConv) and with local detail; it is not an
embedding of the image. All of the decoder works at half resolution and below. Both outputs come back to full resolution by
pixel shuffle. So a defect of a few pixels keeps its place while most arithmetic is done on small maps. BatchNorm is folded into
the convolutions for export (`export.py`).
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from anoseg_trainer.config import NetworkConfig
from anoseg_trainer.model.backbone import PretrainedBackbone, ScratchBackbone, Seen
from anoseg_trainer.model.encoder import Encoder
from anoseg_trainer.model.fixed_filters import FixedFilters
from anoseg_trainer.model.layers import Block, ConvNorm

LOGIT_LIMIT = 12.0
"""Map logits are held within ±12: beyond it, sigmoid is 0 or 1 in half precision anyway."""

MEMORY_LEVELS = (2, 3)
"""Levels at which the decoder reads the memory's map: strides 8 and 16."""
MEMORY_RANGE = -1.0, 4.0
"""Limits of the memory's map as the decoder reads it; the most uncommon place of a good part has 1."""


class Outputs(NamedTuple):
    """What training sees of the generator.

    Attributes:
        logits: Map logits [N, H, W]; padding is not masked.
        reconstruction: The normalised image [N, 3, H, W]; None if it was left out.
    """

    logits: Tensor
    reconstruction: Tensor | None


class AnoSegNetwork(nn.Module):
    """Maps frames [N, H, W, 3] (0…255) and coordinates [N, 2, H, W] to `Outputs`. H and W are multiples of 32.

    Attributes:
        coordinates: False shows the network zeros in place of the coordinates (for ablation).
        backbone: Computes the features.
        encoder_learns: False if a pretrained encoder stays as it is.
        from_memory: Adds the memory's map to the skips of `MEMORY_LEVELS`; None if the network does not see it.
    """

    def __init__(
        self,
        config: NetworkConfig,
        *,
        coordinates: bool = True,
        encoder: Encoder | FixedFilters | None = None,
        reads_memory: bool = False,
    ) -> None:
        """Initialise with random weights.

        Args:
            config: Widths and depth.
            coordinates: Whether the network sees coordinates.
            encoder: A pretrained encoder. Fixed filters or None: all layers are trained from random weights, and they see the
                filters' responses if there are any.
            reads_memory: Whether the decoder reads the memory's map.
        """
        super().__init__()
        widths = config.widths
        self.coordinates = coordinates
        self.encoder_learns = not isinstance(encoder, Encoder) or config.encoder_rate > 0
        self._encoder_rate = config.encoder_rate
        self.backbone = (
            PretrainedBackbone(config, encoder) if isinstance(encoder, Encoder) else ScratchBackbone(config, encoder)
        )
        self.up = nn.ModuleList(ConvNorm(b, a, size=1) for a, b in pairwise(widths))
        self.decode = nn.ModuleList(nn.Sequential(*(Block(w) for _ in range(config.blocks))) for w in widths[:-1])
        self.from_memory = nn.ModuleList(nn.Conv2d(1, widths[level], 1) for level in MEMORY_LEVELS) if reads_memory else None
        self.map_head = nn.Conv2d(widths[0], 4, 3, padding=1)
        self.image_head = nn.Conv2d(widths[0], 12, 3, padding=1)
        # Most pixels are normal: start there, so that the first steps are not spent on learning it.
        nn.init.constant_(self.map_head.bias, -3.0)  # type: ignore[arg-type]
        if encoder is not None:
            encoder.requires_grad_(self.encoder_learns)

    def inner_weights(self) -> list[Tensor]:
        """Return the weights of the convolutions between first layer and heads, without those of a pretrained encoder."""
        outside = {id(layer) for layer in (self.backbone.stem.conv, self.map_head, self.image_head, *(self.from_memory or ()))}
        return [
            module.weight
            for name, module in self.named_modules()
            if isinstance(module, nn.Conv2d) and ".encoder." not in name and id(module) not in outside
        ]

    def parameter_groups(self) -> list[dict[str, Any]]:
        """Return the parameters to train for an optimizer, each group with its share of the learning rate."""
        named = list(self.named_parameters())
        groups = [{"params": [p for name, p in named if ".encoder." not in name], "share": 1.0}]
        tuned = [p for name, p in named if ".encoder." in name and p.requires_grad]
        return [*groups, {"params": tuned, "share": self._encoder_rate}] if tuned else groups

    def forward(
        self,
        frames_NHWC: Tensor,
        coords: Tensor,
        reconstruct: bool = True,
        compare: Callable[[list[Tensor]], Tensor] | None = None,
        vary: Callable[[Tensor], Tensor] | None = None,
    ) -> Outputs:
        """Run training's forward pass, which is differentiable.

        Args:
            frames_NHWC: The frames.
            coords: The coordinates.
            reconstruct: Whether to compute the reconstruction.
            compare: Computes the memory's map [N, h, w] from the levels of the backbone; None without a memory.
            vary: Varies each level of a pretrained encoder; None: they stay as they are.
        """
        seen = self.seen(frames_NHWC, coords, vary)
        features = self.decoded(seen.skips if compare is None else self.with_memory(seen.skips, compare(seen.levels)))
        image = functional.pixel_shuffle(self.image_head(features), 2) if reconstruct else None
        return Outputs(self._map_logits(features), image)

    def seen(self, frames_NHWC: Tensor, coords: Tensor, vary: Callable[[Tensor], Tensor] | None = None) -> Seen:
        """Return the features of the backbone."""
        seen: Seen = self.backbone(frames_NHWC, coords if self.coordinates else torch.zeros_like(coords), vary)
        return seen

    def logits(self, skips: list[Tensor], memory_map: Tensor | None) -> Tensor:
        """Return map logits [N, H, W] for the backbone's features and the memory's map [N, h, w]."""
        return self._map_logits(self.decoded(skips if memory_map is None else self.with_memory(skips, memory_map)))

    def with_memory(self, skips: list[Tensor], memory_map: Tensor) -> list[Tensor]:
        """Return the skips with the memory's map [N, h, w] added, if this network reads it."""
        if self.from_memory is None:
            return skips
        joined, (low, high) = list(skips), MEMORY_RANGE
        limited = memory_map[:, None].clamp(low, high)
        for level, layer in zip(MEMORY_LEVELS, self.from_memory, strict=True):
            rows, wanted = limited.shape[2], skips[level].shape[2]
            if rows > wanted:
                x = functional.avg_pool2d(limited, rows // wanted)
            elif rows < wanted:
                x = functional.interpolate(limited, scale_factor=float(wanted // rows), mode="bilinear")
            else:
                x = limited
            joined[level] = joined[level] + layer(x.to(joined[level].dtype))
        return joined

    def decoded(self, skips: list[Tensor]) -> Tensor:
        """Return the decoder's output [N, C, H/2, W/2]."""
        x = skips[-1]
        for level in range(len(self.up) - 1, -1, -1):
            # The 1×1 convolution runs before the enlargement: the same result for a quarter of the work.
            wide = functional.interpolate(self.up[level](x), scale_factor=2.0, mode="nearest")
            x = self.decode[level](functional.relu(wide + skips[level]))
        return x

    def _map_logits(self, features: Tensor) -> Tensor:
        logits = functional.pixel_shuffle(self.map_head(features), 2)
        return logits[:, 0].clamp(-LOGIT_LIMIT, LOGIT_LIMIT)


class Discriminator(nn.Module):
    """Judges pairs of image and map: real pairs high, generated pairs low."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        sizes = [4, width, 2 * width, 2 * width]
        layers: list[nn.Module] = [nn.AvgPool2d(2)]
        for a, b in pairwise(sizes):
            layers += [nn.utils.parametrizations.spectral_norm(nn.Conv2d(a, b, 4, 2, 1)), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(sizes[-1], 1, 3, padding=1))

    def forward(self, image: Tensor, anomaly_map: Tensor) -> Tensor:
        """Map an image [N, 3, H, W] (normalised) and a map [N, 1, H, W] to patch logits [N, 1, H/16, W/16]."""
        y: Tensor = self.layers(torch.cat([image, anomaly_map], dim=1))
        return y


def valid_pixels(coords: Tensor) -> Tensor:
    """Return where the input is part and not padding, bool [N, H, W]; padding has a coordinate of ±2."""
    return (coords.abs() < 1.5).all(dim=1)
