import pytest

from anoseg_engines.errors import ConfigError
from anoseg_trainer.config import InputConfig
from anoseg_trainer.data.input_choice import choose_input


@pytest.mark.parametrize(
    ("sizes", "mode", "height", "width"),
    [
        ([(512, 512)] * 5, "resize", 448, 448),
        ([(460, 1130)] * 5, "resize", 288, 704),
        ([(200, 300)] * 5, "resize", 192, 288),
        ([(300, 300), (200, 420), (330, 210), (400, 300)], "resize", 352, 320),
        ([(300, 300), (100, 420), (330, 80), (400, 300)], "tile", 352, 320),
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


def test_what_is_given_stays():
    """Sides given without a mode are one whole input; mode, scale and sides are never overruled."""
    assert choose_input(InputConfig(height=96, width=128), ((3000, 4000),)).mode == "resize"
    tiled = InputConfig(height=64, width=64, mode="tile", scale=1.25, overlap=16)
    assert choose_input(tiled, ((300, 300),)) == tiled


def test_an_overlap_larger_than_the_tiles_is_refused():
    """An overlap that the chosen tiles cannot have is refused in words."""
    with pytest.raises(ConfigError, match="overlap must be smaller than a tile"):
        choose_input(InputConfig(mode="tile", overlap=400), ((128, 128),))
