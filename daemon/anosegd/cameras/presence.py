"""Decides whether a part is in front of the camera: compares the image with an image of the empty place.

Without this check, an empty belt would be judged as a part. Runs on the camera's thread.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anoseg_engines.errors import ConfigError, DataError
from anoseg_engines.images import Image, as_grey, read_image
from anoseg_engines.placement import Region
from anosegd.config import PresenceConfig

STEP = 4
"""Along both axes, only one pixel of this many is compared, because parts are larger."""


class Presence:
    """Decides for one camera whether a part is present. Use it on the camera's thread."""

    def __init__(self, config: PresenceConfig, region: Region | None, empty: Image) -> None:
        self._config, self._region = config, region
        self._size = empty.shape[:2]
        self._empty = self._sampled(empty)

    @classmethod
    def load(cls, config: PresenceConfig, region: Region | None) -> Presence:
        """Read the image of the empty place.

        Raises:
            ConfigError: It cannot be read, or the region reaches beyond it.
        """
        try:
            empty = read_image(Path(config.empty))
        except DataError as error:
            raise ConfigError(f"presence.empty: {error.what}", hint="`anosegd cameras CONFIG` saves an image") from error
        height, width = empty.shape[:2]
        if region is not None and (region.x + region.width > width or region.y + region.height > height):
            raise ConfigError(f"presence.empty: the region reaches beyond {width}×{height} pixels")
        return cls(config, region, empty)

    def __call__(self, image: Image) -> bool:
        """Return whether a camera image, uint8 [H, W, C], shows a part. An image of another size counts as a part."""
        if image.shape[:2] != self._size:
            return True
        difference = np.abs(self._sampled(image) - self._empty)
        return bool((difference >= self._config.difference).mean() >= self._config.share)

    def _sampled(self, image: Image) -> NDArray[np.int16]:
        r = self._region or Region(0, 0, image.shape[1], image.shape[0])
        view = image[r.y : r.y + r.height : STEP, r.x : r.x + r.width : STEP]
        return as_grey(np.ascontiguousarray(view)).astype(np.int16)
