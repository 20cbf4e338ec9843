"""A thread that the station supervises: it says when it last answered, and keeps what ended it. No thread dies in silence."""

from __future__ import annotations

import threading
import time
from abc import ABC, abstractmethod

from anoseg_engines.errors import AnosegError
from anosegd import logs


class Worker(ABC):
    """Base of inspector, publisher, mask encoder and cameras. failure: what ended the thread, None if it ended in order."""

    def __init__(self, name: str) -> None:
        self.failure: BaseException | None = None
        self._answered_at = time.monotonic()
        self.thread_name = name
        self._thread = threading.Thread(target=self._run, name=name)

    @abstractmethod
    def work(self) -> None:
        """What the thread does; returns when it was told to stop. Calls `answer` at least every second while idle."""

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def start_until(self, ready: threading.Event) -> None:
        """Start the thread, and return when it has set `ready`.

        Raises:
            BaseException: what ended the thread before that.
        """
        self._thread.start()
        while not ready.wait(0.05):
            if not self.alive:
                raise self.failure or RuntimeError(f"thread {self.thread_name} ended at once")

    def answer(self) -> None:
        """The thread is not stuck."""
        self._answered_at = time.monotonic()

    @property
    def silent_s(self) -> float:
        """Seconds since the thread last answered."""
        return time.monotonic() - self._answered_at

    @property
    def alive(self) -> bool:
        """Whether the thread runs."""
        return self._thread.is_alive()

    def join(self, timeout_s: float) -> bool:
        """Wait for the thread to end; False if it did not in time. A thread that never started has ended."""
        if self._thread.ident is not None:
            self._thread.join(max(0.0, timeout_s))
        return not self._thread.is_alive()

    def _run(self) -> None:
        try:
            self.work()
        except AnosegError as error:  # told to the user by main
            self.failure = error
        except BaseException as error:  # noqa: BLE001 - the thread's boundary: the station stops in order on this
            self.failure = error
            logs.error("thread.died", exception=error, thread=self._thread.name)
