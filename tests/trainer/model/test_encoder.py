"""The pretrained encoder computes EfficientNet-Lite0, loads only the file with the given hash, and exports unchanged."""

from __future__ import annotations

import hashlib
import shutil
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from anoseg_engines.errors import DataError
from anoseg_trainer.config import NetworkConfig
from anoseg_trainer.model.encoder import (
    BATCH_NORM_EPS,
    CHANNELS,
    LITE0_ORIGIN,
    LITE0_SHA256,
    STRIDES,
    Encoder,
    PaddedConv,
    configured_encoder,
    encoder_from_state,
    encoder_input,
    load_encoder,
    packaged_weights,
)

BLOCKS = (
    # kernel, stride, input channels, inner channels, output channels, as in the published table
    (3, 1, 32, 32, 16),
    (3, 2, 16, 96, 24),
    (3, 1, 24, 144, 24),
    (5, 2, 24, 144, 40),
    (5, 1, 40, 240, 40),
    (3, 2, 40, 240, 80),
    (3, 1, 80, 480, 80),
    (3, 1, 80, 480, 80),
    (5, 1, 80, 480, 112),
    (5, 1, 112, 672, 112),
    (5, 1, 112, 672, 112),
    (5, 2, 112, 672, 192),
    (5, 1, 192, 1152, 192),
    (5, 1, 192, 1152, 192),
    (5, 1, 192, 1152, 192),
    (3, 1, 192, 1152, 320),
)
RETURNED = (0, 2, 4, 10, 15)


def random_state() -> dict[str, Tensor]:
    """A state dict of random weights under efficientnet_pytorch's names, scaled so that activations stay moderate."""
    generator = torch.Generator().manual_seed(3)
    state: dict[str, Tensor] = {}

    def layer(conv: str, norm: str, outputs: int, inputs: int, kernel: int) -> None:
        fan_in = inputs * kernel * kernel
        state[f"{conv}.weight"] = torch.randn(outputs, inputs, kernel, kernel, generator=generator) * (1.5 / fan_in) ** 0.5
        state[f"{norm}.weight"] = 0.5 + torch.rand(outputs, generator=generator)
        state[f"{norm}.bias"] = torch.randn(outputs, generator=generator) * 0.3
        state[f"{norm}.running_mean"] = torch.randn(outputs, generator=generator) * 0.1
        state[f"{norm}.running_var"] = 0.5 + torch.rand(outputs, generator=generator)

    layer("_conv_stem", "_bn0", 32, 3, 3)
    for i, (kernel, _, inputs, inner, outputs) in enumerate(BLOCKS):
        if inner != inputs:
            layer(f"_blocks.{i}._expand_conv", f"_blocks.{i}._bn0", inner, inputs, 1)
        layer(f"_blocks.{i}._depthwise_conv", f"_blocks.{i}._bn1", inner, 1, kernel)
        layer(f"_blocks.{i}._project_conv", f"_blocks.{i}._bn2", outputs, inner, 1)
    layer("_conv_head", "_bn1", 8, 320, 1)  # part of the file, not of the encoder
    return state


def reference(state: dict[str, Tensor], x: Tensor) -> list[Tensor]:
    """EfficientNet-Lite0 written down layer by layer, norms apart, with TensorFlow's "same" padding worked out per input."""

    def conv(x: Tensor, name: str, norm: str, stride: int = 1, groups: int = 1) -> Tensor:
        weight = state[f"{name}.weight"]
        kernel, side = weight.shape[-1], x.shape[-1]
        total = max((-(-side // stride) - 1) * stride + kernel - side, 0)
        y = functional.conv2d(functional.pad(x, (total // 2, total - total // 2) * 2), weight, stride=stride, groups=groups)
        mean, var = state[f"{norm}.running_mean"], state[f"{norm}.running_var"]
        return functional.batch_norm(y, mean, var, state[f"{norm}.weight"], state[f"{norm}.bias"], eps=BATCH_NORM_EPS)

    levels = []
    x = conv(x, "_conv_stem", "_bn0", 2).clamp(0, 6)
    for i, (_, stride, inputs, inner, outputs) in enumerate(BLOCKS):
        before, name = x, f"_blocks.{i}."
        if inner != inputs:
            x = conv(x, name + "_expand_conv", name + "_bn0").clamp(0, 6)
        x = conv(x, name + "_depthwise_conv", name + "_bn1", stride, inner).clamp(0, 6)
        x = conv(x, name + "_project_conv", name + "_bn2")
        if stride == 1 and inputs == outputs:
            x = x + before
        if i in RETURNED:
            levels.append(x)
    return levels


@pytest.fixture(scope="module")
def encoder() -> Encoder:
    return encoder_from_state(random_state())


@pytest.mark.parametrize("side", [32, 96, 160])
def test_levels_equal_a_layer_by_layer_reference(encoder: Encoder, side: int) -> None:
    """Folding, paddings, strides and shortcuts are those of EfficientNet-Lite0, whatever the input size."""
    image = torch.rand(2, 3, side, side, generator=torch.Generator().manual_seed(side)) * 2 - 1
    expected = reference(random_state(), image)
    levels = encoder(image.flip(1))  # the encoder takes BGR, the reference RGB
    assert [tuple(level.shape) for level in levels] == [
        (2, channels, side // stride, side // stride) for channels, stride in zip(CHANNELS, STRIDES, strict=True)
    ]
    for level, right in zip(levels, expected, strict=True):
        torch.testing.assert_close(level, right, rtol=1e-4, atol=1e-4)


def test_deeper_stages_are_left_out_where_they_are_not_needed(encoder: Encoder) -> None:
    """`deepest` ends the forward pass at its level."""
    image = torch.zeros(1, 3, 64, 64)
    assert [level.shape[1] for level in encoder(image, deepest=8)] == [16, 24, 40]


def test_parameters_are_frozen(encoder: Encoder) -> None:
    """No optimiser changes the encoder unless it is asked to."""
    assert not any(p.requires_grad for p in encoder.parameters())


def test_input_is_about_one() -> None:
    """Frames are centred and scaled as in the training of the weights; their colours stay in BGR order."""
    frames = torch.tensor([[[[255, 127, 0]]]], dtype=torch.uint8)
    torch.testing.assert_close(encoder_input(frames, torch.float32)[0, :, 0, 0], torch.tensor([128.0, 0.0, -127.0]) / 128)


@pytest.mark.filterwarnings("ignore")  # the exporter's own deprecations
def test_export_gives_the_same_features(encoder: Encoder, tmp_path: Path) -> None:
    """ONNX Runtime computes what PyTorch does, at another batch size than the one that was traced."""
    target = tmp_path / "encoder.onnx"

    class Exported(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = encoder

        def forward(self, frames: Tensor) -> tuple[Tensor, ...]:
            return tuple(self.encoder(encoder_input(frames, torch.float32)))

    frames = torch.randint(0, 256, (3, 64, 96, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(1))
    torch.onnx.export(
        Exported().eval(),
        (frames[:2],),
        target,
        dynamic_shapes={"frames": {0: torch.export.Dim("batch", min=1, max=16)}},
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(target, providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: frames.numpy()})
    expected = encoder(encoder_input(frames, torch.float32))
    for level, right in zip(found, expected, strict=True):
        np.testing.assert_allclose(level, right.numpy(), rtol=1e-3, atol=1e-3)


def test_a_file_with_another_hash_is_refused(tmp_path: Path) -> None:
    """Weights that are not the named ones are never used."""
    path = tmp_path / "weights.pth"
    torch.save(random_state(), path)
    with pytest.raises(DataError, match="SHA-256"):
        load_encoder(path)


def test_a_file_with_the_given_hash_is_loaded(tmp_path: Path) -> None:
    """A user's own weights are used when their hash is given; a file without the layers is refused."""
    path = tmp_path / "weights.pth"
    torch.save(random_state(), path)
    loaded = load_encoder(path, hashlib.sha256(path.read_bytes()).hexdigest())
    assert isinstance(loaded.stem, PaddedConv)
    torch.save({"other": torch.zeros(1)}, path)
    with pytest.raises(DataError, match="EfficientNet-Lite0"):
        load_encoder(path, hashlib.sha256(path.read_bytes()).hexdigest())


def test_the_packaged_weights_are_the_named_ones() -> None:
    """The train extra brings a file with the hash that the code knows, and it holds an encoder."""
    loaded = load_encoder(packaged_weights())
    levels = loaded(torch.zeros(1, 3, 64, 64))
    assert all(torch.isfinite(level).all() for level in levels)
    assert LITE0_ORIGIN.sha256 == LITE0_SHA256


def test_a_missing_file_is_refused(tmp_path: Path) -> None:
    """The message names the file."""
    with pytest.raises(DataError, match=r"none\.pth"):
        load_encoder(tmp_path / "none.pth")


def test_weights_in_a_home_folder(tmp_path, monkeypatch):
    """A path in the configuration may begin with ~; a user that does not exist is part of a name."""
    monkeypatch.setenv("HOME", str(tmp_path))
    shutil.copy(packaged_weights(), tmp_path / "own.pth")
    digest = hashlib.sha256((tmp_path / "own.pth").read_bytes()).hexdigest()
    loaded = configured_encoder(NetworkConfig(encoder_weights="~/own.pth", encoder_sha256=digest))
    assert loaded is not None
    assert loaded[1].sha256 == digest
    with pytest.raises(DataError, match=r"~nobody-of-this-name/own\.pth"):
        configured_encoder(NetworkConfig(encoder_weights="~nobody-of-this-name/own.pth", encoder_sha256=digest))
