"""Reads from the bytes of an image file what OpenCV does not tell: further pages, and the turn that it applies to a TIFF."""

from __future__ import annotations

import struct
from typing import Any

from numpy.typing import NDArray

ORIENTATION = 274
"""Number of the tag."""
ANIMATED = 2
"""Bit of a WebP file's flags."""
MAX_PAGES = 10_000
"""A damaged file may have a chain of directories without an end."""


def is_tiff(data: bytes) -> bool:
    """Return whether the bytes begin as a TIFF file (not BigTIFF) does."""
    return data[:4] in (b"II*\0", b"MM\0*")


def tiff_directory(data: bytes) -> tuple[int, int]:
    """Return the orientation of the first page, 1…8, and the number of pages. Of a damaged file, what could be read."""
    order = "<" if data.startswith(b"II") else ">"
    orientation, pages = 1, 0
    try:
        (at,) = struct.unpack_from(order + "I", data, 4)
        while at and pages < MAX_PAGES:
            (entries,) = struct.unpack_from(order + "H", data, at)
            for i in range(entries if pages == 0 else 0):
                tag, kind = struct.unpack_from(order + "HH", data, at + 2 + 12 * i)
                if (tag, kind) == (ORIENTATION, 3):
                    (orientation,) = struct.unpack_from(order + "H", data, at + 10 + 12 * i)
            pages += 1
            (at,) = struct.unpack_from(order + "I", data, at + 2 + 12 * entries)
    except struct.error:
        pass
    return (orientation if 1 <= orientation <= 8 else 1), pages


def has_more_pages(data: bytes) -> bool:
    """Return whether there are pages or animation frames beyond the first, which are never read (TIFF, PNG, WebP)."""
    if is_tiff(data):
        return tiff_directory(data)[1] > 1
    if data.startswith(b"\x89PNG"):
        return 0 <= data.find(b"acTL") < data.find(b"IDAT")
    return data[8:16] == b"WEBPVP8X" and len(data) > 20 and bool(data[20] & ANIMATED)


def as_stored(image: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Undo the turn that OpenCV applies to a TIFF image of this orientation."""
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 6):
        image = image[::-1]
    if orientation in (2, 3, 7, 8):
        image = image[:, ::-1]
    return image
