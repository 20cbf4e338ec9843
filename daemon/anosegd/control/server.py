"""Answers the requests at the control socket, on the thread "control".

The thread owns the ROUTER socket and a reader of the journal. Requests come from REQ or DEALER sockets. An answer carries the
request's id and `ok`, or an error code and a message. The size and rate of requests are limited, and so is the size of answers.
"""

from __future__ import annotations

import itertools
import queue
import threading
import time
from collections.abc import Callable
from typing import Any

import msgspec
import zmq

from anoseg_engines.errors import AnosegError
from anosegd import endpoint, logs, signals
from anosegd.connection_limits import ConnectionLimits
from anosegd.control.feedback import note_feedback, shown_mark, shown_note
from anosegd.control.rates import RATE, Rates
from anosegd.control.requests import (
    AckRequest,
    ChangesRequest,
    ConsumerRequest,
    DrainRequest,
    FeedbackRequest,
    ForgetRequest,
    Id,
    MarksRequest,
    NotesRequest,
    PauseRequest,
    ProveRequest,
    QuickRequest,
    RecipeRequest,
    RefusedError,
    ReloadRequest,
    ReplayRequest,
    Request,
    ResumeRequest,
    RollbackRequest,
    SetThresholdRequest,
    SinceRequest,
    SlowRequest,
    StatusRequest,
    SwapRequest,
    TriggerRequest,
    UndoFeedbackRequest,
    decode,
    error_reply,
    id_of,
)
from anosegd.inspection.pauses import PauseRequest as PauseOrResume
from anosegd.inspection.score_thresholds import Request as ThresholdRequest
from anosegd.journal import Change, Journal, JournalReader
from anosegd.keys import Guard, Peer, new_socket
from anosegd.wire import EngineName, utc
from anosegd.worker import Answer, Asker, DetailedAnswer, Worker

MAX_REQUEST_BYTES = 32 << 10
MAX_PAGE_BYTES = 256 << 10
MOST_FRAMES = 3
"""Routing id, the empty frame of a REQ socket, and the request."""
MAX_PENDING = 256
"""Slow requests that may wait for their answers."""
MAX_QUEUED = 16
"""Requests of one peer kept in memory; further ones wait on the peer's side."""
EVERYONE = Peer("", control=True)
"""Any client of a station without keys."""
READS = (
    ReplayRequest,
    SinceRequest,
    ChangesRequest,
    ConsumerRequest,
    AckRequest,
    MarksRequest,
    NotesRequest,
    StatusRequest,
)
"""Requests that change nothing on the line. All others need a key that is marked for control."""
ENDING = "the daemon is ending; whether this was done is not known"
TriggerAnswer = Callable[[dict[str, Any]], None]


class Control(Worker):
    """Answers requests on its own thread."""

    def __init__(
        self,
        address: str,
        journal: Journal | None,
        *,
        state: Callable[[], bytes],
        drain: Callable[[], None],
        engine: Callable[[], EngineName | None],
        warning: Callable[[SlowRequest], str | None] = lambda _: None,
        cameras: Callable[[], list[str]] = list,
        reload: Callable[[Answer], None],
        swap: Callable[[str, bool, Answer, Asker], None],
        roll_back: Callable[[Answer, Asker], None],
        set_threshold: Callable[[ThresholdRequest], None],
        pause: Callable[[PauseOrResume], None],
        prove: Callable[[Answer], None],
        trigger: Callable[[TriggerRequest, TriggerAnswer], None],
        recipe: Callable[[str, Asker, DetailedAnswer], None],
        guard: Guard | None = None,
    ) -> None:
        """Prepare; `start` opens the socket.

        Args:
            address: Endpoint to bind.
            journal: None refuses requests about verdicts.
            state: Returns the last published state, encoded.
            drain: Asks the station to stop.
            engine: Returns the name of the engine that inspects; None if the station restarts now.
            warning: Returns what an operator should know about the bundle that a finished request took; None if nothing.
            cameras: Returns the names of the cameras that a finished reload has opened or ended.
            reload, prove: Ask the station for this, and name the function to call with the answer.
            roll_back: As `reload`, and with who asks.
            swap: As `roll_back`, and with the bundle's path and whether it may be of another product.
            set_threshold: Asks the station for another threshold.
            pause: Asks the station for a pause, or for its end.
            trigger: Takes a trigger, and names the function to call with the answer. Raises ValueError if it is refused.
            recipe: Asks the station for another recipe.
            guard: Admits clients by their keys; None admits every one, to everything.
        """
        super().__init__("control")
        self._address = address
        self._journal = journal
        self._state, self._drain, self._reload = state, drain, reload
        self._swap, self._roll_back, self._prove, self._trigger = swap, roll_back, prove, trigger
        self._set_threshold, self._pause, self._recipe = set_threshold, pause, recipe
        self._engine, self._warning, self._cameras = engine, warning, cameras
        self._guard = guard
        self._reader: JournalReader | None = None
        self._rates = Rates()
        self._refused = logs.Throttles("request.refused")
        self._commands = logs.Throttles("request.command")
        self._bound = threading.Event()
        self._stopping = threading.Event()
        self._number = itertools.count()
        self._pending: dict[int, tuple[list[bytes], Id]] = {}  # the senders of slow requests
        self._late_replies: queue.SimpleQueue[tuple[int, dict[str, Any]]] = queue.SimpleQueue()  # from other threads

    def start(self) -> None:
        """Start the thread and bind the socket.

        Raises:
            PublishError: The endpoint cannot be bound.
        """
        self.start_until(self._bound)

    def stop(self) -> None:
        """Ask the thread to end. Any thread."""
        self._stopping.set()

    # ---- the socket

    def work(self) -> None:
        """Bind, then answer requests until asked to stop."""
        with new_socket(zmq.ROUTER, self._guard) as (socket, limits):
            socket.set(zmq.MAXMSGSIZE, MAX_REQUEST_BYTES)
            socket.set(zmq.RCVHWM, MAX_QUEUED)
            socket.set(zmq.SNDHWM, 10)  # a peer that reads no answers loses them; it does not fill our memory
            socket.set(zmq.LINGER, 200)
            endpoint.bind(socket, self._address)
            self._bound.set()
            try:
                while not self._stopping.is_set():
                    self.answer()
                    self._send_late_replies(socket)
                    left = limits.check()
                    if socket.poll(0 if left else 2 if self._pending else 250):
                        self._receive(socket, limits)
                self._close(socket, limits)
            finally:
                if self._reader is not None:
                    self._reader.close()

    def _close(self, socket: zmq.Socket[bytes], limits: ConnectionLimits) -> None:
        """Answer everything that has arrived: nobody carries out slow requests any more."""
        while socket.poll(0) and len(self._pending) < MAX_PENDING:
            self._receive(socket, limits)
        self._send_late_replies(socket)
        for address, request_id in self._pending.values():
            _send(socket, address, error_reply(request_id, "ending", ENDING))

    def _receive(self, socket: zmq.Socket[bytes], limits: ConnectionLimits) -> None:
        frames = [socket.recv(copy=False)]
        while frames[-1].more and len(frames) < MOST_FRAMES:
            frames.append(socket.recv(copy=False))
        if frames[-1].more:  # neither a REQ nor a DEALER socket sends this; no answer can reach the sender
            while socket.recv(copy=False).more:
                pass
            return
        peer, *rest = (frame.bytes for frame in frames)
        if not rest:
            return
        limits.delivered(*frames[1:])
        *envelope, payload = rest
        if envelope not in ([], [b""]):
            return  # neither a REQ nor a DEALER socket sends this; no answer can reach the sender
        address = [peer, *envelope]
        client = EVERYONE if self._guard is None else self._guard.peer(frames[-1])
        # All connections of one key share its rate, and so do those whose key is authorised no more.
        sender = peer if client is EVERYONE else "" if client is None else client.name
        if self._rates.allows(sender, time.monotonic()):
            reply = self._reply(payload, address, client)
        else:
            error = RefusedError("busy", f"more than {RATE:.0f} requests a second")
            self._log_refused(error.code, error, client)
            reply = error_reply(id_of(payload), error.code, str(error))
        if reply is not None:
            _send(socket, address, reply)

    def _send_late_replies(self, socket: zmq.Socket[bytes]) -> None:
        while not self._late_replies.empty():
            number, reply = self._late_replies.get_nowait()
            sender = self._pending.pop(number, None)
            if sender is not None:  # otherwise this request was answered before
                address, request_id = sender
                _send(socket, address, {"id": request_id, **reply})

    # ---- dispatch

    def _reply(self, payload: bytes, address: list[bytes], client: Peer | None) -> dict[str, Any] | None:
        """Return the answer, or None if it follows later."""
        request_id: Id = None
        try:
            request = decode(payload)
            request_id = request.id
            self._check_key(request, client)
            if isinstance(request, SlowRequest):
                self._begin(request, address)
                return None
            return {"id": request_id, "ok": True, **self._answer_now(request)}
        except RefusedError as error:
            self._log_refused(error.code, error, client)
            return error_reply(request_id or id_of(payload), error.code, str(error))
        except AnosegError as error:  # the journal cannot be read at the moment
            self._log_refused("failed", error, client)
            return error_reply(request_id, "failed", str(error))

    def _log_refused(self, code: str, error: Exception, client: Peer | None) -> None:
        name = "" if client is None else client.name
        self._refused.of(name).warning(code=code, error=str(error), key=name or None)

    def _check_key(self, request: Request, client: Peer | None) -> None:
        """Check that the client's key allows the request, and log commands.

        Raises:
            RefusedError: It does not.
        """
        if client is None:
            raise RefusedError("forbidden", "this key is not authorised any more")
        if client is EVERYONE:
            return
        if isinstance(request, ConsumerRequest | AckRequest) and not client.control and request.name != client.name:
            what = f"the key {client.name} may read and acknowledge as the consumer {client.name} only"
            raise RefusedError("forbidden", f"{what}; other names need a key that is marked for control")
        if isinstance(request, READS):
            return
        op = type(request).__struct_config__.tag
        if not client.control:
            why = f"the key {client.name} may listen and read; {op} needs a key that is marked for control"
            raise RefusedError("forbidden", why)
        self._commands.of(f"{client.name} {op}").info(op=op, key=client.name)  # no command can hide another

    def _begin(self, request: SlowRequest, address: list[bytes]) -> None:
        """Hand a slow request to the thread that carries it out."""
        if len(self._pending) >= MAX_PENDING:
            raise RefusedError("busy", "too many requests wait for their answers")
        number = next(self._number)
        self._pending[number] = address, request.id

        def answer(error: str | None) -> None:
            if error is not None:
                self._late_replies.put((number, error_reply(request.id, "refused", error)))
            else:
                cameras = self._cameras() if isinstance(request, ReloadRequest) else []
                found = {"ok": True, "engine": self._engine(), "warning": self._warning(request), "cameras": cameras}
                optional = ("warning", "cameras")
                self._late_replies.put((number, {key: value for key, value in found.items() if key not in optional or value}))

        def accepted(details: dict[str, Any]) -> None:
            self._late_replies.put((number, {"ok": True, **details}))

        def done(result: dict[str, Any] | str) -> None:
            if isinstance(result, str):
                answer(result)
            else:
                accepted(result)

        match request:
            case TriggerRequest():
                try:
                    self._trigger(request, accepted)
                except ValueError as error:
                    del self._pending[number]
                    raise RefusedError("bad_request", str(error)) from error
            case ReloadRequest():
                self._reload(answer)
            case ProveRequest():
                self._prove(answer)
            case SwapRequest():
                self._swap(request.bundle, request.other_product, answer, Asker(request.who, request.why))
            case RollbackRequest():
                self._roll_back(answer, Asker(request.who, request.why))
            case RecipeRequest():
                self._recipe(request.name, Asker(request.who, request.why), done)
            case SetThresholdRequest():
                asker = Asker(request.who, request.why)
                self._set_threshold(ThresholdRequest(request.camera, request.value, asker, done))
            case FeedbackRequest() | UndoFeedbackRequest():

                def noted(result: dict[str, Any] | RefusedError) -> None:
                    if isinstance(result, RefusedError):
                        self._late_replies.put((number, error_reply(request.id, result.code, str(result))))
                    else:
                        accepted(result)

                try:
                    journal = self._journal_in_use()
                    note_feedback(journal, self._journal_reader(journal), request, noted)
                except BaseException:
                    del self._pending[number]
                    raise
            case PauseRequest() | ResumeRequest():
                minutes = request.minutes if isinstance(request, PauseRequest) else None
                self._pause(PauseOrResume(request.camera, minutes, Asker(request.who, request.why), done))
        if not isinstance(request, TriggerRequest | FeedbackRequest | UndoFeedbackRequest):
            signals.wake()  # the main thread carries it out

    def _answer_now(self, request: QuickRequest) -> dict[str, Any]:
        match request:
            case StatusRequest():
                return {"state": msgspec.Raw(self._state())}
            case DrainRequest():
                self._drain()
                return {}
        journal = self._journal_in_use()
        match request:
            case MarksRequest():
                last = None if request.before is None else request.before - 1
                found = self._journal_reader(journal).marks(1, last, newest_first=True, limit=request.limit)
                return {"journal_id": journal.journal_id, "marks": [shown_mark(mark) for mark in found]}
            case ReplayRequest():
                return self._replay(journal, request)
            case SinceRequest():
                return {"seq": self._journal_reader(journal).find_since(request.time_ns)}
            case ChangesRequest():
                journal_id, changes = self._journal_reader(journal).numbered_changes(request.limit, after=request.after)
                shown = [{"number": number, "at": utc(c.at_ns), **_fields(c)} for number, c in changes]
                return {"journal_id": journal_id, "changes": shown}
            case NotesRequest():
                journal_id, notes = self._journal_reader(journal).notes(request.after, limit=request.limit)
                return {"journal_id": journal_id, "notes": [shown_note(note) for note in notes]}
            case ConsumerRequest():
                return {"journal_id": journal.journal_id, "cursor": journal.consumer(request.name)}
            case AckRequest():
                if request.journal_id != journal.journal_id:
                    raise RefusedError("other_journal", f"the journal is now {journal.journal_id}")
                journal.ack(request.name, request.seq)
            case ForgetRequest():
                journal.forget(request.name)
        return {}

    def _journal_in_use(self) -> Journal:
        if self._journal is None:
            raise RefusedError("no_journal", "this station keeps no journal: set `journal` in its configuration")
        return self._journal

    def _replay(self, journal: Journal, request: ReplayRequest) -> dict[str, Any]:
        reader = self._journal_reader(journal)
        page = reader.page(max(1, request.first), request.last, limit=request.limit, max_bytes=MAX_PAGE_BYTES)
        marks = reader.marks(page.entries[0].seq, page.entries[-1].seq) if page.entries else []
        return {
            "journal_id": page.journal_id,
            "verdicts": [msgspec.Raw(entry.header) for entry in page.entries],
            "marks": [shown_mark(mark) for mark in marks],
            "void": page.voids,
            "gone": page.gone,
            "next": page.next,
            "last": page.last_committed,
        }

    def _journal_reader(self, journal: Journal) -> JournalReader:
        if self._reader is None:
            self._reader = journal.reader()
        return self._reader


def _fields(change: Change) -> dict[str, str | None]:
    return {name: getattr(change, name) for name in ("kind", "camera", "old", "new", "who", "why")}


def _send(socket: zmq.Socket[bytes], address: list[bytes], reply: dict[str, Any]) -> None:
    socket.send_multipart([*address, msgspec.json.encode(reply)])
