"""Fixed filters: flat images give no response, stripes answer in their own direction, and light scales the responses."""

from __future__ import annotations

import math

import pytest
import torch

from anoseg_trainer.model.encoder import STRIDES
from anoseg_trainer.model.fixed_filters import DIRECTIONS, FLOOR, FREQUENCY, FixedFilters, gabor_bank


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
