"""The daemon's life: start, watch, stop. Runs on the main thread, which alone hears signals."""

from __future__ import annotations

import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from anoseg_engines.bundle.read import load_bundle
from anoseg_engines.errors import AnosegError
from anoseg_engines.version import installed_version
from anosegd import logs, wire
from anosegd.cameras.camera_set import Cameras
from anosegd.cameras.supervisor import Camera
from anosegd.config import Config
from anosegd.control.server import Control
from anosegd.control.triggers import Triggers
from anosegd.inspection.inspector import Inspector, engine_name
from anosegd.inspection.queue import Intake
from anosegd.inspection.rule_calibration import rules_note
from anosegd.inspection.swap import Swaps
from anosegd.journal import Journal
from anosegd.publish.publisher import LINGER_MS, Identity, Publisher
from anosegd.reload import Reloads
from anosegd.systemd import Notifier
from anosegd.worker import Worker

SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
LOOP_S = 0.25
UNTIL_READY_S = 0.02
"""How often the main thread looks whether the engine is proved: all of a pause counts for the start."""
SILENT_S = 10.0
"""A thread that has not answered for so long is said to hang."""
SAME_WISH_S = 0.3
MAX_TRIES = 3
"""A file or camera that gives nothing ends a run that is to end by itself; a line never gives up."""


@dataclass(frozen=True, slots=True)
class End:
    """How the daemon ended. stuck: a thread could not be ended, the process has to go without it.

    successor: the configuration to go on with, after a reload.
    """

    exit_code: int
    stuck: bool
    successor: Config | None = None


class Station:
    """All workers of one station, and what is known of them. `run` is its whole life.

    reread: gives the configuration as it is on disk now, checked as at the start. notice: what an operator should know of how
    this station came to be. ready: the engine was proved, and inspection began.
    """

    def __init__(
        self,
        config: Config,
        notifier: Notifier,
        environment: Mapping[str, str],
        reread: Callable[[], Config],
        *,
        notice: str | None = None,
    ) -> None:
        self.ready = False
        self._config = config
        self._notifier = notifier
        self._notice = notice
        self._reloads = Reloads(reread, self._differs)
        self._successor: Config | None = None
        self._asked_to_drain = threading.Event()
        self._bundle = load_bundle(Path(config.engine.bundle))
        self._journal = Journal.open(config.journal, on_new_journal=self._on_new_journal) if config.journal else None
        try:
            self._assemble(config, environment)
        except BaseException:
            self._close_journal()  # its threads would keep the process, and its lock the next station from it
            raise

    def _assemble(self, config: Config, environment: Mapping[str, str]) -> None:
        """Make the workers; none is started."""
        self._identity = Identity(journal_id=uuid.uuid4().hex, run_id=uuid.uuid4().hex)
        self._started = time.monotonic()
        self._version = installed_version()
        self._stopping = False
        self._watchdog_at = self._status_at = 0.0
        intake = Intake()
        self._publisher = Publisher(config, self._identity, self._describe, self._journal)
        self._inspector = Inspector(config, self._bundle, intake, self._publisher)
        self._swaps = Swaps(config.engine, self._bundle, self._inspector)
        max_tries = MAX_TRIES if config.exit_when_finished else None
        self._cameras = Cameras(config.cameras, intake, self._publisher, environment, max_tries)
        self._triggers = Triggers(self._cameras, self._journal, self._publisher, self._identity.run_id)
        self._control = None
        if config.control is not None:
            self._control = Control(
                config.control.endpoint,
                self._journal,
                state=lambda: self._publisher.last_state,
                drain=self._asked_to_drain.set,
                reload=self._reloads.ask,
                swap=self._swaps.ask,
                trigger=self._triggers.accept,
                prove=self._inspector.proofs.ask,
            )

    def run(self) -> End:
        """Start, inspect until a signal, the sources' end or a failure, stop in order.

        Raises:
            AnosegError: what ended it, where the user can do something about it.
        """
        logs.info("daemon.starting", station=self._config.station, version=self._version, bundle=self._bundle.label)
        try:
            self._publisher.start()
            if self._control is not None:
                self._control.start()
        except BaseException:
            self._publisher.stop()
            self._publisher.join(2.0 + LINGER_MS / 1000)
            self._close_journal()
            self._cameras.close()
            raise
        self._inspector.start()
        try:
            reason = self._wait_for_engine()
            if reason is None:
                self._announce()
                self._cameras.start()
                reason = self._watch()
        except BaseException:  # a fault of ours: the threads must not go on publishing without anybody who hears signals
            self._stop("failure")
            raise
        return self._stop(reason)

    # ---- start and watch

    def _wait_for_engine(self) -> str | None:
        """Until the bundle is proved; the reason to stop instead, if there is one."""
        while self._inspector.engine is None:
            self._tell_systemd()
            if reason := self._reason_to_stop((self._publisher, self._inspector, *self._helpers), UNTIL_READY_S):
                return reason
        self._publisher.engine = self._inspector.engine
        return None

    def _announce(self) -> None:
        assert self._inspector.engine is not None
        self.ready = True
        endpoint, runtime = self._config.publish.endpoint, self._inspector.engine.runtime
        journal = self._journal.journal_id if self._journal else "none: verdicts are not durable"
        logs.info("daemon.ready", endpoint=endpoint, engine=self._bundle.label, runtime=runtime, journal=journal)
        self._notifier.ready(f"ready, {self._bundle.label} on {runtime}, publishing at {endpoint}")
        self._publisher.state_changed()
        self._triggers.open = True

    def _watch(self) -> str:
        """Until there is a reason to stop, which is returned."""
        while True:
            if reason := self._reason_to_stop((self._publisher, self._inspector, *self._helpers, *self._cameras)):
                return reason
            if self._config.exit_when_finished and all(c.finished for c in self._cameras) and self._publisher.idle:
                return "finished"
            self._tell_systemd()

    def _reason_to_stop(self, workers: Iterable[Worker], wait_s: float = LOOP_S) -> str | None:
        """Wait a little for a signal, and look after the workers."""
        if (caught := signal.sigtimedwait(SIGNALS, wait_s)) and caught.si_signo in SIGNALS:  # see _join_unless_signalled
            if caught.si_signo != signal.SIGHUP:
                return signal.Signals(caught.si_signo).name
            self._reloads.ask()
        if self._asked_to_drain.is_set():
            return "drain"
        if self.ready:
            self._swaps.look_after()
            self._triggers.answer_owed()
            if (successor := self._reloads.successor()) is not None:
                return self._go_on_with(successor)
        for worker in workers:
            # A camera whose source has come to its end has ended too, in order.
            if not worker.alive and not (isinstance(worker, Camera) and worker.failure is None):
                return "failure"
        return None

    def _go_on_with(self, config: Config) -> str | None:
        """Exchange what has changed, if that can be done while the rest goes on; else, or on failure, the reason to stop."""
        now = self._config
        bundle_alone = msgspec.structs.replace(config.engine, bundle=now.engine.bundle)
        if msgspec.structs.replace(config, cameras=now.cameras, engine=bundle_alone) != now:
            self._successor = config
            return "reload"
        self._notifier.reloading()
        self._notice = None
        self._config = msgspec.structs.replace(config, engine=now.engine)
        changed, stuck = self._cameras.change(config.cameras, self._triggers.set_cameras, self._tell_systemd)
        if stuck:
            logs.error("daemon.stuck", threads=",".join(camera.thread_name for camera in stuck))
            return "failure"
        if changed:
            logs.info("reload.cameras", changed=",".join(changed))
        try:
            if load_bundle(Path(config.engine.bundle)).digest != self._swaps.bundle.digest:
                path = str(Path(config.engine.bundle).absolute())
                self._swaps.ask(path, lambda error: self._swapped_by_reload(config, error))
        except AnosegError as error:  # it was whole when the reload was checked
            self._swapped_by_reload(config, str(error))
        self._notifier.ready(f"ready, {self._swaps.bundle.label}, publishing at {config.publish.endpoint}")
        self._publisher.state_changed()
        return None

    def _swapped_by_reload(self, config: Config, error: str | None) -> None:
        if error is None:
            self._bundle = self._swaps.bundle
            self._config = msgspec.structs.replace(self._config, engine=config.engine)
        else:
            self._notice = f"the last reload's engine was refused, the one before it inspects: {error.splitlines()[0]}"
        self._publisher.state_changed()

    def _differs(self, config: Config) -> bool:
        """Whether this is not what runs now; a bundle's newest version counts as what it is. On the reload's thread."""
        return config != self._config or load_bundle(Path(config.engine.bundle)).digest != self._swaps.bundle.digest

    def _on_new_journal(self, journal_id: str) -> None:
        """On the journal's thread, which may run before the publisher is made."""
        if publisher := getattr(self, "_publisher", None):
            publisher.state_changed()

    @property
    def _helpers(self) -> tuple[Worker, ...]:
        """Threads whose end is the station's, beside inspector and publisher."""
        control = (self._control,) if self._control is not None else ()
        return (*control, *self._journal.workers) if self._journal is not None else control

    def _tell_systemd(self) -> None:
        now = time.monotonic()
        limit_s = min(SILENT_S, (self._notifier.watchdog_s or SILENT_S) / 2)
        # While the engine is being proved its thread cannot answer: how long that may take is TimeoutStartSec's business.
        inspects = self._inspector.silent_s < limit_s or (not self.ready and self._inspector.alive)
        if self._publisher.silent_s < limit_s and inspects and now >= self._watchdog_at:
            self._watchdog_at = now + (self._notifier.watchdog_s or SILENT_S) / 4
            self._notifier.watchdog()
        if now >= self._status_at:
            self._status_at = now + 5.0
            running = sum(c.status.state == "running" for c in self._cameras)
            state, detail = self._state()
            told = f"{state}{f' ({detail})' if detail else ''}"
            self._notifier.status(f"{told}, {self._publisher.last_seq} verdicts, {running}/{len(self._cameras.all)} cameras")

    # ---- stop

    def _stop(self, reason: str) -> End:
        """In reverse order of a frame's way, each step bounded; a second signal cuts the wait for the inspector short."""
        logs.info("daemon.stopping", reason=reason)
        self._stopping = True
        self._triggers.close()
        if self._successor is None:
            self._notifier.stopping()
        else:
            self._notifier.reloading()
        self._publisher.state_changed()
        self._cameras.stop(self._tell_systemd)
        self._inspector.stop(drain=True)
        self._join_unless_signalled(self._inspector, self._config.drain_timeout_s)
        self._inspector.stop(drain=False)
        self._inspector.join(2.0)
        self._publisher.stop("engine" if self._inspector.failure else "shutdown")
        self._publisher.join(5.0 + LINGER_MS / 1000)
        checking = [*self._reloads.close(2.0), *self._swaps.close(2.0)]
        if self._control is not None:
            self._control.stop()
            self._control.join(2.0)
        self._close_journal()
        self._cameras.close()
        workers: list[Worker] = [self._publisher, self._inspector, *self._helpers, *self._cameras, *checking]
        stuck = [worker.thread_name for worker in workers if worker.alive]
        if stuck:
            logs.error("daemon.stuck", threads=",".join(stuck))
        failures = [worker.failure for worker in workers if worker.failure is not None]
        exit_code = 1 if failures or (stuck and reason in ("failure", "reload")) else 0
        counts = self._counts()
        logs.info(
            "daemon.stopped",
            verdicts=self._publisher.last_seq,
            passed=counts.passed,
            failed=counts.failed,
            unknown=counts.unknown,
            exit_code=exit_code,
        )
        told = next((failure for failure in failures if isinstance(failure, AnosegError)), None)
        if told is not None and not stuck:
            raise told
        goes_on = not failures and not self._asked_to_drain.is_set()
        return End(exit_code, bool(stuck), self._successor if goes_on else None)

    def _close_journal(self) -> None:
        if self._journal is not None and not self._journal.close():
            logs.error("journal.stuck", path=str(self._journal.path))

    def _join_unless_signalled(self, worker: Worker, timeout_s: float) -> None:
        began = time.monotonic()
        while worker.alive and time.monotonic() < began + timeout_s:
            self._tell_systemd()  # on a reload the service goes on, and so does its watchdog
            # Some senders signal the process and its group: the second of two at once is the same wish.
            caught = signal.sigtimedwait(SIGNALS, 0)
            # A process that was stopped and continued gets an answer that is no signal at all from Python's sigtimedwait.
            if caught is None or caught.si_signo not in SIGNALS - {signal.SIGHUP}:
                worker.join(0.1)
                continue
            self._successor = None  # whoever ends the daemon during a reload means the end
            if time.monotonic() > began + SAME_WISH_S:
                logs.warning("daemon.hurried", waiting_for=worker.thread_name)
                return
            worker.join(0.1)

    # ---- what is said of it

    def _describe(self, publisher: Publisher) -> wire.State:
        """The heartbeat; on the publisher's thread."""
        state, detail = self._state()
        return wire.State(
            station=self._config.station,
            journal_id=self._journal.journal_id if self._journal else self._identity.journal_id,
            run_id=self._identity.run_id,
            version=self._version,
            at=wire.utc(time.time_ns()),
            state=state,
            detail=detail,
            uptime_s=round(time.monotonic() - self._started, 3),
            last_seq=publisher.last_seq,
            counts=self._counts(),
            masks_dropped=publisher.masks_dropped,
            engine=self._inspector.engine or engine_name(self._bundle, "not loaded yet"),
            journal=self._journal_health(),
            control=self._config.control.endpoint if self._config.control else None,
            cameras={camera.name: self._health(camera) for camera in self._cameras},
        )

    def _journal_health(self) -> wire.JournalHealth | None:
        if self._journal is None:
            return None
        stats = self._journal.stats()
        return wire.JournalHealth(
            working=stats.working,
            first_kept=stats.first_kept,
            last_committed=stats.last_committed,
            size_mb=round(stats.size_bytes / 1e6, 3),
            waiting=stats.waiting,
            failures=stats.failures,
            last_error=stats.last_error,
        )

    def _state(self) -> tuple[wire.StationState, str | None]:
        if self._stopping:
            return "Halted", None
        if self._inspector.engine is None:
            return "Preoperational", "the engine is being loaded and proved"
        if self._inspector.silent_s > SILENT_S:
            return "Error", f"the inspector has not answered for {self._inspector.silent_s:.0f} s"
        if self._inspector.proofs.alarm is not None:
            return "Error", f"the golden images do not hold any more: {self._inspector.proofs.alarm}"
        if self._journal is not None and not self._journal.stats().working:
            return "Error", "verdicts cannot be committed: the journal does not work"
        states = {camera.status.state for camera in self._cameras}
        if "running" in states:
            return "ContinuousExecution", self._notice or self._swapped()
        if "starting" in states:
            return "Initialized", None
        if states == {"finished"}:
            return "Ready", "every source has come to its end"
        return "Error", "no camera delivers"

    def _swapped(self) -> str | None:
        """That a restart would bring another engine, if so."""
        if self._swaps.bundle.digest == self._bundle.digest:
            return None
        return f"{self._swaps.bundle.label} by a swap; the next start takes the configuration's {self._bundle.label}"

    def _health(self, camera: Camera) -> wire.CameraHealth:
        status, tally = camera.status, self._publisher.tallies[camera.name]
        return wire.CameraHealth(
            state=status.state,
            source=status.source,
            frames=status.frames,
            dropped=status.lost + tally.dropped,
            overruns=tally.overruns,
            empty=status.empty,
            restarts=status.restarts,
            last_error=status.last_error,
            note=rules_note(camera.config, self._swaps.bundle),
            counts=tally.counts(),
        )

    def _counts(self) -> wire.Counts:
        tallies = self._publisher.tallies.values()
        return wire.Counts(
            passed=sum(t.passed for t in tallies),
            failed=sum(t.failed for t in tallies),
            unknown=sum(t.unknown for t in tallies),
            late=sum(t.late for t in tallies),
        )
