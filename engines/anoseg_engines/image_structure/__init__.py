"""Checks from the bytes of an image file whether all of the image is there, and counts its pages.

Decoders fill in what is missing, or ignore what comes after the first image. Each format that is read therefore has a module or
function here that follows the format's own lengths, counts and checksums. A format without such a check is not read.
"""

from __future__ import annotations

from anoseg_engines.image_structure.jpeg import JPEG_START, check_jpeg
from anoseg_engines.image_structure.others import check_bmp, check_portable_map, check_webp, is_portable_map
from anoseg_engines.image_structure.png import PNG_START, check_png
from anoseg_engines.image_structure.structure import StructureError
from anoseg_engines.image_structure.tiff import as_stored, check_tiff, is_tiff, tiff_pages

__all__ = [
    "JPEG_START",
    "StructureError",
    "as_stored",
    "check_jpeg",
    "check_structure",
    "has_more_pages",
    "is_tiff",
    "tiff_pages",
]

FORMATS = "JPEG, PNG, BMP, TIFF, WebP, PBM, PGM and PPM"
_ANIMATED = 2
"""Bit of a WebP file's flags."""


def has_more_pages(data: bytes) -> bool:
    """Return whether there are pages or animation frames beyond the first, which are never read (TIFF, PNG, WebP)."""
    if is_tiff(data):
        return tiff_pages(data).pages > 1
    if data.startswith(PNG_START):
        return 0 <= data.find(b"acTL") < data.find(b"IDAT")
    return data[8:16] == b"WEBPVP8X" and len(data) > 20 and bool(data[20] & _ANIMATED)


def check_structure(data: bytes) -> None:
    """Check that an image is whole. Further pages are not looked at.

    Raises:
        StructureError: Something is missing, or the format cannot be checked.
    """
    if data.startswith(JPEG_START):
        check_jpeg(data)
    elif data.startswith(PNG_START):
        check_png(data)
    elif is_tiff(data):
        check_tiff(data)
    elif data.startswith(b"BM"):
        check_bmp(data)
    elif data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        check_webp(data)
    elif is_portable_map(data):
        check_portable_map(data)
    else:
        raise StructureError(f"its format is not one of {FORMATS}")
