"""Counts the empty frames in the index of an AVI file. Runs in the capture process.

Where a recorder had no new frame in time, it writes an empty one, which repeats the frame before. The file counts it, but
decoders give no frame for it.
"""

from __future__ import annotations

import struct
from pathlib import Path

_ENTRY = struct.Struct("<2s2sIII")
"""Stream, kind, flags, offset and size of one chunk."""
_VIDEO = (b"dc", b"db")


def empty_frames(path: Path) -> int:
    """Return how many video frames are empty; 0 if there is no index, as in a file that was cut."""
    size = path.stat().st_size
    with path.open("rb") as file:
        at = 12
        while at + 8 <= size:
            file.seek(at)
            kind, length = struct.unpack("<4sI", file.read(8))
            if kind == b"idx1":
                index = file.read(length)
                whole = len(index) // _ENTRY.size * _ENTRY.size
                return sum(kind in _VIDEO and not length for _, kind, _, _, length in _ENTRY.iter_unpack(index[:whole]))
            at += 8 + length + length % 2
    return 0
