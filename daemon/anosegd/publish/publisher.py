"""The publisher: one thread that owns the PUB socket, alone closes parts, numbers verdicts and sends the heartbeat."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import zmq

from anosegd import endpoint, logs, wire
from anosegd.config import Config
from anosegd.journal import Journal
from anosegd.outcome import Dropped, Outcome, Result, Tally, Unknown
from anosegd.part import Part
from anosegd.publish.commits import Commits, Pending, overdue
from anosegd.publish.masks import MaskEncoder
from anosegd.publish.verdict import mask_job, verdict_of
from anosegd.worker import Worker

HEARTBEAT_S = 1.0
SEND_HWM = 2000
"""Messages kept for one slow subscriber before it loses some. Each takes about 160 bytes; the content is shared."""
LINGER_MS = 1000
"""How long unsent messages are kept when the daemon stops."""
MASK_QUEUE = 8
"""Anomaly maps that may wait for encoding; further ones are dropped and counted."""
MAX_SUBSCRIPTION_BYTES = 1024
"""A topic is a word and a camera's name; ZeroMQ's own handshake takes a few hundred bytes."""
LAST_COMMITS_S = 4.0
"""How long the end waits for verdicts that are being committed."""


@dataclass(frozen=True, slots=True)
class Identity:
    """journal_id and seq are a verdict's identity; without a journal, one journal_id a run. run_id: this process."""

    journal_id: str
    run_id: str


@dataclass(slots=True)
class _OpenPart:
    part: Part
    outcome: Outcome | None = None


@dataclass(frozen=True, slots=True)
class _Opened:
    part: Part


@dataclass(frozen=True, slots=True)
class _Closing:
    part: Part
    outcome: Outcome


@dataclass(frozen=True, slots=True)
class _Owed:
    """A part that the run before had accepted and did not answer."""

    part: Part


@dataclass(frozen=True, slots=True)
class _Committed:
    """The journal's word on a verdict. error: None, or why it is not in the journal."""

    pending: Pending
    error: Exception | None


@dataclass(frozen=True, slots=True)
class _MaskReady:
    header: wire.Mask
    png: bytes


@dataclass(frozen=True, slots=True)
class _StateChanged:
    pass


@dataclass(frozen=True, slots=True)
class _Stop:
    reason: wire.Reason


_Event = _Opened | _Closing | _Owed | _Committed | _MaskReady | _StateChanged | _Stop


class Publisher(Worker):
    """Other threads tell it what became of parts (`open_part`, `close_…`); it decides what is sent.

    A part is closed once, by its first outcome: a judgement, an UNKNOWN, or its deadline. Verdicts of a camera go out in
    the order of capture. With a journal, a verdict is sent when it is committed; while that lasts, other parts go on.
    describe: the station's state for the heartbeat, asked for on this thread.
    """

    def __init__(
        self,
        config: Config,
        identity: Identity,
        describe: Callable[[Publisher], wire.State],
        journal: Journal | None = None,
    ) -> None:
        super().__init__("publisher")
        self.identity = identity
        self.tallies: dict[str, Tally] = {}
        self.last_seq = 0
        self.last_state = b"null"
        self.engine: wire.EngineName | None = None  # for parts that nothing judged; set before the first part
        self._config = config
        self._describe = describe
        self._numbered = 0  # without a journal
        self._heartbeat_at = 0.0
        self._inbox: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self._commits: Commits | None = None
        if journal is not None:
            self._commits = Commits(
                journal,
                self._verdict,
                on_failure=config.on_journal_failure,
                answered=lambda pending, error: self._inbox.put(_Committed(pending, error)),
                too_late=self._too_late,
            )
        self._masks = MaskEncoder(MASK_QUEUE, lambda header, png: self._inbox.put(_MaskReady(header, png)))
        self._open: dict[str, deque[_OpenPart]] = {}
        self._bound = threading.Event()
        self._late = logs.Throttles("verdict.late")
        for name in config.cameras:
            self.add_camera(name)

    # ---- any thread

    def start(self) -> None:
        """Start the thread and bind the socket.

        Raises:
            PublishError: the endpoint cannot be bound.
        """
        self.start_until(self._bound)

    def add_camera(self, name: str) -> None:
        """Parts of a camera of this name are going to come; before the first of them. Main thread."""
        if name not in self._open:  # whole new tables: the publisher's thread may be going through the old ones
            self.tallies = self.tallies | {name: Tally()}
            self._open = self._open | {name: deque()}

    def open_part(self, part: Part) -> None:
        """A part was captured: from now on it is owed a verdict. The camera's thread, in the order of capture."""
        self._inbox.put(_Opened(part))

    def close_judged(self, part: Part, result: Result) -> None:
        """A part was inspected."""
        self._inbox.put(_Closing(part, result))

    def close_unknown(self, part: Part, reason: wire.Reason, detail: str | None = None) -> None:
        """A part was not inspected and will not be."""
        self._inbox.put(_Closing(part, Unknown(reason, detail)))

    def drop_part(self, part: Part) -> None:
        """A frame was passed over under policy latest."""
        self._inbox.put(_Closing(part, Dropped()))

    def answer_owed(self, part: Part) -> None:
        """A trigger that the run before accepted, and a crash left unanswered."""
        self._inbox.put(_Owed(part))

    def state_changed(self) -> None:
        """Publish the state now, not at the next heartbeat."""
        self._inbox.put(_StateChanged())

    def stop(self, reason: wire.Reason = "shutdown") -> None:
        """Close what is open as UNKNOWN with this reason, send everything, end."""
        self._inbox.put(_Stop(reason))

    @property
    def masks_dropped(self) -> int:
        """Masks not encoded for want of time."""
        return self._masks.dropped + (self._commits.maps_dropped if self._commits is not None else 0)

    @property
    def idle(self) -> bool:
        """Whether every part that was opened is closed and sent."""
        return self._inbox.empty() and not any(self._open.values()) and not self._commits

    # ---- the publisher's thread

    def work(self) -> None:
        """Bind, then handle events until told to stop."""
        with zmq.Context() as context, context.socket(zmq.PUB) as socket:
            socket.sndhwm = SEND_HWM
            socket.linger = LINGER_MS
            socket.maxmsgsize = MAX_SUBSCRIPTION_BYTES  # what a subscriber sends; a larger one costs it the connection
            socket.rcvhwm = 100
            endpoint.bind(socket, self._config.publish.endpoint)
            self._socket = socket
            self._masks.start()
            self._bound.set()
            try:
                self._serve()
            finally:
                self._masks.stop()
                self._masks.join(2.0)
            self._send_last_masks()
            self._send_state()

    def _serve(self) -> None:
        while True:
            self._beat()
            event = self._next(min(self._heartbeat_at, self._next_deadline()) - time.monotonic())
            if isinstance(event, _Opened):
                self._open[event.part.camera].append(_OpenPart(event.part))
            elif isinstance(event, _Closing):
                self._close(event.part, event.outcome)
            elif isinstance(event, _Owed):
                self._commit(event.part, Unknown("restart", "the daemon ended before this part was inspected"))
            elif isinstance(event, _Committed):
                self._settle(event)
            elif isinstance(event, _MaskReady):
                self._send_mask(event)
            elif isinstance(event, _StateChanged):
                self._send_state()
            elif isinstance(event, _Stop):
                self._close_all(event.reason)
                return
            self._commit_closed()
            self._send_due()

    def _beat(self) -> None:
        """Answer the watchdog, and send the state when it is time."""
        self.answer()
        if time.monotonic() >= self._heartbeat_at:
            if self._masks.failure is not None:
                raise self._masks.failure
            self._send_state()

    def _next(self, timeout_s: float) -> _Event | None:
        try:
            return self._inbox.get(timeout=max(0.0, timeout_s))
        except queue.Empty:
            return None

    def _next_deadline(self) -> float:
        """Monotonic seconds; a camera's deadlines lie in the order of its parts, so its first open part has the nearest."""
        deadlines = [parts[0].part.deadline_ns for parts in self._open.values() if parts]
        deadlines += [part.deadline_ns for part in self._commits.first_parts()] if self._commits is not None else []
        return min((ns / 1e9 for ns in deadlines if ns is not None), default=float("inf"))

    def _close(self, part: Part, outcome: Outcome) -> None:
        for open_part in self._open[part.camera]:
            if open_part.part.sequence == part.sequence:
                if open_part.outcome is None:
                    open_part.part, open_part.outcome = part, outcome  # by now more is known of it
                return
        if isinstance(outcome, Result):
            self.tallies[part.camera].late += 1
            self._late.of(part.camera).warning(
                camera=part.camera,
                part=part.part_id,
                outcome=outcome.judgement.outcome,
                score=outcome.judgement.score,
                after_ms=(outcome.finished_ns - part.began_ns) / 1e6,
            )

    def _close_all(self, reason: wire.Reason) -> None:
        """The end: what is open is UNKNOWN; what is being committed is waited for, and sent without the journal if need be."""
        for parts in self._open.values():
            for open_part in parts:
                if open_part.outcome is None:
                    open_part.outcome = Unknown(reason, "the daemon stopped before this part was inspected")
        self._commit_closed()
        give_up_at = time.monotonic() + LAST_COMMITS_S
        while self._commits and time.monotonic() < give_up_at:
            self._beat()
            event = self._next(0.1)
            if isinstance(event, _Committed):
                self._settle(event)
            elif isinstance(event, _MaskReady):
                self._send_mask(event)
            self._send_due()
        if self._commits is not None:
            for verdict, outcome in self._commits.give_up():
                self._send_verdict(verdict, outcome)

    def _commit_closed(self) -> None:
        for parts in self._open.values():
            while parts:
                first = parts[0]
                late = overdue(first.part)
                if first.outcome is None and not late:
                    break
                parts.popleft()
                if isinstance(first.outcome, Dropped):
                    self.tallies[first.part.camera].dropped += 1
                    continue
                outcome = first.outcome
                if outcome is None:
                    outcome = self._missed(first.part)
                elif late and isinstance(outcome, Result):
                    outcome = self._too_late(first.part)
                self._commit(first.part, outcome)

    def _missed(self, part: Part) -> Unknown:
        of = "the trigger" if part.triggered_ns is not None else "capture"
        assert part.deadline_ns is not None
        return Unknown("deadline", f"no verdict within {(part.deadline_ns - part.began_ns) / 1e6:g} ms of {of}")

    def _too_late(self, part: Part) -> Unknown:
        """There is a result, but its deadline has passed."""
        self.tallies[part.camera].late += 1
        return self._missed(part)

    def _commit(self, part: Part, outcome: Result | Unknown) -> None:
        """Give the part's verdict its number, and to the journal; without one, send it."""
        if self._commits is not None:
            self._commits.add(part, outcome)
            return
        self._numbered += 1
        self._send_verdict(self._verdict(part, outcome, self.identity.journal_id, self._numbered, durable=False), outcome)

    def _settle(self, committed: _Committed) -> None:
        assert self._commits is not None
        self._commits.settle(committed.pending, committed.error)

    def _send_due(self) -> None:
        if self._commits is not None:
            for verdict, outcome in self._commits.due():
                self._send_verdict(verdict, outcome)

    def _verdict(self, part: Part, outcome: Result | Unknown, journal_id: str, seq: int, *, durable: bool) -> wire.Verdict:
        assert self.engine is not None, "parts come after the engine"
        return verdict_of(
            part,
            outcome,
            station=self._config.station,
            engine=self.engine,
            run_id=self.identity.run_id,
            journal_id=journal_id,
            seq=seq,
            durable=durable,
        )

    def _send_verdict(self, verdict: wire.Verdict, outcome: Result | Unknown) -> None:
        self._socket.send_multipart([f"verdict.{verdict.camera}".encode(), wire.encode(verdict)])
        self.last_seq = max(self.last_seq, verdict.seq)
        if (tally := self.tallies.get(verdict.camera)) is not None:  # it may be of a camera of the run before
            tally.add(verdict)
        if isinstance(outcome, Result) and outcome.inspection.anomaly_map.size and self._config.publish.masks:
            self._masks.offer(mask_job(verdict, outcome))

    def _send_mask(self, mask: _MaskReady) -> None:
        self._socket.send_multipart([f"mask.{mask.header.camera}".encode(), wire.encode(mask.header), mask.png])

    def _send_last_masks(self) -> None:
        while event := self._next(0):
            if isinstance(event, _MaskReady):
                self._send_mask(event)

    def _send_state(self) -> None:
        self._heartbeat_at = time.monotonic() + HEARTBEAT_S
        self.last_state = wire.encode(self._describe(self))
        self._socket.send_multipart([b"state", self.last_state])
