"""Reads the pictures of a part from the station's evidence folder. Runs on a thread of its own, "evidence"."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import cv2
import msgspec
import numpy as np

from anoseg_engines.errors import AnosegError
from anosegd.evidence import EvidenceReader, KeptPart, PartName
from anosegd.view.board import Pictures

JPEG_QUALITY = 90
LONGEST_SIDE = 2048
"""Larger pictures are scaled down to this many pixels: no screen shows more, and memory is limited."""


THUMBNAIL_SIDE = 160


class KeptPictures:
    """Finds pictures by the identity of their verdict."""

    def __init__(self, folder: Path) -> None:
        self._reader = EvidenceReader(folder)

    def read(self, journal_id: str, seq: int, at: str) -> Pictures | None:
        """Return what is kept of a part; None if there is nothing (any more).

        Args:
            journal_id, seq: The verdict's identity.
            at: The part's own time, UTC in the form of the headers.
        """
        found = self._part(journal_id, seq, at)
        if found is None:
            return None
        name, part = found
        pictures = Pictures(name.camera, msgspec.to_builtins(part.region))
        if (jpeg := _for_the_screen(part)) is not None:
            pictures.files["image"] = ("image/jpeg", jpeg)
        if part.map_png is not None:
            pictures.files["map"] = ("image/png", part.map_png)
        return pictures

    def thumbnail(self, journal_id: str, seq: int, at: str) -> bytes | None:
        """Return a small picture of a part as JPEG; the arguments are those of `read`."""
        found = self._part(journal_id, seq, at)
        return None if found is None else _for_the_screen(found[1], THUMBNAIL_SIDE)

    def _part(self, journal_id: str, seq: int, at: str) -> tuple[PartName, KeptPart] | None:
        try:
            name = self._reader.by_seq(seq, journal_id, at=datetime.fromisoformat(at.replace("Z", "+00:00")))
            return None if name is None else (name, self._reader.read(name))
        except (AnosegError, ValueError, OverflowError):
            return None  # deleted meanwhile, or not whole, or there is no such time


def _for_the_screen(part: KeptPart, longest_side: int = LONGEST_SIDE) -> bytes | None:
    """Return the judged region of the picture as JPEG; None if there is no such picture."""
    region = part.region
    try:
        picture = cv2.imdecode(np.frombuffer(part.picture, np.uint8), cv2.IMREAD_UNCHANGED)
        if picture is None:
            return None
        inside = picture[region.y : region.y + region.height, region.x : region.x + region.width]
        factor = longest_side / max(1, *inside.shape[:2])
        if factor < 1:
            inside = cv2.resize(inside, None, fx=factor, fy=factor, interpolation=cv2.INTER_AREA)
        done, jpeg = cv2.imencode(".jpg", inside, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    except cv2.error:
        return None  # the region is not in the picture, or a browser cannot show such pixels
    return jpeg.tobytes() if done else None
