"""Replaces the engine while parts are inspected.

The thread "swap" loads the new bundle beside the old one, runs the self-test and warms the engine up. The inspector then
exchanges the engines between two parts. A swap that fails changes nothing.
"""

from __future__ import annotations

import queue
from pathlib import Path

from anoseg_engines.bundle import Bundle, load_bundle
from anoseg_engines.errors import ConfigError
from anoseg_engines.loading import load_engine
from anosegd import logs
from anosegd.config import EngineConfig
from anosegd.inspection.inspector import Inspector
from anosegd.inspection.ready import make_ready, warm_up
from anosegd.worker import Answer, Worker


def report_passed_over(bundle: Bundle) -> None:
    """Log that later versions lack files, if so."""
    if bundle.passed_over is not None:
        logs.warning("bundle.passed_over", what=bundle.passed_over, used=bundle.label)


class Swaps:
    """Runs one swap at a time. Any thread calls `ask`; everything else belongs to the main thread.

    Attributes:
        bundle: The bundle that inspects.
        before: The bundle that inspected before the last swap. None before the first swap.
    """

    def __init__(self, config: EngineConfig, bundle: Bundle, inspector: Inspector) -> None:
        self.bundle = bundle
        self.before: Bundle | None = None
        self._config = config
        self._inspector = inspector
        self._requests: queue.SimpleQueue[tuple[str | None, Answer]] = queue.SimpleQueue()
        self._swap: _Swap | None = None

    def ask(self, path: str | None, answer: Answer) -> None:
        """Request that the bundle at `path` inspects; None requests the one before the last swap."""
        self._requests.put((path, answer))

    def look_after(self) -> None:
        """Start a requested swap, or finish a swap that has ended. Called often."""
        if self._swap is None and not self._requests.empty():
            self._begin(*self._requests.get_nowait())
        if self._swap is None or self._swap.alive:
            return
        swap, self._swap = self._swap, None
        if swap.bundle is None:
            text = str(swap.failure) or repr(swap.failure)
            logs.error("swap.failed", bundle=swap.path, error=text.splitlines()[0])
            swap.reply(text)
        else:
            self.before, self.bundle = self.bundle, swap.bundle
            logs.info("swap.done", engine=self.bundle.label, before=self.before.label)
            swap.reply(None)

    def close(self, timeout_s: float) -> list[Worker]:
        """Refuse requests that still wait. Return the thread of a swap that does not end. After the inspector's end."""
        while not self._requests.empty():
            self._requests.get_nowait()[1]("the daemon is ending")
        swap, self._swap = self._swap, None
        if swap is None:
            return []
        ended = swap.join(timeout_s)
        swap.reply("the daemon is ending" if swap.bundle is None else None)
        return [] if ended else [swap]

    def _begin(self, path: str | None, answer: Answer) -> None:
        if path is None and self.before is None:
            answer("there is no engine to go back to: there was no swap since the start")
            return
        self._swap = _Swap(self._config, path or str(self.before and self.before.path), self._inspector, answer)
        self._swap.start()


class _Swap(Worker):
    """One swap.

    Attributes:
        bundle: The new bundle once it inspects, None before.
    """

    def __init__(self, config: EngineConfig, path: str, inspector: Inspector, reply: Answer) -> None:
        super().__init__("swap")
        self.path = path
        self.reply = reply
        self.bundle: Bundle | None = None
        self._config = config
        self._inspector = inspector

    def work(self) -> None:
        """Load the new engine, run its self-test and warm it up. Exchange it, and close the old one.

        Raises:
            ConfigError, EngineError: The new bundle is refused; the old one goes on.
        """
        if not Path(self.path).is_absolute():
            raise ConfigError(f"{self.path}: the daemon needs an absolute path", hint="`anosegd swap` makes one")
        bundle = load_bundle(Path(self.path))
        report_passed_over(bundle)
        config = self._config
        engine = load_engine(bundle, runtime=config.runtime, threads=config.threads, build=config.build)
        logs.info("engine.loaded", engine=bundle.label, runtime=engine.runtime_description, why=engine.why)
        try:
            placements = {region: engine.place(region) for region in self._inspector.regions}
            placements |= make_ready(engine, self._inspector.cameras)
            for placement in placements.values():
                warm_up(engine, placement)
            old = self._inspector.exchange(engine, placements)
        except BaseException:
            engine.close()
            raise
        self.bundle = bundle
        old.close()
