"""Defines the methods that the capture process needs of a camera, a file or a folder.

Each kind of source has a module in this package. `__init__.py` says how to add one.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from anoseg_engines.images import Image

LIBRARY_SHARE = 0.8
"""A library's time-outs are this share of the daemon's. A camera that a library gives up is back sooner than one whose process
had to be killed; the daemon's time-out is for libraries that do not keep theirs."""


@dataclass(frozen=True, slots=True)
class Stamp:
    """Says what a source itself tells about the moment of a frame.

    Attributes:
        time_s: The source's time of the frame, in seconds of the source's own clock; None if it gives none.
        number: A number that differs from that of the frame before; None if the source counts no frames.
    """

    time_s: float | None
    number: int | None = None


@dataclass(frozen=True, slots=True)
class Shot:
    """Holds the result of one read.

    Attributes:
        image: uint8 [H, W, 3] BGR or [H, W, 1], the reader's until the next read; None if it could not be read.
        part_id: The part's name, where the source knows it.
        source: The file that the image comes from, where there is one.
        error: Why there is no image.
        stamp: The source's own time of the frame; None if it has none.
        missed: Hardware-triggered frames that the camera has counted since the one before, and that did not come.
    """

    image: Image | None
    part_id: str | None = None
    source: str | None = None
    error: str = ""
    stamp: Stamp | None = None
    missed: int = 0


class Source(Protocol):
    """Reads one source. Only the capture process's main thread uses it. Any call may hang: the daemon then kills the process.

    Attributes:
        description: What was opened, for the log.
        fps: Frames per second to keep to; None reads as fast as slots are free, or as the camera delivers.
        live: Whether it is a camera.
        inter_coded: Whether its frames are coded as differences from earlier ones. Then two frames of a still scene may be
            equal in every pixel. Two exposures that are coded by themselves never are.
    """

    description: str
    fps: float | None
    live: bool
    inter_coded: bool

    def open(self) -> None:
        """Open it; called once, before everything else.

        Raises:
            AnosegError: It cannot be opened.
        """
        ...

    def upcoming(self, position: int) -> str | None:
        """Return the file that `read(position)` will decode, where that is known beforehand."""
        ...

    def skip(self) -> Stamp | None:
        """Let a live camera's next frame pass. Return its stamp, None if it has none.

        Raises:
            CameraError: The camera is lost.
        """
        ...

    def skipped(self) -> Image | None:
        """Decode the frame that passed last, and return it. None: no frame has passed yet."""
        ...

    def read(self, position: int, into: Image | None) -> Shot | None:
        """Read the part at `position` (0, 1, 2 … without gaps).

        Args:
            position: Counts the parts of this source.
            into: Memory to read into, once the size is known; a source may ignore it.

        Returns:
            The frame; None at the end of the source.

        Raises:
            CameraError: The camera is lost.
        """
        ...

    def back(self, within_s: float) -> bool | None:
        """Return whether a lost camera delivers frames again over the connection that is still open; waits up to within_s.

        Return None if the connection is dead, so that the camera has to be opened again.
        """
        ...

    def close(self) -> None:
        """Release what outlives the process; does not wait for a lost camera."""
        ...


class StillSource:
    """The base of sources that are not cameras. They lose no frames and leave nothing behind when the process ends."""

    live = False
    inter_coded = False

    def upcoming(self, position: int) -> str | None:
        """No file is known beforehand."""
        return None

    def skip(self) -> Stamp | None:
        """Do nothing: the frames of this source wait until they are read."""
        return None

    def skipped(self) -> Image | None:
        """Return None, because no frame has passed."""
        return None

    def back(self, within_s: float) -> bool | None:
        """It was never lost."""
        return None

    def close(self) -> None:
        """There is nothing to release."""
