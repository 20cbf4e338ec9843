"""The control socket: one thread that owns the ROUTER socket and a reader of the journal, and answers requests.

A request is one JSON object `{"id": …, "op": …, …}`, from a REQ or a DEALER socket; the answer carries its id and `ok`, or an
error code and a message. Requests are bounded in size and rate, answers in size; what is malformed is answered with an error.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Annotated, Any

import msgspec
import zmq
from msgspec import Meta

from anoseg_engines.errors import AnosegError
from anosegd import endpoint, logs
from anosegd.journal import Journal, JournalReader
from anosegd.reload import Answer
from anosegd.worker import Worker

MAX_REQUEST_BYTES = 16 << 10
MAX_PAGE_BYTES = 256 << 10
MAX_PAGE = 1000
RATE = 200.0
"""Requests a second that one peer may send on average, and in one burst; more are answered `busy`."""
MAX_PEERS = 1024
MAX_IN_WORK = 256
"""Reloads, swaps and triggers that may be asked for and not answered yet."""
MAX_WAITING_REQUESTS = 16
"""Requests of one peer kept in memory; further ones wait on the peer's side."""
ENDING = "the daemon is ending; whether this was done is not known"

Seq = Annotated[int, Meta(ge=0, le=1 << 62)]
Id = Annotated[str, Meta(max_length=64)] | Annotated[int, Meta(ge=-(1 << 53), le=1 << 53)] | None


class _Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True, tag_field="op"):
    id: Id = None


class Replay(_Request, frozen=True, tag="replay"):
    """Committed verdicts of the numbers from…to, a page at a time: `next` says where to go on."""

    first: Seq = msgspec.field(name="from")
    last: Seq | None = msgspec.field(name="to", default=None)
    limit: Annotated[int, Meta(ge=1, le=MAX_PAGE)] = 500


class Since(_Request, frozen=True, tag="since"):
    """The first number committed at or after a Unix time."""

    time_ns: Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]


class Consumer(_Request, frozen=True, tag="consumer"):
    """A named durable consumer's cursor; a new name begins before the oldest verdict kept."""

    name: Annotated[str, Meta(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class Ack(_Request, frozen=True, tag="ack"):
    """A consumer has done with everything up to and including seq; the cursor never goes back."""

    name: Annotated[str, Meta(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    journal_id: str
    seq: Seq


class Forget(_Request, frozen=True, tag="forget"):
    """A named consumer is no more."""

    name: Annotated[str, Meta(pattern="^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]


class Status(_Request, frozen=True, tag="status"):
    """The station's state, as in the heartbeat."""


class Drain(_Request, frozen=True, tag="drain"):
    """Stop capturing, inspect and send what was captured, then end with exit code 0."""


class Reload(_Request, frozen=True, tag="reload"):
    """Read the configuration anew: checked whole first; if it is refused, nothing changes and the answer says why."""


class Swap(_Request, frozen=True, tag="swap"):
    """Inspect with another bundle from one part to the next: loaded and proved first; if it is refused, nothing changes.

    bundle: absolute path of STORE/NAME (its newest version) or STORE/NAME/VERSION.
    """

    bundle: Annotated[str, Meta(min_length=1, max_length=4096)]


class Rollback(_Request, frozen=True, tag="rollback"):
    """Go back to the bundle before the last swap, in the same way."""


class Prove(_Request, frozen=True, tag="prove"):
    """Run the golden images now, between parts; answered when they have held, or with what is wrong."""


class Trigger(_Request, frozen=True, tag="trigger"):
    """A part lies before a camera that waits for software triggers. Answered once it is noted; its verdict follows, always.

    part_id: None has the station name it.
    """

    camera: Annotated[str, Meta(max_length=63)]
    part_id: Annotated[str, Meta(min_length=1, max_length=128)] | None = None


Request = Replay | Since | Consumer | Ack | Forget | Status | Drain | Reload | Swap | Rollback | Trigger | Prove


class RefusedError(Exception):
    """A request that is answered with an error. code: for programs; the message is for people."""

    def __init__(self, code: str, message: str) -> None:
        super().__init__(message)
        self.code = code


class _Rates:
    """A token bucket for each peer; the longest silent peer is forgotten first."""

    def __init__(self) -> None:
        self._buckets: OrderedDict[bytes, tuple[float, float]] = OrderedDict()

    def allows(self, peer: bytes, now: float) -> bool:
        tokens, then = self._buckets.pop(peer, (RATE, now))
        tokens = min(RATE, tokens + (now - then) * RATE)
        self._buckets[peer] = (max(0.0, tokens - 1), now)
        if len(self._buckets) > MAX_PEERS:
            self._buckets.popitem(last=False)
        return tokens >= 1


class Control(Worker):
    """Answers requests on its own thread.

    journal: None answers nothing about verdicts. state: the last published state, encoded. drain: asks the station to stop.
    reload, swap, prove: ask it for these (swap: to which bundle, None is the one before) and give what to call with the answer.
    trigger: the same with camera and part id; raises ValueError where there is no such camera.
    """

    def __init__(
        self,
        address: str,
        journal: Journal | None,
        *,
        state: Callable[[], bytes],
        drain: Callable[[], None],
        reload: Callable[[Answer], None],
        swap: Callable[[str | None, Answer], None],
        prove: Callable[[Answer], None],
        trigger: Callable[[str, str | None, Callable[[dict[str, Any]], None]], None],
    ) -> None:
        super().__init__("control")
        self._address = address
        self._journal = journal
        self._state, self._drain, self._reload, self._swap, self._trigger = state, drain, reload, swap, trigger
        self._prove = prove
        self._reader: JournalReader | None = None
        self._rates = _Rates()
        self._malformed = logs.Throttle("request.refused")
        self._bound = threading.Event()
        self._stopping = threading.Event()
        self._number = itertools.count()
        self._in_work: dict[int, tuple[list[bytes], Id]] = {}  # whom to answer
        self._late: queue.SimpleQueue[tuple[int, dict[str, Any]]] = queue.SimpleQueue()  # answers that took time

    def start(self) -> None:
        """Start the thread and bind the socket.

        Raises:
            PublishError: the endpoint cannot be bound.
        """
        self.start_until(self._bound)

    def stop(self) -> None:
        """Answer no more."""
        self._stopping.set()

    def work(self) -> None:
        """Bind, then answer requests until told to stop."""
        with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
            socket.set(zmq.MAXMSGSIZE, MAX_REQUEST_BYTES)
            socket.set(zmq.RCVHWM, MAX_WAITING_REQUESTS)
            socket.set(zmq.SNDHWM, 10)  # a peer that reads no answers loses them; it does not fill the memory
            socket.set(zmq.LINGER, 200)
            endpoint.bind(socket, self._address)
            self._bound.set()
            try:
                while not self._stopping.is_set():
                    self.answer()
                    self._send_late(socket)
                    if socket.poll(2 if self._in_work else 250):
                        self._serve(socket)
                while socket.poll(0) and len(self._in_work) < MAX_IN_WORK:  # what lies there already
                    self._serve(socket)
                self._send_late(socket)
                for address, request_id in self._in_work.values():  # came when nobody looked after it any more
                    socket.send_multipart([*address, msgspec.json.encode(_error(request_id, "ending", ENDING))])
            finally:
                if self._reader is not None:
                    self._reader.close()

    def _serve(self, socket: zmq.Socket[bytes]) -> None:
        peer, *rest = socket.recv_multipart()
        if not rest:
            return
        *envelope, payload = rest
        if envelope not in ([], [b""]):
            return  # neither REQ nor DEALER speaks so, and there is no place to put an answer
        address = [peer, *envelope]
        if not self._rates.allows(peer, time.monotonic()):
            reply: dict[str, Any] | None = _error(_id_of(payload), "busy", f"more than {RATE:.0f} requests a second")
        else:
            reply = self._reply(payload, address)
        if reply is not None:
            socket.send_multipart([*address, msgspec.json.encode(reply)])

    def _send_late(self, socket: zmq.Socket[bytes]) -> None:
        while not self._late.empty():
            number, reply = self._late.get_nowait()
            asker = self._in_work.pop(number, None)
            if asker is not None:  # else it was answered before
                address, request_id = asker
                socket.send_multipart([*address, msgspec.json.encode({"id": request_id, **reply})])

    def _set_to_work(self, request: Reload | Swap | Rollback | Trigger | Prove, address: list[bytes]) -> None:
        """Have the station do what takes time; it is answered when that is done."""
        if len(self._in_work) >= MAX_IN_WORK:
            raise RefusedError("busy", "too much is asked for and not done yet")
        number = next(self._number)
        self._in_work[number] = address, request.id

        def answer(error: str | None) -> None:
            self._late.put((number, {"ok": True} if error is None else _error(request.id, "refused", error)))

        if isinstance(request, Trigger):
            try:
                self._trigger(request.camera, request.part_id, lambda told: self._late.put((number, {"ok": True, **told})))
            except ValueError as error:
                del self._in_work[number]
                raise RefusedError("bad_request", str(error)) from error
        elif isinstance(request, Reload):
            self._reload(answer)
        elif isinstance(request, Prove):
            self._prove(answer)
        else:
            self._swap(request.bundle if isinstance(request, Swap) else None, answer)

    def _reply(self, payload: bytes, address: list[bytes]) -> dict[str, Any] | None:
        """The answer; None if it comes later."""
        request_id: Id = None
        try:
            request = _decode(payload)
            request_id = request.id
            if isinstance(request, (Reload, Swap, Rollback, Trigger, Prove)):
                self._set_to_work(request, address)
                return None
            return {"id": request_id, "ok": True, **self._do(request)}
        except RefusedError as error:
            request_id = request_id or _id_of(payload)
            self._malformed.warning(code=error.code, error=str(error))
            return _error(request_id, error.code, str(error))
        except AnosegError as error:  # the journal could not be read just now
            self._malformed.warning(code="failed", error=str(error))
            return _error(request_id, "failed", str(error))

    def _do(self, request: Request) -> dict[str, Any]:
        if isinstance(request, Status):
            return {"state": msgspec.Raw(self._state())}
        if isinstance(request, Drain):
            self._drain()
            return {}
        if self._journal is None:
            raise RefusedError("no_journal", "this station keeps no journal: set `journal` in its configuration")
        if isinstance(request, Replay):
            return self._replay(self._journal, request)
        if isinstance(request, Since):
            return {"seq": self._journal_reader(self._journal).find_since(request.time_ns)}
        if isinstance(request, Consumer):
            return {"journal_id": self._journal.journal_id, "cursor": self._journal.consumer(request.name)}
        if isinstance(request, Ack):
            if request.journal_id != self._journal.journal_id:
                raise RefusedError("other_journal", f"the journal is now {self._journal.journal_id}")
            self._journal.ack(request.name, request.seq)
        elif isinstance(request, Forget):
            self._journal.forget(request.name)
        return {}

    def _replay(self, journal: Journal, request: Replay) -> dict[str, Any]:
        page = self._journal_reader(journal).page(request.first, request.last, limit=request.limit, max_bytes=MAX_PAGE_BYTES)
        return {
            "journal_id": page.journal_id,
            "verdicts": [msgspec.Raw(entry.header) for entry in page.entries],
            "void": page.voids,
            "gone": page.gone,
            "next": page.next,
            "last": page.last_committed,
        }

    def _journal_reader(self, journal: Journal) -> JournalReader:
        if self._reader is None:
            self._reader = journal.reader()
        return self._reader


def _decode(payload: bytes) -> Request:
    try:
        request: Request = msgspec.json.decode(payload, type=Request)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RefusedError("bad_request", str(error)) from error
    return request


def _id_of(payload: bytes) -> Id:
    """The id of a request that is otherwise wrong, so that the asker knows its answer."""
    try:
        return msgspec.json.decode(payload, type=_Identified).id
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None


class _Identified(msgspec.Struct, frozen=True):
    id: Id = None


def _error(request_id: Id, code: str, message: str) -> dict[str, Any]:
    return {"id": request_id, "ok": False, "error": code, "message": message}
