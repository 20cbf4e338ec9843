"""Gives a camera's parts their sequence number, part id and deadline. Runs on the camera's thread."""

from __future__ import annotations

from dataclasses import dataclass

from anosegd.capture.protocol import Origin
from anosegd.config import CameraConfig
from anosegd.part import Part


@dataclass(frozen=True, slots=True)
class Trigger:
    """Describes a software trigger.

    Attributes:
        part_id: The name of the part to make.
        at_ns, at_wall_ns: The time of the trigger; monotonic clock and Unix time.
        number: Its number in the journal, None if it could not be recorded.
    """

    part_id: str
    at_ns: int
    at_wall_ns: int
    number: int | None


class PartMaker:
    """Makes a camera's parts in order. `frames` counts the parts and the lost frames from 1."""

    def __init__(self, name: str, config: CameraConfig) -> None:
        self.frames = 0
        self._name, self._config = name, config

    def of_trigger(self, trigger: Trigger) -> Part:
        """Make the part of a software trigger. It has no frame yet."""
        self.frames += 1
        return Part(
            camera=self._name,
            sequence=self.frames,
            part_id=trigger.part_id,
            deadline_ns=self._deadline_ns(trigger.at_ns),
            triggered_ns=trigger.at_ns,
            triggered_wall_ns=trigger.at_wall_ns,
            trigger=trigger.number,
            settings=self._config,
        )

    def of_frame(self, origin: Origin) -> Part:
        """Make the part of a frame that has no software trigger."""
        self.frames += 1
        return Part(
            camera=self._name,
            sequence=self.frames,
            part_id=origin.part_id or f"{self._name}-{self.frames}",
            captured_ns=origin.captured_ns,
            captured_wall_ns=origin.captured_wall_ns,
            read_wall_ns=origin.read_wall_ns,
            deadline_ns=self._deadline_ns(origin.captured_ns),
            source=origin.source,
            settings=self._config,
        )

    def _deadline_ns(self, began_ns: int) -> int | None:
        deadline_ms = self._config.deadline_ms
        return None if deadline_ms is None else began_ns + round(deadline_ms * 1e6)
