"""Says how a collection goes, for its page. The command's thread writes the fields; the page's threads call the methods."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2

from anoseg_engines.files import shown_name
from anoseg_engines.judgement import Quality, measure
from anosegd.commands.collect_choice import Choice, Look, scaled

LONGEST_SIDE = 1280
"""Larger pictures are scaled down to this many pixels for the page."""
JPEG_QUALITY = 85
LOOKS_KEPT = 4
"""Pictures that pages may still ask for."""


@dataclass
class CollectStatus:
    """The progress of a collection.

    Attributes:
        camera, folder, count, every: What is collected, where to, how many, and one of how many parts.
        choice: Chooses the images.
        saved: Images that are saved.
        news: What the camera reported last, in words.
        ended: How it ended: `done`, `stopped` or `failed`; None while it goes on.
        next: The command to run next, once it has ended.
    """

    camera: str
    folder: Path
    count: int
    every: int
    choice: Choice
    saved: int = 0
    news: str = ""
    ended: str | None = None
    next: str = ""
    _looks: dict[int, tuple[Look, Quality]] = field(default_factory=dict)

    def numbers(self) -> dict[str, Any]:
        """Return everything but the picture. `look` is about the newest picture; its `number` is for `picture`."""
        usual, limits = self.choice.usual, self.choice.limits
        return {
            "camera": self.camera,
            "folder": shown_name(self.folder),
            "count": self.count,
            "every": self.every,
            "seen": self.choice.seen,
            "saved": self.saved,
            "left": dict(self.choice.left),
            "news": self.news,
            "ended": self.ended,
            "next": self.next,
            "look": self._look(),
            "usual": None if usual is None else {"brightness": usual.brightness, "sharpness": usual.sharpness},
            "limits": {"darkest": limits.darkest, "brightest": limits.brightest, "blurred": limits.blurred},
        }

    def picture(self, number: int) -> bytes | None:
        """Return a picture as JPEG; None if it is not kept any more."""
        found = self._looks.get(number)
        if found is None:
            return None
        image = found[0].image
        factor = min(1.0, LONGEST_SIDE / max(image.shape[:2]))
        small = image if factor == 1 else cv2.resize(image, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        return bytes(cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes())

    def _look(self) -> dict[str, Any] | None:
        look = self.choice.newest
        if look is None:
            return None
        known = self._looks.get(look.number)
        quality = measure(scaled(look.image)) if known is None else known[1]
        newest = [*self._looks.values(), (look, quality)][-LOOKS_KEPT:] if known is None else None
        if newest is not None:
            self._looks = {one.number: (one, found) for one, found in newest}
        return {
            "number": look.number,
            "fate": look.fate,
            "brightness": quality.brightness,
            "sharpness": quality.sharpness,
        }
