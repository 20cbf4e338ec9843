"""Follows the verdicts of an AnoSeg Edge station without losing one. This file needs only pyzmq.

    from anosegd.client import Client

    with Client("tcp://127.0.0.1:5570", "tcp://127.0.0.1:5571") as station:
        for verdict in station.follow(consumer="archive"):
            store(verdict)          # acknowledged when the loop asks for the next one

A slow or restarting subscriber misses messages of a ZeroMQ publisher. Every verdict carries (journal_id, seq). When the client
notices a gap in seq, it asks the station's journal for the missing verdicts and yields everything once and in order. To store
each verdict exactly once even if your own program crashes, store the verdict and `verdict.cursor` in one transaction and start
again with `follow(after=cursor)`.

A verdict with `durable: false` could not be committed, or not before its deadline. The client yields it at once. It has no
cursor (None: keep the one you have), and its number stays open. If the verdict is committed later, the client yields it again
from the journal, durable. Otherwise an event reports the number as void. Both verdicts say the same, with one exception: if
the daemon was killed just after it sent UNKNOWN: deadline, the journal may hold the result of the inspection.

A Client belongs to one thread.
"""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Literal, NamedTuple

import zmq

ACK_EVERY_S = 0.5
PAGE = 500
MAX_REQUEST_BYTES = 32 << 10
BUSY_S = 0.1
"""The pause after a station has answered that requests come too fast."""
WAIT_S = 0.1
"""Longest wait between two calls of `on_wait`."""


class ClientError(Exception):
    """The station does not answer, or refuses a request."""


class RefusedError(ClientError):
    """The station refuses a request.

    Attributes:
        code: The reason for programs, such as `no_journal`.
        message: The reason for people.
    """

    def __init__(self, op: str, code: str, message: str) -> None:
        super().__init__(f"{op}: {code}: {message}")
        self.code = code
        self.message = message


class NoAnswerError(ClientError):
    """The station did not answer in time."""


class RequestError(ClientError):
    """The request cannot be sent."""

    def __init__(self, op: str, why: str) -> None:
        super().__init__(f"{op}: the request was not sent: {why}")


class KeyFileError(ClientError):
    """The file of the client's key cannot be used."""


class Key(NamedTuple):
    """A client's key, for a station that asks for one.

    Attributes:
        name: The name under which the station knows it.
        public, secret: The client's key pair, as ZeroMQ writes it.
        station: The station's public key: no other station can answer.
    """

    name: str
    public: str
    secret: str
    station: str

    def __repr__(self) -> str:
        """Leave the secret out."""
        return f"Key({self.name!r}, {self.public!r})"

    @classmethod
    def read(cls, path: str | os.PathLike[str]) -> Key:
        """Read the file that `anosegd keygen client` made for this client.

        Raises:
            KeyFileError: It cannot be read, is another file, or other users of the machine may read it.
        """
        path = os.fspath(path)
        try:
            with open(path, "rb") as file:  # noqa: PTH123 - this file needs no other module
                if os.fstat(file.fileno()).st_mode & 0o027:
                    raise KeyFileError(f"{path}: other users may read or change this secret key; run: chmod 600 {path}")
                content = json.loads(file.read(4096))
            key = cls(*(content[field] for field in cls._fields))
            if content["kind"] != "client" or any(len(value) != 40 for value in key[1:]):
                raise ValueError
        except OSError as error:
            raise KeyFileError(f"{path}: cannot be read ({error.strerror})") from error
        except (ValueError, KeyError, TypeError, RecursionError):  # without `from`: it could show a part of the secret
            raise KeyFileError(f"{path}: is not the key of a client; make it with: anosegd keygen client") from None
        return key


class Cursor(NamedTuple):
    """Marks a place in a station's verdicts: everything up to and including `seq` of this journal has been processed."""

    journal_id: str
    seq: int


class Event(NamedTuple):
    """A change in the stream.

    Attributes:
        kind: One of
            `up`, `down`: heartbeats arrive, or have stopped;
            `journal_changed`: the station began a new journal; verdicts left in the old one cannot be fetched any more;
            `missed`: numbers lost on the way, by a client without a control socket;
            `gone`: numbers that the journal deleted before they were read;
            `void`: numbers without a verdict, left by a restart or a failed commit.
        detail: An explanation for people.
        first, last: The numbers concerned; 0 if there are none.
    """

    kind: str
    detail: str
    first: int = 0
    last: int = 0


class Verdict(dict[str, Any]):
    """A verdict's header as published.

    Attributes:
        replayed: It came from the journal. A replayed verdict must never drive a PLC output.
        mark: What a person said about it, as an answer to `marks`; None if nobody has, and for a verdict that is new.
    """

    def __init__(self, header: dict[str, Any], *, replayed: bool, mark: dict[str, Any] | None = None) -> None:
        super().__init__(header)
        self.replayed = replayed
        self.mark = mark

    @property
    def cursor(self) -> Cursor | None:
        """Where to continue after this verdict: `follow(after=verdict.cursor)`. None if the verdict is not durable."""
        return Cursor(self["journal_id"], self["seq"]) if self.get("durable") else None


def with_marks(page: dict[str, Any]) -> Iterator[Verdict]:
    """Yield the verdicts in an answer to `replay`, each with its mark."""
    marks = {mark["seq"]: mark for mark in page.get("marks", ())}
    for header in page["verdicts"]:
        yield Verdict(header, replayed=True, mark=marks.get(header["seq"]))


class Picture(NamedTuple):
    """A picture or an anomaly map that was published.

    Attributes:
        header: The message's header. `journal_id` and `seq` say which verdict it belongs to.
        data: JPEG of a picture, PNG of a map.
    """

    header: dict[str, Any]
    data: bytes


class Client:
    """A subscriber to one station."""

    def __init__(
        self,
        publish: str = "tcp://127.0.0.1:5570",
        control: str | None = "tcp://127.0.0.1:5571",
        *,
        key: Key | None = None,
        on_event: Callable[[Event], None] | None = None,
        on_state: Callable[[dict[str, Any]], None] | None = None,
        on_wait: Callable[[], None] | None = None,
        down_after_s: float = 3.0,
        request_timeout_s: float = 2.0,
    ) -> None:
        """Prepare; connections are opened when they are needed.

        Args:
            publish: Endpoint where the station publishes.
            control: Endpoint where it answers requests. With None, gaps are reported as `missed` events.
            key: This client's key, where the station asks for one; see `Key.read`.
            on_event: Called with each `Event`, on the caller's thread.
            on_state: Called with each heartbeat, on the caller's thread.
            on_wait: Called at least ten times a second while the client waits, on the caller's thread.
            down_after_s: Without a heartbeat for this long the station counts as down. It sends one every second.
            request_timeout_s: How long one request may wait for its answer.
        """
        self._context = zmq.Context()
        self._context.linger = 0
        self._publish, self._control_endpoint, self._key = publish, control, key
        self._on_event = on_event or (lambda event: None)
        self._on_state = on_state or (lambda state: None)
        self._on_wait = on_wait or (lambda: None)
        self._down_after_s = down_after_s
        self._request_timeout_s = request_timeout_s
        self._control: zmq.Socket[bytes] | None = None
        self._request_id = 0
        self._up: bool | None = None  # None: not known yet
        self._has_journal: bool | None = None  # None: not known yet
        self._last_heartbeat = time.monotonic()

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the sockets. A `follow` that still runs ends with an error."""
        self._context.destroy(linger=0)

    # ---- requests

    def request(self, op: str, **arguments: Any) -> dict[str, Any]:
        """Send one request to the control socket and return its answer.

        Raises:
            RefusedError: The station refuses.
            NoAnswerError: No answer arrived in time.
            RequestError: The arguments cannot be sent.
            ClientError: This client has no control socket.
        """
        if self._control_endpoint is None:
            raise ClientError(f"{op}: this client has no control socket")
        self._request_id += 1
        try:
            request = json.dumps({"id": self._request_id, "op": op, **arguments}, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise RequestError(op, "it holds bytes that are not UTF-8 text") from None
        if len(request) > MAX_REQUEST_BYTES:  # the station would not answer it
            raise RequestError(op, f"it has {len(request)} bytes, and a request may have {MAX_REQUEST_BYTES}")
        if self._control is None:
            self._control = self._context.socket(zmq.DEALER)
            connect(self._control, self._control_endpoint, self._key)
        self._control.send(request)
        end = time.monotonic() + self._request_timeout_s
        while (left := end - time.monotonic()) > 0:
            self._on_wait()
            if not self._control.poll(int(min(left, WAIT_S) * 1000) + 1):
                continue
            reply = json.loads(self._control.recv())
            if reply.get("id") != self._request_id:
                continue  # the late answer to an earlier request that timed out
            if not reply.get("ok"):
                raise RefusedError(op, str(reply.get("error")), str(reply.get("message")))
            return dict(reply)
        # The socket may still hold this request and deliver it much later, when the station is back. A new socket drops it.
        self._control.close(linger=0)
        self._control = None
        raise NoAnswerError(f"{op}: no answer from {self._control_endpoint} within {self._request_timeout_s} s")

    def status(self) -> dict[str, Any]:
        """Return the station's state, as in its heartbeat."""
        return dict(self.request("status")["state"])

    def set_threshold(self, camera: str, value: float | None, *, who: str, why: str) -> dict[str, Any]:
        """Judge a camera's parts by another score threshold from the next part on, also after a restart.

        Args:
            camera: Name of the camera.
            value: A part with this score or more is FAIL; None returns to the configured or calibrated threshold.
            who, why: Who asks, and the reason. Both go into the station's journal.

        Returns:
            `old` and `new`, each with `value`, `origin` and `calibrated`.

        Raises:
            RefusedError: The station refuses.
            NoAnswerError: No answer arrived in time; the threshold may have been set.
        """
        reply = self.request("set_threshold", camera=camera, value=value, who=who, why=why)
        return {"old": reply["old"], "new": reply["new"]}

    def pause(self, minutes: float, *, who: str, why: str = "", camera: str | None = None) -> dict[str, Any]:
        """Inspect nothing for a time: every part is UNKNOWN: paused. It ends by itself.

        Args:
            minutes: How long, from 1 to 480.
            who, why: Who asks, and the reason. Both go into the station's journal.
            camera: Name of the camera; None pauses all.

        Returns:
            `cameras`, the names of the paused ones, and `until`, the time in UTC.

        Raises:
            RefusedError: The station refuses.
            NoAnswerError: No answer arrived in time; the pause may have begun.
        """
        reply = self.request("pause", minutes=minutes, camera=camera, who=who, why=why)
        return {"cameras": reply["cameras"], "until": reply["until"]}

    def resume(self, *, who: str, why: str = "", camera: str | None = None) -> list[str]:
        """Inspect again before a pause has ended.

        Args:
            who, why: As in `pause`.
            camera: Name of the camera; None resumes all.

        Returns:
            The cameras that were paused.

        Raises:
            RefusedError: The station refuses.
            NoAnswerError: No answer arrived in time.
        """
        return list(self.request("resume", camera=camera, who=who, why=why)["cameras"])

    def trigger(self, camera: str, *, part_id: str | None = None, request_id: str | None = None) -> dict[str, Any]:
        """Report a part in front of a camera with software triggers. Its verdict is published; it is not waited for.

        Args:
            camera: Name of the camera.
            part_id: The part's name in its verdict; None lets the station choose one.
            request_id: A name for this request: sent again, it gets the same answer and makes no second part.

        Returns:
            `camera`, `part_id` and `triggered_at`, as in the verdict that follows.

        Raises:
            RefusedError: The station refuses.
            NoAnswerError: No answer arrived in time. Send the same request_id again; without one, the trigger may count.
        """
        given = {"part_id": part_id, "request_id": request_id}
        return self.request("trigger", camera=camera, **{name: value for name, value in given.items() if value is not None})

    def swap(self, bundle: str, *, other_product: bool = False, who: str = "", why: str = "") -> dict[str, Any]:
        """Inspect with another bundle from the next part on. Give the client a `request_timeout_s` of a minute for this.

        Args:
            bundle: Absolute path, on the station's machine, of STORE/NAME or STORE/NAME/VERSION.
            other_product: Whether a bundle of another product is accepted.
            who, why: Who asks, and the reason. Both go into the station's journal.

        Returns:
            `engine`, and `warning` if there is something that an operator should know.

        Raises:
            RefusedError: The bundle is refused; nothing has changed.
            NoAnswerError: No answer arrived in time; the bundle may have been taken.
        """
        return self.request("swap", bundle=bundle, other_product=other_product, who=who, why=why)

    def changes(self, limit: int = 20) -> list[dict[str, Any]]:
        """Return the newest changes of thresholds, bundles and pauses, the oldest of them first."""
        return list(self.request("changes", limit=limit)["changes"])

    def feedback(self, journal_id: str, seqs: Sequence[int], mark: str, *, who: str, comment: str = "") -> dict[str, Any]:
        """Say whether the verdicts of parts are right. All of them are marked, or none. Repeated, it changes nothing more.

        Args:
            journal_id: `journal_id` of these verdicts.
            seqs: Their numbers, at most 200.
            mark: `right`, `false_reject`, `missed_defect` or `unsure`.
            who: The person.
            comment: In the person's words.

        Returns:
            `change`, the number with which it can be taken back, and `seqs`.

        Raises:
            RefusedError: The station refuses: there is no such part, or the mark makes no sense for it.
            NoAnswerError: No answer arrived in time; the parts may have been marked.
        """
        reply = self.request("feedback", journal_id=journal_id, seqs=list(seqs), mark=mark, who=who, comment=comment)
        return {"change": reply["change"], "seqs": reply["seqs"]}

    def undo_feedback(self, journal_id: str, *, who: str, change: int | None = None) -> list[int]:
        """Take feedback back: the marks from before count again.

        Args:
            journal_id: The journal in which it was noted.
            who: The person.
            change: The number that `feedback` returned; repeated, it changes nothing more. None takes the last feedback of
                this person, each time an earlier one.

        Returns:
            The numbers of the parts concerned.

        Raises:
            RefusedError: There is nothing to take back, or the station refuses.
            NoAnswerError: No answer arrived in time; it may have been taken back.
        """
        return list(self.request("undo_feedback", journal_id=journal_id, who=who, change=change)["seqs"])

    def marks(self) -> Iterator[dict[str, Any]]:
        """Yield what people said about parts, the newest parts first.

        Each has `journal_id`, `seq`, `mark`, `comment`, `who`, `at`, and `change`, the number with which it can be taken back.

        Raises:
            ClientError: The station does not answer.
        """
        before: int | None = None
        while True:
            answer = self.request("marks", before=before, limit=PAGE)
            page = answer["marks"]
            yield from ({"journal_id": answer["journal_id"], **mark} for mark in page)
            if len(page) < PAGE:
                return
            before = page[-1]["seq"]

    def first_seq_since(self, time_ns: int) -> int:
        """Return the first number whose verdict was committed at or after `time_ns` (Unix time)."""
        return int(self.request("since", time_ns=time_ns)["seq"])

    def replay(self, first: int, last: int | None = None) -> Iterator[Verdict]:
        """Yield committed verdicts from the journal in order, up to `last` or the newest.

        Raises:
            ClientError: The station does not answer.
        """
        while last is None or first <= last:
            try:
                page = self.request("replay", **{"from": first}, to=last, limit=PAGE)
            except RefusedError as error:
                if error.code != "busy":
                    raise
                time.sleep(BUSY_S)
                continue
            yield from self._page(page)
            if page["next"] <= first:
                return
            first = page["next"]

    # ---- following

    def follow(
        self, *, consumer: str | None = None, after: Cursor | None = None, first: int | None = None, idle_s: float | None = None
    ) -> Iterator[Verdict]:
        """Yield verdicts in order and fill gaps from the journal, through restarts of station and network.

        Without `consumer`, `after` and `first` it starts with the next verdict.

        Args:
            consumer: Start after the last verdict that this named consumer acknowledged. The station remembers it; a new
                consumer starts with the oldest verdict kept.
            after: Start after this cursor.
            first: Start at this number.
            idle_s: End after this long without a verdict; None never ends.
        """
        position = _Position(after.journal_id if after else None, after.seq + 1 if after else first)
        acks = _Acks(self, consumer)
        socket = self._context.socket(zmq.SUB)
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
            while idle_s is None or time.monotonic() - last_verdict < idle_s:
                for verdict in self._receive(socket, position):
                    last_verdict = time.monotonic()
                    yield verdict
                    acks.done(verdict)
                acks.flush()
        finally:
            socket.close(linger=0)
            with contextlib.suppress(ClientError, zmq.ZMQError):
                acks.flush(force=True)

    def pictures(
        self, camera: str, *, topic: Literal["image", "mask"] = "image", idle_s: float | None = None
    ) -> Iterator[Picture]:
        """Yield the newest picture, or anomaly map, of a camera's parts as they are published. Older ones are passed over.

        Args:
            camera: Name of the camera.
            topic: `image` for the pictures, `mask` for the anomaly maps.
            idle_s: End after this long without one; None never ends.
        """
        name = f"{topic}.{camera}".encode()
        socket = self._context.socket(zmq.SUB)
        try:
            socket.set(zmq.RCVHWM, 4)
            socket.set(zmq.RECONNECT_IVL, 50)
            socket.set(zmq.RECONNECT_IVL_MAX, 500)
            socket.subscribe(name)
            connect(socket, self._publish, self._key)
            last = time.monotonic()
            while idle_s is None or time.monotonic() - last < idle_s:
                self._on_wait()
                newest: Picture | None = None
                while socket.poll(0 if newest else 100):
                    parts = socket.recv_multipart()
                    if len(parts) == 3 and parts[0] == name:
                        newest = Picture(json.loads(parts[1]), parts[2])
                if newest is not None:
                    last = time.monotonic()
                    yield newest
        finally:
            socket.close(linger=0)

    def _receive(self, socket: zmq.Socket[bytes], position: _Position) -> Iterator[Verdict]:
        """Receive at most one message, and yield the verdicts it leads to: none, one, or a filled gap and then one."""
        self._on_wait()
        if not socket.poll(100):
            if self._up is not False and time.monotonic() - self._last_heartbeat > self._down_after_s:
                self._report_up(False, f"no heartbeat for {self._down_after_s} s")
            return
        message = _parse(socket.recv_multipart())
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
        if position.next is None or seq == position.next:
            position.next = seq + 1
            yield Verdict(header, replayed=False)

    def _may_be_committed_later(self) -> bool:
        """Return whether a verdict that is not durable may still come from the station's journal."""
        if self._control_endpoint is None:
            return False
        if self._has_journal is None:
            with contextlib.suppress(ClientError):
                self._has_journal = self.status().get("journal") is not None
        return self._has_journal is not False

    def _fill_gap(self, position: _Position, last: int | None) -> Iterator[Verdict]:
        """Yield verdicts from the journal up to `last`, or all of them. Stops early if the station does not answer."""
        if self._control_endpoint is None and position.next is not None and last is not None:
            self._on_event(Event("missed", "numbers that did not arrive, and no journal to ask", position.next, last))
            position.next = last + 1
            return
        while position.next is not None and (last is None or position.next <= last):
            try:
                page = self.request("replay", **{"from": position.next}, to=last, limit=PAGE)
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
                reply = self.request("consumer", name=name)
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
        if known and position.next is not None:
            # A client without a control socket cannot fetch earlier verdicts: it continues with the next one.
            position.next = 1 if self._control_endpoint is not None else None
        return known

    def _report_up(self, up: bool, detail: str) -> None:
        if self._up is not up:
            self._up = up
            self._on_event(Event("up" if up else "down", detail))


def connect(socket: zmq.Socket[bytes], endpoint: str, key: Key | None = None) -> None:
    """Connect a socket to a station, with the key that the station asks for."""
    socket.set(zmq.IPV6, int("[" in endpoint))
    if key is not None:
        socket.set(zmq.CURVE_SERVERKEY, key.station.encode())
        socket.set(zmq.CURVE_PUBLICKEY, key.public.encode())
        socket.set(zmq.CURVE_SECRETKEY, key.secret.encode())
    socket.connect(endpoint)


def _parse(parts: list[bytes]) -> tuple[bytes, dict[str, Any], str, int] | None:
    """Topic, header, journal id and (last) seq of a message; None if it is not a station's message."""
    with contextlib.suppress(ValueError, KeyError, TypeError, IndexError):
        header = json.loads(parts[1])
        seq = header["last_seq"] if parts[0] == b"state" else header["seq"]
        return parts[0], header, str(header["journal_id"]), int(seq)
    return None


class _Position:
    """The journal that is followed and the next number to yield. With None, the next verdict to arrive sets them."""

    def __init__(self, journal_id: str | None, next_seq: int | None) -> None:
        self.journal_id = journal_id
        self.next = next_seq


class _Acks:
    """Acknowledges a consumer's progress, at most once every `ACK_EVERY_S`."""

    def __init__(self, client: Client, consumer: str | None) -> None:
        self._client, self._consumer = client, consumer
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
            self._client.request("ack", name=self._consumer, journal_id=self._done.journal_id, seq=self._done.seq)
            self._sent = self._done
