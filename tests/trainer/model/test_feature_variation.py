"""Tests how the features of a pretrained encoder are varied in training."""

from __future__ import annotations

import torch

from anoseg_trainer.config import NetworkConfig
from anoseg_trainer.model.encoder import Encoder
from anoseg_trainer.model.feature_variation import FeatureVariation
from anoseg_trainer.model.network import AnoSegNetwork


def level(inputs: int = 64, channels: int = 8) -> torch.Tensor:
    """Features whose channels have means and spreads that differ between the inputs."""
    generator = torch.Generator().manual_seed(0)
    draw = [torch.randn(shape, generator=generator) for shape in ((inputs, channels, 9, 7), *2 * [(inputs, channels, 1, 1)])]
    return (1 + 0.2 * draw[1]) * draw[0] + 3 + 0.5 * draw[2]


def varied(strength: float, seed: int, step: int = 0, process: int = 0, *, of: torch.Tensor) -> torch.Tensor:
    vary = FeatureVariation.of_step(strength, seed=seed, step=step, process=process)
    assert vary is not None
    return vary(of)


def test_half_of_the_inputs_get_other_means_and_spreads() -> None:
    """Both move by about as much as they differ between the inputs; the other half is what it was."""
    before = level(400)
    after = varied(1.0, 1, of=before)
    moved = (after - before).abs().amax(dim=(1, 2, 3)) > 1e-4
    assert 0.4 < float(moved.float().mean()) < 0.6
    torch.testing.assert_close(after[~moved], before[~moved], rtol=1e-5, atol=1e-5)
    for statistic in (torch.mean, torch.std):
        change = statistic(after, dim=(2, 3))[moved] - statistic(before, dim=(2, 3))[moved]
        differ = statistic(before, dim=(2, 3)).std(dim=0)
        torch.testing.assert_close(change.std(dim=0), differ, rtol=0.2, atol=0)
        assert float((change.mean(dim=0) / differ).abs().max()) < 0.25


def test_a_defect_stays_as_visible_in_its_input() -> None:
    """Only mean and spread of a whole channel change: the places of an input keep their order."""
    before = level()
    after = varied(1.0, 2, of=before)
    kept = after.flatten(2).std(dim=2) > 1e-3
    assert torch.equal(before.flatten(2).argsort(dim=2)[kept], after.flatten(2).argsort(dim=2)[kept])


def test_draws_depend_on_seed_and_step_alone() -> None:
    """A resumed training draws what it would have drawn; another step and another process draw something else."""
    before = level()
    first = varied(1.0, 7, 100, 0, of=before)
    torch.manual_seed(3)
    assert torch.equal(first, varied(1.0, 7, 100, 0, of=before))
    assert not torch.equal(first, varied(1.0, 7, 101, 0, of=before))
    assert not torch.equal(first, varied(1.0, 7, 100, 1, of=before))


def test_a_strength_of_0_changes_nothing_and_more_changes_more() -> None:
    before = level()
    assert FeatureVariation.of_step(0.0, seed=1, step=0, process=0) is None
    changes = [(varied(strength, 5, of=before) - before).abs().mean() for strength in (0.25, 0.5, 1.0)]
    assert changes[0] < 0.6 * changes[1] < 0.36 * changes[2]


def test_a_single_input_and_even_channels_stay_as_they_are() -> None:
    """One input tells nothing about how inputs differ, and an even channel has no spread."""
    one = level(1)
    even = torch.full((16, 3, 4, 4), 2.5)
    for entropy in range(4):
        torch.testing.assert_close(varied(1.0, entropy, of=one), one, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(varied(1.0, entropy, of=even), even, rtol=1e-5, atol=1e-5)


def test_half_precision_stays_and_gradients_pass() -> None:
    """A tuned encoder learns from varied features too."""
    features = level().bfloat16().requires_grad_(True)
    after = varied(1.0, 1, of=features)
    assert after.dtype == torch.bfloat16
    after.float().sum().backward()
    assert features.grad is not None
    assert float(features.grad.float().abs().mean()) > 0.5


def test_the_decoder_sees_varied_features_and_the_memory_does_not() -> None:
    torch.manual_seed(0)
    network = AnoSegNetwork(NetworkConfig(widths=(8, 8, 8, 8, 8)), encoder=Encoder()).eval()
    frames, coords = torch.randint(0, 256, (4, 64, 64, 3)).float(), torch.zeros(4, 2, 64, 64)
    vary = FeatureVariation.of_step(1.0, seed=0, step=0, process=0)
    plain, changed = network.seen(frames, coords), network.seen(frames, coords, vary)
    for one, other in zip(plain.levels, changed.levels, strict=True):
        assert torch.equal(one, other)
    assert not torch.allclose(plain.skips[2], changed.skips[2])
