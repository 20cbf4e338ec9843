"""Defines a part on its way from camera to verdict: `Part` is the data about it, `Frame` adds its pixels. Pure data.

The way: `capture/child` reads an image, `cameras/intake` makes the Part and the Frame, and `inspection/queue` keeps the frame
until `inspection/inspector` makes an Inspected (see `outcome`). `publish/publisher` makes the Verdict, commits it and sends it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from anoseg_engines.images import Image
from anosegd.config import CameraConfig
from anosegd.recipe import Recipe


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One part under inspection; in free run, one frame. Times in `_ns` are monotonic, in `_wall_ns` Unix time.

    Attributes:
        camera: The camera's name.
        sequence: Counts this camera's parts from 1 while the daemon runs, across restarts of the camera.
        part_id: A label for people; two parts may have the same.
        captured_ns, captured_wall_ns: When its frame was captured, by the source's own stamp where that can be used, else when
            the read returned; None before there is a frame.
        read_wall_ns: When the read of its frame returned.
        triggered_ns, triggered_wall_ns: The time of its software trigger, if it has one.
        trigger: The trigger's number in the journal.
        deadline_ns: The verdict must be sent by then; None without a deadline.
        source: The file that the frame comes from.
        recipe: The recipe that was in force when it began; None for a part of an earlier run.
        recipe_asked: The recipe that its trigger asked for; None if it asked for none.
        settings: The camera's configuration when it was captured; None for a camera that no longer exists.
    """

    camera: str
    sequence: int
    part_id: str
    captured_ns: int | None = None
    captured_wall_ns: int | None = None
    read_wall_ns: int | None = None
    triggered_ns: int | None = None
    triggered_wall_ns: int | None = None
    trigger: int | None = None
    deadline_ns: int | None = None
    source: str | None = None
    recipe: Recipe | None = None
    recipe_asked: str | None = None
    settings: CameraConfig | None = None

    @property
    def began_ns(self) -> int:
        """Trigger or, without one, capture; monotonic. The deadline counts from here."""
        began = self.triggered_ns if self.triggered_ns is not None else self.captured_ns
        assert began is not None, "a part begins with its trigger or its capture"
        return began

    @property
    def began_wall_ns(self) -> int:
        """The same moment in Unix time."""
        began = self.triggered_wall_ns if self.triggered_wall_ns is not None else self.captured_wall_ns
        assert began is not None, "a part begins with its trigger or its capture"
        return began


@dataclass(frozen=True, slots=True)
class Frame:
    """Holds a part with its pixels.

    Attributes:
        part: The data about the part.
        image: uint8 [H, W, 3] BGR or [H, W, 1], a view of the capture process's slot. Valid until `release`; read-only.
        release: Gives the slot back, or leaves it to those who need the picture. The last holder of the frame calls it once:
            the inspector, or the camera that drops the frame.
    """

    part: Part
    image: Image
    release: Callable[[], None]
