"""Compares each frame of a live camera with the one before: finds repeated frames and a changed image size.

Only the capture process uses this module.
"""

from __future__ import annotations

import time

import numpy as np

from anoseg_engines.images import Image


class LastFrame:
    """Keeps the frame that the next one is compared with.

    Attributes:
        slot: The slot that holds it, which must not be overwritten before there is another; None if it is in no slot.
    """

    def __init__(self, size: tuple[int, int] | None) -> None:
        self.slot: int | None = None
        self._image: Image | None = None
        self._first_size = size  # height, width
        self._moving_at = time.monotonic()  # when a frame last differed from the one before

    @property
    def frozen_s(self) -> float:
        """Return for how many seconds the camera has repeated the same frame."""
        return time.monotonic() - self._moving_at

    def forget(self) -> None:
        """Forget the frame, because the camera was away. Its next frame is compared with nothing."""
        self._image = self.slot = None
        self._moving_at = time.monotonic()

    def passed(self, image: Image) -> None:
        """Compare the next frame with this one, which passed and is in no slot."""
        self._image, self.slot = image, None

    def taken(self, image: Image, slot: int) -> None:
        """Compare the next frame with this one, which is handed over in `slot`."""
        self._image, self.slot, self._moving_at = image, slot, time.monotonic()
        self._first_size = self._first_size or (image.shape[0], image.shape[1])

    def problem(self, image: Image) -> tuple[str, str] | None:
        """Why the frame cannot be judged (reason and detail), None if it can.

        Two exposures of a sensor are never equal in every pixel; a few rows are enough to see a difference in most pairs.
        """
        if self._first_size is not None and image.shape[:2] != self._first_size:
            height, width = self._first_size
            return "image_size", f"{pixels_text(image)}, the camera gave {width}×{height} before: reload if that is meant"
        before = self._image
        if before is None or before.shape != image.shape:
            return None
        if np.array_equal(before[::16], image[::16]) and np.array_equal(before, image):
            return "repeated_frame", "the camera gave the same frame again"
        return None


def pixels_text(image: Image) -> str:
    """Return the image's size for messages."""
    return f"{image.shape[1]}×{image.shape[0]} pixels"
