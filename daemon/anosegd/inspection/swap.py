"""Swapping the engine under a running line: the new bundle is loaded, proved and warmed up beside the old one, then exchanged
between two parts. A swap that fails changes nothing."""

from __future__ import annotations

import queue
from pathlib import Path

import numpy as np

from anoseg_engines.bundle.read import Bundle, load_bundle
from anoseg_engines.errors import ConfigError
from anoseg_engines.loading import load_engine
from anosegd import logs
from anosegd.config import EngineConfig
from anosegd.inspection.inspector import Inspector
from anosegd.worker import Answer, Worker


class Swaps:
    """One swap at a time. `ask`: any thread; everything else: the main thread.

    bundle: the one that inspects. before: the one it took over from, None before the first swap.
    """

    def __init__(self, config: EngineConfig, bundle: Bundle, inspector: Inspector) -> None:
        self.bundle = bundle
        self.before: Bundle | None = None
        self._config = config
        self._inspector = inspector
        self._wishes: queue.SimpleQueue[tuple[str | None, Answer]] = queue.SimpleQueue()
        self._swap: _Swap | None = None

    def ask(self, path: str | None, answer: Answer) -> None:
        """Have the bundle at `path` inspect from now on; None: the one before."""
        self._wishes.put((path, answer))

    def look_after(self) -> None:
        """Begin a swap that was asked for, and end one that has come to its end. Often."""
        if self._swap is None and not self._wishes.empty():
            self._begin(*self._wishes.get_nowait())
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
        """Refuse what still waits; returns the thread of a swap that does not end. After the inspector's end."""
        while not self._wishes.empty():
            self._wishes.get_nowait()[1]("the daemon is ending")
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
    """bundle: what inspects now, None until the exchange."""

    def __init__(self, config: EngineConfig, path: str, inspector: Inspector, reply: Answer) -> None:
        super().__init__("swap")
        self.path = path
        self.reply = reply
        self.bundle: Bundle | None = None
        self._config = config
        self._inspector = inspector

    def work(self) -> None:
        """Load, prove, warm up, exchange, free the old.

        Raises:
            ConfigError, EngineError: the new bundle is refused; the old one goes on.
        """
        if not Path(self.path).is_absolute():
            raise ConfigError(f"{self.path}: the daemon needs an absolute path", hint="`anosegd swap` makes one")
        bundle = load_bundle(Path(self.path))
        wish = self._config
        engine = load_engine(bundle, runtime=wish.runtime, threads=wish.threads, build=wish.build)
        logs.info("engine.loaded", engine=bundle.label, runtime=engine.runtime_description, why=engine.why)
        try:
            placements = {}
            for region in self._inspector.regions:
                placements[region] = engine.place(region)
                image = np.zeros((region.y + region.height, region.x + region.width, 3), np.uint8)
                engine.inspect(image, placements[region])  # what the first part would have to wait for otherwise
            old = self._inspector.exchange(engine, placements)
        except BaseException:
            engine.close()
            raise
        self.bundle = bundle
        old.close()
