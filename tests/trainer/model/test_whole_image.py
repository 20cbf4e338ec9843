"""The whole-image model: its covariance is right, padding does not count, and the export gives the same distances."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from sklearn.covariance import LedoitWolf
from torch import Tensor
from torch.nn import functional

from anoseg_trainer.model.encoder import CHANNELS, STRIDES
from anoseg_trainer.model.memory import Features
from anoseg_trainer.model.whole_image import WholeImage, shrunk_covariance


def some_features(images: int, seed: int) -> Features:
    """Features of made-up parts, smooth fields."""
    generator = torch.Generator().manual_seed(seed)
    levels = []
    for stride, channels in zip(STRIDES, CHANNELS, strict=True):
        base = torch.randn(images, channels, 4, 4, generator=generator) + torch.randn(images, 1, 1, 1, generator=generator)
        levels.append(functional.interpolate(base, size=(64 // stride, 96 // stride), mode="bilinear"))
    return Features(levels, torch.arange(images), torch.ones(images, 64, 96, dtype=torch.bool))


@pytest.fixture(scope="module")
def whole() -> WholeImage:
    model = WholeImage()
    training = [some_features(40, 1), some_features(30, 2)]
    model.fit(torch.cat([measured(model, features) for features in training]), measured(model, some_features(20, 3)))
    return model


def measured(model: WholeImage, features: Features) -> Tensor:
    return model.measures(features.levels, features.valid)


def test_covariance_is_ledoit_and_wolfs() -> None:
    """scikit-learn's estimate is the reference."""
    rows = torch.randn(30, 50, generator=torch.Generator().manual_seed(0)) @ torch.diag(torch.linspace(0.1, 3, 50))
    expected = LedoitWolf(assume_centered=True).fit(rows.numpy()).covariance_
    np.testing.assert_allclose(shrunk_covariance(rows).numpy(), expected, rtol=1e-4, atol=1e-5)


def test_distance_is_mahalanobis(whole: WholeImage) -> None:
    """The whitening is a root of the inverse covariance of the training parts' measures."""
    training = torch.cat([whole.measures(f.levels, f.valid) for f in (some_features(40, 1), some_features(30, 2))])
    spread = training.std(dim=0)
    scaled = ((training - training.mean(dim=0)) / spread).numpy()
    new = some_features(5, 9)
    measures = whole.measures(new.levels, new.valid)
    expected = LedoitWolf(assume_centered=True).fit(scaled).mahalanobis(((measures - training.mean(dim=0)) / spread).numpy())
    np.testing.assert_allclose(whole.distance(measures).numpy() ** 2, expected, rtol=1e-3)


def test_held_out_parts_read_zero_in_the_middle(whole: WholeImage) -> None:
    """Standardised on held-out good parts: median 0, standard deviation 1."""
    held_out = some_features(20, 3)
    found = whole(held_out.levels, held_out.valid)
    assert found.median() == pytest.approx(0.0, abs=1e-4)
    assert found.std() == pytest.approx(1.0, abs=1e-3)


def test_padding_changes_nothing(whole: WholeImage) -> None:
    """What lies beyond the part is not measured."""
    features = some_features(3, 5)
    valid = features.valid.clone()
    valid[:, :, 64:] = False
    before = whole.measures(features.levels, valid)
    for stride, level in zip(STRIDES, features.levels, strict=True):
        level[:, :, :, 64 // stride :] = 100.0
    torch.testing.assert_close(whole.measures(features.levels, valid), before)


@pytest.mark.filterwarnings("ignore")  # the exporter's own deprecations
def test_export_gives_the_same_distances(whole: WholeImage, tmp_path: Path) -> None:
    """ONNX Runtime computes PyTorch's distances, at another batch size than the one that was traced."""
    features = some_features(3, 7)
    valid = features.valid.float()
    target = tmp_path / "whole.onnx"
    batch = torch.export.Dim("batch", min=1, max=16)
    torch.onnx.export(
        whole.eval(),
        ([level[:2] for level in features.levels], valid[:2]),
        target,
        dynamic_shapes={"levels": [{0: batch} for _ in features.levels], "valid": {0: batch}},
        dynamo=True,
        external_data=False,
        verbose=False,
    )
    session = onnxruntime.InferenceSession(target, providers=["CPUExecutionProvider"])
    by_channels: dict[int, Tensor] = {level.shape[1]: level for level in features.levels}
    given = {i.name: (valid if len(i.shape) == 3 else by_channels[i.shape[1]]).numpy() for i in session.get_inputs()}
    expected = whole(features.levels, valid).numpy()
    np.testing.assert_allclose(session.run(None, given)[0], expected, rtol=1e-3, atol=1e-3)


def test_too_few_images_are_refused() -> None:
    """One held-out image has no spread."""
    model = WholeImage()
    with pytest.raises(ValueError, match="two"):
        model.fit(measured(model, some_features(5, 1)), measured(model, some_features(1, 2)))
