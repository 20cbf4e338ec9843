"""Defines the AnoSeg network: image and coordinate channels in; anomaly map, image score and reconstruction out.

It is a residual U-Net that works at half resolution and below. Both outputs come back to full resolution by pixel shuffle, so
that a defect of a few pixels keeps its place while most arithmetic is done on small maps. BatchNorm is folded into the
convolutions for export (`export.py`).
"""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from anoseg_trainer.config import NetworkConfig

LOGIT_LIMIT = 12.0
"""Map logits are held within ±12: beyond it sigmoid is 0 or 1 in half precision anyway."""
SCORE_LIMIT = 8.0
"""The scaled score logit is held within ±8, so a score lies between 0.0003 and 0.9997."""
POOLS = ((2, 16), (8, 4))
"""The image-level detector reads means of the map's largest logits: side in pixels of the cells that are averaged first, and
how many of them are taken. Small and thin defects show in the first, faint ones of 100 pixels and more in the second. Wider
pools rise with every stain of a good part."""
DETAIL_CELLS = (4, 16)
"""Detail is measured against neighbourhoods of 28 and of 112 pixels: grain and small defects, and wide soft ones."""
FIRST_POOL = 0
"""The pool that alone is the score until the detector is fitted, or where there is none."""
NEVER = -100.0
"""Offset of a pool that is not looked at."""


class ConvNorm(nn.Module):
    """3×3 or 1×1 convolution and BatchNorm; `fold` makes one convolution of the two."""

    def __init__(self, inputs: int, outputs: int, size: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """[N, inputs, h, w] → [N, outputs, h / stride, w / stride]."""
        y: Tensor = self.norm(self.conv(x))
        return y

    def fold(self) -> None:
        """Fold the norm into the convolution, in place; for inference only."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv = nn.utils.fusion.fuse_conv_bn_eval(self.conv.eval(), self.norm.eval())
            self.norm = nn.Identity()


class Block(nn.Module):
    """Residual block: relu(x + conv(relu(conv(x))))."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = ConvNorm(width, width)
        self.second = ConvNorm(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """[N, width, h, w], shape kept."""
        return functional.relu(x + self.second(functional.relu(self.first(x))))


class Outputs(NamedTuple):
    """logits: map logits [N, H, W], padding not masked. reconstruction: [N, 3, H, W], the normalised image, if asked for."""

    logits: Tensor
    reconstruction: Tensor | None


class AnoSegNetwork(nn.Module):
    """frames [N, H, W, 3] (0…255) and coords [N, 2, H, W] → `Outputs`. H and W: multiples of 32.

    `coordinates` False shows the network zeros in their place (ablation); the padding mask still uses them.
    score_scale, score_offset [len(POOLS)]: the image score is sigmoid(max(scale · pooled + offset)): each pool has its own
    units, and the one that stands out most counts. Fitted after training.
    """

    score_scale: Tensor
    score_offset: Tensor

    def __init__(self, config: NetworkConfig, *, coordinates: bool = True) -> None:
        super().__init__()
        widths = config.widths
        self.coordinates = coordinates
        self.stem = ConvNorm(5 + len(DETAIL_CELLS), widths[0], stride=2)
        self.down = nn.ModuleList(ConvNorm(a, b, stride=2) for a, b in pairwise(widths))
        self.encode = nn.ModuleList(nn.Sequential(*(Block(w) for _ in range(config.blocks))) for w in widths)
        self.up = nn.ModuleList(ConvNorm(b, a, size=1) for a, b in pairwise(widths))
        self.decode = nn.ModuleList(nn.Sequential(*(Block(w) for _ in range(config.blocks))) for w in widths[:-1])
        self.map_head = nn.Conv2d(widths[0], 4, 3, padding=1)
        self.image_head = nn.Conv2d(widths[0], 12, 3, padding=1)
        # Most pixels are normal: start there, so that the first steps are not spent on learning it.
        nn.init.constant_(self.map_head.bias, -3.0)  # type: ignore[arg-type]
        first = torch.eye(len(POOLS))[FIRST_POOL]
        self.register_buffer("score_scale", first, persistent=False)
        self.register_buffer("score_offset", (1 - first) * NEVER, persistent=False)

    def forward(self, frames_NHWC: Tensor, coords: Tensor, reconstruct: bool = True) -> Outputs:
        """Training's forward pass, differentiable; `reconstruct` False leaves the reconstruction out."""
        features = self.features(frames_NHWC, coords)
        image = functional.pixel_shuffle(self.image_head(features), 2) if reconstruct else None
        return Outputs(self.map_logits(features), image)

    def inspect(self, frames_NHWC: Tensor, coords: Tensor) -> tuple[Tensor, Tensor]:
        """What is exported: anomaly map [N, H, W] in 0…1, exactly 0 in padding, and score [N] in 0…1, FP32."""
        anomaly_map, pooled = self.inspect_unscaled(frames_NHWC, coords)
        return anomaly_map, self.score_of(pooled)

    def score_of(self, pooled: Tensor) -> Tensor:
        """Score [N] in 0…1 of pooled logits [N, len(POOLS)]; never quite 1, so that a threshold of 1 rejects nothing."""
        logit = (pooled * self.score_scale + self.score_offset).amax(dim=1)
        return torch.sigmoid(logit.clamp(-SCORE_LIMIT, SCORE_LIMIT))

    def inspect_unscaled(self, frames_NHWC: Tensor, coords: Tensor) -> tuple[Tensor, Tensor]:
        """Anomaly map [N, H, W] and pooled logits [N, len(POOLS)] (FP32), before the detector is applied."""
        logits = self.map_logits(self.features(frames_NHWC, coords))
        valid = valid_pixels(coords)
        return torch.sigmoid(logits) * valid.to(logits.dtype), self.pooled(logits, valid)

    def features(self, frames_NHWC: Tensor, coords: Tensor) -> Tensor:
        """Decoder output [N, C, H/2, W/2]."""
        image = normalised(frames_NHWC, coords.dtype)
        places = coords if self.coordinates else torch.zeros_like(coords)
        x: Tensor = functional.relu(self.stem(torch.cat([image, local_details(image), places], dim=1)))
        x = self.encode[0](x)
        skips = [x]
        for down, encode in zip(self.down, self.encode[1:], strict=True):
            x = encode(functional.relu(down(x)))
            skips.append(x)
        for level in range(len(self.up) - 1, -1, -1):
            # The 1×1 convolution runs before the enlargement: the same result for a quarter of the work.
            wide = functional.interpolate(self.up[level](x), scale_factor=2.0, mode="nearest")
            x = self.decode[level](functional.relu(wide + skips[level]))
        return x

    def map_logits(self, features: Tensor) -> Tensor:
        """Map logits [N, H, W] from decoder features."""
        logits = functional.pixel_shuffle(self.map_head(features), 2)
        return logits[:, 0].clamp(-LOGIT_LIMIT, LOGIT_LIMIT)

    def pooled(self, logits: Tensor, valid: Tensor) -> Tensor:
        """Pooled logits [N, len(POOLS)], FP32, see `POOLS`; padding counts as surely normal."""
        masked = torch.where(valid, logits.float(), -LOGIT_LIMIT)[:, None]
        means: dict[tuple[int, int], Tensor] = {}
        for cell in sorted({cell for cell, _ in POOLS}):
            averages = functional.avg_pool2d(masked, cell).flatten(1)
            counts = [k for side, k in POOLS if side == cell]
            largest = torch.topk(averages, min(max(counts), averages.shape[1]), dim=1).values
            means |= {(cell, k): largest[:, :k].mean(dim=1) for k in counts}
        return torch.stack([means[pool] for pool in POOLS], dim=1)


class Discriminator(nn.Module):
    """Judges (image, map) pairs, [N, 4, H, W] → patch logits [N, 1, H/16, W/16]: real pairs high, generated pairs low."""

    def __init__(self, width: int = 24) -> None:
        super().__init__()
        sizes = [4, width, 2 * width, 2 * width]
        layers: list[nn.Module] = [nn.AvgPool2d(2)]
        for a, b in pairwise(sizes):
            layers += [nn.utils.parametrizations.spectral_norm(nn.Conv2d(a, b, 4, 2, 1)), nn.LeakyReLU(0.2)]
        self.layers = nn.Sequential(*layers, nn.Conv2d(sizes[-1], 1, 3, padding=1))

    def forward(self, image: Tensor, anomaly_map: Tensor) -> Tensor:
        """Image [N, 3, H, W] (normalised) and map [N, 1, H, W] → patch logits."""
        y: Tensor = self.layers(torch.cat([image, anomaly_map], dim=1))
        return y


def normalised(frames_NHWC: Tensor, dtype: torch.dtype) -> Tensor:
    """Frames [N, H, W, 3] of 0…255 → [N, 3, H, W] of −2…2. The cast comes first: TensorRT refuses a transposed uint8."""
    return ((frames_NHWC.to(dtype) - 127.5) * (1 / 64)).permute(0, 3, 1, 2)


def local_details(image: Tensor) -> Tensor:
    """Grey detail against its neighbourhood, [N, 3, H, W] → [N, len(DETAIL_CELLS), H, W], about ±3 each.

    (value − local mean) / local deviation: the same at every exposure, so the network need not learn what light does. The
    local measures are taken on a small picture and brought back linearly: smooth, and cheap.
    """
    grey = image.mean(dim=1, keepdim=True)
    details = []
    for cell in DETAIL_CELLS:
        detail = grey - _neighbourhood(grey, cell)
        # 0.06 is four grey values: flat surfaces are not blown up to noise.
        details.append(detail / torch.sqrt(_neighbourhood(detail * detail, cell) + 0.06**2))
    return torch.cat(details, dim=1)


def _neighbourhood(x: Tensor, cell: int) -> Tensor:
    """Mean over about 7×7 cells, smooth."""
    small = functional.avg_pool2d(x, cell)
    small = functional.avg_pool2d(small, 7, stride=1, padding=3, count_include_pad=False)
    return functional.interpolate(small, scale_factor=float(cell), mode="bilinear", align_corners=False)


def valid_pixels(coords: Tensor) -> Tensor:
    """Where the input is part and not padding, bool [N, H, W]; padding has a coordinate of ±2."""
    return (coords.abs() < 1.5).all(dim=1)


def count_macs(network: AnoSegNetwork, height: int, width: int) -> int:
    """Multiply-accumulates of one exported inspection at batch 1."""
    total = 0

    def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            kernel = module.kernel_size[0] * module.kernel_size[1] * module.in_channels // module.groups
            total += output.numel() * kernel

    handles = [m.register_forward_hook(hook) for m in network.modules() if isinstance(m, nn.Conv2d)]
    device = network.score_scale.device
    training = network.training
    network.eval()
    with torch.no_grad():
        frames = torch.zeros(1, height, width, 3, device=device)
        network.inspect(frames, torch.zeros(1, 2, height, width, device=device))
    network.train(training)
    for handle in handles:
        handle.remove()
    return total
