"""Scaling a camera's region to the part."""

import cv2
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

from anoseg_engines.placement import InputSpec, Placement, Region
from anoseg_engines.scaling import Shrink, block_means, block_size, scale_part

SIDES = st.integers(1, 70)


def scene(height: int, width: int, channels: int = 3) -> NDArray[np.uint8]:
    """A picture with detail of every size, as a camera's."""
    rng = np.random.default_rng(height * 1000 + width)
    layers = [cv2.resize(rng.normal(0, 30, (n, n)), (width, height), interpolation=cv2.INTER_CUBIC) for n in (4, 16, 64)]
    grey = np.clip(128 + sum(layers), 0, 255).astype(np.uint8)
    return np.repeat(grey[..., None], channels, axis=2)


def shares(pixels: int, size: int) -> NDArray[np.float64]:
    """The share of each pixel in each pixel of the scaled line, [size, pixels]."""
    edges = np.arange(size + 1) * pixels / size
    overlap = np.minimum(edges[1:, None], np.arange(1, pixels + 1)) - np.maximum(edges[:-1, None], np.arange(pixels))
    weights = np.clip(overlap, 0, None)
    return np.asarray(weights / weights.sum(axis=1, keepdims=True))


def means(image: NDArray[np.uint8], width: int, height: int) -> NDArray[np.float64]:
    """The exact mean of the camera pixels that each part pixel covers."""
    rows, columns = shares(image.shape[0], height), shares(image.shape[1], width)
    return np.asarray(np.einsum("ij,jkc,lk->ilc", rows, image.astype(np.float64), columns, optimize=True))


@given(SIDES, SIDES, st.sampled_from([1, 2, 4, 8]), st.sampled_from([1, 3]))
def test_a_block_is_the_mean_of_its_pixels(height: int, width: int, block: int, channels: int) -> None:
    """Blocks at the right and at the bottom are the means of the pixels that are there."""
    assume(min(height, width) >= block)
    image = np.random.default_rng(height * 71 + width).integers(0, 256, (height, width, channels), np.uint8)
    found = block_means(image, block)
    assert found.shape == (-(-height // block), -(-width // block), channels)
    for y, x in np.ndindex(found.shape[:2]):
        mean = image[y * block : (y + 1) * block, x * block : (x + 1) * block].mean(axis=(0, 1))
        # Each halving rounds to whole grey values: half a value for each, of which the next averages a part away.
        assert (np.abs(found[y, x] - mean) <= 0.5 * max(1, block.bit_length() - 1)).all()


@pytest.mark.parametrize(("factor", "size"), [(2.0, 1), (3.99, 1), (4.0, 2), (7.9, 2), (8.0, 4), (33.0, 16)])
def test_two_to_four_blocks_make_a_part_pixel(factor: float, size: int) -> None:
    """Larger blocks would blur the part."""
    assert block_size(factor) == size


@pytest.mark.parametrize("size", [(1280, 1024), (1281, 1023), (1283, 1021), (2447, 2047), (447, 300), (1000, 300)])
@pytest.mark.parametrize("part", [256, 448])
def test_a_part_of_blocks_is_close_to_the_exact_mean(size: tuple[int, int], part: int) -> None:
    """For every size, odd ones too: the part neither moves nor loses its border, and grey values are those of the camera."""
    width, height = size
    image = scene(height, width)
    placement = Placement.of(InputSpec(part, part, shrink="blocks"), Region(0, 0, width, height))
    found = placement.scaled_part(image)
    exact = means(image, placement.part_width, placement.part_height)
    if placement.part_width >= width:
        return
    difference = found - exact
    assert abs(float(difference.mean())) < 0.5
    assert np.abs(difference).mean() < 0.6
    assert np.abs(difference[-1]).mean() < 1.5  # the border
    assert np.abs(difference[:, -1]).mean() < 1.5


@pytest.mark.parametrize("size", [(511, 333), (1283, 1021)])
def test_an_edge_stays_in_its_place(size: tuple[int, int]) -> None:
    """An edge that crosses the picture is found in the part where the geometry says, to a fifth of a pixel of the part."""
    width, height = size
    for at in (0.25, 0.5, 0.93):
        image = np.zeros((height, width, 1), np.uint8)
        image[:, round(at * width) :] = 200
        part = scale_part(image, 120, 80, "blocks")
        assert np.abs(120 - part[..., 0].sum(axis=1) / 200 - round(at * width) * 120 / width).max() < 0.2


@given(SIDES, SIDES, st.sampled_from(["area", "blocks"]), st.integers(1, 40), st.integers(1, 40))
def test_a_grey_image_gives_what_its_three_channels_give(
    height: int, width: int, shrink: Shrink, part_height: int, part_width: int
) -> None:
    """A grey camera's single channel is judged as if it were repeated in blue, green and red."""
    grey = np.random.default_rng(height * 71 + width).integers(0, 256, (height, width, 1), np.uint8)
    one = scale_part(grey, part_width, part_height, shrink)
    three = scale_part(np.repeat(grey, 3, axis=2), part_width, part_height, shrink)
    assert one.shape == (part_height, part_width, 1)
    assert (np.abs(one.astype(int) - three) <= 1).all()


def test_a_grey_image_fills_all_three_channels() -> None:
    """Tiles of a grey image, with padding and without, hold the grey value three times."""
    grey = scene(100, 150, channels=1)
    for spec in (InputSpec(64, 64), InputSpec(64, 64, "tile", 1.0, 16)):
        placement = Placement.of(spec, Region(5, 3, 140, 90))
        one, three = (np.empty((len(placement.tiles), 64, 64, 3), np.uint8) for _ in range(2))
        placement.fill(grey, one)
        placement.fill(np.repeat(grey, 3, axis=2), three)
        assert (one == three).all()


def test_up_to_a_factor_of_two_both_rules_are_the_same() -> None:
    """Blocks of one pixel change nothing."""
    image = scene(300, 400)
    assert (scale_part(image, 230, 170, "area") == scale_part(image, 230, 170, "blocks")).all()
