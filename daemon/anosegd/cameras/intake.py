"""Makes a part of each frame, opens the part at the publisher, and puts the frame into the inspector's queue.

Runs on the camera's thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cached_property, partial

from anosegd import logs
from anosegd.cameras.capture_handle import CaptureHandle
from anosegd.cameras.parts import PartMaker
from anosegd.cameras.triggered_parts import TriggeredParts
from anosegd.capture.protocol import Captured, Origin, Reading, Uncaptured
from anosegd.inspection.pauses import Pause
from anosegd.inspection.queue import CameraQueue
from anosegd.outcome import Unknown
from anosegd.part import Frame, Part
from anosegd.picture import HoldLimit, Picture
from anosegd.publish import Publisher
from anosegd.recipe import Recipe
from anosegd.wire import Reason


class Intake:
    """Takes in the frames of one camera, across restarts of its capture process. Runs on the camera's thread.

    Attributes:
        parts: Makes the parts.
        triggered: Software triggers.
        lost: Frames that the capture process discarded (policy latest).
        empty: Frames without a part.
        repeated: Frames that equal the one of the part before and are no new part.
        position: The position of the next part in a file or folder.
        last_file: The file of the part before that, in a folder.
        size: Height and width of a live camera's first frame.
        newest_size: Height and width of the newest frame.
        wrong_size: Whether the camera's last frame had another size.
    """

    def __init__(
        self,
        name: str,
        recipe: Recipe,
        queue: CameraQueue,
        publisher: Publisher,
        pause: Callable[[], Pause | None],
    ) -> None:
        self.parts = PartMaker(name, recipe)
        self.triggered = TriggeredParts(self.parts, publisher, pause)
        self.lost = self.empty = self.repeated = 0
        self.position = 0
        self.last_file: str | None = None
        self.size: tuple[int, int] | None = None
        self.newest_size: tuple[int, int] | None = None
        self.wrong_size = False
        self._name, self._queue, self._publisher, self._pause = name, queue, publisher, pause
        self._reading: Reading | None = None  # the file that is being decoded
        self._suspect: int | None = None  # position of the file at which the capture process ended before
        self._not_captured_log = logs.Throttle("part.not_captured")

    @cached_property
    def _pictures(self) -> HoldLimit:
        """The limit of held frames, which depends on the engine; made with the first frame."""
        return HoldLimit(self._publisher.most_pictures)

    def reading(self, message: Reading) -> None:
        """Note which file is being decoded."""
        self._reading = message

    def captured(self, process: CaptureHandle, message: Captured) -> None:
        """Make the frame's part, open it and hand it to the inspector.

        Raises:
            CameraError: The message is invalid.
        """
        image, origin = process.image(message), message.origin
        if self.triggered.discards(origin.trigger):
            process.release(message.slot)
            return
        self.count_lost(message.lost)
        self.newest_size = message.shape[:2]
        self.size = self.size or self.newest_size
        self.wrong_size = False
        presence = self.parts.at(origin.captured_ns).presence
        if presence is not None and not presence(image):
            self.position, self.last_file = origin.position + 1, origin.source
            self.empty += 1
            process.release(message.slot)
            return
        part = self._part(origin)
        if (pause := self._pause()) is not None:
            process.release(message.slot)
            self._close_part(part, origin, pause.unknown)
            return
        release: Callable[[], None] = partial(process.release, message.slot)
        picture: Picture | None = None
        if self._publisher.wants_picture(part):
            picture = Picture(image, release, self._pictures)
            release = picture.inspected
        if origin.trigger is None:
            self._publisher.open_part(part, picture)
        elif picture is not None:
            self._publisher.add_picture(part, picture)
        displaced = self._queue.put(Frame(part, image, release))
        if displaced is None:
            return
        displaced.release()
        if displaced.part is part:
            self._publisher.report_outcome(part, Unknown("overrun", "parts come faster than they are inspected"))
        else:
            self._publisher.drop_part(displaced.part)

    def uncaptured(self, message: Uncaptured) -> None:
        """Report a part without a usable image as UNKNOWN.

        Raises:
            CameraError: The message is invalid.
        """
        part = self._part(message.origin)
        unknown = Unknown(_reason(message), message.detail)
        if unknown.reason not in ("unreadable", "overrun"):  # which say nothing about the frame's size
            self.wrong_size = unknown.reason == "image_size"
        if (pause := self._pause()) is not None:
            self._close_part(part, message.origin, pause.unknown)
            return
        if unknown.reason != "overrun":  # which is counted
            self._not_captured_log.warning(camera=self._name, part=part.part_id, reason=unknown.reason, error=message.detail)
        self._close_part(part, message.origin, unknown)

    def repeats(self) -> None:
        """Count a frame that is no new part. It equals the one of the part before, so it has the right size."""
        self.repeated += 1
        self.wrong_size = False

    def count_lost(self, lost: int) -> None:
        """Count frames that the capture process discarded."""
        self.lost += lost
        self.parts.frames += lost

    def process_died(self, what: str) -> None:
        """Report a file as an unreadable part if the process has died twice at it. The folder goes on with the next file."""
        reading = self._reading
        if reading is None:
            return
        if reading.position != self._suspect:
            self._suspect = reading.position
            return
        wall_ns = time.time_ns()
        origin = Origin(
            position=reading.position,
            captured_ns=time.monotonic_ns(),
            captured_wall_ns=wall_ns,
            read_wall_ns=wall_ns,
            source=reading.source,
        )
        detail = f"{reading.source}: reading it failed twice: {what}"
        self._publisher.open_as_unknown(self._part(origin), Unknown("unreadable", detail))

    def _close_part(self, part: Part, origin: Origin, unknown: Unknown) -> None:
        """Report a part that will not be inspected. A trigger has opened its part before."""
        if origin.trigger is None:
            self._publisher.open_as_unknown(part, unknown)
        else:
            self._publisher.report_outcome(part, unknown)

    def _part(self, origin: Origin) -> Part:
        self.position, self.last_file = origin.position + 1, origin.source
        self._reading = None
        return self.parts.of_frame(origin) if origin.trigger is None else self.triggered.part_of(origin)


def _reason(message: Uncaptured) -> Reason:
    known: dict[str, Reason] = {r: r for r in ("overrun", "repeated_frame", "image_size", "camera_lost")}
    return known.get(message.reason, "unreadable")
