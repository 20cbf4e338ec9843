"""Fixed filters: flat images give no response, stripes answer in their own direction, and light scales the responses."""

from __future__ import annotations

import math

import pytest
import torch

from anoseg_trainer.model.encoder import STRIDES
from anoseg_trainer.model.fixed_filters import DIRECTIONS, FLOOR, FREQUENCY, FixedFilters, WithoutDirection, gabor_bank

FIRST_OCTAVE = [0, 3, 4, 5, 6]
"""Without direction, the channels of the first octave at stride 2: its mean, and its Fourier series."""


def stripes(angle: float, side: int = 64) -> torch.Tensor:
    """An image of stripes at the filters' frequency, [1, 3, side, side]."""
    y, x = torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij")
    wave = torch.sin(2 * math.pi * FREQUENCY * (x * math.cos(angle) + y * math.sin(angle)))
    return wave[None, None].repeat(1, 3, 1, 1) * 0.5


def test_shapes_follow_the_strides() -> None:
    """Each level has the channels that the class names; deeper levels are left out where they are not needed."""
    filters = FixedFilters()
    levels = filters(torch.zeros(2, 3, 64, 96))
    assert [tuple(level.shape) for level in levels] == [
        (2, channels, 64 // stride, 96 // stride) for channels, stride in zip(filters.channels, STRIDES, strict=True)
    ]
    assert len(filters(torch.zeros(1, 3, 64, 64), deepest=8)) == 3


def test_filters_have_no_mean() -> None:
    """Grey itself gives no response."""
    bank = gabor_bank(DIRECTIONS)
    assert bank.sum(dim=(1, 2, 3)).abs().max() < 1e-5
    responses = FixedFilters()(torch.full((1, 3, 64, 64), 0.7))[0][0, :DIRECTIONS]
    assert responses == pytest.approx(torch.full_like(responses, math.sqrt(FLOOR)), abs=1e-4)


@pytest.mark.parametrize("k", range(DIRECTIONS))
def test_stripes_answer_in_their_direction(k: int) -> None:
    """Of the first octave's channels, the one of the stripes' direction is the largest."""
    found = FixedFilters()(stripes(math.pi * k / DIRECTIONS))[0][0, :DIRECTIONS, 8:-8, 8:-8].mean(dim=(1, 2))
    assert int(found.argmax()) == k


def test_twice_the_light_gives_twice_the_response() -> None:
    """So features of even length do not change with the light."""
    filters, image = FixedFilters(), stripes(0.3)
    once, twice = (float(filters(factor * image)[1][0, 0, 8, 8]) for factor in (1.0, 2.0))
    assert twice == pytest.approx(2 * once, rel=0.01)


@pytest.mark.parametrize("level", range(len(STRIDES)))
def test_a_turn_leaves_what_has_no_direction(level: int) -> None:
    """A texture turned by a quarter has the same means; with their directions, the responses have not."""
    generator = torch.Generator().manual_seed(0)
    x = torch.rand(1, 3, 32, 128, generator=generator)
    image = torch.nn.functional.interpolate(x, size=(128, 128), mode="bilinear")  # streaks, so that a direction stands out
    once, turned = (FixedFilters()(picture)[level] for picture in (image, image.rot90(1, (2, 3))))
    means = [WithoutDirection(level)(found).mean(dim=(2, 3)) for found in (once, turned)]
    torch.testing.assert_close(means[0], means[1], rtol=1e-3, atol=1e-4)
    assert (once.mean(dim=(2, 3)) / turned.mean(dim=(2, 3)) - 1).abs().max() > 0.2


@pytest.mark.parametrize("k", range(DIRECTIONS))
def test_stripes_of_any_direction_have_the_same_features(k: int) -> None:
    """Between the quarters too: what the first octave shows of stripes hardly depends on their angle."""
    straight, turned = (
        WithoutDirection(0)(FixedFilters()(stripes(angle))[0])[0, FIRST_OCTAVE, 8:-8, 8:-8].mean(dim=(1, 2))
        for angle in (0.0, math.pi * k / DIRECTIONS)
    )
    assert straight.max() > 0.3
    torch.testing.assert_close(turned, straight, rtol=0.2, atol=0.02)


@pytest.mark.parametrize("level", range(len(STRIDES)))
def test_channels_without_direction(level: int) -> None:
    """Five numbers for each octave, eight for the second order, and grey as it is."""
    module = WithoutDirection(level)
    responses = FixedFilters()(torch.rand(2, 3, 64, 96))[level]
    found = module(responses)
    assert found.shape == (2, module.channels, 64 // STRIDES[level], 96 // STRIDES[level])
    assert module.channels == (11, 24, 24, 24, 11)[level]
    grey = 2 if level in (0, 4) else 3 + DIRECTIONS
    torch.testing.assert_close(found[:, grey], responses[:, -1])
