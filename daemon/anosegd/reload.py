"""Reloads the configuration: reads and checks it on the thread "reload" while the station goes on inspecting.

A bundle is read, and its self-test run, once: an engine that is to take over is handed on to the station.
"""

from __future__ import annotations

import queue
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from anoseg_engines.bundle import Bundle, load_bundle
from anoseg_engines.engine import Engine
from anoseg_engines.errors import ConfigError
from anosegd import logs
from anosegd.config import Config
from anosegd.config_check import check_other_recipes, load_checked
from anosegd.inspection.inspector import Inspector
from anosegd.inspection.ready import cameras_at
from anosegd.inspection.swap import report_passed_over
from anosegd.recipe import Recipe, recipes_of
from anosegd.worker import Answer, Worker


def no_answer(error: str | None) -> None:
    """Do nothing: after a reload by signal, nobody waits for an answer, and the result is logged."""


@dataclass(frozen=True, slots=True)
class Reloaded:
    """A configuration that was read again and accepted.

    Attributes:
        bundle: The bundle that it names.
        engine: The engine that is to take over, its self-test passed; None if the running one stays. The station closes it.
        answer: Answers everyone who asked for the reload. Called once, when the configuration is in use.
    """

    config: Config
    bundle: Bundle
    engine: Engine | None
    answer: Answer


class Reloads:
    """Runs one check at a time. Any thread calls `ask`; everything else belongs to the main thread.

    A request is answered by a check that began after the request. So whoever edits a file and then asks for a reload gets the
    answer for that file.
    """

    def __init__(self, reread: Callable[[], Config], load: Callable[[Config], tuple[Bundle, Engine | None]]) -> None:
        """Prepare; starts nothing.

        Args:
            reread: Loads the configuration from disk, checked as at the start.
            load: Loads the bundle that a configuration names, and its engine if that is to take over. Called on the reload's
                thread.
        """
        self._reread, self._load = reread, load
        self._requests: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._check: _Check | None = None

    @property
    def checking(self) -> bool:
        """Whether a check is under way."""
        return self._check is not None

    @property
    def busy(self) -> bool:
        """Whether a check is requested or under way."""
        return self.checking or not self._requests.empty()

    def ask(self, answer: Answer = no_answer) -> None:
        """Request a reload. Returns at once."""
        self._requests.put(answer)

    def accepted(self) -> Reloaded | None:
        """Start a requested check, or finish an ended one. If the configuration is accepted, return it.

        Called often, while no swap is under way: the check relies on the bundle that inspects.
        """
        if self._check is None and not self._requests.empty():
            self._check = _Check(self._reread, self._load, self._take_requests())
            self._check.start()
        if self._check is None or self._check.alive:
            return None
        check, self._check = self._check, None
        if check.accepted is None:
            text = str(check.failure) or repr(check.failure)
            logs.error("reload.refused", error=text.splitlines()[0])
            check.answer_all(text)
        return check.accepted

    def close(self, timeout_s: float) -> list[Worker]:
        """Answer everyone who still waits. Return the check's thread if it does not end."""
        check, self._check = self._check, None
        if check is not None:
            check.answer_all("the daemon is ending")
        for answer in self._take_requests():
            answer("the daemon is ending")
        if check is None:
            return []
        ended = check.join(timeout_s)
        if ended and check.accepted is not None and check.accepted.engine is not None:
            check.accepted.engine.close()
        return [] if ended else [check]

    def _take_requests(self) -> list[Answer]:
        taken = []
        while not self._requests.empty():
            taken.append(self._requests.get_nowait())
        return taken


class _Check(Worker):
    """Loads and checks the configuration once.

    Attributes:
        accepted: The configuration; None if it was refused.
    """

    def __init__(
        self, reread: Callable[[], Config], load: Callable[[Config], tuple[Bundle, Engine | None]], answers: list[Answer]
    ) -> None:
        super().__init__("reload")
        self.accepted: Reloaded | None = None
        self._reread, self._load, self._answers = reread, load, answers

    def work(self) -> None:
        config = self._reread()
        self.accepted = Reloaded(config, *self._load(config), answer=self.answer_all)

    def answer_all(self, error: str | None) -> None:
        for answer in self._answers:
            answer(error)


def needs_restart(config: Config, now: Config, in_force: Recipe, *, new_engine: bool) -> bool:
    """Return whether the new configuration can only come into force as a whole, with another station.

    So it is if more than cameras, recipes and bundle has changed, if the recipe in force is gone or has another slot, or if
    another engine takes over and cameras or recipes change with it: one engine must not judge by the thresholds and rules that
    are meant for the other one.
    """
    same_engine = msgspec.structs.replace(config.engine, bundle=now.engine.bundle)
    same = msgspec.structs.replace(config, cameras=now.cameras, recipes=now.recipes, engine=same_engine) == now
    recipe = recipe_after(recipes_of(config), in_force)
    judged_otherwise = new_engine and (config.cameras, config.recipes) != (now.cameras, now.recipes)
    return not same or recipe.key != in_force.key or recipe.slot != in_force.slot or judged_otherwise


def recipe_after(recipes: Mapping[str, Recipe], in_force: Recipe) -> Recipe:
    """Return the recipe of a new configuration that comes into force: the one of before, or the default one if that is gone."""
    default, *others = recipes.values()
    return next((recipe for recipe in others if recipe.key == in_force.key), default)


def load_reloaded(
    config: Config, now: Config, inspector: Inspector, inspecting: Bundle, configured: Bundle
) -> tuple[Bundle, Engine | None]:
    """Load the bundle that a new configuration has in force, and run its self-test. The reload's thread.

    If the engine stays, it is made ready here for the new cameras: their parts must not wait for that.

    Args:
        config: The new configuration.
        now: The one in use.
        inspector: The inspector.
        inspecting: The bundle that inspects.
        configured: The bundle that the configuration in use names.

    Returns:
        The bundle, and the engine if it is to take over.

    Raises:
        ConfigError: The configuration cannot work.
        EngineError: A bundle is refused.
    """
    recipes = recipes_of(config)
    recipe = recipe_after(recipes, inspector.recipe)
    bundle = load_bundle(Path(recipe.bundle))
    report_passed_over(bundle)
    product, ours = bundle.manifest.product, inspecting.manifest.product
    if recipe.bundle == inspector.recipe.bundle and product not in (ours, configured.manifest.product):
        raise ConfigError(
            f"{recipe.bundle}: this is now a bundle for the product '{product}', the station inspects '{ours}'",
            hint="if the line makes the other product now, run `anosegd swap` with --other-product first",
        )
    check_other_recipes(config, recipe.slot, build=config.engine.build)
    engine = load_checked(config, recipe, bundle, build=config.engine.build)
    if bundle.digest != inspecting.digest or needs_restart(config, now, inspector.recipe, new_engine=False):
        return bundle, engine
    engine.close()
    inspector.keep_ready(cameras_at(recipes.values(), recipe.slot))
    return bundle, None
