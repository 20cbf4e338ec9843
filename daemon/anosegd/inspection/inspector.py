"""Takes frames from the cameras in turn and judges them, on the thread "inspector", which owns the engine."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

import msgspec

from anoseg_engines.bundle import Bundle
from anoseg_engines.engine import Engine, Inference
from anoseg_engines.errors import AnosegError, EngineError
from anoseg_engines.judgement import complaint, judge, measure
from anoseg_engines.loading import load_engine
from anoseg_engines.placement import Placement, Region
from anosegd import logs, wire
from anosegd.config import CameraConfig, Config
from anosegd.inspection.failures import Failures
from anosegd.inspection.placement_cache import PlacementCache, region_of
from anosegd.inspection.queue import InspectionQueue
from anosegd.inspection.ready import keep_ready, make_ready, warm_up
from anosegd.inspection.score_thresholds import ScoreThresholds
from anosegd.inspection.selftest import SelfTest
from anosegd.outcome import Inspected, Unknown
from anosegd.part import Frame, Part
from anosegd.publish import Publisher
from anosegd.worker import Worker

IDLE_S = 0.25


@dataclass(slots=True, eq=False)
class _Exchange:
    """Holds an engine that takes over. After the exchange, `old` belongs to the caller, who closes it."""

    engine: Engine
    placements: Mapping[Region, Placement]
    done: threading.Event = field(default_factory=threading.Event)
    old: Engine | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """Holds a part whose network inputs are prepared. The engine owns the buffers of these inputs."""

    part: Part
    camera: CameraConfig
    placement: Placement
    inference: Inference
    started_ns: int


class Inspector(Worker):
    """Takes frames until asked to stop. It releases every frame that it takes and closes its part, whatever happens.

    Attributes:
        engine: Name and runtime; None until the bundle has passed its self-test, and the engine is ready for every part that
            the configuration describes.
        cameras: The cameras' configurations. Another thread replaces it.
        self_test: Runs the golden images again. While they fail, no part is inspected.
    """

    def __init__(
        self,
        config: Config,
        bundle: Bundle,
        frames: InspectionQueue,
        publisher: Publisher,
        *,
        loaded: Engine | None = None,
        thresholds: ScoreThresholds | None = None,
    ) -> None:
        """Prepare; starts nothing.

        Args:
            config: The station's configuration.
            bundle: The bundle to load.
            frames: Where frames wait.
            publisher: Where outcomes are reported.
            loaded: The bundle's engine if it is loaded and has passed its self-test. It belongs to the inspector, which
                closes it when its thread ends.
            thresholds: The score thresholds that persons set; None if nobody can set any.
        """
        super().__init__("inspector")
        self.engine: wire.EngineName | None = None
        self.cameras: Mapping[str, CameraConfig] = config.cameras
        self.self_test = SelfTest(config.engine.prove_every_min)
        self._config = config
        self._bundle = bundle
        self._loaded = loaded
        self._running: Engine | None = None
        self._frames = frames
        self._publisher = publisher
        self._stopping = threading.Event()
        self._abandoned = False
        self._thresholds = thresholds or ScoreThresholds(None)
        self._placements = PlacementCache()
        self._failures = Failures()
        self._exchanges: queue.SimpleQueue[_Exchange] = queue.SimpleQueue()
        self._not_inspected_log = logs.Throttles("part.not_inspected")

    # ---- any thread

    @property
    def parallel(self) -> int:
        """How many parts the engine runs at a time; 0 if it runs them in turn, or is not loaded."""
        return 0 if self._running is None else self._running.parallel

    @property
    def regions(self) -> tuple[Region, ...]:
        """The regions that parts have had so far."""
        return self._placements.regions

    def stop(self, *, drain: bool) -> None:
        """End after all frames that wait (`drain`), or after the current one."""
        self._abandoned = not drain
        self._stopping.set()

    def discard(self) -> None:
        """Close a given engine if the thread never started to use it."""
        engine, self._loaded = self._loaded, None
        if engine is not None:
            engine.close()

    def keep_ready(self, cameras: Mapping[str, CameraConfig]) -> None:
        """Make the engine ready for the parts of these cameras while it inspects. Takes seconds if there are new regions.

        Raises:
            ConfigError, EngineError: The engine cannot inspect such parts.
        """
        if self._running is not None:
            keep_ready(self._running, cameras)

    def exchange(self, engine: Engine, placements: Mapping[Region, Placement]) -> Engine:
        """Inspect with `engine` from the next part on. Waits until the current part is done.

        Args:
            engine: The new engine. It still belongs to the caller if this raises.
            placements: Made by `engine`, of the regions that parts have.

        Returns:
            The previous engine. The caller closes it.

        Raises:
            EngineError: The inspector has ended.
        """
        exchange = _Exchange(engine, placements)
        self._exchanges.put(exchange)
        while not exchange.done.wait(0.05):
            if not self.alive and not exchange.done.is_set():
                raise EngineError("the inspector ended before the engines were exchanged")
        assert exchange.old is not None
        return exchange.old

    # ---- the inspector's thread

    def work(self) -> None:
        """Load the engine, run its self-test, make it ready for the cameras, then inspect.

        Raises:
            ConfigError: A camera's region or rules cannot be used.
            EngineError: The engine is refused.
            EngineLostError: The engine fails on part after part.
        """
        config = self._config.engine
        engine, self._loaded = self._loaded, None
        if engine is None:
            engine = load_engine(self._bundle, runtime=config.runtime, threads=config.threads, build=config.build)
        try:
            logs.info("engine.loaded", engine=self._bundle.label, runtime=engine.runtime_description, why=engine.why)
            placements = make_ready(engine, self.cameras)
            for placement in placements.values():
                warm_up(engine, placement)
            self._placements.use(placements)
            self._running = engine
            self.engine = engine_name(self._bundle, engine.runtime_description)
            while not (self._stopping.is_set() and (self._abandoned or self._frames.empty)):
                self.answer()
                engine = self._engine_for_next_part(engine)
                if self.self_test.step(engine) | self._engine_works_again(engine):
                    self._publisher.state_changed()
                frame = self._frames.take(IDLE_S)
                if frame is not None:
                    self._inspect(engine, frame)
        finally:
            self.self_test.close()
            engine.close()

    def _engine_works_again(self, engine: Engine) -> bool:
        """Check an engine that is in doubt. Return whether it passed.

        Raises:
            EngineLostError: The engine fails on everything.
        """
        if self.self_test.runtime_failure is not None:
            self._failures.doubt(self.self_test.runtime_failure)
        passed = self._failures.check(engine)
        if passed:
            self.self_test.passed()
        return passed

    def _engine_for_next_part(self, engine: Engine) -> Engine:
        if self._exchanges.empty():
            return engine
        exchange = self._exchanges.get_nowait()
        self._placements.use(exchange.placements)
        self._running = exchange.engine
        self.self_test.passed()
        self._failures = Failures()
        self.engine = engine_name(exchange.engine.bundle, exchange.engine.runtime_description)
        self._publisher.engine = self.engine
        self._publisher.state_changed()
        exchange.old = engine
        exchange.done.set()
        return exchange.engine

    def _inspect(self, engine: Engine, frame: Frame) -> None:
        """Inspect this part, and those that wait behind it if the engine runs several at a time."""
        if engine.parallel and self._only_parts_wait and self._frames.ahead:
            self._inspect_concurrently(engine, frame)
        elif (job := self._prepare(engine, frame, start=False)) is not None:
            self._judge(engine, job)

    def _inspect_concurrently(self, engine: Engine, first: Frame) -> None:
        """Inspect several parts at a time as long as any wait: while the network runs some, one is prepared or judged."""
        running = deque[_Job]()
        frame: Frame | None = first
        while frame is not None or running:
            self.answer()  # here, because no part may get as far as being judged
            # Preparing a new image size takes seconds, so the parts that run are judged first.
            new_size = frame is not None and not self._placements.knows(region_of(frame))
            if running and (running[0].inference.done or new_size):
                self._judge(engine, running.popleft())
            elif frame is not None:
                job = self._prepare(engine, frame, start=True)
                if job is not None:
                    running.append(job)
                frame = None
            else:
                self._frames.wait(running[0].inference, ahead=len(running) < engine.parallel and self._only_parts_wait)
            if frame is None and len(running) < engine.parallel and self._only_parts_wait:
                frame = self._frames.take_ahead()

    @property
    def _only_parts_wait(self) -> bool:
        """Whether nothing else has to be done before the next part."""
        due = self.self_test.due or self._failures.in_doubt
        return self._exchanges.empty() and not due and not self._stopping.is_set()

    def _prepare(self, engine: Engine, frame: Frame, *, start: bool) -> _Job | None:
        """Prepare the network's inputs, start the network if asked to, and release the frame. None: the part is closed."""
        part, camera = frame.part, frame.part.settings
        assert camera is not None, "a part that was captured has its camera's settings"
        started_ns = time.monotonic_ns()
        try:
            if part.deadline_ns is not None and started_ns >= part.deadline_ns:
                return None  # the publisher closes it by its deadline; inspecting it would make the next part late too
            if self.self_test.alarm is not None:
                raise EngineError(f"the golden images fail the self-test: {self.self_test.alarm}")
            placement = self._placements.of(engine, region_of(frame))
            if limits := camera.quality:
                found = measure(placement.scaled_part(frame.image))
                if wrong := complaint(found, self._placements.golden_quality(engine), limits):
                    self._not_inspected(part, "image_quality", wrong)
                    return None
            if start:
                inference = engine.start(frame.image, placement, self._frames.wake)
            else:
                inference = engine.prepare(frame.image, placement)
            return _Job(part=part, camera=camera, placement=placement, inference=inference, started_ns=started_ns)
        except AnosegError as error:
            self._failed(part, error)
            return None
        finally:
            frame.release()  # the network has a copy: the slot is free while it runs

    def _judge(self, engine: Engine, job: _Job) -> None:
        """Take the network's answer, decide PASS or FAIL, and close the part."""
        part, camera, placement = job.part, job.camera, job.placement
        try:
            inspection = engine.finish(job.inference)
            rules = self._placements.rule_maps(engine, part.camera, camera, placement) if camera.rules else None
            chosen = self._thresholds.of(part.camera, camera, engine.bundle)
            thresholds = engine.thresholds
            if chosen is not None:
                thresholds = msgspec.structs.replace(thresholds, score=chosen.value)
            judgement = judge(inspection, thresholds, placement, rules=rules, review_from=camera.review_from)
        except AnosegError as error:
            self._failed(part, error)
            return
        assert self.engine is not None
        self._failures.judged()
        inspected = Inspected(
            judgement=judgement,
            inspection=inspection,
            placement=placement,
            engine=self.engine,
            started_ns=job.started_ns + inspection.queued_ns,  # without the time that it waited for other parts
            finished_ns=time.monotonic_ns(),
            threshold_from=None if chosen is None else chosen.origin,
        )
        self._publisher.report_outcome(part, inspected)

    def _failed(self, part: Part, error: AnosegError) -> None:
        """Close a part that an error prevented from being inspected."""
        if isinstance(error, EngineError) and self.self_test.alarm is None:
            self._failures.failed(error)
        self._not_inspected(part, "engine" if isinstance(error, EngineError) else "region", error.what)

    def _not_inspected(self, part: Part, reason: wire.Reason, what: str) -> None:
        self._not_inspected_log.of(part.camera).warning(camera=part.camera, part=part.part_id, reason=reason, error=what)
        self._publisher.report_outcome(part, Unknown(reason, what))


def engine_name(bundle: Bundle, runtime: str) -> wire.EngineName:
    """Return the engine's name in verdicts and state."""
    return wire.EngineName(name=bundle.manifest.product, version=bundle.manifest.version, digest=bundle.digest, runtime=runtime)
