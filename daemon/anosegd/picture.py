"""Shares a frame's slot between the inspection and those who keep or show its picture. Any thread.

Nobody copies the pixels. The inspection is never short of slots: a limited number of frames is held beyond their inspection,
and a further one is given up, so that its slot is free for the camera.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from anoseg_engines.images import Image

FASTEST = [cv2.IMWRITE_PNG_COMPRESSION, 1]
"""Maps are smooth, and this runs on the machine that inspects. PNG's row filters would take five times as long for no gain;
OpenCV before 4.12 cannot switch them off."""
LOSSLESS = [cv2.IMWRITE_PNG_COMPRESSION, 1]
"""The row filter "up" is as small as the best of all filters for each row, and takes 10.6 instead of 17.5 ms for 640 x 640
pixels."""
if hasattr(cv2, "IMWRITE_PNG_FILTER"):
    FASTEST += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_NONE]
    LOSSLESS += [cv2.IMWRITE_PNG_FILTER, cv2.IMWRITE_PNG_FILTER_UP]


class HoldLimit:
    """Limits how many frames of one camera are held after their inspection."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._held = 0
        self._lock = threading.Lock()

    def take(self) -> bool:
        """Hold one frame more. Return False if too many are held."""
        with self._lock:
            if self._held >= self._most:
                return False
            self._held += 1
            return True

    def give_back(self) -> None:
        """Hold one frame less."""
        with self._lock:
            self._held -= 1


class Picture:
    """A frame that several holders share: the inspection, and each one who calls `share`.

    The one who makes it is the first holder and calls `done`; the inspection calls `inspected`.

    Args:
        image: uint8 [H, W, 3] BGR or [H, W, 1], a view of the slot.
        release: Gives the slot back.
        limit: Shared by the frames of one camera.

    Attributes:
        shape: Height, width and channels of the image.
    """

    def __init__(self, image: Image, release: Callable[[], None], limit: HoldLimit) -> None:
        self.shape = image.shape
        self._image: Image | None = image
        self._release = release
        self._limit = limit
        self._lock = threading.Lock()
        self._holders = 1
        self._uses = 0
        self._in_inspection = True
        self._counted = False  # whether it takes up a place of the limit

    @property
    def there(self) -> bool:
        """Whether the pixels are still there: they are gone if too many other pictures were held."""
        return self._image is not None

    def share(self) -> None:
        """Add a holder."""
        with self._lock:
            self._holders += 1

    def done(self) -> None:
        """Report that a holder no longer needs the picture."""
        with self._lock:
            self._holders -= 1
            free = self._free()
        self._give_back(free)

    def inspected(self) -> None:
        """Report that the inspection no longer needs the frame. Gives the picture up if too many others are held."""
        with self._lock:
            self._in_inspection = False
            if self._holders and not self._counted:
                self._counted = self._limit.take()
            free = self._free()
        self._give_back(free)

    @contextmanager
    def use(self) -> Iterator[Image | None]:
        """Keep the pixels unchanged for the length of a `with` block; None if they are gone. Only a holder may call it."""
        with self._lock:
            image = self._image
            self._uses += 1
        try:
            yield image
        finally:
            del image
            with self._lock:
                self._uses -= 1
                free = self._free()
            self._give_back(free)

    def _free(self) -> bool:
        """Forget the image if nobody may use it any more. Return whether the slot has to be given back. Under the lock."""
        wanted = self._holders > 0 and self._counted
        if self._image is None or self._in_inspection or self._uses or wanted:
            return False
        self._image = None
        return True

    def _give_back(self, free: bool) -> None:
        if free:
            self._release()
            if self._counted:
                self._limit.give_back()


def encode_map(anomaly_map: NDArray[np.float32]) -> bytes:
    """8-bit grey PNG of a map 0…1: value × 255, rounded."""
    grey = cv2.convertScaleAbs(np.maximum(anomaly_map, 0.0), alpha=255.0)  # rounds, and saturates at 255
    return _encoded(".png", grey, FASTEST)


def encode_png(image: Image) -> bytes:
    """PNG of a camera image, lossless."""
    return _encoded(".png", image, LOSSLESS)


def encode_jpeg(image: Image, quality: int) -> bytes:
    """JPEG of a camera image; quality 1 to 100."""
    return _encoded(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])


def _encoded(kind: str, image: NDArray[Any], options: list[int]) -> bytes:
    ok, data = cv2.imencode(kind, image, options)
    if not ok:
        raise RuntimeError(f"an image of shape {image.shape} cannot be encoded as {kind}")
    return data.tobytes()
