"""Holds what the screen shows now: state, newest verdicts, rejects, pictures; all bounded. The event loop's thread owns it."""

from __future__ import annotations

import re
import time
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from anosegd.client import Event
from anosegd.view.event_log import EventLog
from anosegd.view.shown_verdict import StationClock

REJECTS = 60
FRESH_PICTURES = 64
"""How many parts' pictures are kept beside those of the rejects."""
READY_PICTURES = 16
MAX_PICTURE_BYTES = 8 << 20
MAX_BYTES_OF_A_GROUP = 40 << 20
"""Each of the three groups of pictures (rejects, fresh, ready) takes at most this much memory: 120 MB together."""
MAX_CAMERAS = 64

PictureKind = Literal["map", "image"]
MEDIA_TYPES: dict[str, str] = {"png": "image/png", "jpeg": "image/jpeg"}
Key = tuple[str, int]
"""A verdict's identity: journal_id and seq."""


_EVENT_ID = re.compile(r"([\w.-]{1,64}):(\d{1,18})", re.ASCII)


def event_id(key: Key) -> str | None:
    """Return the identity of a verdict's event; None if it would not fit a line of the stream."""
    text = f"{key[0]}:{key[1]}"
    return text if _EVENT_ID.fullmatch(text) else None


def key_of(event: str) -> Key | None:
    """Return which verdict an event's identity names; None if it names none."""
    match = _EVENT_ID.fullmatch(event)
    return (match[1], int(match[2])) if match else None


def clock_ms() -> float:
    """Return the screen's own clock, which no one sets: the pages compute ages from it."""
    return time.monotonic() * 1000


def is_reject(shown: Mapping[str, Any]) -> bool:
    """Return whether a verdict is among the last rejects. The parts of a pause would push out all others."""
    return shown["outcome"] != "PASS" and shown.get("reason") != "paused"


@dataclass(slots=True)
class Pictures:
    """The pictures of one part.

    Attributes:
        camera: The part's camera.
        region: The region that they show, in camera pixels.
        files: Media type and content by kind.
    """

    camera: str
    region: dict[str, Any]
    files: dict[PictureKind, tuple[str, bytes]] = field(default_factory=dict)

    @property
    def size(self) -> int:
        """Bytes of all pictures."""
        return sum(len(content) for _, content in self.files.values())


class Board:
    """Holds what the screen shows now. Every change goes into the event log, too.

    Attributes:
        events: What the pages read.
        pages: How many pages are connected.
    """

    def __init__(self, events: EventLog) -> None:
        self.events = events
        self.pages = 0
        self._state: dict[str, Any] | None = None
        self._state_at = clock_ms()  # before the first heartbeat: since when the screen waits for one
        self._shift: dict[str, Any] | None = None
        self._last: dict[str, dict[str, Any]] = {}
        self._rejects: deque[dict[str, Any]] = deque()
        self._reject_pictures: dict[Key, Pictures | None] = {}
        self._fresh: OrderedDict[Key, Pictures] = OrderedDict()
        self._ready: OrderedDict[Key, Pictures] = OrderedDict()

    @property
    def recipe(self) -> str | None:
        """The recipe in force; None before the first heartbeat."""
        return None if self._state is None else self._state.get("recipe")

    @property
    def station_clock(self) -> StationClock | None:
        """The station's clock; None before the first heartbeat."""
        return None if self._state is None else StationClock(self._state["at"], self._state_at)

    def add_state(self, state: dict[str, Any]) -> None:
        """Take a heartbeat."""
        if self._state is not None and state["journal_id"] != self._state["journal_id"]:
            self._last.clear()  # numbers of two journals cannot be compared
        for camera in [camera for camera in self._last if camera not in state["cameras"]]:
            del self._last[camera]
        self._state, self._state_at = state, clock_ms()
        self.events.add("state", self._heartbeat())

    def add_verdict(self, shown: dict[str, Any]) -> None:
        """Take a verdict, as `shown_verdict` gives it."""
        before = self._last.get(shown["camera"])
        if before is not None and before["journal_id"] == shown["journal_id"] and before["seq"] > shown["seq"]:
            return  # a gap was filled late
        if before is not None or len(self._last) < MAX_CAMERAS:
            self._last[shown["camera"]] = shown
        self._keep_reject(shown)
        self.events.add("verdict", shown, event_id((shown["journal_id"], shown["seq"])))

    def add_past_rejects(self, past: list[dict[str, Any]]) -> None:
        """Take the rejects from before the screen was started, the oldest first."""
        live = list(self._rejects)
        known = {(shown["journal_id"], shown["seq"]) for shown in live}
        room = max(0, REJECTS - len(live))
        older = [shown for shown in past if (shown["journal_id"], shown["seq"]) not in known]
        older = older[len(older) - min(room, len(older)) :]
        self._rejects = deque([*older, *live])
        self._reject_pictures.update({(shown["journal_id"], shown["seq"]): None for shown in older})
        self.events.add("rejects", list(self._rejects))

    def set_shift(self, shift: dict[str, Any]) -> None:
        """Take the counts of the shift."""
        self._shift = shift
        self.events.add("shift", shift)

    def add_event(self, event: Event) -> None:
        """Take a change in the stream of verdicts."""
        if event.kind in ("missed", "gone"):
            self.events.add("missed", {"first": event.first, "last": event.last})

    def add_picture(self, header: dict[str, Any], kind: PictureKind, content: bytes) -> None:
        """Take a map or an image."""
        media_type = MEDIA_TYPES.get(str(header.get("encoding")))
        if media_type is None or len(content) > MAX_PICTURE_BYTES:
            return
        key = (header["journal_id"], header["seq"])
        pictures = self.pictures(key)
        if pictures is None:
            pictures = Pictures(header["camera"], header["region"])
            if key in self._reject_pictures:
                self._reject_pictures[key] = pictures
            else:
                self._fresh[key] = pictures
        pictures.files[kind] = (media_type, content)
        if key in self._reject_pictures:
            self._limit_rejects(key)
        else:
            _limit(self._fresh, FRESH_PICTURES)
        self.events.add("picture", self.announcement(key, pictures))

    def pictures(self, key: Key) -> Pictures | None:
        """Return a part's pictures; None if there are none (any more)."""
        return self._reject_pictures.get(key) or self._ready.get(key) or self._fresh.get(key)

    def keep_ready(self, key: Key, pictures: Pictures) -> None:
        """Keep pictures from the evidence for a moment: a page is about to fetch them."""
        pictures.files = {kind: one for kind, one in pictures.files.items() if len(one[1]) <= MAX_PICTURE_BYTES}
        if key in self._reject_pictures:
            self._reject_pictures[key] = pictures
            self._limit_rejects(key)
            return
        self._ready[key] = pictures
        _limit(self._ready, READY_PICTURES)

    def announcement(self, key: Key, pictures: Pictures) -> dict[str, Any]:
        """Return what a page must know to show a part's pictures."""
        return {
            "journal_id": key[0],
            "seq": key[1],
            "camera": pictures.camera,
            "region": pictures.region,
            "kinds": sorted(pictures.files),
        }

    def hello(self, after: Key | None) -> dict[str, Any]:
        """Return all that a page shows at first. With `after`, leave out the rejects up to that verdict, which it has."""
        journal_id, known = after or ("", 0)  # numbers of two journals cannot be compared
        newest = max((shown["seq"] for shown in self._last.values() if shown["journal_id"] == journal_id), default=0)
        if known > newest:
            known = 0
        keys = {(s["journal_id"], s["seq"]) for s in (*self._last.values(), *self._rejects)}
        found = {key: pictures for key in keys if (pictures := self.pictures(key)) is not None}
        return {
            "now": clock_ms(),
            "heartbeat": self._heartbeat(),
            "shift": self._shift,
            "last": list(self._last.values()),
            "rejects": [shown for shown in self._rejects if shown["journal_id"] != journal_id or shown["seq"] > known],
            "resumed": known > 0,
            "pictures": [self.announcement(key, pictures) for key, pictures in found.items()],
        }

    def _heartbeat(self) -> dict[str, Any]:
        return {"at": self._state_at, "state": self._state}

    def _keep_reject(self, shown: dict[str, Any]) -> None:
        key = (shown["journal_id"], shown["seq"])
        if not is_reject(shown):
            return
        if key in self._reject_pictures:  # the same verdict again, from the journal
            return
        self._rejects.append(shown)
        self._reject_pictures[key] = self._fresh.pop(key, None)
        while len(self._rejects) > REJECTS:
            old = self._rejects.popleft()
            self._reject_pictures.pop((old["journal_id"], old["seq"]), None)
        self._limit_rejects(key)

    def _limit_rejects(self, newest: Key) -> None:
        """Drop pictures of the oldest rejects, but not those of `newest`, until the rest fit the limit."""
        size = sum(pictures.size for pictures in self._reject_pictures.values() if pictures is not None)
        for shown in self._rejects:
            key = (shown["journal_id"], shown["seq"])
            pictures = self._reject_pictures.get(key)
            if size <= MAX_BYTES_OF_A_GROUP:
                return
            if pictures is not None and key != newest:
                self._reject_pictures[key] = None
                size -= pictures.size


def _limit(group: OrderedDict[Key, Pictures], most: int) -> None:
    """Drop the oldest until number and size are within the limits."""
    size = sum(pictures.size for pictures in group.values())
    while len(group) > most or (size > MAX_BYTES_OF_A_GROUP and len(group) > 1):
        size -= group.popitem(last=False)[1].size
