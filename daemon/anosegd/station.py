"""Starts one station, runs its main loop and shuts it down. Runs on the main thread, which alone receives signals."""

from __future__ import annotations

import signal
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import msgspec

from anoseg_engines.bundle import Bundle, load_bundle
from anoseg_engines.engine import Engine
from anoseg_engines.errors import AnosegError, CameraError
from anosegd import logs, signals
from anosegd.cameras import CameraSet, CameraSupervisor, InForce
from anosegd.config import Config
from anosegd.control import Control, ReloadRequest, SlowRequest, SwapRequest, Triggers
from anosegd.evidence import EvidenceKeeper
from anosegd.heartbeat import SILENT_S, Heartbeat
from anosegd.inspection.history import History, Inspected
from anosegd.inspection.inspector import Inspector
from anosegd.inspection.pauses import Pauses
from anosegd.inspection.queue import InspectionQueue
from anosegd.inspection.score_thresholds import ScoreThresholds, ThresholdChanges
from anosegd.inspection.settings_in_force import SettingsInForce
from anosegd.inspection.swap import Swaps, report_passed_over
from anosegd.journal import Journal
from anosegd.keys import Guard, keyring_of
from anosegd.publish import LINGER_MS, Identity, Publisher
from anosegd.recipe import Recipe, recipes_of
from anosegd.recipes import RecipeSwitches, RememberedRecipe, Shelf, Switched
from anosegd.reload import Reloaded, Reloads, load_reloaded, needs_restart, recipe_after
from anosegd.station_end import End as End
from anosegd.station_end import Successor as Successor
from anosegd.systemd import Notifier
from anosegd.worker import NOBODY, Worker

LOOP_S = 0.25
STARTING_LOOP_S = 0.02
"""The pause is shorter until the engine has passed its self-test, because it delays the first verdict."""
EVIDENCE_END_S = 3.0
"""How long parts that wait to be kept may take when the daemon stops."""
SAME_SIGNAL_S = 0.3
"""Some programs signal both the process and its group. A second signal within this time counts as a repetition."""
MAX_TRIES = 3
"""With `exit_when_finished`, the run ends when a camera has failed to open this often. Otherwise the daemon never gives up."""


class Station:
    """Owns all workers of one station.

    Attributes:
        ready: Whether the engine passed its self-test and inspection began.
    """

    def __init__(
        self,
        config: Config,
        notifier: Notifier,
        environment: Mapping[str, str],
        reread: Callable[[], Config],
        *,
        notice: str | None = None,
        engine: Engine | None = None,
        inspected: Inspected | None = None,
        recipe: str | None = None,
    ) -> None:
        """Prepare; `run` opens everything.

        Args:
            config: The checked configuration.
            notifier: Where systemd is notified.
            environment: Inherited by capture processes.
            reread: Loads the configuration from disk, checked as at the start.
            notice: A fact about the last reload that an operator should know.
            engine, inspected, recipe: As in `Successor`.
        """
        self.ready = False
        self._config = config
        self._notifier = notifier
        self._environment = environment
        self._notice = notice
        self._loaded, self._inspected, self._begin_with = engine, inspected, recipe
        self._reloads = Reloads(reread, self._load_reloaded)
        self._successor: Successor | None = None
        self._reloaded_cameras: list[str] = []  # that the last reload has opened or ended
        self._asked_to_drain = threading.Event()
        self._journal_changed = threading.Event()
        self._watchdog_at = self._status_at = 0.0

    def run(self) -> End:
        """Start, inspect until there is a reason to stop, and stop in order.

        Raises:
            AnosegError: The error that ended the station, if the user can do something about it.
        """
        self.open()
        self._start()
        try:
            reason = self._wait_for_engine()
            if reason is None:
                self._announce()
                self._cameras.start()
                reason = self._inspect()
        except AnosegError as error:
            logs.error("thread.failed", thread="main", error=str(error))
            return replace(self._stop("failure"), exit_code=error.exit_code)
        except BaseException as error:  # noqa: BLE001 - a fault of ours: no thread may go on while nobody receives signals
            logs.error("thread.died", exception=error, thread="main")
            return self._stop("failure")
        return self._stop(reason)

    # ---- start

    def open(self) -> None:
        """Load the bundle, open the journal and build the workers. Starts only the journal's threads.

        Raises:
            AnosegError: Bundle, journal or the image of an empty place cannot be used.
        """
        config, recipes = self._config, recipes_of(self._config)
        beside = None if config.journal is None else Path(config.journal.path)
        remembered = RememberedRecipe(beside and beside.with_name(f"{beside.name}.recipe"))
        recipe = remembered.among(recipes, self._begin_with)
        if self._loaded is not None:
            bundle = self._loaded.bundle
        else:
            bundle = load_bundle(Path(recipe.bundle))
            report_passed_over(bundle)
        self._journal: Journal | None = None
        try:
            if config.journal is not None:
                self._journal = Journal.open(config.journal, on_new_journal=lambda _: self._journal_changed.set())
            identity = Identity(journal_id=uuid.uuid4().hex, run_id=uuid.uuid4().hex)
            frames = InspectionQueue()
            self._evidence = None if config.evidence is None else EvidenceKeeper(config.evidence)
            self._guard = None if config.keys is None else Guard(keyring_of(config.keys))
            self._publisher = Publisher(
                config,
                identity,
                lambda _: self._heartbeat.describe(),
                self._journal,
                evidence=self._evidence,
                guard=self._guard,
            )
            self._thresholds = ScoreThresholds(beside and beside.with_name(f"{beside.name}.thresholds"))
            self._threshold_changes = ThresholdChanges(self._thresholds, self._journal)
            self._pauses = Pauses(self._journal)
            self._settings = SettingsInForce(self._thresholds)
            self._configured = {recipe.slot: bundle}  # by slot: the bundle that the configuration names
            self._inspector = Inspector(
                config.engine,
                recipes,
                bundle,
                frames,
                self._publisher,
                recipe=recipe,
                thresholds=self._thresholds,
                loaded=self._loaded,
            )
            file = beside and beside.with_name(f"{beside.name}.bundles")
            self._history = History(file, recipe.slot, bundle, self._inspected)
            self._swaps = Swaps(config.engine, bundle, self._inspector, self._history, journal=self._journal)
            max_tries = MAX_TRIES if config.exit_when_finished else None
            shelf = Shelf(config.engine, self._inspector, self._publisher, {})
            self._recipes = RecipeSwitches(
                recipes,
                shelf,
                self._use_recipe,
                remembered=remembered,
                journal=self._journal,
                test=not config.exit_when_finished,
            )
            self._cameras = CameraSet(
                recipe,
                queue=frames,
                publisher=self._publisher,
                pauses=self._pauses,
                environment=self._environment,
                max_tries=max_tries,
            )
            self._cameras.load()
            self._triggers = Triggers(self._cameras, self._journal, self._publisher, identity.run_id)
            self._heartbeat = Heartbeat(
                config,
                bundle,
                identity,
                journal=self._journal,
                publisher=self._publisher,
                inspector=self._inspector,
                swaps=self._swaps,
                recipes=self._recipes,
                cameras=self._cameras,
                thresholds=self._thresholds,
                pauses=self._pauses,
                evidence=self._evidence,
                notice=self._notice,
            )
            self._control: Control | None = None
            if config.control is not None:
                self._control = Control(
                    config.control.endpoint,
                    self._journal,
                    state=lambda: self._publisher.last_state,
                    drain=self._asked_to_drain.set,
                    engine=lambda: None if self._successor is not None else self._inspector.engine,
                    warning=self._warning_after,
                    cameras=lambda: self._reloaded_cameras,
                    reload=self._reloads.ask,
                    swap=self._swaps.swap,
                    roll_back=self._swaps.roll_back,
                    set_threshold=self._threshold_changes.ask,
                    pause=self._pauses.ask,
                    trigger=self._triggers.accept,
                    recipe=self._recipes.ask,
                    prove=self._inspector.prove,
                    guard=self._guard,
                )
        except BaseException:
            self._close_journal()  # its threads would keep the process alive; its lock would stop the next station
            if self._loaded is not None:
                self._loaded.close()
            raise

    def _start(self) -> None:
        label = self._heartbeat.bundle.label
        logs.info("daemon.starting", station=self._config.station, version=self._heartbeat.version, bundle=label)
        try:
            if self._evidence is not None:
                self._evidence.start()
            if self._guard is not None:
                self._guard.start()
            self._publisher.start()
            if self._control is not None:
                self._control.start()
            self._inspector.start()
        except BaseException:  # a thread that goes on would keep the process alive
            self._publisher.stop()
            self._publisher.join(2.0 + LINGER_MS / 1000)
            self._stop_evidence(0.0)
            self._stop_control()
            self._close_journal()
            self._cameras.close()
            self._inspector.discard()
            raise

    def _wait_for_engine(self) -> str | None:
        """Wait until the bundle has passed its self-test. If a reason to stop comes first, return it."""
        while self._inspector.engine is None:
            self._notify_systemd()
            if reason := self._reason_to_stop((self._publisher, self._inspector, *self._helpers), STARTING_LOOP_S):
                return reason
        self._publisher.engine = self._inspector.engine
        self._publisher.parallel = self._inspector.parallel
        return None

    def _announce(self) -> None:
        assert self._inspector.engine is not None
        self.ready = True
        endpoint, runtime = self._config.publish.endpoint, self._inspector.engine.runtime
        label = self._heartbeat.bundle.label
        journal = self._journal.journal_id if self._journal else "none: verdicts are not durable"
        logs.info("daemon.ready", endpoint=endpoint, engine=label, runtime=runtime, journal=journal)
        self._notifier.ready(f"ready, {label} on {runtime}, publishing at {endpoint}")
        self._publisher.state_changed()
        self._history.save()
        self._pauses.end_earlier()
        if self._history.last is not None:
            self._swaps.note("start", self._history.last, NOBODY)
        self._recipes.begin()
        self._threshold_changes.note_configured(self._inspector.recipe, self._swaps.bundle, "read at a start")
        self._triggers.begin()

    # ---- main loop

    def _inspect(self) -> str:
        """Wait until there is a reason to stop, and return it."""
        while True:
            if reason := self._reason_to_stop((self._publisher, self._inspector, *self._helpers, *self._cameras)):
                return reason
            if self._config.exit_when_finished and all(c.ended for c in self._cameras) and self._publisher.idle:
                return "finished"
            self._notify_systemd()

    def _reason_to_stop(self, workers: Iterable[Worker], wait_s: float = LOOP_S) -> str | None:
        """Wait a little for a signal, carry out requests, and check the workers."""
        caught = signals.wait(wait_s)
        if caught is signal.SIGHUP:
            self._reloads.ask()
        elif caught is not None:
            return caught.name
        if self._asked_to_drain.is_set():
            return "drain"
        if self._journal_changed.is_set():
            self._journal_changed.clear()
            self._publisher.state_changed()
        if self.ready:
            if self._threshold_changes.look_after(self._inspector.recipe, self._swaps.bundle):
                self._publisher.state_changed()
            if self._pauses.look_after(list(self._config.cameras)):
                self._publisher.state_changed()
            self._triggers.answer_owed()
            if reason := self._change_engines():
                return reason
        for worker in workers:
            if not worker.alive and not _is_done(worker):
                return "failure"
        return None

    def _change_engines(self) -> str | None:
        """Carry out swaps, reloads and switches of recipes, one at a time. Return a reason to stop."""
        if not self._recipes.busy:
            # A reload's check compares its bundle with the one that inspects, and makes that one ready for new cameras.
            if not self._reloads.checking:
                self._swaps.look_after()
            if not self._swaps.busy and (reloaded := self._reloads.accepted()) is not None:
                return self._continue_with(reloaded)
        if self._recipes.busy or not (self._swaps.busy or self._reloads.busy):
            return self._recipes.look_after()
        return None

    @property
    def _helpers(self) -> tuple[Worker, ...]:
        """The threads besides inspector and publisher whose end ends the station."""
        helpers = [worker for worker in (self._control, self._guard) if worker is not None]
        return (*helpers, *(self._journal.workers if self._journal is not None else ()))

    def _notify_systemd(self) -> None:
        """Feed the watchdog while inspector and publisher answer; update the status line."""
        now = time.monotonic()
        limit_s = min(SILENT_S, (self._notifier.watchdog_s or SILENT_S) / 2)
        # During the self-test at the start, the inspector cannot answer. TimeoutStartSec limits how long that may take.
        inspects = self._inspector.silent_s < limit_s or (not self.ready and self._inspector.alive)
        if self._publisher.silent_s < limit_s and inspects and now >= self._watchdog_at:
            self._watchdog_at = now + (self._notifier.watchdog_s or SILENT_S) / 4
            self._notifier.watchdog()
        if now >= self._status_at:
            self._status_at = now + 5.0
            self._notifier.status(self._heartbeat.summary())

    # ---- reload

    def _load_reloaded(self, config: Config) -> tuple[Bundle, Engine | None]:
        """Load the bundle of a new configuration, as `load_reloaded`. The reload's thread."""
        return load_reloaded(config, self._config, self._inspector, self._swaps.bundle, self._heartbeat.bundle)

    def _continue_with(self, reloaded: Reloaded) -> str | None:
        """Exchange cameras and bundle while the rest goes on. Return a reason to stop if more has changed, or on failure.

        No swap may be under way.
        """
        config, now, recipe = reloaded.config, self._config, self._inspector.recipe
        self._reloaded_cameras = []
        logs.info("reload.accepted", changed=reloaded.engine is not None or config != now)
        if needs_restart(config, now, recipe, new_engine=reloaded.engine is not None):
            self._successor = Successor(config, reloaded.engine, self._history.all, recipe.key)
            reloaded.answer(None)
            return "reload"
        self._notifier.reloading()
        try:
            recipes = recipes_of(config)
            recipe = recipe_after(recipes, recipe)
            changed, stuck = self._cameras.change(recipe, self._triggers.set_cameras, self._notify_systemd)
        except AnosegError as error:  # a file has changed since the reload was checked
            self._go_on_as_before(reloaded, str(error))
            return None
        if stuck:
            logs.error("daemon.stuck", threads=",".join(camera.thread_name for camera in stuck))
            if reloaded.engine is not None:
                reloaded.engine.close()
            reloaded.answer("a camera does not end; the daemon stops")
            return "failure"
        self._heartbeat.notice = None
        self._use(msgspec.structs.replace(config, engine=now.engine))
        self._inspector.recipes, self._inspector.recipe = recipes, recipe
        self._recipes.reloaded(recipes)
        self._threshold_changes.note_configured(recipe, self._swaps.bundle, "read at a reload")
        self._reloaded_cameras = changed
        if changed:
            logs.info("reload.cameras", changed=",".join(changed))
        if reloaded.engine is not None:
            self._swaps.use(reloaded.engine, lambda error: self._swapped_by_reload(reloaded, error))
        else:
            self._swapped_by_reload(reloaded, None)
        self._notifier.ready(f"ready, {self._swaps.bundle.label}, publishing at {config.publish.endpoint}")
        return None

    def _swapped_by_reload(self, reloaded: Reloaded, error: str | None) -> None:
        """Finish a reload: its bundle inspects, or an error has prevented that."""
        if error is None:
            self._heartbeat.bundle = reloaded.bundle
            self._configured = {self._inspector.recipe.slot: reloaded.bundle}
            self._use(msgspec.structs.replace(self._config, engine=reloaded.config.engine))
        else:
            self._heartbeat.notice = (
                f"the last reload's bundle was refused, the bundle before it inspects: {error.splitlines()[0]}"
            )
        self._publisher.state_changed()
        reloaded.answer(error)

    def _go_on_as_before(self, reloaded: Reloaded, text: str) -> None:
        """Report a reload that failed and changed nothing."""
        if reloaded.engine is not None:
            reloaded.engine.close()
        error = text.splitlines()[0]
        logs.error("reload.failed", error=error, going_on="with the configuration before")
        self._heartbeat.notice = f"the last reload failed, the configuration before it runs: {error}"
        self._notifier.ready(f"ready, {self._swaps.bundle.label}, publishing at {self._config.publish.endpoint}")
        self._publisher.state_changed()
        reloaded.answer(text)

    def _warning_after(self, request: SlowRequest) -> str | None:
        """Return what an operator should know about the bundle that a reload or swap took. Any thread."""
        if isinstance(request, SwapRequest):
            return self._swaps.bundle.passed_over
        if not isinstance(request, ReloadRequest):
            return None
        successor = self._successor
        engine = successor.engine if successor is not None else None
        return (engine.bundle if engine is not None else self._heartbeat.bundle).passed_over

    def _use(self, config: Config) -> None:
        self._config = self._heartbeat.config = config

    def _use_recipe(self, recipe: Recipe, bundle: Bundle, prepared: Mapping[str, InForce]) -> Switched:
        """Put a recipe into force, whose engine is loaded. Raises ConfigError, as `CameraSet.switch`."""
        cameras, stuck = self._cameras.switch(recipe, prepared, self._triggers.set_cameras, self._notify_systemd)
        self._inspector.use(recipe)
        self._publisher.engine = self._inspector.engine
        self._swaps.switched(recipe, bundle)
        self._heartbeat.bundle = self._configured.setdefault(recipe.slot, replace(bundle, files={}))
        self._threshold_changes.note_configured(recipe, bundle, "read with the recipe")
        self._publisher.state_changed()
        return Switched(cameras, self._settings.of(recipe, bundle).checksum, list(stuck))

    # ---- shutdown

    def _stop(self, reason: str) -> End:
        """Stop the workers in the order in which a frame passes them. Each step has a time limit.

        Raises:
            AnosegError: The error that ended a worker, if the user can do something about it.
        """
        logs.info("daemon.stopping", reason=reason)
        self._heartbeat.stopping = True
        self._triggers.close()
        if self._successor is None:
            self._notifier.stopping()
        else:
            self._notifier.reloading()
        self._publisher.state_changed()
        self._cameras.stop(self._notify_systemd)
        self._inspector.stop(drain=True)
        self._join_unless_signalled(self._inspector, self._config.drain_timeout_s)
        self._inspector.stop(drain=False)
        self._inspector.join(2.0)
        self._publisher.stop("engine" if self._inspector.failure else "shutdown")
        self._publisher.join(5.0 + LINGER_MS / 1000)
        unfinished = self._stop_evidence(EVIDENCE_END_S)
        self._threshold_changes.close()
        self._pauses.close()
        unfinished += [*self._reloads.close(2.0), *self._swaps.close(2.0), *self._recipes.close(5.0)]
        self._stop_control()
        self._close_journal()
        self._cameras.close()
        return self._end(reason, [self._publisher, self._inspector, *self._helpers, *self._cameras, *unfinished])

    def _join_unless_signalled(self, worker: Worker, timeout_s: float) -> None:
        """Wait for the worker to end. A second signal cuts the wait short."""
        began = time.monotonic()
        while worker.alive and time.monotonic() < began + timeout_s:
            self._notify_systemd()  # on a reload the service goes on, and so does its watchdog
            caught = signals.wait(0)
            if caught is not None and caught is not signal.SIGHUP:
                self._drop_successor()  # a signal during a reload ends the daemon
                if time.monotonic() > began + SAME_SIGNAL_S:
                    logs.warning("daemon.hurried", waiting_for=worker.thread_name)
                    return
            worker.join(0.1)

    def _stop_evidence(self, timeout_s: float) -> list[Worker]:
        """Have the parts that wait stored, for up to this time. Return the thread if it does not end."""
        if self._evidence is None:
            return []
        self._evidence.stop()
        self._evidence.join(timeout_s)
        self._evidence.stop(abandon=True)
        return [] if self._evidence.join(2.0) else [self._evidence]

    def _stop_control(self) -> None:
        """Close the control socket; then nobody asks for keys any more."""
        for worker in (self._control, self._guard):
            if worker is not None:
                worker.stop()
                worker.join(2.0)

    def _close_journal(self) -> None:
        if self._journal is not None and not self._journal.close():
            logs.error("journal.stuck", path=str(self._journal.path))

    def _end(self, reason: str, workers: list[Worker]) -> End:
        """Return how the station ended. Every worker has ended or is stuck."""
        stuck = [worker.thread_name for worker in workers if worker.alive]
        if stuck:
            logs.error("daemon.stuck", threads=",".join(stuck))
        unended = bool(stuck) or self._recipes.abandoned
        if reason != "finished":  # a camera that was given up is then no reason why the station ends
            workers = [worker for worker in workers if worker.alive or not _is_done(worker)]
        failures = [worker.failure for worker in workers if worker.failure is not None]
        known = next((failure for failure in failures if isinstance(failure, AnosegError)), None)
        for worker in workers:  # `main` reports `known` if every thread has ended
            logged = isinstance(worker, CameraSupervisor)  # as `camera.failed`
            if isinstance(worker.failure, AnosegError) and not logged and (unended or worker.failure is not known):
                logs.error("thread.failed", thread=worker.thread_name, error=str(worker.failure))
        exit_code = 0
        if failures or reason == "failure" or (stuck and reason == "reload"):
            exit_code = known.exit_code if known is not None else 1
        counts = self._heartbeat.counts()
        logs.info(
            "daemon.stopped",
            verdicts=self._publisher.last_seq,
            passed=counts.passed,
            failed=counts.failed,
            unknown=counts.unknown,
            exit_code=exit_code,
        )
        if failures or self._asked_to_drain.is_set():
            self._drop_successor()
        if known is not None and not unended:
            raise known
        return End(exit_code, unended, self._successor)

    def _drop_successor(self) -> None:
        successor, self._successor = self._successor, None
        if successor is not None and successor.engine is not None:
            successor.engine.close()


def _is_done(worker: Worker) -> bool:
    """Whether this is a camera whose source has been read to its end, or that was given up. The other cameras go on."""
    return isinstance(worker, CameraSupervisor) and (worker.failure is None or isinstance(worker.failure, CameraError))
