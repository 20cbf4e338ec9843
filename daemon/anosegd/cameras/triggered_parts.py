"""Makes a part of each software trigger at once, and keeps the part until the camera gives a frame for it.

Runs on the camera's thread. No function here waits.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from dataclasses import replace

from anoseg_engines.errors import CameraError
from anosegd.cameras.capture_handle import CaptureHandle
from anosegd.cameras.parts import PartMaker, Trigger
from anosegd.capture.config import SoftwareTrigger
from anosegd.capture.protocol import Origin, TakeFrame
from anosegd.inspection.pauses import Pause
from anosegd.outcome import Unknown
from anosegd.part import Part
from anosegd.publish import Publisher


class TriggeredParts:
    """Keeps the parts of software triggers. Runs on the camera's thread, but any thread may call `put`."""

    def __init__(self, parts: PartMaker, publisher: Publisher, pause: Callable[[], Pause | None]) -> None:
        self._parts, self._publisher, self._pause = parts, publisher, pause
        self._triggers: queue.SimpleQueue[Trigger] = queue.SimpleQueue()
        self._awaited: dict[int, Part] = {}  # parts that wait for their frame, by sequence
        self._given_up: set[int] = set()  # parts answered when the camera fell silent: a later frame is discarded

    def put(self, trigger: Trigger) -> None:
        """Take a trigger. A verdict always follows. Any thread."""
        self._triggers.put(trigger)

    def new_process(self) -> None:
        """Note that a new capture process was started, which knows no triggers."""
        self._given_up.clear()

    def ask_for_frames(self, process: CaptureHandle, config: SoftwareTrigger, room: int) -> None:
        """Ask for a frame for each new trigger.

        Args:
            process: The capture process.
            config: The camera's trigger in the configuration.
            room: How many parts may wait for frames; further ones are UNKNOWN: overrun.
        """
        while not self._triggers.empty():
            trigger = self._triggers.get_nowait()
            part = self._parts.of_trigger(trigger)
            if (pause := self._pause()) is not None:
                self._publisher.open_as_unknown(part, pause.unknown)
                continue
            if len(self._awaited) >= room:
                overrun = Unknown("overrun", "triggers come faster than parts are inspected")
                self._publisher.open_as_unknown(part, overrun)
                continue
            self._publisher.open_part(part)
            self._awaited[part.sequence] = part
            process.send(TakeFrame(part.sequence, trigger.at_ns + round(config.delay_ms * 1e6)))

    def refuse_new(self, why: str) -> None:
        """Answer new triggers as UNKNOWN: camera_lost, or as paused."""
        while not self._triggers.empty():
            part = self._parts.of_trigger(self._triggers.get_nowait())
            pause = self._pause()
            self._publisher.open_as_unknown(part, Unknown("camera_lost", why) if pause is None else pause.unknown)

    def give_up(self) -> None:
        """Answer parts that wait for a frame as UNKNOWN: camera_lost."""
        for part in self._awaited.values():
            self._publisher.report_outcome(part, Unknown("camera_lost", "the camera gave no frame for it"))
        self._given_up.update(self._awaited)
        self._awaited.clear()

    def discards(self, number: int | None) -> bool:
        """Return whether a frame comes too late for its trigger. It is True once for each trigger that was given up."""
        if number not in self._given_up:
            return False
        self._given_up.remove(number)
        return True

    def part_of(self, origin: Origin) -> Part:
        """Return the part that waited for this answer, with the time of its capture.

        Raises:
            CameraError: No part waits for it.
        """
        part = self._awaited.pop(origin.trigger, None) if origin.trigger is not None else None
        if part is None:
            raise CameraError(f"the capture process answers trigger {origin.trigger}, which it was not given")
        return replace(
            part,
            captured_ns=origin.captured_ns,
            captured_wall_ns=origin.captured_wall_ns,
            read_wall_ns=origin.read_wall_ns,
            source=origin.source,
        )
