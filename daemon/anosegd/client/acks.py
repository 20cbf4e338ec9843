"""Owns a consumer's progress and reports it to the station. On the client's thread."""

from __future__ import annotations

import contextlib
import time

from .connection import Connection
from .errors import ClientError
from .messages import Cursor, Verdict

ACK_EVERY_S = 0.5


class Acks:
    """Acknowledges a consumer's progress, at most once every `ACK_EVERY_S`."""

    def __init__(self, connection: Connection, consumer: str | None) -> None:
        self._connection, self._consumer = connection, consumer
        self._done: Cursor | None = None
        self._sent: Cursor | None = None
        self._sent_at = time.monotonic()

    def done(self, verdict: Verdict) -> None:
        """Note that the loop body has finished with this verdict."""
        self._done = verdict.cursor or self._done
        self.flush()

    def flush(self, *, force: bool = False) -> None:
        """Send the acknowledgement if there is a new one and it is time."""
        if self._consumer is None or self._done is None or self._done == self._sent:
            return
        if not force and time.monotonic() - self._sent_at < ACK_EVERY_S:
            return
        self._sent_at = time.monotonic()
        # A verdict whose acknowledgement is lost is delivered again: the caller may see it twice, but never misses it.
        with contextlib.suppress(ClientError):
            self._connection.request("ack", name=self._consumer, journal_id=self._done.journal_id, seq=self._done.seq)
            self._sent = self._done
