"""Sends requests of the pages to the station, on threads "change", so that neither the event loop nor the journal waits."""

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


class StationRequests:
    """Asks the station. `stop` ends the threads; requests that still wait for their answers are given up."""

    def __init__(self, publish: str, control: str | None, *, key: Key | None = None) -> None:
        self._publish, self._control, self._key = publish, control, key
        self._waiting = 0
        self._stopping = threading.Event()
        self._threads = ThreadPoolExecutor(MAX_AT_ONCE, "change")

    async def ask(self, op: str, timeout_s: float = TIMEOUT_S, **arguments: Any) -> dict[str, Any]:
        """Send one request and return its answer.

        Args:
            op: The request's name, see docs/wire.md.
            timeout_s: How long to wait for the answer.
            arguments: The request's fields.

        Raises:
            TooManyRequestsError: Too many wait already.
            ClientError: As `Client.request`.
        """
        if self._control is None:
            raise RefusedError(op, "no_control", "the station has no control socket: set `control` in its configuration")
        if self._waiting >= MAX_WAITING:
            raise TooManyRequestsError
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._threads, self._request, op, timeout_s, arguments)
        finally:
            self._waiting -= 1

    def stop(self) -> None:
        """End the threads within a fraction of a second."""
        self._stopping.set()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def _request(self, op: str, timeout_s: float, arguments: dict[str, Any]) -> dict[str, Any]:
        with Client(self._publish, self._control, key=self._key, request_timeout_s=timeout_s, on_wait=self._check) as client:
            return client.request(op, **arguments)

    def _check(self) -> None:
        if self._stopping.is_set():
            raise ClientError("the screen is ending")
