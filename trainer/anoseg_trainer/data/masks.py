"""Reads the masks of defective test images. One that is not plainly binary is refused: a guess would falsify all figures."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from anoseg_engines.errors import DataError
from anoseg_engines.images import decode_image, decode_stored, read_bytes
from anoseg_engines.words import counted

NEARLY = 8
"""Values this near to black or white count as black or white: lossy formats change them a little."""
HINT = "a mask is black where the part is good, and has one other colour where it is defective"


def read_mask(path: Path) -> NDArray[np.bool_]:
    """Read a mask as bool [h, w], True where it is not black.

    Accepted are masks with one colour beside black, whatever that colour is (255, 1, a palette's red), and grey masks whose
    values are all nearly black or nearly white.

    Raises:
        DataError: The file cannot be read, or is not plainly binary.
    """
    data = read_bytes(path)
    decode_image(data, path)  # refuses a mask that is not whole
    stored = decode_stored(data, cv2.IMREAD_UNCHANGED)
    if stored is None:
        raise DataError(f"{path}: not a readable image ({len(data)} bytes)", hint="delete it or copy it again")
    values = stored.reshape(*stored.shape[:2], -1)
    if values.shape[2] in (2, 4):
        if (values[:, :, -1] != values[0, 0, -1]).any():
            raise DataError(f"{path}: the mask is partly transparent", hint=f"{HINT}; save it without transparency")
        values = values[:, :, :-1]
    marked = np.asarray((values != 0).any(axis=2))
    colours = values[marked]
    if not len(colours) or (colours == colours[0]).all():
        return marked
    white = 0xFFFF if stored.dtype == np.uint16 else 0xFF
    grey = values[:, :, 0]
    light = grey >= white - NEARLY
    if light.any() and (values == grey[:, :, None]).all() and ((grey <= NEARLY) | light).all():
        return np.asarray(light)
    found = counted(len(np.unique(colours, axis=0)), "colour")
    raise DataError(
        f"{path}: the mask has {found} beside black, so it is not plainly good or defective",
        hint=HINT,
    )
