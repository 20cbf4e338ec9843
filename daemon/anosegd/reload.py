"""Reloads the configuration: reads and checks it on the thread "reload" while the station goes on inspecting.

A bundle is read, and its self-test run, once: an engine that is to take over is handed on to the station.
"""

from __future__ import annotations

import queue
from collections.abc import Callable
from dataclasses import dataclass

from anoseg_engines.bundle import Bundle
from anoseg_engines.engine import Engine
from anosegd import logs
from anosegd.config import Config
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

    def ask(self, answer: Answer = no_answer) -> None:
        """Request a reload. Returns at once."""
        self._requests.put(answer)

    def accepted(self) -> Reloaded | None:
        """Start a requested check, or finish an ended one. If the configuration is accepted, return it."""
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
