"""Compares the frames of a live camera: finds repeated frames, a picture that stands still, and a changed image size.

Only the capture process uses this module.
"""

from __future__ import annotations

import time

import numpy as np

from anoseg_engines.images import Image

STILL_S = 10.0
"""A picture that has not changed for this long stands still."""


class LastFrame:
    """Keeps the frames that the next one is compared with.

    Attributes:
        slot: The slot that holds the frame of the part before, which must not be overwritten before there is another.
    """

    def __init__(self, size: tuple[int, int] | None) -> None:
        self.slot: int | None = None
        self._of_part: Image | None = None  # the frame of the part before
        self._passed: Image | None = None  # a later frame that was no part
        self._first_size = size  # height, width
        self._moving_at = self._same_at = time.monotonic()  # when a frame last differed from the one before, and was equal

    @property
    def unchanged_s(self) -> float:
        """Return for how many seconds the picture has not changed, by its last frame."""
        return max(0.0, self._same_at - self._moving_at)

    @property
    def still(self) -> bool:
        """Whether the picture stands still."""
        return self.unchanged_s > STILL_S

    def forget(self) -> None:
        """Forget the frames, because the camera was away. Its next frame is compared with nothing."""
        self._of_part = self._passed = self.slot = None
        self._moving_at = self._same_at = time.monotonic()

    def passed(self, image: Image) -> None:
        """Keep a frame that is no part and is in no slot."""
        if self.repeats_passed(image):
            self.repeated()
        else:
            self._moving_at = time.monotonic()
        self._passed = image

    def repeated(self) -> None:
        """Note that a frame was equal to the one before."""
        self._same_at = time.monotonic()

    def taken(self, image: Image, slot: int) -> None:
        """Keep the frame of a part, which is handed over in `slot`."""
        self._of_part, self._passed, self.slot, self._moving_at = image, None, slot, time.monotonic()
        self._first_size = self._first_size or (image.shape[0], image.shape[1])

    def repeats_part(self, image: Image) -> bool:
        """Return whether the frame equals that of the part before in every pixel."""
        return self._of_part is not None and _equal(self._of_part, image)

    def repeats_passed(self, image: Image) -> bool:
        """Return whether the frame equals the one that passed last, or the part's before if none has passed since."""
        return self.repeats_part(image) if self._passed is None else _equal(self._passed, image)

    def size_problem(self, image: Image) -> str | None:
        """Return why the frame's size is wrong, None if it is right."""
        if self._first_size is None or image.shape[:2] == self._first_size:
            return None
        height, width = self._first_size
        return f"{pixels_text(image)}, the camera gave {width}×{height} before: reload if that is meant"


def _equal(before: Image, image: Image) -> bool:
    """Return whether two images are equal. A few rows are enough to see a difference in most pairs."""
    return before.shape == image.shape and np.array_equal(before[::16], image[::16]) and np.array_equal(before, image)


def pixels_text(image: Image) -> str:
    """Return the image's size for messages."""
    return f"{image.shape[1]}×{image.shape[0]} pixels"
