"""Loads the engine of a recipe while the line inspects by another one, on the thread "recipe"."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from anoseg_engines.bundle import Bundle, load_bundle
from anoseg_engines.engine import Engine
from anoseg_engines.loading import load_engine
from anosegd import logs, signals
from anosegd.cameras import InForce, in_force
from anosegd.config import EngineConfig
from anosegd.inspection.history import Past
from anosegd.inspection.inspector import Inspector
from anosegd.inspection.ready import cameras_at, make_ready, warm_up
from anosegd.publish import Publisher
from anosegd.recipe import Recipe
from anosegd.worker import Worker

LEAVE_S = 5.0
"""How long an engine is kept for parts that began in its recipe, before it is unloaded for another one."""


@dataclass(slots=True, eq=False)
class Shelf:
    """Loads and unloads engines for recipes, at most `config.warm` besides one that takes over. One thread at a time.

    Attributes:
        config: How engines are loaded.
        known: By slot, the bundle that was loaded last. A slot whose engine was unloaded gets the same bundle again: a release
            made meanwhile does not change a running line.
    """

    config: EngineConfig
    inspector: Inspector
    publisher: Publisher
    known: dict[str, Past]

    def load(self, recipe: Recipe) -> Engine:
        """Load the engine of a recipe, run its self-test, and make it ready for all recipes that share it.

        Returns:
            The engine, which the inspector has taken.

        Raises:
            ConfigError, EngineError: The bundle, a region or a rule cannot be used.
        """
        if (loaded := self.inspector.loaded.get(recipe.slot)) is not None:
            return loaded.engine
        self.make_room(self.config.warm - 1)
        engine = self._open(recipe)
        try:
            placements = make_ready(engine, cameras_at(self.inspector.recipes.values(), recipe.slot))
            for placement in placements.values():
                warm_up(engine, placement)
            self.inspector.add(recipe.slot, engine, placements)
        except BaseException:
            engine.close()
            raise
        self.known[recipe.slot] = replace(Past.of(engine.bundle), bundle=None)
        return engine

    def prove(self, recipe: Recipe) -> Bundle:
        """Load the engine of a recipe, and unload it again if there is no room for it.

        Raises:
            ConfigError, EngineError: As `load`.
        """
        if len(self.inspector.loaded.slots) < self.config.warm:
            return self.load(recipe).bundle
        engine = self._open(recipe)
        try:
            make_ready(engine, cameras_at(self.inspector.recipes.values(), recipe.slot))
        finally:
            engine.close()
        self.known[recipe.slot] = replace(Past.of(engine.bundle), bundle=None)
        return engine.bundle

    def make_room(self, most: int) -> None:
        """Unload the engines used longest ago until at most `most` are loaded. The one in force stays."""
        for slot, bundle in self._unload(most, "other recipes were used since"):
            self.known[slot] = replace(Past.of(bundle), bundle=None)  # a swap may have changed it

    def start_over(self) -> None:
        """Unload all engines but the one in force, after a reload: their recipes get the bundles that are configured now."""
        self.known.clear()
        for _ in self._unload(1, "the configuration was reloaded"):
            pass

    def _unload(self, most: int, why: str) -> Iterator[tuple[str, Bundle]]:
        slots = [slot for slot in self.inspector.loaded.slots if slot != self.inspector.recipe.slot]
        for slot in slots[: max(0, len(self.inspector.loaded.slots) - most)]:
            give_up_at = time.monotonic() + LEAVE_S
            while self.publisher.awaits(slot) and time.monotonic() < give_up_at:
                time.sleep(0.01)
            if (engine := self.inspector.remove(slot)) is not None:
                logs.info("engine.unloaded", engine=engine.bundle.label, why=why)
                engine.close()
                yield slot, engine.bundle

    def clear(self) -> None:
        """Close the engines that are left, if the inspector has ended."""
        if self.inspector.alive:
            return
        for slot in self.inspector.loaded.slots:
            if (loaded := self.inspector.loaded.take(slot)) is not None:
                loaded.engine.close()

    def _open(self, recipe: Recipe) -> Engine:
        known = self.known.get(recipe.slot)
        bundle = load_bundle(Path(recipe.bundle)) if known is None else known.load()
        engine = load_engine(bundle, runtime=self.config.runtime, threads=self.config.threads, build=self.config.build)
        logs.info("engine.loaded", engine=bundle.label, runtime=engine.runtime_description, why=engine.why)
        return engine


class Preparation(Worker):
    """Prepares one recipe, for a switch or to know whether it can be used.

    Attributes:
        recipe: The recipe.
        bundle: Its bundle, when the thread has ended without a failure.
        cameras: By camera, what `in_force` returned. Empty for a proof.
    """

    def __init__(self, shelf: Shelf, recipe: Recipe, *, switch: bool) -> None:
        super().__init__("recipe")
        self.recipe = recipe
        self.bundle: Bundle | None = None
        self.cameras: Mapping[str, InForce] = {}
        self._shelf, self._switch = shelf, switch

    def work(self) -> None:
        """Prepare it.

        Raises:
            ConfigError, EngineError: The recipe is refused.
        """
        try:
            self._prepare()
        finally:
            signals.wake()

    def _prepare(self) -> None:
        if self._switch:
            self.cameras = {name: in_force(name, self.recipe) for name in self.recipe.cameras}
            self.bundle = self._shelf.load(self.recipe).bundle
        else:
            self.bundle = self._shelf.prove(self.recipe)


class Unloading(Worker):
    """Unloads engines for which there is no room any more, or all that wait for their recipes after a reload."""

    def __init__(self, shelf: Shelf, *, reloaded: bool) -> None:
        super().__init__("recipe")
        self._shelf, self._reloaded = shelf, reloaded

    def work(self) -> None:
        """Unload them."""
        if self._reloaded:
            self._shelf.start_over()
        else:
            self._shelf.make_room(self._shelf.config.warm)
