"""Checks the structure of a JPEG image: its scans, its end, and what follows.

libjpeg warns of damage within a scan, but not of scans that are missing: a progressive image without its last scans is blurred,
and one without a component's scan has wrong colours.
"""

from __future__ import annotations

import re
import struct

from anoseg_engines.image_structure.structure import StructureError, check_rest

JPEG_START = b"\xff\xd8\xff"

_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]")
"""A marker in coded data, but none of those that restart the decoder."""
_SEQUENTIAL, _PROGRESSIVE = (0xC0, 0xC1), 0xC2
_NOT_FRAMES = (0xC4, 0xC8, 0xCC)
"""Huffman tables, an extension and conditioning of arithmetic coding: their markers are between those of frame headers."""
_END, _SCAN, _APP2 = 0xD9, 0xDA, 0xE2
_MULTI_PICTURE = b"MPF\0"
"""The CIPA multi-picture format: the file announces that further images follow, such as previews."""
_COEFFICIENTS = 64


class _Scans:
    """Follows which coefficients of which components have arrived.

    A progressive image sends each coefficient in several scans, of which the last brings bit 0.
    """

    def __init__(self, frame: int, segment: bytes) -> None:
        self._progressive = frame == _PROGRESSIVE
        self._lowest_bit = {segment[6 + 3 * i]: [-1] * _COEFFICIENTS for i in range(segment[5])}

    def add(self, segment: bytes) -> None:
        """Note a scan, by its header without marker and length."""
        count = segment[0]
        first, last, bits = segment[1 + 2 * count : 4 + 2 * count]
        high, low = bits >> 4, bits & 15
        if not self._progressive:
            first, last, high, low = 0, _COEFFICIENTS - 1, 0, 0
        if last >= _COEFFICIENTS:
            raise StructureError("a scan's header is damaged")
        for component in segment[1 : 1 + 2 * count : 2]:
            known = self._lowest_bit.get(component)
            if known is None:
                raise StructureError("a scan's header is damaged")
            if any(known[k] != (high if high else -1) for k in range(first, last + 1)):
                raise StructureError("a scan is missing or there twice")
            known[first : last + 1] = [low] * (last + 1 - first)

    def check(self) -> None:
        """Check that everything has arrived."""
        if any(low != 0 for known in self._lowest_bit.values() for low in known):
            raise StructureError("scans are missing at its end")


def check_jpeg(data: bytes) -> None:
    """Check that all scans of a JPEG image are there, and no second image after it.

    Damage within a scan is left to the decoder. A multi-picture file may hold further images.

    Raises:
        StructureError: The image is not whole, is not the only one, or is coded in a way in which damage cannot be found.
    """
    scans: _Scans | None = None
    multi_picture = False
    at = 2
    try:
        while True:
            at, marker = _marker(data, at)
            if marker == _END:
                break
            (length,) = struct.unpack_from(">H", data, at)
            segment = data[at + 2 : at + length]
            at += length
            if at > len(data):
                raise StructureError("it ends within its header")
            if 0xC0 <= marker <= 0xCF and marker not in _NOT_FRAMES:
                if marker not in (*_SEQUENTIAL, _PROGRESSIVE):
                    raise StructureError(
                        "damage in JPEG images with arithmetic, lossless or hierarchical coding cannot be found"
                    )
                scans = _Scans(marker, segment)
            elif marker == _APP2 and segment.startswith(_MULTI_PICTURE):
                multi_picture = True
            elif marker == _SCAN:
                if scans is None:
                    raise StructureError("its header is damaged")
                scans.add(segment)
                found = _MARKER.search(data, at)
                if found is None:
                    raise StructureError("it has no end")
                at = found.start()
    except (struct.error, IndexError, ValueError) as error:
        if isinstance(error, StructureError):
            raise
        raise StructureError("its header is damaged") from error
    if scans is None:
        raise StructureError("it has no image data")
    scans.check()
    if not multi_picture:
        check_rest(data, at)


def _marker(data: bytes, at: int) -> tuple[int, int]:
    """Read a marker, which fill bytes may precede; return where its segment begins, and its kind."""
    if data[at] != 0xFF:
        raise StructureError("its header is damaged")
    while data[at] == 0xFF:
        at += 1
    return at + 1, data[at]
