"""Checks the structure of a TIFF image: that every strip or tile is in the file. Also undoes the turn that OpenCV applies.

OpenCV returns an image with 8 bits although libtiff reports an error in a compressed strip. Pillow raises that error.
"""

from __future__ import annotations

import io
import struct
import warnings
from dataclasses import dataclass
from typing import Any

from numpy.typing import NDArray

from anoseg_engines.image_structure.structure import StructureError, check_begins_once

MAX_PIXELS = 1 << 30
"""As many as OpenCV decodes."""
MAX_PAGES = 10_000
"""A damaged file may have a chain of directories without an end."""
MAX_VALUES = 10_000_000
"""The longest list of strips that is read."""

_SUBFILE, _WIDTH, _HEIGHT, _BITS, _COMPRESSION, _ORIENTATION = 254, 256, 257, 258, 259, 274
_STRIP_AT, _SAMPLES, _STRIP_ROWS, _STRIP_BYTES, _PLANES = 273, 277, 278, 279, 284
_TILE_WIDTH, _TILE_HEIGHT, _TILE_AT, _TILE_BYTES = 322, 323, 324, 325
"""Numbers of the tags."""
_TYPES = {1: "B", 3: "H", 4: "I", 16: "Q"}
_UNCOMPRESSED = 1
_COMPRESSIONS = (_UNCOMPRESSED, 5, 8, 32946, 32773)
"""None, LZW, Deflate (two numbers) and PackBits. Their decoders report when a strip gives too little."""
_STRICT_BITS = 16
"""OpenCV itself refuses damaged strips with so many bits."""
_PREVIEW_OR_MASK = 5
"""Bits of the subfile type."""

Tags = dict[int, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class TiffPages:
    """Says what a TIFF file holds; of a damaged one, what could be read.

    Attributes:
        orientation: Of the first page, 1…8.
        pages: How many pages there are, without previews and masks.
        first: The tags of the first page.
    """

    orientation: int
    pages: int
    first: Tags


def is_tiff(data: bytes) -> bool:
    """Return whether the bytes begin as a TIFF or BigTIFF file does."""
    return data[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


def tiff_pages(data: bytes) -> TiffPages:
    """Read the directories of a TIFF file."""
    order = "<" if data.startswith(b"II") else ">"
    first: Tags = {}
    pages = read = 0
    big = b"+" in data[2:4]
    count, offset, at_first = ("Q", "Q", 8) if big else ("H", "I", 4)
    head, entry = struct.calcsize(order + count), 20 if big else 12
    try:
        (at,) = struct.unpack_from(order + offset, data, at_first)
        while at and read < MAX_PAGES:
            (entries,) = struct.unpack_from(order + count, data, at)
            tags = {}
            for i in range(entries):
                (tag,) = struct.unpack_from(order + "H", data, at + head + entry * i)
                if not first or tag == _SUBFILE:
                    tags[tag] = _values(data, at + head + entry * i, order, offset)
            first = first or tags
            read += 1
            pages += read == 1 or not tags.get(_SUBFILE, (0,))[0] & _PREVIEW_OR_MASK
            (at,) = struct.unpack_from(order + offset, data, at + head + entry * entries)
    except (struct.error, OverflowError):  # outside the file; beyond 2^63, which a BigTIFF's offset can be
        pass
    orientation = first.get(_ORIENTATION, (1,))[0]
    return TiffPages(orientation if 1 <= orientation <= 8 else 1, pages, first)


def _values(data: bytes, at: int, order: str, offset: str) -> tuple[int, ...]:
    """Read the numbers of one entry of a directory. Returns (0,) for other types."""
    kind, count = struct.unpack_from(order + "H" + offset, data, at + 2)
    if kind not in _TYPES or not 0 < count <= MAX_VALUES:
        return (0,)
    at += struct.calcsize(order + "HH" + offset)
    if struct.calcsize(order + _TYPES[kind]) * count > struct.calcsize(order + offset):
        (at,) = struct.unpack_from(order + offset, data, at)
    return struct.unpack_from(f"{order}{count}{_TYPES[kind]}", data, at)


def check_tiff(data: bytes) -> None:
    """Check the first page of a TIFF file.

    Raises:
        StructureError: Strips or tiles are missing, too short or outside the file, or the compression cannot be checked.
    """
    # The header says where the directory is. One directly behind the header could be that of embedded metadata.
    check_begins_once(data, data[:64] if data[4:8] in (b"\x08\0\0\0", b"\0\0\0\x08") else data[:8], 0)
    tags = tiff_pages(data).first
    try:
        (width,), (height,) = tags[_WIDTH], tags[_HEIGHT]
        samples = tags.get(_SAMPLES, (1,))[0]
        bits = max(tags.get(_BITS, (1,)))
        compression = tags.get(_COMPRESSION, (_UNCOMPRESSED,))[0]
        planes = samples if tags.get(_PLANES, (1,))[0] == 2 else 1
        tiled = _TILE_WIDTH in tags
        at, sizes = tags[_TILE_AT if tiled else _STRIP_AT], tags[_TILE_BYTES if tiled else _STRIP_BYTES]
        across, rows = (tags[_TILE_WIDTH][0], tags[_TILE_HEIGHT][0]) if tiled else (width, tags.get(_STRIP_ROWS, (height,))[0])
        rows = rows if tiled else min(rows, height)
        down = -(-height // rows)
        pieces = -(-width // across) * down * planes
    except (KeyError, ValueError, ZeroDivisionError) as error:
        raise StructureError("the header of the TIFF image is damaged") from error
    if compression not in _COMPRESSIONS:
        raise StructureError(f"damage in a TIFF image with compression {compression} cannot be found; use LZW or Deflate")
    if len(at) < pieces or len(sizes) < pieces:
        raise StructureError(f"the TIFF image has {min(len(at), len(sizes))} of {pieces} strips")
    row = (across * (samples // planes) * bits + 7) // 8
    for i in range(pieces):
        piece_rows = rows if tiled else min(rows, height - i % down * rows)
        shortest = row * piece_rows if compression == _UNCOMPRESSED else 1
        if at[i] == 0 or sizes[i] < shortest or at[i] + sizes[i] > len(data):
            raise StructureError(f"strip {i + 1} of {pieces} of the TIFF image is missing or cut")
    if compression != _UNCOMPRESSED and bits < _STRICT_BITS:
        _decompress(data)


def _decompress(data: bytes) -> None:
    """Decode the image once with Pillow.

    Raises:
        StructureError: Pillow reports an error.
    """
    from PIL import Image  # here, because no other image needs it, and a camera's process should start fast

    Image.MAX_IMAGE_PIXELS = MAX_PIXELS // 2  # Pillow refuses images of twice as many pixels
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(data), formats=["TIFF"]) as image:
                image.load()
    except Image.DecompressionBombError as error:
        raise StructureError("the TIFF image has too many pixels") from error
    except (OSError, ValueError, SyntaxError, TypeError, KeyError) as error:
        raise StructureError(f"a strip of the TIFF image is damaged: {error}") from error


def as_stored(image: NDArray[Any], orientation: int) -> NDArray[Any]:
    """Undo the turn that OpenCV applies to a TIFF image of this orientation."""
    if orientation in (5, 6, 7, 8):
        image = image.swapaxes(0, 1)
    if orientation in (3, 4, 7, 6):
        image = image[::-1]
    if orientation in (2, 3, 7, 8):
        image = image[:, ::-1]
    return image
