"""What moves from camera to verdict: a Part (what is told about it) and a Frame (its pixels, borrowed). Pure data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from anoseg_engines.images import Image


@dataclass(frozen=True, slots=True)
class Part:
    """One part under inspection; in free run, one frame.

    camera: its name. sequence: counts this camera's parts from 1 while the daemon runs, across restarts of the camera.
    captured_ns: monotonic clock when the read returned. captured_wall_ns: the same moment in Unix time.
    deadline_ns: monotonic clock by which the verdict must be sent; None without a deadline.
    source: the file it came from, where it came from one.
    """

    camera: str
    sequence: int
    part_id: str
    captured_ns: int
    captured_wall_ns: int
    deadline_ns: int | None = None
    source: str | None = None


@dataclass(frozen=True, slots=True)
class Frame:
    """A part with its pixels.

    image: uint8 [H, W, 3] BGR, a view of the capture process's slot: valid until `release`, never written by a reader.
    release: gives the slot back; whoever holds the frame last (inspector, or the camera that drops it) calls it once.
    """

    part: Part
    image: Image
    release: Callable[[], None]
