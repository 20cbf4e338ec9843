"""Reloading: wishes are gathered, the new configuration is checked whole on a thread of its own, and every wish answered."""

from __future__ import annotations

import queue
from collections.abc import Callable

from anosegd import logs
from anosegd.config import Config
from anosegd.worker import Worker

Answer = Callable[[str | None], None]
"""Called once with None when the configuration was accepted, or with what is wrong with it. Any thread."""


def nobody(error: str | None) -> None:
    """The answer to a signal: it goes into the log alone."""


class Reloads:
    """One check at a time, while the station goes on inspecting. `ask`: any thread; everything else: the main thread.

    A wish is answered by a check that began after it came, so that whoever edits a file and then asks is told of that file.
    reread: the configuration as it is on disk now, checked as at the start. differs: whether it is another than runs now.
    """

    def __init__(self, reread: Callable[[], Config], differs: Callable[[Config], bool]) -> None:
        self._reread, self._differs = reread, differs
        self._wishes: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._check: _Check | None = None

    def ask(self, answer: Answer = nobody) -> None:
        """Have the configuration read anew."""
        self._wishes.put(answer)

    def successor(self) -> Config | None:
        """Begin a check that was asked for, and end one that has come to its end: the configuration to go on with, if any."""
        if self._check is None and not self._wishes.empty():
            self._check = _Check(self._reread, self._differs, self._taken())
            self._check.start()
        if self._check is None or self._check.alive:
            return None
        check, self._check = self._check, None
        if check.failure is not None:
            text = str(check.failure) or repr(check.failure)
            logs.error("reload.refused", error=text.splitlines()[0])
            check.answer_all(text)
            return None
        logs.info("reload.accepted", changed=check.config is not None)
        check.answer_all(None)
        return check.config

    def close(self, timeout_s: float) -> list[Worker]:
        """Answer whoever still waits; returns the thread of a check that does not end."""
        check, self._check = self._check, None
        if check is not None:
            check.answer_all("the daemon is ending")
        for answer in self._taken():
            answer("the daemon is ending")
        return [check] if check is not None and not check.join(timeout_s) else []

    def _taken(self) -> list[Answer]:
        taken = []
        while not self._wishes.empty():
            taken.append(self._wishes.get_nowait())
        return taken


class _Check(Worker):
    """config: what to go on with, None if nothing has changed."""

    def __init__(self, reread: Callable[[], Config], differs: Callable[[Config], bool], answers: list[Answer]) -> None:
        super().__init__("reload")
        self.config: Config | None = None
        self._reread, self._differs, self._answers = reread, differs, answers

    def work(self) -> None:
        config = self._reread()
        self.config = config if self._differs(config) else None

    def answer_all(self, error: str | None) -> None:
        for answer in self._answers:
            answer(error)
