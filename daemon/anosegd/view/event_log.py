"""Keeps the newest events of the screen for all connected pages. Everything runs on the event loop's thread.

Events are stored once, and every page remembers how far it has read. So a slow page costs no memory: when it falls out of the
log, its stream ends, and the page connects again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import msgspec

CAPACITY = 2000
MAX_CHUNK_BYTES = 256 << 10


class FellBehindError(Exception):
    """A reader is so slow that events it has not read are gone."""


class EventLog:
    """A bounded list of Server-Sent Events with numbered places.

    Attributes:
        end: The place of the next event.
        closed: Whether the screen is ending.
    """

    def __init__(self, capacity: int = CAPACITY) -> None:
        self.end = 0
        self.closed = False
        self._events: deque[bytes] = deque(maxlen=capacity)
        self._changed = asyncio.Event()

    def add(self, kind: str, data: Any, event_id: str | None = None) -> None:
        """Append an event and wake the readers."""
        self._events.append(encoded(kind, data, event_id))
        self.end += 1
        self._changed.set()
        self._changed = asyncio.Event()

    def close(self) -> None:
        """End the streams of all readers."""
        self.closed = True
        self._changed.set()

    async def wait(self, place: int) -> None:
        """Return when there is an event at `place`, or after `close`."""
        if place >= self.end and not self.closed:
            await self._changed.wait()

    def read(self, place: int) -> tuple[bytes, int]:
        """Return the events from `place` on, as many as fit one chunk, and the place after them.

        Raises:
            FellBehindError: The event at `place` is gone.
        """
        first = self.end - len(self._events)
        if place < first:
            raise FellBehindError
        chunk = bytearray()
        while place < self.end and len(chunk) < MAX_CHUNK_BYTES:
            chunk += self._events[place - first]
            place += 1
        return bytes(chunk), place


def encoded(kind: str, data: Any, event_id: str | None = None) -> bytes:
    """Return one event as it is sent. JSON has no line ends, so it fits one `data` line; neither may `event_id` have any."""
    identity = b"" if event_id is None else b"id: %s\n" % event_id.encode()
    return b"event: " + kind.encode() + b"\n" + identity + b"data: " + msgspec.json.encode(data) + b"\n\n"
