"""Closes connections on which no request arrives: each takes one of the places that the server has. Event loop's thread."""

from __future__ import annotations

import asyncio
from typing import cast

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_LIMIT_S = 10.0
"""How long a new connection may take until the head of its first request is complete."""


class ImpatientProtocol(H11Protocol):
    """uvicorn's protocol, with a limit for the head of a request. uvicorn has one only between two requests."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for the first request."""
        super().connection_made(cast(asyncio.Transport, transport))
        self._close_in(HEAD_LIMIT_S)

    def data_received(self, data: bytes) -> None:
        """Take data. A head that comes in pieces gets no more time than one in one piece."""
        waiting = self.timeout_keep_alive_task
        super().data_received(data)
        nothing_asked = self.cycle is None or self.cycle.response_complete
        if nothing_asked and waiting is not None and self.timeout_keep_alive_task is None:
            self._close_in(waiting.when() - self.loop.time())

    def _close_in(self, after_s: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(max(0.0, after_s), self.timeout_keep_alive_handler)
