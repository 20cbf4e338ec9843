"""Reads the size of an image from the file's header, with Pillow.

The network's input is chosen from the sizes, before the images are decoded.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

from PIL import ExifTags, Image


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
                    turned = header.format == "TIFF" and header.getexif().get(ExifTags.Base.Orientation, 1) != 1
                    sizes.append((header.height, header.width))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError):
            return None
        if turned:  # OpenCV turns a TIFF by its orientation tag, but no other format
            return None
    return tuple(sizes)
