"""Reads the size of an image from the file's header, with Pillow.

The network's input is chosen from the sizes, before the images are decoded.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

WIDTH, HEIGHT = 256, 257
"""Numbers of a TIFF file's tags."""


def sizes_from_headers(paths: Sequence[Path]) -> tuple[tuple[int, int], ...] | None:
    """Read (height, width) of each file, as `read_image` gives them.

    Returns:
        None if one of the headers cannot be read; the images must be decoded then.
    """
    sizes = []
    for path in paths:
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", Image.DecompressionBombWarning)  # large images are fine
                with Image.open(path) as header:
                    size = header.size
                    if header.format == "TIFF":  # Pillow exchanges the sides of one that is to be shown turned
                        size = header.tag_v2[WIDTH], header.tag_v2[HEIGHT]
                    sizes.append((size[1], size[0]))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return None
    return tuple(sizes)
