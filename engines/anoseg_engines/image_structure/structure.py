"""Finds a second image behind the first in one file or message."""

from __future__ import annotations

import struct


class StructureError(ValueError):
    """The image is not whole, or nobody can tell. The text says why."""


def check_rest(data: bytes, end: int) -> None:
    """Check that no second image follows the first. Cameras may fill up with zeros, or add other bytes of their own.

    Args:
        data: The whole file or message.
        end: Where its first image ends.

    Raises:
        StructureError: A second image begins there.
    """
    rest = data[end:]
    if not rest.strip(b"\0\r\n\t "):
        return
    at = rest.find(b"\xff\xd8\xff")
    while at >= 0 and not begins_jpeg(rest, at):
        at = rest.find(b"\xff\xd8\xff", at + 2)
    begun = {"JPEG": at, "PNG": rest.find(b"\x89PNG\r\n\x1a\n")}
    filler = len(rest) - len(rest.lstrip(b"\0\r\n\t "))
    start = rest[filler : filler + 16]
    if start[:2] in (b"P1", b"P2", b"P3", b"P4", b"P5", b"P6") and start[2:3].isspace():
        begun["portable map"] = filler
    if (start.startswith(b"BM") and start[6:10] == bytes(4)) or (start.startswith(b"RIFF") and start[8:12] == b"WEBP"):
        begun["BMP" if start.startswith(b"BM") else "WebP"] = filler
    for name, at in begun.items():
        if at >= 0:
            raise StructureError(f"it holds more than one image: a second one ({name}) begins at byte {end + at}")


def check_begins_once(data: bytes, header: bytes, end: int) -> None:
    """Check that the image was not cut and followed by another one, whose bytes would count as the rest of the first.

    Args:
        data: The whole file or message.
        header: The beginning of the image, so long that its pixels do not contain it by chance.
        end: Where the image ends if it is whole. Without other bytes behind that it was not cut.

    Raises:
        StructureError: The header is there a second time.
    """
    if data[end:].strip(b"\0\r\n\t ") and (at := data.find(header, len(header))) >= 0:
        raise StructureError(f"it was cut, or holds more than one image: another one begins at byte {at}")


def begins_jpeg(data: bytes, at: int) -> bool:
    """Return whether the header of a JPEG image begins here, up to the size of the image."""
    at += 2
    while at + 4 <= len(data) and data[at] == 0xFF:
        kind = data[at + 1]
        if 0xC0 <= kind <= 0xCF and kind not in (0xC4, 0xC8, 0xCC):
            return True
        if not (0xC0 <= kind <= 0xFE) or 0xD0 <= kind <= 0xDA:
            return False
        (length,) = struct.unpack_from(">H", data, at + 2)
        at += 2 + length
    return False
