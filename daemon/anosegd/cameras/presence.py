"""Whether a part lies before the camera: the picture against one of the empty place. An empty belt is no part."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from anoseg_engines.errors import ConfigError, DataError
from anoseg_engines.images import Image, read_image
from anoseg_engines.placement import Region
from anosegd.config import PresenceConfig

STEP = 4
"""Of every so many pixels along both axes one is looked at: a part is not that small."""


class Presence:
    """Made once for a camera, used on its thread."""

    def __init__(self, config: PresenceConfig, region: Region | None) -> None:
        """Read the picture of the empty place.

        Raises:
            ConfigError: it cannot be read, or the region reaches beyond it.
        """
        self._config, self._region = config, region
        try:
            empty = read_image(Path(config.empty))
        except DataError as error:
            raise ConfigError(f"presence.empty: {error.what}", hint="`anosegd cameras CONFIG` saves a picture") from error
        self._shape = empty.shape
        if region is not None and (region.x + region.width > empty.shape[1] or region.y + region.height > empty.shape[0]):
            raise ConfigError(f"presence.empty: the region reaches beyond {empty.shape[1]}×{empty.shape[0]} pixels")
        self._empty = self._looked_at(empty)

    def __call__(self, image: Image) -> bool:
        """Whether there is a part in a camera image, uint8 [H, W, 3]. An image of another size counts as one: it is judged."""
        if image.shape != self._shape:
            return True
        difference = np.abs(self._looked_at(image) - self._empty)
        return bool((difference >= self._config.difference).mean() >= self._config.share)

    def _looked_at(self, image: Image) -> np.ndarray[tuple[int, ...], np.dtype[np.int16]]:
        r = self._region or Region(0, 0, image.shape[1], image.shape[0])
        view = image[r.y : r.y + r.height : STEP, r.x : r.x + r.width : STEP]
        return cv2.cvtColor(np.ascontiguousarray(view), cv2.COLOR_BGR2GRAY).astype(np.int16)
