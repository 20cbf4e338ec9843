"""Sends requests of the pages to the station, so that neither the event loop nor the journal waits.

Threads: "change" for what the station answers within moments, "bundle" for requests that have it load a bundle first.
"""

from __future__ import annotations

import asyncio
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from anosegd.client import Client, ClientError, Key, RefusedError
from anosegd.view.journal_search import TooManyRequestsError

MAX_AT_ONCE = 4
MAX_WAITING = 20
TIMEOUT_S = 10.0
"""The station writes its files and its journal before it answers."""
MAX_LOADS = 2
LOAD_TIMEOUT_S = 300.0
"""The station loads a bundle and runs its self-test before it answers."""


class StationRequests:
    """Asks the station. `stop` ends the threads; requests that still wait for their answers are given up."""

    def __init__(self, publish: str, control: str | None, *, key: Key | None = None) -> None:
        self._publish, self._control, self._key = publish, control, key
        self._stopping = threading.Event()
        self._changes = _Threads("change", at_once=MAX_AT_ONCE, most=MAX_WAITING, timeout_s=TIMEOUT_S)
        self._loads = _Threads("bundle", at_once=MAX_LOADS, most=MAX_LOADS, timeout_s=LOAD_TIMEOUT_S)

    async def ask(self, op: str, **arguments: Any) -> dict[str, Any]:
        """Send one request and return its answer.

        Args:
            op: The request's name, see docs/wire.md.
            arguments: The request's fields.

        Raises:
            TooManyRequestsError: Too many wait already.
            ClientError: As `Client.request`.
        """
        return await self._ask(self._changes, op, arguments)

    async def ask_to_load(self, op: str, **arguments: Any) -> dict[str, Any]:
        """Send a request that has the station load a bundle, and return its answer. Other requests do not wait for it.

        Args and errors are those of `ask`.
        """
        return await self._ask(self._loads, op, arguments)

    async def _ask(self, threads: _Threads, op: str, arguments: dict[str, Any]) -> dict[str, Any]:
        if self._control is None:
            raise RefusedError(op, "no_control", "the station has no control socket: set `control` in its configuration")
        if threads.asked >= threads.most:
            raise TooManyRequestsError
        threads.asked += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(threads.pool, self._request, op, threads.timeout_s, arguments)
        finally:
            threads.asked -= 1

    def stop(self) -> None:
        """End the threads within a fraction of a second."""
        self._stopping.set()
        for threads in (self._changes, self._loads):
            threads.pool.shutdown(wait=True, cancel_futures=True)

    def _request(self, op: str, timeout_s: float, arguments: dict[str, Any]) -> dict[str, Any]:
        with Client(self._publish, self._control, key=self._key, request_timeout_s=timeout_s, on_wait=self._check) as client:
            return client.request(op, **arguments)

    def _check(self) -> None:
        if self._stopping.is_set():
            raise ClientError("the screen is ending")


class _Threads:
    """Holds the threads for one kind of request.

    Attributes:
        pool: The threads.
        most: The most requests that may run or wait.
        timeout_s: How long a request waits for its answer.
        asked: How many run or wait.
    """

    def __init__(self, name: str, *, at_once: int, most: int, timeout_s: float) -> None:
        self.pool = ThreadPoolExecutor(at_once, name)
        self.most, self.timeout_s = most, timeout_s
        self.asked = 0
