"""What moves from camera to verdict: a Part (what is told about it) and a Frame (its pixels, borrowed). Pure data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from anoseg_engines.images import Image
from anosegd.config import CameraConfig


@dataclass(frozen=True, slots=True)
class Part:
    """One part under inspection; in free run, one frame.

    camera: its name. sequence: counts this camera's parts from 1 while the daemon runs, across restarts of the camera.
    captured_ns: monotonic clock when the read returned; None: nothing was captured yet. captured_wall_ns: the same moment in
    Unix time. triggered_ns, triggered_wall_ns: of its software trigger; trigger: what the journal knows that by.
    deadline_ns: monotonic clock by which the verdict must be sent; None without a deadline.
    source: the file it came from, where it came from one. settings: what its camera was configured to when it was captured, by
    which it is inspected; None: of a camera that is no more.
    """

    camera: str
    sequence: int
    part_id: str
    captured_ns: int | None
    captured_wall_ns: int | None
    deadline_ns: int | None = None
    source: str | None = None
    triggered_ns: int | None = None
    triggered_wall_ns: int | None = None
    trigger: int | None = None
    settings: CameraConfig | None = None

    @property
    def began_ns(self) -> int:
        """Monotonic: from when its time counts."""
        began = self.triggered_ns if self.triggered_ns is not None else self.captured_ns
        assert began is not None, "a part begins with its trigger or its capture"
        return began

    @property
    def began_wall_ns(self) -> int:
        """The same in Unix time."""
        began = self.triggered_wall_ns if self.triggered_wall_ns is not None else self.captured_wall_ns
        assert began is not None, "a part begins with its trigger or its capture"
        return began


@dataclass(frozen=True, slots=True)
class Frame:
    """A part with its pixels.

    image: uint8 [H, W, 3] BGR, a view of the capture process's slot: valid until `release`, never written by a reader.
    release: gives the slot back; whoever holds the frame last (inspector, or the camera that drops it) calls it once.
    """

    part: Part
    image: Image
    release: Callable[[], None]
