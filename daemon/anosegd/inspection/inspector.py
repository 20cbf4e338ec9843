"""Takes frames from the cameras in turn and judges them, on the thread "inspector", which owns the engine."""

from __future__ import annotations

import queue
import threading
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field, replace

import msgspec

from anoseg_engines.bundle import Bundle
from anoseg_engines.engine import Engine, Inference
from anoseg_engines.errors import AnosegError, EngineError
from anoseg_engines.judgement import complaint, judge, measure
from anoseg_engines.loading import load_engine
from anoseg_engines.placement import Placement, Region
from anosegd import logs, wire
from anosegd.config import CameraConfig, EngineConfig
from anosegd.inspection.loaded_engines import LoadedEngine, LoadedEngines
from anosegd.inspection.placement_cache import region_of
from anosegd.inspection.queue import InspectionQueue
from anosegd.inspection.ready import cameras_at, keep_ready, make_ready, warm_up
from anosegd.inspection.recipe_of_part import recipe_of, unloaded
from anosegd.inspection.score_thresholds import ScoreThresholds
from anosegd.inspection.settings_in_force import SettingsInForce
from anosegd.outcome import Inspected, Unknown
from anosegd.part import Frame, Part
from anosegd.publish import Publisher
from anosegd.recipe import Recipe
from anosegd.worker import Answer, Worker

IDLE_S = 0.25


@dataclass(slots=True, eq=False)
class _Exchange:
    """Holds an engine that takes over a slot, or None to leave it empty. After it, the caller closes `old`."""

    slot: str
    new: LoadedEngine | None
    done: threading.Event = field(default_factory=threading.Event)
    old: LoadedEngine | None = None


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """Holds a part whose network inputs are prepared. The engine owns the buffers of these inputs."""

    part: Part
    recipe: Recipe
    camera: CameraConfig
    placement: Placement
    inference: Inference
    started_ns: int


class Inspector(Worker):
    """Takes frames until asked to stop. It releases every frame that it takes and closes its part, whatever happens.

    Attributes:
        engine: Name and runtime in the recipe in force; None until the bundle has passed its self-test, and the engine is ready
            for every part that the configuration describes.
        recipe: The recipe in force. Another thread replaces it, see `use`.
        recipes: All recipes. Another thread replaces it.
        loaded: The engines that are loaded.
    """

    def __init__(
        self,
        config: EngineConfig,
        recipes: Mapping[str, Recipe],
        bundle: Bundle,
        frames: InspectionQueue,
        publisher: Publisher,
        *,
        recipe: Recipe,
        thresholds: ScoreThresholds,
        loaded: Engine | None = None,
    ) -> None:
        """Prepare; starts nothing.

        Args:
            config: How engines are loaded.
            recipes: All recipes.
            bundle: The bundle of the recipe in force.
            frames: Where frames wait.
            publisher: Where outcomes are reported.
            recipe: The recipe in force.
            thresholds: The score thresholds that persons set.
            loaded: The bundle's engine if it is loaded and has passed its self-test. It belongs to the inspector, which
                closes it when its thread ends.
        """
        super().__init__("inspector")
        self.engine: wire.EngineName | None = None
        self.recipe = recipe
        self.recipes = recipes
        self.loaded = LoadedEngines()
        self._config = config
        self._bundle = bundle
        self._given = loaded
        self._frames = frames
        self._publisher = publisher
        self._stopping = threading.Event()
        self._abandoned = False
        self._settings = SettingsInForce(thresholds)
        self._proofs: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._exchanges: queue.SimpleQueue[_Exchange] = queue.SimpleQueue()
        self._not_inspected_log = logs.Throttles("part.not_inspected")

    # ---- any thread

    @property
    def parallel(self) -> int:
        """How many parts the engine runs at a time; 0 if it runs them in turn, or is not loaded."""
        in_force = self.in_force
        return 0 if in_force is None else in_force.engine.parallel

    @property
    def in_force(self) -> LoadedEngine | None:
        """The engine of the recipe in force; None before it is loaded."""
        return self.loaded.get(self.recipe.slot)

    @property
    def alarm(self) -> str | None:
        """Why the golden images of the engine that inspects failed when they were run last; None if they passed."""
        in_force = self.in_force
        return None if in_force is None else in_force.self_test.alarm

    @property
    def regions(self) -> tuple[Region, ...]:
        """The regions that parts have had so far."""
        in_force = self.in_force
        return () if in_force is None else in_force.placements.regions

    def use(self, recipe: Recipe) -> None:
        """Take a recipe whose engine is loaded for the recipe in force. Parts are judged by the recipe in which they began."""
        self.loaded.touch(self.recipe.slot)
        self.loaded.touch(recipe.slot)
        self.recipe = recipe
        in_force = self.in_force
        assert in_force is not None, "the engine is loaded"
        self.engine = in_force.name
        self._frames.wake()

    def prove(self, answer: Answer) -> None:
        """Run the golden images now; `answer` is called with None, or with the reason why they failed."""
        self._proofs.put(answer)

    def stop(self, *, drain: bool) -> None:
        """End after all frames that wait (`drain`), or after the current one."""
        self._abandoned = not drain
        self._stopping.set()

    def discard(self) -> None:
        """Close a given engine if the thread never started to use it."""
        engine, self._given = self._given, None
        if engine is not None:
            engine.close()

    def keep_ready(self, cameras: Mapping[str, CameraConfig]) -> None:
        """Make the engine that inspects ready for the parts of these cameras. Takes seconds if there are new regions.

        Raises:
            ConfigError, EngineError: The engine cannot inspect such parts.
        """
        if (in_force := self.in_force) is not None:
            keep_ready(in_force.engine, cameras)

    def add(self, slot: str, engine: Engine, placements: Mapping[Region, Placement]) -> None:
        """Take an engine for recipes whose slot is empty. The inspector closes it when its thread ends."""
        before = self.loaded.put(slot, LoadedEngine.of(engine, placements, self._config.prove_every_min))
        assert before is None, "the slot is empty"

    def exchange(self, slot: str, engine: Engine, placements: Mapping[Region, Placement]) -> Engine | None:
        """Inspect with `engine` from the next part on. Waits until the current part is done.

        Args:
            slot: The engine's slot.
            engine: The new engine. It still belongs to the caller if this raises.
            placements: Made by `engine`, of the regions that parts have.

        Returns:
            The previous engine of this slot. The caller closes it.

        Raises:
            EngineError: The inspector has ended.
        """
        return self._exchange(_Exchange(slot, LoadedEngine.of(engine, placements, self._config.prove_every_min)))

    def remove(self, slot: str) -> Engine | None:
        """Unload the engine of a slot that is not in force. The caller closes it. Waits until the current part is done.

        Raises:
            EngineError: The inspector has ended.
        """
        return self._exchange(_Exchange(slot, None))

    def _exchange(self, exchange: _Exchange) -> Engine | None:
        self._exchanges.put(exchange)
        self._frames.wake()
        while not exchange.done.wait(0.05):
            if not self.alive and not exchange.done.is_set():
                raise EngineError("the inspector ended before the engines were exchanged")
        return None if exchange.old is None else exchange.old.engine

    # ---- the inspector's thread

    def work(self) -> None:
        """Load the engine, run its self-test, make it ready for the cameras, then inspect.

        Raises:
            ConfigError: A camera's region or rules cannot be used.
            EngineError: The engine is refused.
            EngineLostError: The engine fails on part after part.
        """
        config, slot = self._config, self.recipe.slot
        engine, self._given = self._given, None
        if engine is None:
            engine = load_engine(self._bundle, runtime=config.runtime, threads=config.threads, build=config.build)
        try:
            logs.info("engine.loaded", engine=self._bundle.label, runtime=engine.runtime_description, why=engine.why)
            placements = make_ready(engine, cameras_at(self.recipes.values(), slot))
            for placement in placements.values():
                warm_up(engine, placement)
            in_force = LoadedEngine.of(engine, placements, config.prove_every_min)
        except BaseException:
            engine.close()
            raise
        self.loaded.put(slot, in_force)
        self.engine = in_force.name
        try:
            while not (self._stopping.is_set() and (self._abandoned or self._frames.empty)):
                self.answer()
                in_force = self._engine_in_force(in_force)
                if in_force.self_test.step(in_force.engine) | self._engine_works_again(in_force):
                    self._publisher.state_changed()
                frame = self._frames.take(IDLE_S)
                if frame is not None:
                    self._inspect(frame)
        finally:
            self._hand_on_proofs(in_force)
            in_force.self_test.close()
            for slot in self.loaded.slots:
                if (ended := self.loaded.take(slot)) is not None:
                    ended.engine.close()

    def _engine_works_again(self, loaded: LoadedEngine) -> bool:
        """Check an engine that is in doubt. Return whether it passed.

        Raises:
            EngineLostError: The engine fails on everything.
        """
        if loaded.self_test.runtime_failure is not None:
            loaded.failures.doubt(loaded.self_test.runtime_failure)
        passed = loaded.failures.check(loaded.engine)
        if passed:
            loaded.self_test.passed()
        return passed

    def _engine_in_force(self, before: LoadedEngine) -> LoadedEngine:
        """Carry out an exchange, and return the engine of the recipe in force. Between two parts."""
        exchange = None if self._exchanges.empty() else self._exchanges.get_nowait()
        if exchange is not None:
            if exchange.new is None:
                exchange.old = self.loaded.take(exchange.slot)
            else:
                exchange.old = self.loaded.put(exchange.slot, exchange.new)
        in_force = self.in_force or before
        if in_force is not before:
            before.self_test.hand_over(in_force.self_test)
            self.engine = self._publisher.engine = in_force.name
            self._publisher.state_changed()
        self._hand_on_proofs(in_force)
        if exchange is not None:
            exchange.done.set()
        return in_force

    def _hand_on_proofs(self, loaded: LoadedEngine) -> None:
        while not self._proofs.empty():
            loaded.self_test.ask(self._proofs.get_nowait())

    def _inspect(self, frame: Frame | None) -> None:
        """Inspect this part, and those that wait behind it if the engine runs several at a time."""
        while frame is not None and (found := self._engine_for(frame)) is not None:
            frame, loaded = found
            if loaded.engine.parallel and self._only_parts_wait and self._frames.ahead:
                frame = self._inspect_concurrently(loaded, frame)
                continue
            if (job := self._prepare(loaded, frame, start=False)) is not None:
                self._judge(loaded, job)
            frame = None

    def _engine_for(self, frame: Frame) -> tuple[Frame, LoadedEngine] | None:
        """Return the frame with the recipe that judges its part, and the engine; None if the part was closed as UNKNOWN."""
        found = recipe_of(frame.part, self.recipe)
        if isinstance(found, Part) and found.recipe is not None:
            if (loaded := self.loaded.get(found.recipe.slot)) is not None:
                return replace(frame, part=found), loaded
            found = unloaded(found.recipe, self.recipe)
        assert isinstance(found, Unknown)
        self._not_inspected(frame.part, found.reason, found.detail or "")
        frame.release()
        return None

    def _inspect_concurrently(self, loaded: LoadedEngine, first: Frame) -> Frame | None:
        """Inspect several parts at a time as long as any wait: while the network runs some, one is prepared or judged.

        Returns:
            A frame that was taken and is for another engine.
        """
        engine = loaded.engine
        running = deque[_Job]()
        frame: Frame | None = first
        following: Frame | None = None
        while frame is not None or running:
            self.answer()  # here, because no part may get as far as being judged
            # Preparing a new image size takes seconds, so the parts that run are judged first.
            new_size = frame is not None and not loaded.placements.knows(region_of(frame))
            if running and (running[0].inference.done or new_size):
                self._judge(loaded, running.popleft())
            elif frame is not None:
                job = self._prepare(loaded, frame, start=True)
                if job is not None:
                    running.append(job)
                frame = None
            else:
                room = following is None and len(running) < engine.parallel
                self._frames.wait(running[0].inference, ahead=room and self._only_parts_wait)
            if frame is None and following is None and len(running) < engine.parallel and self._only_parts_wait:
                taken = self._frames.take_ahead()
                found = None if taken is None else self._engine_for(taken)
                if found is not None:
                    frame, following = (found[0], None) if found[1] is loaded else (None, found[0])
        return following

    @property
    def _only_parts_wait(self) -> bool:
        """Whether nothing else has to be done before the next part."""
        in_force = self.in_force
        due = in_force is None or in_force.self_test.due or in_force.failures.in_doubt
        return self._exchanges.empty() and self._proofs.empty() and not due and not self._stopping.is_set()

    def _prepare(self, loaded: LoadedEngine, frame: Frame, *, start: bool) -> _Job | None:
        """Prepare the network's inputs, start the network if asked to, and release the frame. None: the part is closed."""
        part, camera, engine = frame.part, frame.part.settings, loaded.engine
        assert camera is not None, "a part that was captured has its camera's settings"
        started_ns = time.monotonic_ns()
        try:
            if part.deadline_ns is not None and started_ns >= part.deadline_ns:
                return None  # the publisher closes it by its deadline; inspecting it would make the next part late too
            if loaded.self_test.alarm is not None:
                raise EngineError(f"the golden images fail the self-test: {loaded.self_test.alarm}")
            placement = loaded.placements.of(engine, region_of(frame))
            if limits := camera.quality:
                found = measure(placement.scaled_part(frame.image))
                if wrong := complaint(found, loaded.placements.golden_quality(engine), limits):
                    self._not_inspected(part, "image_quality", wrong)
                    return None
            if start:
                inference = engine.start(frame.image, placement, self._frames.wake)
            else:
                inference = engine.prepare(frame.image, placement)
            recipe = part.recipe or self.recipe
            return _Job(
                part=part, recipe=recipe, camera=camera, placement=placement, inference=inference, started_ns=started_ns
            )
        except AnosegError as error:
            self._failed(loaded, part, error)
            return None
        finally:
            frame.release()  # the network has a copy: the slot is free while it runs

    def _judge(self, loaded: LoadedEngine, job: _Job) -> None:
        """Take the network's answer, decide PASS or FAIL, and close the part."""
        part, camera, placement, engine = job.part, job.camera, job.placement, loaded.engine
        try:
            inspection = engine.finish(job.inference)
            rules = loaded.placements.rule_maps(engine, part.camera, camera, placement) if camera.rules else None
            settings = self._settings.of(job.recipe, engine.bundle)
            chosen = settings.thresholds[part.camera]
            thresholds = engine.thresholds
            if chosen is not None:
                thresholds = msgspec.structs.replace(thresholds, score=chosen.value)
            judgement = judge(inspection, thresholds, placement, rules=rules, review_from=camera.review_from)
        except AnosegError as error:
            self._failed(loaded, part, error)
            return
        loaded.failures.judged()
        inspected = Inspected(
            judgement=judgement,
            inspection=inspection,
            placement=placement,
            engine=loaded.name,
            started_ns=job.started_ns + inspection.queued_ns,  # without the time that it waited for other parts
            finished_ns=time.monotonic_ns(),
            threshold_from=None if chosen is None else chosen.origin,
            settings=settings.checksum,
        )
        self._publisher.report_outcome(part, inspected)

    def _failed(self, loaded: LoadedEngine, part: Part, error: AnosegError) -> None:
        """Close a part that an error prevented from being inspected."""
        if isinstance(error, EngineError) and loaded.self_test.alarm is None:
            loaded.failures.failed(error)
        self._not_inspected(part, "engine" if isinstance(error, EngineError) else "region", error.what)

    def _not_inspected(self, part: Part, reason: wire.Reason, what: str) -> None:
        self._not_inspected_log.of(part.camera).warning(camera=part.camera, part=part.part_id, reason=reason, error=what)
        self._publisher.report_outcome(part, Unknown(reason, what))
