"""Chooses training images: every n-th part, without duplicates and without images that are dark, bright or blurred."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from typing import Literal

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


Left = Literal["unchanged", "dark", "bright", "blurred", "empty", "unreadable"]
"""Why an image is left out; `empty`: no part is in it."""
Fate = Literal[Left, "saved", "compared", "skipped"]
"""What becomes of an image; `compared`: one of the first, undecided yet; `skipped`: one of those between every n-th."""


@dataclass(frozen=True, slots=True)
class Look:
    """The newest picture of the camera, for people. Nobody changes the image."""

    number: int
    image: Image
    fate: Fate


class Choice:
    """Chooses images.

    Args:
        every: Takes one of so many parts.
        limits: What counts as dark, bright or blurred, as shares of the median of the images; None takes the defaults.

    Attributes:
        seen: Parts that came.
        left: Images that were left out, by reason. The reader of the camera counts some.
        newest: The newest picture; None before the first. Any thread may read it.
        limits: The limits in use.
    """

    def __init__(self, every: int, limits: QualityLimits | None) -> None:
        self.seen = 0
        self.left: Counter[Left] = Counter()
        self.newest: Look | None = None
        self.limits = limits or QualityLimits()
        self._every = every
        self._digests: set[bytes] = set()
        self._last: NDArray[np.float32] | None = None
        self._qualities: list[Quality] = []

    @property
    def left_out(self) -> str:
        """What was left out, in words; empty if nothing was."""
        left = self.left
        counts = {
            "of an unchanged scene": left["unchanged"],
            "dark, bright or blurred": left["dark"] + left["bright"] + left["blurred"],
            "without a part": left["empty"],
            "unreadable": left["unreadable"],
        }
        found = ", ".join(f"{n} {what}" for what, n in counts.items() if n)
        return f"; left out: {found}" if found else ""

    def of(self, images: Iterable[Image]) -> Generator[Image, None, None]:
        """Yield the chosen ones of the images, uint8 [H, W, C]."""
        first: list[tuple[Image, Quality]] | None = []
        for image in images:
            self.seen += 1
            if (self.seen - 1) % self._every:
                self.look(image, "skipped")
                continue
            if self._repeats(image):
                self.leave_out("unchanged", image)
                continue
            quality = measure(scaled(image))
            self._qualities.append(quality)
            if first is None:
                yield from self._suitable([(image, quality)])
                continue
            first.append((image, quality))
            if len(first) == FIRST:
                yield from self._suitable(first)
                first = None
            else:
                self.look(image, "compared")
        yield from self._suitable(first or [])

    def leave_out(self, reason: Left, image: Image | None = None) -> None:
        """Count an image that is left out, and show it."""
        self.left[reason] += 1
        if image is not None:
            self.look(image, reason)

    def look(self, image: Image, fate: Fate) -> None:
        """Show the newest picture."""
        self.newest = Look(1 if self.newest is None else self.newest.number + 1, image, fate)

    @property
    def usual(self) -> Quality | None:
        """The median of the images so far; None before the first. Any thread."""
        measured = list(self._qualities)
        if not measured:
            return None
        return Quality(float(np.median([q.brightness for q in measured])), float(np.median([q.sharpness for q in measured])))

    def _repeats(self, image: Image) -> bool:
        """Return whether the image was there before, or shows the same scene as the one before."""
        digest = hashlib.blake2b(image.tobytes(), digest_size=16).digest()
        thumbnail = _thumbnail(image)
        last = self._last
        still = last is not None and last.shape == thumbnail.shape and float(np.abs(last - thumbnail).max()) < STILL
        if digest in self._digests or still:
            return True
        self._digests.add(digest)
        self._last = thumbnail
        return False

    def _suitable(self, images: list[tuple[Image, Quality]]) -> Iterator[Image]:
        for image, quality in images:
            if (reason := self._unsuitable(quality)) is None:
                self.look(image, "saved")
                yield image
            else:
                self.leave_out(reason, image)

    def _unsuitable(self, quality: Quality) -> Left | None:
        assert self.usual is not None
        said = complaint(quality, self.usual, self.limits)
        reasons: dict[str, Left] = {"too dark": "dark", "too bright": "bright", "blurred": "blurred"}
        return None if said is None else reasons[said.partition(":")[0]]


def scaled(image: Image) -> Image:
    """Return an image at the size on which quality is measured, uint8 [h, w, C]."""
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
