"""Reading image files of all kinds, and refusing those that cannot be read."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from anoseg_engines.errors import DataError
from anoseg_engines.images import list_images, read_image


def test_grey_16_bit_and_alpha_become_bgr(tmp_path: Path) -> None:
    """Grey is repeated, 16 bit is divided by 256 and alpha is dropped, so that images are always uint8 [H, W, 3]."""
    grey16 = np.full((4, 5), 0x8040, np.uint16)
    bgra = np.dstack([np.full((4, 5), v, np.uint8) for v in (1, 2, 3, 4)])
    for name, stored, expected in [("a.png", grey16, (128, 128, 128)), ("b.png", bgra, (1, 2, 3))]:
        cv2.imwrite(str(tmp_path / name), stored)
        image = read_image(tmp_path / name)
        assert image.dtype == np.uint8
        assert image.shape == (4, 5, 3)
        assert (image == expected).all()


@pytest.mark.parametrize(("content", "message"), [(b"", "empty"), (b"\x89PNG\r\n\x1a\nrubbish", "not a readable image")])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes, message: str) -> None:
    """An empty or broken file is an error with its name."""
    path = tmp_path / "part_17.png"
    path.write_bytes(content)
    with pytest.raises(DataError, match=f"part_17.png.*{message}"):
        read_image(path)


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    """A folder that does not exist is an error with its name, not an empty list."""
    with pytest.raises(DataError, match="nowhere"):
        list_images(tmp_path / "nowhere")
