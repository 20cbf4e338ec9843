"""Reads the pictures of a part from the station's evidence folder. Runs on a thread of its own, "evidence"."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import cv2
import msgspec
import numpy as np

from anoseg_engines.errors import AnosegError
from anosegd.evidence import EvidenceReader
from anosegd.view.board import Pictures

JPEG_QUALITY = 90


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
        try:
            name = self._reader.by_seq(seq, journal_id, at=datetime.fromisoformat(at.replace("Z", "+00:00")))
            if name is None:
                return None
            part = self._reader.read(name)
        except (AnosegError, ValueError):
            return None  # deleted meanwhile, or not whole
        region = part.region
        pictures = Pictures(name.camera, msgspec.to_builtins(region))
        picture = cv2.imdecode(np.frombuffer(part.picture, np.uint8), cv2.IMREAD_UNCHANGED)
        if picture is not None:
            inside = picture[region.y : region.y + region.height, region.x : region.x + region.width]
            done, jpeg = cv2.imencode(".jpg", inside, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
            if done:
                pictures.files["image"] = ("image/jpeg", jpeg.tobytes())
        if part.map_png is not None:
            pictures.files["map"] = ("image/png", part.map_png)
        return pictures
