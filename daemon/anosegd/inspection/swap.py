"""Replaces the engine while parts are inspected.

The thread "swap" loads the new bundle beside the old one, runs the self-test and warms the engine up. The inspector then
exchanges the engines between two parts. A swap that fails changes nothing.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from anoseg_engines.bundle import Bundle, load_bundle
from anoseg_engines.engine import Engine
from anoseg_engines.errors import ConfigError
from anoseg_engines.loading import load_engine
from anosegd import logs
from anosegd.config import EngineConfig
from anosegd.inspection.change_notes import note_change
from anosegd.inspection.history import History, Past
from anosegd.inspection.inspector import Inspector
from anosegd.inspection.ready import cameras_at, make_ready, warm_up
from anosegd.journal import Change, ChangeKind, Journal
from anosegd.recipe import Recipe
from anosegd.worker import NOBODY, Answer, Asker, Worker


def report_passed_over(bundle: Bundle) -> None:
    """Log that later versions lack files, if so."""
    if bundle.passed_over is not None:
        logs.warning("bundle.passed_over", what=bundle.passed_over, used=bundle.label)


@dataclass(frozen=True, slots=True)
class _Request:
    """What is to inspect: the bundle at `path`, a loaded `engine`, or, with neither, what inspected before."""

    answer: Answer
    path: Path | None = None
    other_product: bool = False
    engine: Engine | None = None
    asker: Asker = NOBODY


class Swaps:
    """Runs one swap at a time. Any thread calls `swap` and `roll_back`; everything else belongs to the main thread.

    A swap changes the engine of the recipe in force, and of all recipes that share it.

    Args:
        config: How engines are loaded.
        bundle: The bundle that inspects.
        inspector: The inspector.
        history: Knows the bundles that inspected before, to one of which a rollback returns.
        journal: Where changes are noted; None for a station without one.

    Attributes:
        bundle: The bundle that inspects.
    """

    def __init__(
        self, config: EngineConfig, bundle: Bundle, inspector: Inspector, history: History, *, journal: Journal | None = None
    ) -> None:
        self.bundle = bundle
        self._journal = journal
        self._history = history
        self._config = config
        self._inspector = inspector
        self._requests: queue.SimpleQueue[_Request] = queue.SimpleQueue()
        self._swap: _Swap | None = None

    @property
    def busy(self) -> bool:
        """Whether a swap is under way."""
        return self._swap is not None

    def switched(self, recipe: Recipe, bundle: Bundle) -> None:
        """Note that a recipe has come into force, whose engine has this bundle. No swap may be under way."""
        self.bundle = bundle
        self._history.switched(recipe.slot, bundle)

    @property
    def rollback_to(self) -> str | None:
        """Product and version of the bundle that a rollback would return to. Any thread."""
        before = self._history.before
        return before[-1].label if before else None

    def swap(self, path: str, other_product: bool, answer: Answer, asker: Asker) -> None:
        """Request that the bundle at `path` inspects. One of another product is refused unless `other_product`."""
        self._requests.put(_Request(answer, path=Path(path), other_product=other_product, asker=asker))

    def roll_back(self, answer: Answer, asker: Asker) -> None:
        """Request that the bundle inspects again that inspected before this one. Repeated, it goes further back."""
        self._requests.put(_Request(answer, asker=asker))

    def use(self, engine: Engine, answer: Answer) -> None:
        """Have this engine inspect, which has passed its self-test. It is closed if it cannot. No swap may be under way.

        Swaps that wait come after it, because the reload that asks for this engine has begun before them.
        """
        assert self._swap is None, "swaps and reloads take turns"
        self._begin(_Request(answer, engine=engine))

    def look_after(self) -> None:
        """Start a requested swap, or finish a swap that has ended. Called often, while no reload's check is under way."""
        if self._swap is None and not self._requests.empty():
            self._begin(self._requests.get_nowait())
        if self._swap is None or self._swap.alive:
            return
        swap, self._swap = self._swap, None
        if swap.bundle is None:
            text = str(swap.failure) or repr(swap.failure)
            logs.error("swap.failed", bundle=swap.what, error=text.splitlines()[0])
            swap.reply(text)
        else:
            before, self.bundle = self.bundle, swap.bundle
            if swap.kind == "rollback":
                self._history.went_back(self.bundle)
            else:
                self._history.took_over(self.bundle)
            logs.info("swap.done", engine=self.bundle.label, digest=self.bundle.digest, before=before.label)
            self.note(swap.kind, Past.of(before), swap.asker)
            swap.reply(None)

    def note(self, kind: ChangeKind, before: Past, asker: Asker) -> None:
        """Note in the journal that another bundle inspects than `before`."""
        if self._journal is None or before.digest == self.bundle.digest:
            return
        old, new = f"{before.label} {before.digest}", f"{self.bundle.label} {self.bundle.digest}"
        note_change(self._journal, Change(time.time_ns(), kind, None, old, new, asker.who, asker.why))

    def close(self, timeout_s: float) -> list[Worker]:
        """Refuse requests that still wait. Return the thread of a swap that does not end. After the inspector's end."""
        while not self._requests.empty():
            self._requests.get_nowait().answer("the daemon is ending")
        swap, self._swap = self._swap, None
        if swap is None:
            return []
        ended = swap.join(timeout_s)
        swap.reply("the daemon is ending" if swap.bundle is None else None)
        return [] if ended else [swap]

    def _begin(self, request: _Request) -> None:
        kind: ChangeKind = "swap" if request.path is not None else "rollback" if request.engine is None else "reload"
        if kind == "rollback" and not self._history.before:
            what = f"there is no engine to go back to: none is known to have inspected before {self.bundle.label}"
            earlier = f"`anoseg-engine list {self.bundle.path.parent}` shows earlier versions; `anosegd swap` takes one"
            request.answer(f"{what}\n  {earlier}")
            return
        load: Callable[[], Engine]
        if request.engine is not None:
            what, load = request.engine.bundle.label, partial(_same, request.engine)
        elif request.path is not None:
            what, load = str(request.path), partial(self._load, request.path, request.other_product)
        else:
            past = self._history.before[-1]
            what, load = past.label, lambda: self._load_bundle(past.load())
        self._swap = _Swap(what, load, self._inspector, request=request, kind=kind)
        self._swap.start()

    def _load(self, path: Path, other_product: bool) -> Engine:
        """Load the engine of the bundle at `path`. The swap's thread."""
        if not path.is_absolute():
            raise ConfigError(f"{path}: the daemon needs an absolute path", hint="`anosegd swap` makes one")
        bundle = load_bundle(path)
        report_passed_over(bundle)
        product, ours = bundle.manifest.product, self.bundle.manifest.product
        if product != ours and not other_product:
            raise ConfigError(
                f"{path}: this bundle is for the product '{product}', the station inspects '{ours}'",
                hint="if the line makes the other product now, swap with --other-product",
            )
        return self._load_bundle(bundle)

    def _load_bundle(self, bundle: Bundle) -> Engine:
        config = self._config
        return load_engine(bundle, runtime=config.runtime, threads=config.threads, build=config.build)


def _same(engine: Engine) -> Engine:
    return engine


class _Swap(Worker):
    """One swap.

    Args:
        what: The new bundle, for the log.
        load: Loads the engine; the swap then owns it.
        inspector: The inspector.
        request: The request.
        kind: What the request asks for.

    Attributes:
        bundle: The new bundle once it inspects, None before.
    """

    def __init__(
        self, what: str, load: Callable[[], Engine], inspector: Inspector, *, request: _Request, kind: ChangeKind
    ) -> None:
        super().__init__("swap")
        self.what, self.reply, self.asker, self.kind = what, request.answer, request.asker, kind
        self.bundle: Bundle | None = None
        self._load = load
        self._inspector = inspector

    def work(self) -> None:
        """Load the new engine, run its self-test and warm it up. Exchange it, and close the old one.

        Raises:
            ConfigError, EngineError: The new bundle is refused; the old one goes on.
        """
        engine = self._load()
        bundle = engine.bundle
        logs.info("engine.loaded", engine=bundle.label, runtime=engine.runtime_description, why=engine.why)
        try:
            slot = self._inspector.recipe.slot
            placements = {region: engine.place(region) for region in self._inspector.regions}
            placements |= make_ready(engine, cameras_at(self._inspector.recipes.values(), slot))
            for placement in placements.values():
                warm_up(engine, placement)
            old = self._inspector.exchange(slot, engine, placements)
        except BaseException:
            engine.close()
            raise
        self.bundle = bundle
        if old is not None:
            old.close()
