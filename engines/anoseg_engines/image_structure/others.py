"""Checks the structure of BMP, WebP and portable-map images: the lengths in their headers against the length of the file."""

from __future__ import annotations

import re
import struct

from anoseg_engines.image_structure.structure import StructureError, check_begins_once, check_rest

_UNCOMPRESSED = (0, 3, 6)
"""BMP: plain, and with masks that say where the colours are."""
_CORE_HEADER = 12
"""Size of the header of an OS/2 bitmap."""
_BMP_HEADER = 54
_WEBP_START = re.compile(rb"RIFF.{4}WEBPVP8", re.DOTALL)
_NUMBER = re.compile(rb"(?:\s|#[^\n\r]*[\n\r])*(\d{1,20})(?!\d)")
"""A number in the header of a portable map, after spaces and comments. Python refuses to read very long ones."""


def check_bmp(data: bytes) -> None:
    """Check a BMP image. One with run-length coding is refused, because it does not say how long its rows are.

    Raises:
        StructureError: It is cut, compressed or damaged.
    """
    try:
        (offset, size) = struct.unpack_from("<II", data, 10)
        if size == _CORE_HEADER:
            width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
            compression = 0
        else:
            width, height, _, bits, compression = struct.unpack_from("<iiHHI", data, 18)
    except struct.error as error:
        raise StructureError("the header of the BMP image is damaged") from error
    if compression not in _UNCOMPRESSED:
        raise StructureError("damage in a compressed BMP image cannot be found; store it as PNG")
    end = offset + (width * bits + 31) // 32 * 4 * abs(height)
    if end > len(data):
        raise StructureError(f"the BMP image is {end - len(data)} bytes short")
    check_begins_once(data, data[:_BMP_HEADER], end)
    check_rest(data, end)


def check_webp(data: bytes) -> None:
    """Check a WebP image.

    Raises:
        StructureError: It is cut, or its parts are not where its header says.
    """
    end = 8 + int.from_bytes(data[4:8], "little")
    if end > len(data):
        raise StructureError(f"the WebP image is {end - len(data)} bytes short")
    at, kinds = 12, set()
    while at + 8 <= end:
        kind, length = struct.unpack_from("<4sI", data, at)
        kinds.add(kind)
        at += 8 + length + length % 2
    if at not in (end, end + 1) or not kinds & {b"VP8 ", b"VP8L", b"ANMF"}:
        raise StructureError("the WebP image is damaged")
    if (second := _WEBP_START.search(data, 1)) is not None:
        check_begins_once(data, second[0], end)
    check_rest(data, end)


def is_portable_map(data: bytes) -> bool:
    """Return whether the bytes begin as a PBM, PGM or PPM file does."""
    return data[:1] == b"P" and data[1:2] in b"123456" and (data[2:3].isspace() or data[2:3] == b"#")


def check_portable_map(data: bytes) -> None:
    """Check a PBM, PGM or PPM image.

    Raises:
        StructureError: It is shorter than its header says.
    """
    kind, at = int(data[1:2]), 2
    numbers = []
    for _ in range(2 if kind in (1, 4) else 3):
        found = _NUMBER.match(data, at)
        if found is None:
            raise StructureError("the header of the portable map is damaged")
        numbers.append(int(found[1]))
        at = found.end()
    width, height = numbers[:2]
    values = width * height * (3 if kind in (3, 6) else 1)
    if kind in (1, 2, 3):  # as text
        there = data.count(b"0", at) + data.count(b"1", at) if kind == 1 else len(data[at:].split())
        if there < values:
            raise StructureError(f"the portable map has {there} of {values} values")
        return
    bytes_needed = (width + 7) // 8 * height if kind == 4 else values * (2 if numbers[2] > 255 else 1)
    end = at + 1 + bytes_needed
    if end > len(data):
        raise StructureError(f"the portable map is {end - len(data)} bytes short")
    check_begins_once(data, data[: at + 1], end)
    check_rest(data, end)
