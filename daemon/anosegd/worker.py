"""Runs a thread that the station supervises: the thread reports that it is not stuck, and keeps the error that ended it."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, NamedTuple

from anoseg_engines.errors import AnosegError
from anosegd import logs

Answer = Callable[[str | None], None]
"""Answers a request made to a worker: called once, on any thread, with None for success or with the reason for a refusal."""

DetailedAnswer = Callable[[dict[str, Any] | str], None]
"""Answers a request once, on any thread, with the fields of the answer or with the reason for a refusal."""


class Asker(NamedTuple):
    """Says who asked for a change, and why. Empty if not known."""

    who: str = ""
    why: str = ""


NOBODY = Asker()

BEHIND_THE_INSPECTION = 10
"""Nice value of threads whose work can wait. Not more: a thread that holds Python's lock needs some processor time, even on a
machine without any to spare, to hand the lock on."""


class Worker(ABC):
    """The base of the inspector, publisher, journal, mask encoder, cameras and every thread that serves a request.

    Attributes:
        failure: The error that ended the thread; None if it ended in order.
    """

    def __init__(self, name: str) -> None:
        self.failure: BaseException | None = None
        self._answered_at = time.monotonic()
        self.thread_name = name
        self._thread = threading.Thread(target=self._run, name=name)

    @abstractmethod
    def work(self) -> None:
        """Run the thread until it is asked to stop. Calls `answer` at least every second while idle."""

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def start_until(self, ready: threading.Event) -> None:
        """Start the thread, and return when it has set `ready`.

        Raises:
            BaseException: The error that ended the thread before that.
        """
        self._thread.start()
        while not ready.wait(0.05):
            if not self.alive:
                raise self.failure or RuntimeError(f"thread {self.thread_name} ended at once")

    def answer(self) -> None:
        """Report that the thread is not stuck."""
        self._answered_at = time.monotonic()

    def give_way(self) -> None:
        """Let the inspection go first where both need the same processor. Called on the thread itself."""
        with contextlib.suppress(OSError):  # the whole daemon may run at a still lower priority
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), BEHIND_THE_INSPECTION)

    @property
    def silent_s(self) -> float:
        """Seconds since the thread last called `answer`."""
        return time.monotonic() - self._answered_at

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread to end and return whether it has. A thread that was never started has ended."""
        if self._thread.ident is not None:
            self._thread.join(max(0.0, timeout_s))
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self.work()
        except AnosegError as error:  # `main` reports it to the user
            self.failure = error
        except BaseException as error:  # noqa: BLE001 - the thread's boundary: the station stops in order
            self.failure = error
            logs.error("thread.died", exception=error, thread=self._thread.name)
