"""Chooses training images: every n-th part, without duplicates and without images that are dark, bright or blurred."""

from __future__ import annotations

import hashlib
from collections.abc import Generator, Iterable, Iterator

import cv2
import numpy as np
from numpy.typing import NDArray

from anoseg_engines.images import Image, as_grey
from anoseg_engines.judgement import Quality, QualityLimits, complaint, measure

FIRST = 10
"""So many images are compared with one another before the first is saved: the camera may not be in focus yet."""
LONGEST_SIDE = 512
"""Quality is measured on an image of at most this size, because a network sees no more."""
THUMBNAIL = 64
STILL = 3.0
"""If no part of a thumbnail differs by more grey values than this from that of the image saved before, it is the same scene."""


class Choice:
    """Chooses images.

    Args:
        every: Takes one of so many parts.
        limits: What counts as dark, bright or blurred, as shares of the median of the images; None takes the defaults.

    Attributes:
        seen: Parts that came.
        duplicates, unsuitable, empty, unreadable: Images that were left out, by reason. The reader of the camera counts some.
    """

    def __init__(self, every: int, limits: QualityLimits | None) -> None:
        self.seen = 0
        self.duplicates = self.unsuitable = self.empty = self.unreadable = 0
        self._every = every
        self._limits = limits or QualityLimits()
        self._digests: set[bytes] = set()
        self._last: NDArray[np.float32] | None = None
        self._qualities: list[Quality] = []

    @property
    def left_out(self) -> str:
        """What was left out, in words; empty if nothing was."""
        counts = {
            "of an unchanged scene": self.duplicates,
            "dark, bright or blurred": self.unsuitable,
            "without a part": self.empty,
            "unreadable": self.unreadable,
        }
        found = ", ".join(f"{n} {what}" for what, n in counts.items() if n)
        return f"; left out: {found}" if found else ""

    def of(self, images: Iterable[Image]) -> Generator[Image, None, None]:
        """Yield the chosen ones of the images, uint8 [H, W, C]."""
        first: list[tuple[Image, Quality]] | None = []
        for image in images:
            self.seen += 1
            if (self.seen - 1) % self._every or self._repeats(image):
                continue
            quality = measure(_scaled(image))
            self._qualities.append(quality)
            if first is None:
                if self._suits(quality):
                    yield image
                continue
            first.append((image, quality))
            if len(first) == FIRST:
                yield from self._suitable(first)
                first = None
        yield from self._suitable(first or [])

    def _repeats(self, image: Image) -> bool:
        """Return whether the image was there before, or shows the same scene as the one before."""
        digest = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
        thumbnail = _thumbnail(image)
        last = self._last
        still = last is not None and last.shape == thumbnail.shape and float(np.abs(last - thumbnail).max()) < STILL
        if digest in self._digests or still:
            self.duplicates += 1
            return True
        self._digests.add(digest)
        self._last = thumbnail
        return False

    def _suitable(self, images: list[tuple[Image, Quality]]) -> Iterator[Image]:
        return (image for image, quality in images if self._suits(quality))

    def _suits(self, quality: Quality) -> bool:
        brightness = float(np.median([q.brightness for q in self._qualities]))
        sharpness = float(np.median([q.sharpness for q in self._qualities]))
        if complaint(quality, Quality(brightness, sharpness), self._limits) is None:
            return True
        self.unsuitable += 1
        return False


def _scaled(image: Image) -> Image:
    height, width = image.shape[:2]
    scale = LONGEST_SIDE / max(height, width)
    if scale >= 1:
        return image
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    scaled = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return np.atleast_3d(scaled).astype(np.uint8, copy=False)


def _thumbnail(image: Image) -> NDArray[np.float32]:
    height, width = image.shape[:2]
    scale = min(1.0, THUMBNAIL / max(height, width))
    size = (max(1, round(width * scale)), max(1, round(height * scale)))
    return np.asarray(cv2.resize(as_grey(image).astype(np.float32), size, interpolation=cv2.INTER_AREA), np.float32)
