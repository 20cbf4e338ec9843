"""Pixel formats of industrial cameras are converted to the right colours and grey values."""

import numpy as np
import pytest

from anoseg_engines.errors import CameraError
from anosegd.capture.pixel_formats import CODES, image_from_raw

CODE = {name: code for code, name in CODES.items()}


@pytest.mark.parametrize(("name", "shift"), [("Mono10", 2), ("Mono12", 4), ("Mono14", 6), ("Mono16", 8)])
def test_of_more_than_eight_bits_the_upper_eight_are_kept(name: str, shift: int) -> None:
    """Two bytes a pixel, little-endian, the value in the lower bits."""
    grey = np.arange(12, dtype=np.uint16).reshape(3, 4) * 20
    raw = (grey << shift | 1).astype("<u2").tobytes()
    assert np.array_equal(image_from_raw(raw, CODE[name], 3, 4), grey[:, :, None])


def test_both_packings_of_twelve_bits() -> None:
    """Two pixels in three bytes: 0xABC and 0x123, and an odd last one."""
    for name, raw in (("Mono12p", b"\xbc\x3a\x12\xbc\x0a"), ("Mono12Packed", b"\xab\x3c\x12\xab\x0c")):
        image = image_from_raw(raw, CODE[name], 1, 3)
        assert image[0, :, 0].tolist() == [0xAB, 0x12, 0xAB]


@pytest.mark.parametrize("name", ["BayerRG8", "BayerGR8", "BayerGB8", "BayerBG8"])
def test_a_red_part_is_red(name: str) -> None:
    """The format's name gives the colours of the first two pixels of the sensor's first row."""
    first = name[5:7]
    second = {"RG": "GB", "GR": "BG", "GB": "RG", "BG": "GR"}[first]
    mosaic = np.tile([[200 if c == "R" else 10 for c in row] for row in (first, second)], (8, 8)).astype(np.uint8)
    image = image_from_raw(mosaic.tobytes(), CODE[name], 16, 16)
    assert image[4:12, 4:12].reshape(-1, 3).tolist() == [[10, 10, 200]] * 64


def test_colour_and_grey_of_eight_bits() -> None:
    """RGB is reordered, BGR stays, grey stays one channel; data behind the image is ignored."""
    assert image_from_raw(b"\x01\x02\x03more", CODE["RGB8"], 1, 1).tolist() == [[[3, 2, 1]]]
    assert image_from_raw(b"\x01\x02\x03", CODE["BGR8"], 1, 1).tolist() == [[[1, 2, 3]]]
    assert image_from_raw(b"\x07\x08", CODE["Mono8"], 1, 2).tolist() == [[[7], [8]]]


def test_unreadable_buffers_are_refused() -> None:
    """The messages name an unknown format, and a buffer that is too short."""
    with pytest.raises(CameraError, match="0x01010037 cannot be read"):
        image_from_raw(b"", 0x01010037, 1, 1)
    with pytest.raises(CameraError, match=r"a frame of 5 bytes, 3×1 pixels of Mono16 are 6"):
        image_from_raw(bytes(5), CODE["Mono16"], 1, 3)
