"""The inspector: one thread that owns the engine, takes frames from the cameras in turn and judges them."""

from __future__ import annotations

import threading
import time
from collections import OrderedDict

from anoseg_engines.bundle import Bundle
from anoseg_engines.engine import Engine
from anoseg_engines.errors import AnosegError, EngineError
from anoseg_engines.images import Image
from anoseg_engines.judge import judge
from anoseg_engines.placement import Placement, Region
from anosegd import logs, wire
from anosegd.config import Config
from anosegd.frames import Frame
from anosegd.handoff import Intake
from anosegd.outcomes import Result
from anosegd.publisher import Publisher
from anosegd.worker import Worker

IDLE_S = 0.25
MAX_PLACEMENTS = 32
"""Images of a folder may all differ in size; a placement holds coordinates for every pixel."""


class Inspector(Worker):
    """Takes frames until told to stop; every frame taken is released and its part closed, whatever happens.

    engine: name and runtime, None until the bundle is proved and warmed up.
    """

    def __init__(self, config: Config, bundle: Bundle, intake: Intake, publisher: Publisher) -> None:
        super().__init__("inspector")
        self.engine: wire.EngineName | None = None
        self._config = config
        self._bundle = bundle
        self._intake = intake
        self._publisher = publisher
        self._stopping = threading.Event()
        self._abandoned = False
        self._placements: OrderedDict[Region, Placement] = OrderedDict()
        self._trouble = {name: logs.Throttle("part.not_inspected") for name in config.cameras}

    def stop(self, *, drain: bool) -> None:
        """End after the frames that wait (drain) or after the one at hand. Any thread."""
        self._abandoned = not drain
        self._stopping.set()

    def work(self) -> None:
        """Load and prove the engine, then inspect.

        Raises:
            EngineError: the engine is refused.
        """
        wish = self._config.engine
        engine = Engine.load(self._bundle, runtime=wish.runtime, threads=wish.threads, build=wish.build)
        try:
            logs.info("engine.loaded", engine=self._bundle.label, runtime=engine.runtime_description, why=engine.why)
            self.engine = engine_name(self._bundle, engine.runtime_description)
            while not (self._stopping.is_set() and (self._abandoned or self._intake.empty)):
                self.answer()
                frame = self._intake.take(IDLE_S)
                if frame is not None:
                    self._inspect(engine, frame)
        finally:
            engine.close()

    def _inspect(self, engine: Engine, frame: Frame) -> None:
        part = frame.part
        started_ns = time.monotonic_ns()
        try:
            if part.deadline_ns is not None and started_ns >= part.deadline_ns:
                return  # the publisher closes it by its deadline; time spent on it would make the next one late too
            placement = self._placement(engine, part.camera, frame.image)
            inspection = engine.inspect(frame.image, placement)
        except AnosegError as error:
            reason: wire.Reason = "engine" if isinstance(error, EngineError) else "region"
            self._trouble[part.camera].warning(camera=part.camera, part=part.part_id, reason=reason, error=error.what)
            self._publisher.close_unknown(part, reason, error.what)
            return
        finally:
            frame.release()  # the network has its own copy: the slot is free while the map is judged
        try:
            judgement = judge(inspection, engine.thresholds, placement)
        except EngineError as error:
            self._trouble[part.camera].warning(camera=part.camera, part=part.part_id, reason="engine", error=error.what)
            self._publisher.close_unknown(part, "engine", error.what)
            return
        self._publisher.close_judged(part, Result(judgement, inspection, placement, started_ns, time.monotonic_ns()))

    def _placement(self, engine: Engine, camera: str, image: Image) -> Placement:
        height, width = image.shape[:2]
        region = self._config.cameras[camera].region or Region(0, 0, width, height)
        placement = self._placements.get(region)
        if placement is None:
            placement = self._placements[region] = engine.place(region)
            if len(self._placements) > MAX_PLACEMENTS:
                self._placements.popitem(last=False)
        else:
            self._placements.move_to_end(region)
        return placement


def engine_name(bundle: Bundle, runtime: str) -> wire.EngineName:
    """The engine as verdicts and state name it."""
    return wire.EngineName(name=bundle.manifest.product, version=bundle.manifest.version, digest=bundle.digest, runtime=runtime)
