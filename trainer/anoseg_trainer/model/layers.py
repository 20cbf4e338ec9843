"""Layers that the backbones and the decoder share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional


class ConvNorm(nn.Module):
    """Convolves with kernels of 3×3 or 1×1, and normalises with BatchNorm."""

    def __init__(self, inputs: int, outputs: int, size: int = 3, stride: int = 1) -> None:
        super().__init__()
        self.conv = nn.Conv2d(inputs, outputs, size, stride, size // 2, bias=False)
        self.norm: nn.Module = nn.BatchNorm2d(outputs)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, inputs, h, w] to [N, outputs, h / stride, w / stride]."""
        y: Tensor = self.norm(self.conv(x))
        return y

    def fold(self) -> None:
        """Fold the norm into the convolution, in place; for inference only."""
        if isinstance(self.norm, nn.BatchNorm2d):
            self.conv = nn.utils.fusion.fuse_conv_bn_eval(self.conv.eval(), self.norm.eval())
            self.norm = nn.Identity()


class NormConvNorm(ConvNorm):
    """Normalises each channel of its input with BatchNorm, then convolves with kernels of 1×1 and normalises again."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__(inputs, outputs, size=1)
        # The convolution that follows has weights and a bias of its own for each channel.
        self.before: nn.Module = nn.BatchNorm2d(inputs, affine=False)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, inputs, h, w] to [N, outputs, h, w]."""
        return super().forward(self.before(x))

    def fold(self) -> None:
        """Fold both norms into the convolution, in place; for inference only."""
        super().fold()
        if isinstance(self.before, nn.BatchNorm2d):
            mean, variance = self.before.running_mean, self.before.running_var
            assert mean is not None
            assert variance is not None
            assert self.conv.bias is not None
            with torch.no_grad():
                self.conv.weight.mul_(torch.rsqrt(variance + self.before.eps)[:, None, None])
                self.conv.bias.sub_(self.conv.weight[:, :, 0, 0] @ mean)
            self.before = nn.Identity()


class Block(nn.Module):
    """Computes relu(x + conv(relu(conv(x)))), a residual block."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = ConvNorm(width, width)
        self.second = ConvNorm(width, width)

    def forward(self, x: Tensor) -> Tensor:
        """Map [N, width, h, w] to the same shape."""
        return functional.relu(x + self.second(functional.relu(self.first(x))))
