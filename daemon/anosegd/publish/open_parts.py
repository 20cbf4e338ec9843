"""Keeps each camera's parts that have no verdict yet, in the order of capture.

Cameras and inspector report outcomes, and the publisher takes the parts that are closed. Any thread may use this module.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

from anosegd.outcome import Outcome, Unknown
from anosegd.part import Part
from anosegd.picture import Picture
from anosegd.publish.deadline import overdue


@dataclass(slots=True, eq=False)
class OpenPart:
    """A part that has no verdict yet; `outcome` is the first that was reported, `picture` its picture if that is wanted."""

    part: Part
    outcome: Outcome | None = None
    picture: Picture | None = None


class OpenParts:
    """Keeps the open parts of all cameras. Any thread may call any method."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by_camera: dict[str, deque[OpenPart]] = {}

    def __bool__(self) -> bool:
        """Return whether any part is open."""
        with self._lock:
            return any(self._by_camera.values())

    def open(self, part: Part, outcome: Outcome | None = None, *, picture: Picture | None = None) -> None:
        """Add a part behind the others of its camera, with its outcome if that is known already."""
        with self._lock:
            self._by_camera.setdefault(part.camera, deque()).append(OpenPart(part, outcome, picture))

    def close(self, part: Part, outcome: Outcome, *, keep_picture: bool = True) -> bool:
        """Report an outcome. Return False if the part already has an outcome or is no longer open. The first outcome counts."""
        picture: Picture | None = None
        with self._lock:
            entry = self._find(part)
            if entry is None or entry.outcome is not None:
                return False
            entry.part, entry.outcome = part, outcome  # a triggered part was opened before its frame was captured
            if not keep_picture:
                picture, entry.picture = entry.picture, None
        if picture is not None:
            picture.done()
        return True

    def add_picture(self, part: Part, picture: Picture) -> bool:
        """Add the picture of a part that was opened before it was captured. Return False if the part is no longer open."""
        with self._lock:
            entry = self._find(part)
            if entry is not None:
                entry.picture = picture
            return entry is not None

    def drop(self, part: Part) -> bool:
        """Remove a part, which then gets no verdict. Return False if the part is no longer open."""
        with self._lock:
            entry = self._find(part)
            if entry is not None:
                self._by_camera[part.camera].remove(entry)
        if entry is not None and entry.picture is not None:
            entry.picture.done()
        return entry is not None

    def any_of(self, slot: str) -> bool:
        """Return whether a part waits for the engine of this slot."""
        with self._lock:
            entries = (entry for parts in self._by_camera.values() for entry in parts if entry.outcome is None)
            return any(entry.part.recipe is not None and entry.part.recipe.slot == slot for entry in entries)

    def close_all(self, outcome: Unknown) -> None:
        """Report this outcome for every part that has none."""
        with self._lock:
            for parts in self._by_camera.values():
                for entry in parts:
                    entry.outcome = entry.outcome or outcome

    def take_closed(self) -> list[OpenPart]:
        """Remove and return parts that have an outcome or are past their deadline, unless an earlier part is still open."""
        taken = []
        with self._lock:
            for parts in self._by_camera.values():
                while parts and (parts[0].outcome is not None or overdue(parts[0].part)):
                    taken.append(parts.popleft())
        return taken

    def next_deadline_ns(self) -> int | None:
        """Return the nearest deadline; a camera's deadlines are in the order of its parts."""
        with self._lock:
            deadlines = [parts[0].part.deadline_ns for parts in self._by_camera.values() if parts]
        return min((ns for ns in deadlines if ns is not None), default=None)

    def _find(self, part: Part) -> OpenPart | None:
        parts = self._by_camera.get(part.camera, ())
        return next((entry for entry in parts if entry.part.sequence == part.sequence), None)
