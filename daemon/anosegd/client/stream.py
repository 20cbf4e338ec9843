"""Follows the verdicts of a station and fills gaps from its journal. On the client's thread."""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

import zmq

from .acks import Acks
from .connection import Connection, connect
from .errors import ClientError, NoAnswerError, RefusedError
from .key import Key
from .messages import Cursor, Event, Verdict, parse, with_marks

PAGE = 500
BUSY_S = 0.1
"""The pause after a station has answered that requests come too fast."""
SKIPPED_KEPT = 1000
"""How many of the numbers that did not come in their turn are remembered."""


class _Position:
    """The journal that is followed and the next number to yield. With None, the next verdict to arrive sets them.

    Attributes:
        skipped: Lower numbers that have not come, but may still come. Only for a client without a control socket.
    """

    def __init__(self, journal_id: str | None, next_seq: int | None) -> None:
        self.journal_id = journal_id
        self.next = next_seq
        self.skipped: deque[int] = deque(maxlen=SKIPPED_KEPT)

    def skip_to(self, seq: int) -> None:
        """Go on with this number. Before the first verdict, any lower number may still come."""
        self.skipped.extend(range(max(self.next or 1, seq - SKIPPED_KEPT), seq))
        self.next = seq


class VerdictStream:
    """The verdicts of one station, live and from its journal."""

    def __init__(
        self,
        connection: Connection,
        publish: str,
        key: Key | None,
        *,
        on_event: Callable[[Event], None],
        on_state: Callable[[dict[str, Any]], None],
        down_after_s: float,
    ) -> None:
        """Prepare; sockets are opened when they are needed.

        Args:
            connection: For requests to the journal.
            publish: Endpoint where the station publishes.
            key: The client's key, where the station asks for one.
            on_event, on_state, down_after_s: As in `Client`.
        """
        self._connection = connection
        self._publish, self._key = publish, key
        self._on_event, self._on_state = on_event, on_state
        self._down_after_s = down_after_s
        self._up: bool | None = None  # None: not known yet
        self._has_journal: bool | None = None  # None: not known yet
        self._last_heartbeat = time.monotonic()

    def replay(self, first: int, last: int | None = None) -> Iterator[Verdict]:
        """Yield committed verdicts from the journal. See `Client.replay`."""
        while last is None or first <= last:
            try:
                page = self._connection.request("replay", **{"from": first}, to=last, limit=PAGE)
            except RefusedError as error:
                if error.code != "busy":
                    raise
                time.sleep(BUSY_S)
                continue
            yield from self._page(page)
            if page["next"] <= first:
                return
            first = page["next"]

    def follow(
        self, *, consumer: str | None = None, after: Cursor | None = None, first: int | None = None, idle_s: float | None = None
    ) -> Iterator[Verdict]:
        """Yield verdicts in order, live and from the journal. See `Client.follow`."""
        if after is not None:
            position = _Position(after.journal_id, after.seq + 1)
        else:
            position = _Position(None, None if first is None else max(1, first))
        acks = Acks(self._connection, consumer)
        socket = self._connection.context.socket(zmq.SUB)
        try:
            socket.set(zmq.RCVHWM, 20_000)
            socket.set(zmq.RECONNECT_IVL, 50)
            socket.set(zmq.RECONNECT_IVL_MAX, 500)
            socket.subscribe(b"verdict.")
            socket.subscribe(b"state")
            connect(socket, self._publish, self._key)
            self._last_heartbeat = time.monotonic()
            last_verdict = time.monotonic()
            if consumer is not None:
                position = self._consumer_position(consumer)
            if position.next is not None:
                for verdict in self._fill_gap(position, None):
                    yield verdict
                    acks.done(verdict)
                    last_verdict = time.monotonic()
            while idle_s is None or time.monotonic() - last_verdict < idle_s:
                for verdict in self._receive(socket, position):
                    yield verdict
                    acks.done(verdict)
                    last_verdict = time.monotonic()
                acks.flush()
        finally:
            socket.close(linger=0)
            with contextlib.suppress(ClientError, zmq.ZMQError):
                acks.flush(force=True)

    def _receive(self, socket: zmq.Socket[bytes], position: _Position) -> Iterator[Verdict]:
        """Receive at most one message, and yield the verdicts it leads to: none, one, or a filled gap and then one."""
        self._connection.on_wait()
        if not socket.poll(100):
            if self._up is not False and time.monotonic() - self._last_heartbeat > self._down_after_s:
                self._report_up(False, f"no heartbeat for {self._down_after_s} s")
            return
        message = parse(socket.recv_multipart())
        if message is None:
            return
        topic, header, journal_id, seq = message
        if topic == b"state":
            self._last_heartbeat = time.monotonic()
            self._has_journal = header.get("journal") is not None
            self._report_up(True, "heartbeat")
            self._on_state(header)
            if header.get("journal") and not header["journal"]["working"]:
                return  # its numbers may belong to no journal that can be asked later
            self._check_journal(position, journal_id)
            if position.next is not None and seq >= position.next:
                yield from self._fill_gap(position, seq)
            return
        if not header.get("durable") and self._may_be_committed_later():
            yield Verdict(header, replayed=False)
            return
        self._check_journal(position, journal_id)
        if position.next is not None and seq > position.next:
            yield from self._fill_gap(position, seq - 1)
            if position.next != seq:
                return  # the station did not answer; the next message tries again
        if position.next is None and not self._connection.has_control:
            position.skip_to(seq)
        if position.next is None or seq == position.next:
            position.next = seq + 1
            yield Verdict(header, replayed=False)
        elif seq in position.skipped:
            # At its deadline, a verdict is sent before those of other cameras that have lower numbers and wait for the journal.
            position.skipped.remove(seq)
            yield Verdict(header, replayed=False)

    def _may_be_committed_later(self) -> bool:
        """Return whether a verdict that is not durable may still come from the station's journal."""
        if not self._connection.has_control:
            return False
        if self._has_journal is None:
            with contextlib.suppress(ClientError):
                self._has_journal = self._connection.request("status")["state"].get("journal") is not None
        return self._has_journal is not False

    def _fill_gap(self, position: _Position, last: int | None) -> Iterator[Verdict]:
        """Yield verdicts from the journal up to `last`, or all of them. Stops early if the station does not answer."""
        if not self._connection.has_control and position.next is not None and last is not None:
            self._on_event(Event("missed", "numbers that did not arrive, and no journal to ask", position.next, last))
            position.skip_to(last + 1)
            return
        while position.next is not None and (last is None or position.next <= last):
            try:
                page = self._connection.request("replay", **{"from": position.next}, to=last, limit=PAGE)
            except ClientError as error:
                if isinstance(error, RefusedError) and error.code == "no_journal" and last is not None:
                    self._on_event(Event("missed", "the station keeps no journal to ask", position.next, last))
                    position.next = last + 1
                return  # down or busy: the next message tries again
            if self._check_journal(position, page["journal_id"]):
                last = None  # it was a number of the old journal
                continue
            if page["next"] <= position.next:
                return  # the rest is being committed and will arrive live or with the next heartbeat
            for verdict in self._page(page):
                position.next = verdict["seq"] + 1
                yield verdict
            position.next = page["next"]

    def _page(self, page: dict[str, Any]) -> Iterator[Verdict]:
        if page["gone"]:
            first, last = page["gone"]
            self._on_event(Event("gone", "older than the journal keeps", first, last))
        for first, last in page["void"]:
            self._on_event(Event("void", "no verdict was committed under these numbers", first, last))
        yield from with_marks(page)

    def _consumer_position(self, name: str) -> _Position:
        while True:
            try:
                reply = self._connection.request("consumer", name=name)
                return _Position(reply["journal_id"], reply["cursor"] + 1)
            except NoAnswerError:
                if time.monotonic() - self._last_heartbeat > self._down_after_s:
                    self._report_up(False, "no answer")
                time.sleep(0.1)

    def _check_journal(self, position: _Position, journal_id: str) -> bool:
        """Notice a new journal and move a known position to its beginning. Return whether the journal has changed."""
        if position.journal_id == journal_id:
            return False
        known = position.journal_id is not None
        if known:
            self._on_event(Event("journal_changed", f"{position.journal_id} → {journal_id}"))
        position.journal_id = journal_id
        position.skipped.clear()
        if known and position.next is not None:
            # A client without a control socket cannot fetch earlier verdicts: it continues with the next one.
            position.next = 1 if self._connection.has_control else None
        return known

    def _report_up(self, up: bool, detail: str) -> None:
        if self._up is not up:
            self._up = up
            self._on_event(Event("up" if up else "down", detail))
