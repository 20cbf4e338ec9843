"""Carries out requests for another recipe, one at a time, and has all recipes tested. Runs on the main thread.

An engine is loaded on the thread "recipe" while the line goes on. Then the recipe comes into force: parts that begin from that
moment on are made by it, and parts that began before are judged by the recipe before. A recipe that is refused changes nothing.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from anoseg_engines.bundle import Bundle
from anoseg_engines.errors import AnosegError
from anosegd import logs, wire
from anosegd.cameras import InForce
from anosegd.inspection.change_notes import note_change
from anosegd.inspection.history import Past
from anosegd.journal import Change, Journal
from anosegd.recipe import Recipe
from anosegd.recipes.preparation import Preparation, Shelf, Unloading
from anosegd.recipes.remembered import GONE, RememberedRecipe
from anosegd.worker import NOBODY, Asker, DetailedAnswer, Worker

LOAD_END_S = 1.0
"""How long the station's end waits for an engine that is being loaded."""


@dataclass(frozen=True, slots=True)
class Request:
    """A request for another recipe."""

    name: str
    asker: Asker
    answer: DetailedAnswer


@dataclass(frozen=True, slots=True)
class Switched:
    """Says what the station did for a recipe.

    Attributes:
        cameras: The cameras that were opened again.
        settings: The checksum of the settings in force.
        stuck: Cameras that do not end; the station has to stop.
    """

    cameras: list[str]
    settings: str
    stuck: list[Worker]


@dataclass(frozen=True, slots=True)
class _Tested:
    """The result of loading the engine of a slot: the bundle's label, or the error."""

    label: str
    error: str | None = None


Use = Callable[[Recipe, Bundle, Mapping[str, InForce]], Switched]


class RecipeSwitches:
    """Switches recipes. Any thread calls `ask` and `describe`; everything else belongs to the main thread.

    Args:
        recipes: All recipes, the default one first.
        shelf: Loads engines.
        use: Puts a recipe into force, whose engine is loaded. Raises ConfigError if it cannot, and nothing has changed then.
        remembered: Keeps the recipe in force for the next start.
        journal: Where changes are noted; None for a station without one.
        test: Whether recipes are loaded before they are requested, to know whether they can be used.

    Attributes:
        abandoned: Whether an engine is still being loaded after `close`: nothing can interrupt that, so the process must exit.
    """

    def __init__(
        self,
        recipes: Mapping[str, Recipe],
        shelf: Shelf,
        use: Use,
        *,
        remembered: RememberedRecipe,
        journal: Journal | None,
        test: bool = True,
    ) -> None:
        self.abandoned = False
        self._recipes, self._shelf, self._use, self._test = recipes, shelf, use, test
        self._remembered, self._journal = remembered, journal
        self._requests: queue.SimpleQueue[Request] = queue.SimpleQueue()
        self._request: Request | None = None  # that the preparation is for
        self._work: Preparation | Unloading | None = None
        self._tested: Mapping[str, _Tested] = {}  # by slot; replaced, never changed
        self._reloaded = False  # and engines of the configuration before may still be loaded

    @property
    def in_force(self) -> Recipe:
        """The recipe in force. Any thread."""
        return self._shelf.inspector.recipe

    @property
    def busy(self) -> bool:
        """Whether an engine is being loaded or unloaded."""
        return self._work is not None

    def ask(self, name: str, asker: Asker, answer: DetailedAnswer) -> None:
        """Request a recipe. It is answered when the recipe is in force, or refused."""
        self._requests.put(Request(name, asker, answer))

    def describe(self) -> dict[str, wire.RecipeHealth]:
        """Return the state of every recipe; nothing if there is only one. Any thread."""
        recipes = self._recipes
        return {} if len(recipes) < 2 else {name: self._health(recipe) for name, recipe in recipes.items()}

    def begin(self) -> None:
        """Note what the start has found: the engine of the recipe in force works, and perhaps that another recipe is gone."""
        recipe, in_force = self.in_force, self._shelf.inspector.in_force
        assert in_force is not None, "the engine is loaded"
        self._engine_loaded(recipe, in_force.engine.bundle)
        if self._remembered.gone is not None:
            self._note(self._remembered.gone, recipe.name, NOBODY._replace(why=GONE))
        self._remembered.save(recipe)

    def reloaded(self, recipes: Mapping[str, Recipe]) -> None:
        """Take the recipes of a new configuration, with which its bundle inspects.

        The other engines are unloaded before the next request is carried out. Then they are loaded and tested again.
        """
        self._recipes, self._tested = recipes, {}
        self._reloaded = True

    def look_after(self) -> str | None:
        """Begin a request, or finish one. Called often, while no swap and no reload is under way.

        Returns:
            A reason to stop the station.
        """
        if self._work is None:
            self._begin_next()
        if self._work is None or self._work.alive:
            return None
        work, self._work = self._work, None
        request, self._request = self._request, None
        if isinstance(work, Unloading):
            if work.failure is not None:
                logs.warning("recipe.not_unloaded", error=str(work.failure))
            return None
        if work.bundle is None:
            self._refuse(work, request)
            return None
        self._engine_loaded(work.recipe, work.bundle)
        if request is None:
            logs.info("recipe.tested", recipe=work.recipe.name, engine=work.bundle.label)
            return None
        return self._take(request, work)

    def close(self, timeout_s: float) -> list[Worker]:
        """Refuse requests that still wait. Return the thread if it is stuck. After the inspector's end."""
        waiting = [] if self._request is None else [self._request]
        while not self._requests.empty():
            waiting.append(self._requests.get_nowait())
        for request in waiting:
            request.answer("the daemon is ending")
        work, self._work = self._work, None
        loads = isinstance(work, Preparation)  # which takes minutes with some runtimes
        if work is not None and not work.join(min(LOAD_END_S, timeout_s) if loads else timeout_s):
            self.abandoned = loads
            return [] if loads else [work]
        self._shelf.clear()
        return []

    def _begin_next(self) -> None:
        if self._reloaded:
            self._reloaded = False
            self._start(Unloading(self._shelf, reloaded=True))
        elif not self._requests.empty():
            self._begin(self._requests.get_nowait())
        elif len(self._shelf.inspector.loaded.slots) > self._shelf.config.warm:
            self._start(Unloading(self._shelf, reloaded=False))
        elif self._test:
            untested = next((recipe for recipe in self._recipes.values() if recipe.slot not in self._tested), None)
            if untested is not None:
                self._start(Preparation(self._shelf, untested, switch=False))

    def _begin(self, request: Request) -> None:
        recipe = self._recipes.get(request.name)
        if recipe is None:
            logs.warning("recipe.refused", recipe=request.name, error="there is no such recipe", who=request.asker.who)
            request.answer(f"there is no recipe '{request.name}'; there are: {', '.join(self._recipes)}")
            return
        self._request = request
        self._start(Preparation(self._shelf, recipe, switch=True))

    def _start(self, work: Preparation | Unloading) -> None:
        self._work = work
        work.start()

    def _refuse(self, work: Preparation, request: Request | None) -> None:
        text = str(work.failure) or repr(work.failure)
        error = text.splitlines()[0]
        label = self._tested[work.recipe.slot].label if work.recipe.slot in self._tested else work.recipe.bundle
        self._tested = {**self._tested, work.recipe.slot: _Tested(label, error)}
        logs.error("recipe.refused", recipe=work.recipe.name, error=error, going_on=self.in_force.name)
        if request is not None:
            request.answer(f"recipe '{work.recipe.name}': {text}")

    def _take(self, request: Request, work: Preparation) -> str | None:
        before, recipe = self.in_force, work.recipe
        began = time.monotonic()
        assert work.bundle is not None
        try:
            switched = self._use(recipe, work.bundle, work.cameras)
        except AnosegError as error:  # a file has changed since
            request.answer(f"recipe '{recipe.name}': {error}")
            return None
        if switched.stuck:
            request.answer("a camera does not end; the daemon stops")
            logs.error("daemon.stuck", threads=",".join(camera.thread_name for camera in switched.stuck))
            return "failure"
        engine = self._shelf.inspector.engine
        done: dict[str, Any] = {
            "recipe": recipe.name,
            "before": before.name,
            "engine": msgspec.to_builtins(engine),
            "settings": switched.settings,
            "cameras": switched.cameras,
        }
        if before is recipe:
            request.answer(done)
            return None
        self._remembered.save(recipe)
        logs.info(
            "recipe.switched",
            recipe=recipe.name,
            before=before.name,
            engine=work.bundle.label,
            ms=round((time.monotonic() - began) * 1000, 1),
            who=request.asker.who,
            why=request.asker.why,
        )
        self._note(before.name, recipe.name, request.asker, lambda _: request.answer(done))
        return None

    def _note(self, old: str, new: str, asker: Asker, done: Callable[[bool], None] = lambda noted: None) -> None:
        if self._journal is None:
            done(False)
        else:
            note_change(self._journal, Change(time.time_ns(), "recipe", None, old, new, asker.who, asker.why), done)

    def _engine_loaded(self, recipe: Recipe, bundle: Bundle) -> None:
        self._tested = {**self._tested, recipe.slot: _Tested(bundle.label)}
        self._shelf.known[recipe.slot] = replace(Past.of(bundle), bundle=None)

    def _health(self, recipe: Recipe) -> wire.RecipeHealth:
        tested = self._tested.get(recipe.slot)
        label = recipe.bundle if tested is None else tested.label
        if recipe is self.in_force:
            return wire.RecipeHealth(state="in_force", bundle=label)
        if tested is None:
            return wire.RecipeHealth(state="waiting", bundle=label)
        if tested.error is not None:
            return wire.RecipeHealth(state="refused", bundle=label, error=tested.error)
        warm = self._shelf.inspector.loaded.get(recipe.slot) is not None
        return wire.RecipeHealth(state="warm" if warm else "cold", bundle=label)
