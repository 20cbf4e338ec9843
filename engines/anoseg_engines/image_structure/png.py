"""Checks the structure of a PNG image: the checksum of each chunk, and that all rows of all passes are there."""

from __future__ import annotations

import struct
import zlib

from anoseg_engines.image_structure.structure import StructureError, check_rest

PNG_START = b"\x89PNG\r\n\x1a\n"

_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Values of a pixel, by colour type."""
_PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""First column and row, and steps along both, of the passes of an interlaced image."""
_STEP = 1 << 20
"""Bytes that are decompressed at a time."""


def check_png(data: bytes) -> None:
    """Check a PNG image.

    Raises:
        StructureError: It is cut, a checksum is wrong, rows are missing, or a second image follows.
    """
    at, header = len(PNG_START), b""
    compressed: list[memoryview] = []
    view = memoryview(data)
    kind = b""
    while kind != b"IEND":
        if at + 12 > len(data):
            raise StructureError("the PNG image has no end")
        length, kind = struct.unpack_from(">I4s", data, at)
        if at + 12 + length > len(data):
            raise StructureError("the PNG image has no end")
        content = view[at + 8 : at + 8 + length]
        if zlib.crc32(view[at + 4 : at + 8 + length]) != int.from_bytes(view[at + 8 + length : at + 12 + length], "big"):
            raise StructureError(f"a checksum is wrong in the PNG image, at byte {at}")
        if kind == b"IHDR":
            header = bytes(content)
        elif kind == b"IDAT":
            compressed.append(content)
        at += 12 + length
    if _size(compressed) < _expected(header):
        raise StructureError("rows of the PNG image are missing")
    check_rest(data, at)


def _expected(header: bytes) -> int:
    """Return how many bytes all rows have before compression."""
    try:
        width, height, depth, colours, _, _, interlaced = struct.unpack(">IIBBBBB", header)
        bits = depth * _CHANNELS[colours]
    except (struct.error, KeyError) as error:
        raise StructureError("the header of the PNG image is damaged") from error
    total = 0
    for x, y, step_x, step_y in _PASSES if interlaced else ((0, 0, 1, 1),):
        columns, rows = -(-(width - x) // step_x), -(-(height - y) // step_y)
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * bits + 7) // 8)
    return total


def _size(compressed: list[memoryview]) -> int:
    """Decompress, and return how many bytes there are. Returns 0 if the compressed data has no end."""
    inflate, total = zlib.decompressobj(), 0
    try:
        for piece in compressed:
            left: bytes | memoryview = piece
            while left:
                total += len(inflate.decompress(left, _STEP))
                left = inflate.unconsumed_tail
        total += len(inflate.flush())
    except zlib.error as error:
        raise StructureError("the compressed data of the PNG image is damaged") from error
    return total if inflate.eof else 0
