"""Converts the pixel formats of industrial cameras to images of 8 bit. Pure functions.

The codes are those of the GenICam Pixel Format Naming Convention.
"""

from __future__ import annotations

import cv2
import numpy as np

from anoseg_engines.errors import CameraError
from anoseg_engines.images import Image

MONO_BITS = {"Mono8": 8, "Mono10": 10, "Mono12": 12, "Mono14": 14, "Mono16": 16}
BAYER = {
    "BayerRG8": cv2.COLOR_BayerRGGB2BGR,
    "BayerGR8": cv2.COLOR_BayerGRBG2BGR,
    "BayerGB8": cv2.COLOR_BayerGBRG2BGR,
    "BayerBG8": cv2.COLOR_BayerBGGR2BGR,
}
CODES = {
    0x01080001: "Mono8",
    0x01100003: "Mono10",
    0x01100005: "Mono12",
    0x01100025: "Mono14",
    0x01100007: "Mono16",
    0x010C0006: "Mono12Packed",
    0x010C0047: "Mono12p",
    0x01080008: "BayerGR8",
    0x01080009: "BayerRG8",
    0x0108000A: "BayerGB8",
    0x0108000B: "BayerBG8",
    0x02180014: "RGB8",
    0x02180015: "BGR8",
}
"""Name of every readable format, by code."""


def image_from_raw(raw: bytes, code: int, height: int, width: int) -> Image:
    """Convert a camera's buffer without padding; of more than 8 bits the upper 8 are kept.

    Args:
        raw: The buffer; it may be longer than the image (chunk data follows).
        code: 32-bit code of the pixel format.
        height, width: Of the image.

    Returns:
        uint8 [height, width, 3] BGR, of a grey format [height, width, 1].

    Raises:
        CameraError: The format is not in `CODES`, or raw is too short.
    """
    name = CODES.get(code)
    if name is None:
        raise CameraError(f"pixel format 0x{code:08x} cannot be read", hint=f"choose one of {', '.join(CODES.values())}")
    pixels = height * width
    needed = -(-pixels * (code >> 16 & 0xFF) // 8)  # the code's second byte is the number of bits per pixel
    if len(raw) < needed:
        raise CameraError(f"a frame of {len(raw)} bytes, {width}×{height} pixels of {name} are {needed}")
    data = np.frombuffer(raw, np.uint8, needed)
    if name in ("RGB8", "BGR8"):
        image = data.reshape(height, width, 3)
        return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2BGR) if name == "RGB8" else image.copy(), np.uint8)
    if name in BAYER:
        return np.asarray(cv2.cvtColor(data.reshape(height, width), BAYER[name]), np.uint8)
    return _grey(data, name).reshape(height, width, 1)


def _grey(data: np.ndarray[tuple[int], np.dtype[np.uint8]], name: str) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    if name == "Mono8":
        return data
    if name in MONO_BITS:  # two bytes a pixel, little-endian, the value in the lower bits
        return (data.view("<u2") >> (MONO_BITS[name] - 8)).astype(np.uint8)
    # Two pixels in three bytes; an odd last pixel takes two of three, its own.
    triples = np.append(data, np.zeros(-len(data) % 3, np.uint8)).reshape(-1, 3)
    grey = np.empty((len(triples), 2), np.uint8)
    # Mono12Packed has the upper 8 bits in a byte of their own, the lower 4 of both between them; Mono12p is one stream of bits.
    grey[:, 0] = triples[:, 0] if name == "Mono12Packed" else triples[:, 0] >> 4 | triples[:, 1] << 4
    grey[:, 1] = triples[:, 2]
    return grey.reshape(-1)[: len(data) * 2 // 3]
