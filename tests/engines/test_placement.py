"""The geometry between camera image, network input and anomaly map."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from anoseg_engines.errors import ConfigError
from anoseg_engines.placement import InputSpec, Placement, Region

SIZES = st.integers(1, 300)
SPECS = st.builds(
    InputSpec,
    height=st.just(64),
    width=st.just(48),
    mode=st.sampled_from(["resize", "tile"]),
    scale=st.sampled_from([0.25, 1.0, 1.7]),
    overlap=st.sampled_from([0, 7, 32]),
)


@given(SPECS, SIZES, SIZES)
def test_every_part_pixel_is_seen_by_a_tile(spec: InputSpec, width: int, height: int) -> None:
    """No pixel of the part is left out, whatever its size, and no tile has coordinates outside −1…1 on the part."""
    placement = Placement.of(spec, Region(0, 0, width, height))
    seen = np.zeros((placement.part_height, placement.part_width), bool)
    for tile, coords in zip(placement.tiles, placement.coords_N2HW, strict=True):
        inside = (np.abs(coords) <= 1).all(axis=0)
        assert np.isin(coords[np.abs(coords) > 1], (-2, 2)).all()
        ys, xs = np.nonzero(inside)
        seen[ys + tile.y, xs + tile.x] = True
    assert seen.all()


@given(SPECS, SIZES, SIZES)
def test_stitching_a_constant_map_gives_the_constant(spec: InputSpec, width: int, height: int) -> None:
    """Blending weights sum to one everywhere, so a seam leaves no step."""
    placement = Placement.of(spec, Region(0, 0, width, height))
    maps = np.full((len(placement.tiles), spec.height, spec.width), 0.75, np.float16)
    part = placement.stitch(maps)
    assert part.shape == (placement.part_height, placement.part_width)
    np.testing.assert_allclose(part, 0.75, atol=1e-6)


def test_stitch_restores_what_fill_cuts() -> None:
    """An image that is cut into tiles and stitched is the same image."""
    image = np.random.default_rng(0).integers(0, 256, (150, 110, 3), np.uint8)
    placement = Placement.of(InputSpec(64, 48, "tile", 1.0, 16), Region(10, 20, 90, 120))
    frames = np.empty((len(placement.tiles), 64, 48, 3), np.uint8)
    placement.fill(image, frames)
    part = placement.stitch(frames[..., 0].astype(np.float32))
    np.testing.assert_allclose(part, image[20:140, 10:100, 0], atol=1e-3)


def test_resize_keeps_the_aspect_ratio_and_centres_the_part() -> None:
    """A wide region fills the width and is centred in height. Padding has coordinates beyond ±1."""
    placement = Placement.of(InputSpec(64, 64), Region(0, 0, 200, 100))
    assert (placement.part_width, placement.part_height) == (64, 32)
    y = placement.coords_N2HW[0, 1, :, 0].astype(float)
    assert (np.abs(y[:16]) == 2).all()
    assert (np.abs(y[48:]) == 2).all()
    np.testing.assert_allclose(y[16:48], np.linspace(-1 + 1 / 32, 1 - 1 / 32, 32), atol=1e-3)


def test_padding_repeats_the_border_pixel() -> None:
    """Padding adds no edges."""
    image = np.full((50, 100, 3), 90, np.uint8)
    placement = Placement.of(InputSpec(64, 64), Region(0, 0, 100, 50))
    frames = np.empty((1, 64, 64, 3), np.uint8)
    placement.fill(image, frames)
    assert (frames == 90).all()


@pytest.mark.parametrize(
    "region", [Region(-1, 0, 10, 10), Region(0, 0, 51, 10), Region(0, 41, 10, 10)], ids=["left", "right", "below"]
)
def test_a_region_beyond_the_image_is_refused(region: Region) -> None:
    """A region beyond the image is an error with both sizes, not a smaller part."""
    placement = Placement.of(InputSpec(64, 64), region)
    with pytest.raises(ConfigError, match="beyond the image of 50×50"):
        placement.fill(np.zeros((50, 50, 3), np.uint8), np.empty((1, 64, 64, 3), np.uint8))


def test_an_empty_region_is_refused() -> None:
    """A region without pixels is a configuration error."""
    with pytest.raises(ConfigError, match="empty"):
        Placement.of(InputSpec(64, 64), Region(0, 0, 0, 5))
