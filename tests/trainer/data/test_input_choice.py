import cv2
import numpy as np
import pytest

from anoseg_engines.errors import ConfigError
from anoseg_engines.placement import Placement, Region
from anoseg_trainer.config import InputConfig
from anoseg_trainer.data.input_choice import choose_input, describe_input, show_one_view


@pytest.mark.parametrize(
    ("sizes", "mode", "height", "width"),
    [
        ([(512, 512)] * 5, "resize", 448, 448),
        ([(460, 1130)] * 5, "resize", 288, 704),
        ([(200, 300)] * 5, "resize", 192, 288),
        ([(300, 300), (200, 420), (330, 210), (400, 300)], "resize", 352, 320),
        ([(300, 300), (100, 420), (330, 80), (400, 300)], "tile", 352, 352),
        ([(700, 1400), (1400, 700)] * 5, "tile", 384, 384),
        ([(3000, 4000)] * 5, "tile", 384, 384),
        ([(100, 2000)] * 5, "resize", 96, 1984),
    ],
)
def test_input_follows_the_images(sizes, mode, height, width):
    """One input, of the images' shape or of their usual size; very different shapes or large images: tiles at one scale."""
    found = choose_input(InputConfig(), tuple(sizes))
    assert (found.mode, found.height, found.width) == (mode, height, width)
    assert found.scale <= 1
    assert found.spec.height % 32 == 0


def test_large_parts_that_always_lie_the_same_way_are_one_input():
    """Only a whole input lets each place be compared with the same place of good parts. What is given stays."""
    boards = ((1800, 2400),) * 5
    whole = choose_input(InputConfig(), boards, lambda: True)
    assert (whole.mode, whole.height, whole.width, whole.scale) == ("resize", 832, 1088, 1.0)
    assert choose_input(InputConfig(), boards, lambda: False).mode == "tile"
    for given in ({"mode": "tile"}, {"scale": 0.5}, {"overlap": 64}, {"height": 384}):
        assert choose_input(InputConfig(**given), boards, lambda: True).mode == "tile"
    assert choose_input(InputConfig(), ((1800, 2400), (2400, 1800)) * 5, lambda: True).mode == "tile"
    assert choose_input(InputConfig(), ((50, 40000),) * 5, lambda: True).mode == "tile", "one input would be mostly padding"
    assert "large and always lie the same way" in describe_input(InputConfig(), whole, boards)
    small = choose_input(InputConfig(), ((512, 512),))
    assert "large" not in describe_input(InputConfig(), small, ((512, 512),))
    given = InputConfig(height=896)
    assert "large" not in describe_input(given, choose_input(given, ((1000, 1000),)), ((1000, 1000),))


def test_one_view_is_seen_in_a_few_images(tmp_path):
    """Boards whose components lie at the same places show one view, tiles of a random surface do not, broken files neither."""
    rng = np.random.default_rng(1)
    layout = cv2.resize(rng.uniform(40, 220, (9, 12)), (240, 180), interpolation=cv2.INTER_NEAREST)
    boards, surfaces = [], []
    for i in range(12):
        boards.append(tmp_path / f"board_{i}.png")
        moved = np.roll(layout, rng.integers(-2, 3, 2), (0, 1)) * rng.uniform(0.7, 1.1) + rng.normal(0, 6, layout.shape)
        cv2.imwrite(str(boards[-1]), np.clip(moved, 0, 255).astype(np.uint8))
        surfaces.append(tmp_path / f"surface_{i}.png")
        brushed = cv2.GaussianBlur(rng.normal(128, 400, layout.shape), (0, 0), sigmaX=2, sigmaY=12)
        cv2.imwrite(str(surfaces[-1]), np.clip(brushed, 0, 255).astype(np.uint8))
    assert show_one_view(boards)
    assert not show_one_view(surfaces)
    boards[0].write_bytes(b"no image")
    assert not show_one_view(boards)


@pytest.mark.parametrize(("height", "width"), [(500, 5000), (600, 5000), (1024, 8192), (100, 20000)])
def test_long_narrow_parts_need_one_row_of_tiles(height, width):
    """A tile that were a little narrower than the part would need a second, nearly equal tile beside it."""
    spec = choose_input(InputConfig(mode="tile"), ((height, width),)).spec
    placement = Placement.of(spec, Region(0, 0, width, height))
    assert len({tile.y for tile in placement.tiles}) == 1
    assert len(placement.tiles) > 1


@pytest.mark.parametrize(("given", "height", "width"), [({"height": 896}, 896, 896), ({"width": 256}, 256, 256)])
def test_the_other_side_follows_from_the_images(given, height, width):
    found = choose_input(InputConfig(**given), ((1000, 1000),))
    assert (found.height, found.width) == (height, width)


def test_what_is_given_stays():
    """Sides given without a mode are one whole input; mode, scale and sides are never overruled. A scale is that of tiles."""
    scaled = choose_input(InputConfig(scale=2.0), ((600, 600),))
    assert (scaled.mode, scaled.scale) == ("tile", 2.0)
    assert choose_input(InputConfig(height=96, width=128), ((3000, 4000),)).mode == "resize"
    tiles = choose_input(InputConfig(height=384, width=384, scale=0.5), ((3000, 4000),))
    assert (tiles.mode, tiles.scale, tiles.height) == ("tile", 0.5, 384)
    tiled = InputConfig(height=64, width=64, mode="tile", scale=1.25, overlap=16)
    assert choose_input(tiled, ((300, 300),)) == tiled


def test_an_overlap_larger_than_the_tiles_is_refused():
    """An overlap that the chosen tiles cannot have is refused in words."""
    with pytest.raises(ConfigError, match="overlap must be smaller than a tile"):
        choose_input(InputConfig(mode="tile", overlap=400), ((128, 128),))
