"""Reloads the configuration: reads and checks it on the thread "reload" while the station goes on inspecting.

`config_check.check_whole` does the checks.
"""

from __future__ import annotations

import queue
from collections.abc import Callable

from anosegd import logs
from anosegd.config import Config
from anosegd.worker import Answer, Worker


def no_answer(error: str | None) -> None:
    """Do nothing: after a reload by signal, nobody waits for an answer, and the result is logged."""


class Reloads:
    """Runs one check at a time. Any thread calls `ask`; everything else belongs to the main thread.

    A request is answered by a check that began after the request. So whoever edits a file and then asks for a reload gets the
    answer for that file.
    """

    def __init__(self, reread: Callable[[], Config], differs: Callable[[Config], bool]) -> None:
        """Prepare; starts nothing.

        Args:
            reread: Loads the configuration from disk, checked as at the start.
            differs: Whether a configuration differs from the running one.
        """
        self._reread, self._differs = reread, differs
        self._requests: queue.SimpleQueue[Answer] = queue.SimpleQueue()
        self._check: _Check | None = None

    def ask(self, answer: Answer = no_answer) -> None:
        """Request a reload. Returns at once."""
        self._requests.put(answer)

    def successor(self) -> Config | None:
        """Start a requested check, or finish an ended one. If the configuration has changed, return the new one."""
        if self._check is None and not self._requests.empty():
            self._check = _Check(self._reread, self._differs, self._take_requests())
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
        """Answer everyone who still waits. Return the check's thread if it does not end."""
        check, self._check = self._check, None
        if check is not None:
            check.answer_all("the daemon is ending")
        for answer in self._take_requests():
            answer("the daemon is ending")
        return [check] if check is not None and not check.join(timeout_s) else []

    def _take_requests(self) -> list[Answer]:
        taken = []
        while not self._requests.empty():
            taken.append(self._requests.get_nowait())
        return taken


class _Check(Worker):
    """Loads and checks the configuration once.

    Attributes:
        config: The new configuration; None if it equals the running one.
    """

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
