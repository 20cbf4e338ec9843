"""The publisher: one thread that owns the PUB socket, alone closes parts, numbers verdicts and sends the heartbeat."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

import zmq

from anoseg_engines.errors import PublishError
from anoseg_engines.judge import Inspection, Judgement
from anoseg_engines.placement import Placement
from anosegd import endpoint, logs, wire
from anosegd.config import Config
from anosegd.frames import Part
from anosegd.masks import MaskEncoder, MaskJob
from anosegd.worker import Worker

HEARTBEAT_S = 1.0


@dataclass(frozen=True, slots=True)
class Identity:
    """journal_id and seq are a verdict's identity; while there is no journal, one journal_id a run. run_id: this process."""

    journal_id: str
    run_id: str


@dataclass(frozen=True, slots=True)
class Result:
    """A part's inspection, as the inspector hands it over; the map is the receiver's.

    started_ns, finished_ns: monotonic, around placement, network and judgement.
    """

    judgement: Judgement
    inspection: Inspection
    placement: Placement
    started_ns: int
    finished_ns: int


@dataclass(frozen=True, slots=True)
class Unknown:
    """A part that was not inspected."""

    reason: wire.Reason
    detail: str | None


@dataclass(frozen=True, slots=True)
class _Dropped:
    """A frame passed over under policy latest: no part, no verdict, but counted."""


_Outcome = Result | Unknown | _Dropped


@dataclass(slots=True)
class _OpenPart:
    part: Part
    outcome: _Outcome | None = None


@dataclass(frozen=True, slots=True)
class _Opened:
    part: Part


@dataclass(frozen=True, slots=True)
class _Closing:
    part: Part
    outcome: _Outcome


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


_Event = _Opened | _Closing | _MaskReady | _StateChanged | _Stop


@dataclass(slots=True)
class Tally:
    """What was sent for one camera, and what was not. Written by the publisher's thread only."""

    passed: int = 0
    failed: int = 0
    unknown: int = 0
    late: int = 0
    dropped: int = 0
    overruns: int = 0

    def counts(self) -> wire.Counts:
        """As published."""
        return wire.Counts(passed=self.passed, failed=self.failed, unknown=self.unknown, late=self.late)


class Publisher(Worker):
    """Other threads tell it what became of parts (`open_part`, `close_…`); it decides what is sent.

    A part is closed once, by its first outcome: a judgement, an UNKNOWN, or its deadline. Verdicts of a camera go out in
    the order of capture. describe: the station's state for the heartbeat, asked for on this thread.
    """

    def __init__(self, config: Config, identity: Identity, describe: Callable[[Publisher], wire.State]) -> None:
        super().__init__("publisher")
        self.identity = identity
        self.tallies = {name: Tally() for name in config.cameras}
        self.last_seq = 0
        self.engine: wire.EngineName | None = None  # set by the station before the first part
        self._config = config
        self._describe = describe
        self._inbox: queue.SimpleQueue[_Event] = queue.SimpleQueue()
        self._masks = MaskEncoder(config.publish.mask_queue, lambda header, png: self._inbox.put(_MaskReady(header, png)))
        self._open: dict[str, deque[_OpenPart]] = {name: deque() for name in config.cameras}
        self._bound = threading.Event()
        self._late = {name: logs.Throttle("verdict.late") for name in config.cameras}

    # ---- any thread

    def start(self) -> None:
        """Start the thread and bind the socket.

        Raises:
            PublishError: the endpoint cannot be bound.
        """
        super().start()
        while not self._bound.wait(0.05):
            if not self.alive:
                raise self.failure or PublishError("the publisher ended at once")

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
        self._inbox.put(_Closing(part, _Dropped()))

    def state_changed(self) -> None:
        """Publish the state now, not at the next heartbeat."""
        self._inbox.put(_StateChanged())

    def stop(self, reason: wire.Reason = "shutdown") -> None:
        """Close what is open as UNKNOWN with this reason, send everything, end."""
        self._inbox.put(_Stop(reason))

    @property
    def masks_dropped(self) -> int:
        """Masks not encoded for want of time."""
        return self._masks.dropped

    @property
    def idle(self) -> bool:
        """Whether every part that was opened is closed and sent."""
        return self._inbox.empty() and not any(self._open.values())

    # ---- the publisher's thread

    def work(self) -> None:
        """Bind, then handle events until told to stop."""
        with zmq.Context() as context, context.socket(zmq.PUB) as socket:
            socket.sndhwm = self._config.publish.send_hwm
            socket.linger = self._config.publish.linger_ms
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
        heartbeat_at = time.monotonic()
        while True:
            now = time.monotonic()
            if now >= heartbeat_at:
                if self._masks.failure is not None:
                    raise self._masks.failure
                self._send_state()
                heartbeat_at = max(heartbeat_at + HEARTBEAT_S, now)
            self.answer()
            event = self._next(min(heartbeat_at, self._next_deadline()) - now)
            if isinstance(event, _Opened):
                self._open[event.part.camera].append(_OpenPart(event.part))
            elif isinstance(event, _Closing):
                self._close(event.part, event.outcome)
            elif isinstance(event, _MaskReady):
                self._send_mask(event)
            elif isinstance(event, _StateChanged):
                self._send_state()
                heartbeat_at = time.monotonic() + HEARTBEAT_S
            elif isinstance(event, _Stop):
                self._close_all(event.reason)
                return
            self._send_closed()

    def _next(self, timeout_s: float) -> _Event | None:
        try:
            return self._inbox.get(timeout=max(0.0, timeout_s))
        except queue.Empty:
            return None

    def _next_deadline(self) -> float:
        """Monotonic seconds; a camera's deadlines lie in the order of its parts, so its first open part has the nearest."""
        deadlines = [parts[0].part.deadline_ns for parts in self._open.values() if parts]
        return min((ns / 1e9 for ns in deadlines if ns is not None), default=float("inf"))

    def _close(self, part: Part, outcome: _Outcome) -> None:
        for open_part in self._open[part.camera]:
            if open_part.part.sequence == part.sequence:
                if open_part.outcome is None:
                    open_part.outcome = outcome
                return
        if isinstance(outcome, Result):
            self.tallies[part.camera].late += 1
            self._late[part.camera].warning(
                camera=part.camera,
                part=part.part_id,
                outcome=outcome.judgement.outcome,
                score=outcome.judgement.score,
                after_ms=(outcome.finished_ns - part.captured_ns) / 1e6,
            )

    def _close_all(self, reason: wire.Reason) -> None:
        for parts in self._open.values():
            for open_part in parts:
                if open_part.outcome is None:
                    open_part.outcome = Unknown(reason, "the daemon stopped before this part was inspected")
        self._send_closed()

    def _send_closed(self) -> None:
        for parts in self._open.values():
            while parts:
                first = parts[0]
                overdue = first.part.deadline_ns is not None and time.monotonic_ns() >= first.part.deadline_ns
                if first.outcome is None and not overdue:
                    break
                parts.popleft()
                self._settle(first.part, first.outcome, overdue)

    def _settle(self, part: Part, outcome: _Outcome | None, overdue: bool) -> None:
        tally = self.tallies[part.camera]
        if isinstance(outcome, _Dropped):
            tally.dropped += 1
            return
        if outcome is None or (overdue and isinstance(outcome, Result)):
            if outcome is not None:
                tally.late += 1
            outcome = Unknown("deadline", f"no verdict within {self._config.cameras[part.camera].deadline_ms:g} ms of capture")
        verdict = self._commit(part, outcome)
        if verdict.outcome == "PASS":
            tally.passed += 1
        elif verdict.outcome == "FAIL":
            tally.failed += 1
        else:
            tally.unknown += 1
            tally.overruns += verdict.reason == "overrun"
        if isinstance(outcome, Result) and self._config.publish.masks:
            self._masks.offer(self._mask_job(verdict, outcome))

    def _commit(self, part: Part, outcome: Result | Unknown) -> wire.Verdict:
        """Give the verdict its number and send it."""
        assert self.engine is not None, "parts come after the engine"
        self.last_seq += 1
        judgement = outcome.judgement if isinstance(outcome, Result) else None
        verdict = wire.Verdict(
            station=self._config.station,
            journal_id=self.identity.journal_id,
            seq=self.last_seq,
            run_id=self.identity.run_id,
            camera=part.camera,
            part_id=part.part_id,
            sequence=part.sequence,
            captured_at=wire.utc(part.captured_wall_ns),
            committed_at=wire.utc(time.time_ns()),
            outcome=judgement.outcome if judgement else "UNKNOWN",
            reason=outcome.reason if isinstance(outcome, Unknown) else None,
            detail=outcome.detail if isinstance(outcome, Unknown) else None,
            score=judgement.score if judgement else None,
            threshold=judgement.threshold if judgement else None,
            defects=judgement.defects if judgement else (),
            recipe=self._config.cameras[part.camera].recipe,
            engine=self.engine,
            source=part.source,
            durable=False,
            timings_ms=_timings(part, outcome),
        )
        self._socket.send_multipart([f"verdict.{part.camera}".encode(), wire.encode(verdict)])
        return verdict

    def _mask_job(self, verdict: wire.Verdict, result: Result) -> MaskJob:
        height, width = result.inspection.anomaly_map.shape
        scale_x, scale_y = result.placement.scale_xy
        header = wire.Mask(
            station=verdict.station,
            journal_id=verdict.journal_id,
            seq=verdict.seq,
            camera=verdict.camera,
            part_id=verdict.part_id,
            region=result.placement.region,
            width=width,
            height=height,
            scale_x=scale_x,
            scale_y=scale_y,
        )
        return MaskJob(header, result.inspection.anomaly_map)

    def _send_mask(self, mask: _MaskReady) -> None:
        self._socket.send_multipart([f"mask.{mask.header.camera}".encode(), wire.encode(mask.header), mask.png])

    def _send_last_masks(self) -> None:
        while event := self._next(0):
            if isinstance(event, _MaskReady):
                self._send_mask(event)

    def _send_state(self) -> None:
        self._socket.send_multipart([b"state", wire.encode(self._describe(self))])


def _timings(part: Part, outcome: Result | Unknown) -> wire.Timings:
    total = _ms(time.monotonic_ns() - part.captured_ns)
    if isinstance(outcome, Unknown):
        return wire.Timings(total=total)
    return wire.Timings(
        wait=_ms(outcome.started_ns - part.captured_ns),
        inspect=_ms(outcome.finished_ns - outcome.started_ns),
        inference=_ms(outcome.inspection.inference_ns),
        total=total,
    )


def _ms(ns: int) -> float:
    return round(ns / 1e6, 3)
