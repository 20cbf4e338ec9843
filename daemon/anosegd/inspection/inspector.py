"""The inspector: one thread that owns the engine, takes frames from the cameras in turn and judges them."""

from __future__ import annotations

import queue
import threading
import time
from collections import OrderedDict, deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from anoseg_engines.bundle.read import Bundle
from anoseg_engines.engine import Engine, Inference
from anoseg_engines.errors import AnosegError, EngineError
from anoseg_engines.golden import good_parts
from anoseg_engines.judgement.image_quality import Quality, complaint, measure, reference
from anoseg_engines.judgement.judge import judge
from anoseg_engines.judgement.rules import RuleMaps
from anoseg_engines.loading import load_engine
from anoseg_engines.placement import Placement, Region
from anosegd import logs, wire
from anosegd.config import CameraConfig, Config
from anosegd.inspection.queue import Intake
from anosegd.inspection.selftest import Proofs
from anosegd.outcome import Result
from anosegd.part import Frame, Part
from anosegd.publish.publisher import Publisher
from anosegd.worker import Worker

IDLE_S = 0.25
MAX_PLACEMENTS = 32
"""Images of a folder may all differ in size; a placement holds coordinates for every pixel."""


@dataclass(slots=True, eq=False)
class _Exchange:
    """An engine that is to take over. done: it has; old is then the caller's to close."""

    engine: Engine
    placements: Mapping[Region, Placement]
    done: threading.Event = field(default_factory=threading.Event)
    old: Engine | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """A part that the network runs, or is going to."""

    part: Part
    camera: CameraConfig
    placement: Placement
    inference: Inference
    started_ns: int


class Inspector(Worker):
    """Takes frames until told to stop; every frame taken is released and its part closed, whatever happens.

    engine: name and runtime, None until the bundle is proved and warmed up. regions: of the parts seen so far. proofs: the
    golden images, run again; while they do not hold no part is inspected.
    """

    def __init__(self, config: Config, bundle: Bundle, intake: Intake, publisher: Publisher) -> None:
        super().__init__("inspector")
        self.engine: wire.EngineName | None = None
        self.proofs = Proofs(config.engine.prove_every_min)
        self._config = config
        self._bundle = bundle
        self._intake = intake
        self._publisher = publisher
        self._stopping = threading.Event()
        self._abandoned = False
        self._placements: OrderedDict[Region, Placement] = OrderedDict()
        self._rule_maps: dict[str, tuple[Placement, CameraConfig, RuleMaps]] = {}
        self._quality: tuple[Engine, Quality] | None = None
        self.regions: tuple[Region, ...] = ()
        self._exchanges: queue.SimpleQueue[_Exchange] = queue.SimpleQueue()
        self._trouble = logs.Throttles("part.not_inspected")

    def stop(self, *, drain: bool) -> None:
        """End after the frames that wait (drain) or after the one at hand. Any thread."""
        self._abandoned = not drain
        self._stopping.set()

    def exchange(self, engine: Engine, placements: Mapping[Region, Placement]) -> Engine:
        """Inspect with `engine` from the next part on; waits until the part at hand is done. Any thread but the inspector's.

        placements: made by `engine`, of regions that are going to come. Returns the engine before, which is the caller's to
        close, as `engine` still is when this raises.

        Raises:
            EngineError: the inspector has ended.
        """
        exchange = _Exchange(engine, placements)
        self._exchanges.put(exchange)
        while not exchange.done.wait(0.05):
            if not self.alive and not exchange.done.is_set():
                raise EngineError("the inspector ended before the engines were exchanged")
        assert exchange.old is not None
        return exchange.old

    def work(self) -> None:
        """Load and prove the engine, then inspect.

        Raises:
            EngineError: the engine is refused.
        """
        wish = self._config.engine
        engine = load_engine(self._bundle, runtime=wish.runtime, threads=wish.threads, build=wish.build)
        try:
            logs.info("engine.loaded", engine=self._bundle.label, runtime=engine.runtime_description, why=engine.why)
            self.engine = engine_name(self._bundle, engine.runtime_description)
            while not (self._stopping.is_set() and (self._abandoned or self._intake.empty)):
                self.answer()
                engine = self._exchanged(engine)
                self._prove_again(engine)
                frame = self._intake.take(IDLE_S)
                if frame is not None:
                    self._inspect(engine, frame)
        finally:
            self.proofs.close()
            engine.close()

    def _prove_again(self, engine: Engine) -> None:
        before = self.proofs.alarm
        self.proofs.step(engine)
        if self.proofs.alarm != before:
            self._publisher.state_changed()

    def _exchanged(self, engine: Engine) -> Engine:
        """The engine for the next part."""
        if self._exchanges.empty():
            return engine
        exchange = self._exchanges.get_nowait()
        self._placements = OrderedDict(exchange.placements)
        self.proofs.exchanged()
        self.engine = engine_name(exchange.engine.bundle, exchange.engine.runtime_description)
        self._publisher.engine = self.engine
        self._publisher.state_changed()
        exchange.old = engine
        exchange.done.set()
        return exchange.engine

    def _inspect(self, engine: Engine, frame: Frame) -> None:
        """Inspect this part and those that wait behind it."""
        if engine.parallel and self._nothing_else and self._intake.ahead:
            self._inspect_many(engine, frame)
            return
        job = self._prepare(engine, frame, start=False)
        if job is not None:
            self._judge(engine, job)

    def _inspect_many(self, engine: Engine, first: Frame) -> None:
        """Parts beside one another, as long as any wait: while the network runs some, one is judged or prepared."""
        running = deque[_Job]()
        frame: Frame | None = first
        while frame is not None or running:
            self.answer()  # here, since nothing may come to be judged: where every part is refused
            if running and (running[0].inference.done or (frame is not None and self._is_new(frame))):
                self._judge(engine, running.popleft())
            elif frame is not None:
                job = self._prepare(engine, frame, start=True)
                if job is not None:
                    running.append(job)
                frame = None
            else:
                self._intake.wait(running[0].inference, ahead=len(running) < engine.parallel and self._nothing_else)
            if frame is None and len(running) < engine.parallel and self._nothing_else:
                frame = self._intake.take_ahead()

    def _is_new(self, frame: Frame) -> bool:
        """Whether its size has to be made ready first, which takes seconds: what runs is judged before that."""
        return self._region_of(frame) not in self._placements

    @property
    def _nothing_else(self) -> bool:
        """Whether there is nothing to be done before the next part."""
        return self._exchanges.empty() and not self.proofs.due and not self._stopping.is_set()

    def _prepare(self, engine: Engine, frame: Frame, *, start: bool) -> _Job | None:
        """Prepare the part's network inputs, and start the network if asked to. None: the part is closed, not inspected."""
        part, camera = frame.part, frame.part.settings
        assert camera is not None, "a part that was captured knows its camera's settings"
        started_ns = time.monotonic_ns()
        try:
            if part.deadline_ns is not None and started_ns >= part.deadline_ns:
                return None  # the publisher closes it by its deadline; time spent on it would make the next one late too
            if self.proofs.alarm is not None:
                raise EngineError(f"the golden images do not hold any more: {self.proofs.alarm}")
            placement = self._placement(engine, self._region_of(frame))
            if limits := camera.quality:
                found = measure(placement.scaled_part(frame.image))
                if wrong := complaint(found, self._golden_quality(engine), limits):
                    self._not_inspected(part, "image_quality", wrong)
                    return None
            if start:
                inference = engine.start(frame.image, placement, self._intake.wake)
            else:
                inference = engine.prepare(frame.image, placement)
            return _Job(part, camera, placement, inference, started_ns)
        except AnosegError as error:
            self._not_inspected(part, "engine" if isinstance(error, EngineError) else "region", error.what)
            return None
        finally:
            frame.release()  # the network has its own copy: the slot is free while it runs

    def _judge(self, engine: Engine, job: _Job) -> None:
        part, camera, placement = job.part, job.camera, job.placement
        try:
            inspection = engine.finish(job.inference)
            rules = self._rule_maps_of(engine, part.camera, camera, placement) if camera.rules else None
            judgement = judge(inspection, engine.thresholds, placement, rules=rules, review_from=camera.review_from)
        except AnosegError as error:
            self._not_inspected(part, "engine" if isinstance(error, EngineError) else "region", error.what)
            return
        assert self.engine is not None
        started_ns = job.started_ns + inspection.queued_ns  # until another part's network was done, it waited
        result = Result(judgement, inspection, placement, self.engine, started_ns, time.monotonic_ns())
        self._publisher.close_judged(part, result)

    def _not_inspected(self, part: Part, reason: wire.Reason, what: str) -> None:
        self._trouble.of(part.camera).warning(camera=part.camera, part=part.part_id, reason=reason, error=what)
        self._publisher.close_unknown(part, reason, what)

    @staticmethod
    def _region_of(frame: Frame) -> Region:
        height, width = frame.image.shape[:2]
        camera = frame.part.settings
        return (camera and camera.region) or Region(0, 0, width, height)

    def _placement(self, engine: Engine, region: Region) -> Placement:
        placement = self._placements.get(region)
        if placement is None:
            placement = self._placements[region] = engine.place(region)
            if len(self._placements) > MAX_PLACEMENTS:
                self._placements.popitem(last=False)
            self.regions = tuple(self._placements)
        else:
            self._placements.move_to_end(region)
        return placement

    def _golden_quality(self, engine: Engine) -> Quality:
        """Of the engine's golden images; kept until another engine takes over."""
        if self._quality is None or self._quality[0] is not engine:
            self._quality = (engine, reference(engine.spec, good_parts(engine.golden_samples())))
        return self._quality[1]

    def _rule_maps_of(self, engine: Engine, name: str, camera: CameraConfig, placement: Placement) -> RuleMaps:
        """The camera's rules for this placement and engine; kept, since placements seldom change."""
        known = self._rule_maps.get(name)
        if known is None or known[0] is not placement or known[1] is not camera:
            made = RuleMaps.of(camera.rules, engine.thresholds.pixel, placement)
            known = self._rule_maps[name] = (placement, camera, made)
        return known[2]


def engine_name(bundle: Bundle, runtime: str) -> wire.EngineName:
    """The engine as verdicts and state name it."""
    return wire.EngineName(name=bundle.manifest.product, version=bundle.manifest.version, digest=bundle.digest, runtime=runtime)
