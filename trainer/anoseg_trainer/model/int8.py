"""Quantises the convolutions of a detector to INT8 after training, and writes the quantisation into its ONNX file.

Weights have a scale for each output channel, inputs one for each convolution. Zero points are 0, as TensorRT needs. Sums, the
memory of good parts, the whole-image model and the score are not quantised. The quantised detector computes in PyTorch what a
runtime computes with integers, so it can be fitted and measured like any other. The module runs where it is called.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import helper, numpy_helper
from torch import Tensor, nn

from anoseg_engines.placement import InputSpec
from anoseg_trainer.model.detector import Detector
from anoseg_trainer.model.export import onnx_from_detector
from anoseg_trainer.model.layers import ConvNorm

NOT_QUANTISED = ("memory.", "places.", "image_head", "from_memory", "lateral")
"""Parts of the names of convolutions that stay as they are: the comparison with good parts, what reads its map, and those that
join features with coordinates, which the CPU runtime computes without the join."""
LOWEST, HIGHEST = -128, 127
SHARES = (1.0, 127 / 128, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4)
"""Shares of the largest input that are tried as the end of the range: what is beyond is cut off, the rest is rounded less. With
the second, the grey values that enter the encoder stay exact."""
SAMPLE_STEP = 31
"""Every so many inputs count when a range is chosen."""
LEAST_SCALE = 2.0**-14
"""Scales are stored in half precision, which is coarse below."""
ONNX_PREFIX = "network."

Batch: TypeAlias = tuple[Tensor, Tensor]
"""Frames [N, H, W, 3] (0…255) and coordinates [N, 2, H, W]."""


@dataclass(slots=True)
class _Layer:
    """A convolution that is quantised.

    Attributes:
        conv: It computes with quantised weights.
        original: The convolution before.
        scale: Of its input; 0 until it is known.
        largest: Largest magnitude of its input.
        errors: Squared error of its input for each of `SHARES`.
        shift: Mean error of each output channel, taken off its bias.
        batches: How many batches `shift` comes from.
        given: The input as it was before it was quantised.
    """

    conv: nn.Conv2d
    original: nn.Conv2d
    scale: float = 0.0
    largest: float = 0.0
    errors: NDArray[np.float64] = field(default_factory=lambda: np.zeros(len(SHARES)))
    shift: Tensor = field(default_factory=lambda: torch.zeros(()))
    batches: int = 0
    given: Tensor | None = None


class _QuantisedInput:
    """Quantises the input of a convolution, before the convolution."""

    def __init__(self, scale: float) -> None:
        self.scale = scale

    def __call__(self, module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        return (quantised(inputs[0], self.scale),)


@dataclass(frozen=True, slots=True)
class Int8Detector:
    """A detector whose convolutions compute in INT8.

    Attributes:
        detector: It computes so in PyTorch. Its views may be fitted again.
        scales: The scale of each convolution's input, by the convolution's name.
    """

    detector: Detector
    scales: dict[str, float]

    def onnx(self, spec: InputSpec) -> bytes:
        """Export the detector: as in half precision, with a pair of QuantizeLinear and DequantizeLinear for each input."""
        plain = copy.deepcopy(self.detector)
        for module in plain.modules():
            module._forward_pre_hooks.clear()
        return with_quantisation(onnx_from_detector(plain, spec), self.scales)


def quantised(x: Tensor, scale: float) -> Tensor:
    """Return the nearest values that INT8 has at this scale."""
    return torch.fake_quantize_per_tensor_affine(x, scale, 0, LOWEST, HIGHEST)


@torch.no_grad()
def int8_detector(detector: Detector, batches: Sequence[Batch]) -> Int8Detector:
    """Quantise a copy of a detector.

    Args:
        detector: The detector.
        batches: Good parts, from which the ranges are taken.
    """
    copied = copy.deepcopy(detector).eval()
    for module in copied.modules():
        if isinstance(module, ConvNorm):
            module.fold()
    layers = {
        name: _Layer(conv, copy.deepcopy(conv))
        for name, conv in copied.named_modules()
        if isinstance(conv, nn.Conv2d) and not any(part in name for part in NOT_QUANTISED)
    }
    for watch in (_watch_largest, _watch_errors):
        hooks = [layer.conv.register_forward_pre_hook(watch(layer)) for layer in layers.values()]
        _run(copied, batches)
        for hook in hooks:
            hook.remove()
    used = {name: layer for name, layer in layers.items() if layer.largest > 0}
    for layer in used.values():
        layer.scale = half(layer.largest * SHARES[int(layer.errors.argmin())] / HIGHEST)
        layer.conv.weight.copy_(_quantised_weights(layer.conv.weight))
    _correct_biases(copied, used, batches)
    for layer in used.values():
        layer.conv.register_forward_pre_hook(_QuantisedInput(layer.scale))
    return Int8Detector(copied, {name: layer.scale for name, layer in used.items()})


def half(scale: float) -> float:
    """Round a scale as the file stores it."""
    return float(np.float16(max(scale, LEAST_SCALE)))


def weight_scales(weights: NDArray[np.float32]) -> NDArray[np.float16]:
    """Return the scale of each output channel of weights [out, in, h, w]."""
    largest = np.abs(weights).reshape(len(weights), -1).max(axis=1) / HIGHEST
    # Rounded up: no weight may be beyond the range.
    up: NDArray[np.float16] = np.nextafter(np.maximum(largest, LEAST_SCALE).astype(np.float16), np.float16(np.inf))
    return up


def with_quantisation(model: bytes, scales: dict[str, float]) -> bytes:
    """Write the quantisation of convolutions into an exported detector.

    Args:
        model: The ONNX file. The weights of these convolutions have only values that INT8 has.
        scales: The scale of each convolution's input, by the convolution's name.
    """
    graph = onnx.load_from_string(model).graph
    whole = onnx.load_from_string(model)
    stored = {tensor.name: tensor for tensor in graph.initializer}
    pairs: dict[tuple[str, float], str] = {}
    nodes: list[onnx.NodeProto] = []
    for node in graph.node:
        name = node.input[1].removeprefix(ONNX_PREFIX).removesuffix(".weight") if node.op_type == "Conv" else ""
        if name in scales and node.input[1] in stored:
            key = (node.input[0], scales[name])
            if key not in pairs:
                pairs[key] = f"{node.input[0]}_{name}_dequantised"
                nodes += _pair(node.input[0], pairs[key], scales[name], stored)
            weights = node.input[1]
            nodes.append(_dequantised_weights(weights, stored))
            node.input[0], node.input[1] = pairs[key], f"{weights}_dequantised"
        nodes.append(node)
    del whole.graph.node[:], whole.graph.initializer[:]
    whole.graph.node.extend(nodes)
    whole.graph.initializer.extend(stored.values())
    onnx.checker.check_model(whole, full_check=True)
    return bytes(whole.SerializeToString())


def _pair(source: str, target: str, scale: float, stored: dict[str, onnx.TensorProto]) -> list[onnx.NodeProto]:
    """Return nodes that quantise `source` and give `target`; add their constants to `stored`."""
    names = [f"{target}.scale", f"{target}.zero"]
    for name, value in zip(names, (np.float16(scale), np.int8(0)), strict=True):
        stored[name] = numpy_helper.from_array(np.asarray(value), name)
    return [
        helper.make_node("QuantizeLinear", [source, *names], [f"{target}.int8"], name=f"{target}.quantise"),
        helper.make_node("DequantizeLinear", [f"{target}.int8", *names], [target], name=target),
    ]


def _dequantised_weights(name: str, stored: dict[str, onnx.TensorProto]) -> onnx.NodeProto:
    """Replace weights by their integers and scales; return the node that dequantises them."""
    weights = numpy_helper.to_array(stored.pop(name)).astype(np.float32)
    scales = weight_scales(weights)
    integers = np.clip(np.round(weights / scales.astype(np.float32)[:, None, None, None]), LOWEST, HIGHEST).astype(np.int8)
    for suffix, value in (("int8", integers), ("scale", scales), ("zero", np.zeros(len(scales), np.int8))):
        stored[f"{name}.{suffix}"] = numpy_helper.from_array(value, f"{name}.{suffix}")
    inputs = [f"{name}.{suffix}" for suffix in ("int8", "scale", "zero")]
    return helper.make_node("DequantizeLinear", inputs, [f"{name}_dequantised"], name=f"{name}_dequantised", axis=0)


def _quantised_weights(weights: Tensor) -> Tensor:
    scales = torch.from_numpy(weight_scales(weights.numpy()).astype(np.float32))
    return torch.fake_quantize_per_channel_affine(
        weights, scales, torch.zeros(len(scales), dtype=torch.int32), 0, LOWEST, HIGHEST
    )


def _watch_largest(layer: _Layer) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def watch(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        layer.largest = max(layer.largest, float(inputs[0].abs().max()))

    return watch


def _watch_errors(layer: _Layer) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def watch(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
        x = inputs[0].flatten()[::SAMPLE_STEP]
        scales = [half(layer.largest * share / HIGHEST) for share in SHARES]
        layer.errors += [float((quantised(x, scale) - x).square().mean()) for scale in scales]

    return watch


def _correct_biases(detector: Detector, layers: dict[str, _Layer], batches: Sequence[Batch]) -> None:
    """Take the mean error that quantising a convolution causes in each output channel off its bias.

    The errors of a convolution's many outputs would not cancel out: the features of all parts would move (Nagel et al., arXiv
    1906.04721, section 4.2). Each convolution sees what the corrected ones before it give.
    """

    def quantise(layer: _Layer) -> Callable[[nn.Module, tuple[Tensor, ...]], tuple[Tensor, ...]]:
        def run(_: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            layer.given = inputs[0]
            return (quantised(inputs[0], layer.scale),)

        return run

    def correct(layer: _Layer) -> Callable[[nn.Module, Any, Tensor], Tensor]:
        def run(_: nn.Module, __: Any, output: Tensor) -> Tensor:
            assert layer.given is not None
            error = (output - layer.original(layer.given)).mean(dim=(0, 2, 3))
            layer.given = None
            layer.batches += 1
            layer.shift = layer.shift + (error - layer.shift) / layer.batches
            return output - layer.shift[:, None, None]

        return run

    hooks = []
    for layer in layers.values():
        hooks.append(layer.conv.register_forward_pre_hook(quantise(layer)))
        hooks.append(layer.conv.register_forward_hook(correct(layer)))
    _run(detector, batches)
    for hook in hooks:
        hook.remove()
    for layer in layers.values():
        if layer.conv.bias is None:
            layer.conv.bias = nn.Parameter(torch.zeros(layer.conv.out_channels), requires_grad=False)
        layer.conv.bias.sub_(layer.shift)


def _run(detector: Detector, batches: Sequence[Batch]) -> None:
    for frames, coords in batches:
        detector.inspect_unscaled(frames, coords)
