"""Closes connections that only take one of the places that the server has. Event loop's thread.

These are connections on which no request arrives, and those whose other end reads nothing of what is sent to it.
"""

from __future__ import annotations

import asyncio
from typing import Any, cast

from uvicorn.protocols.http.h11_impl import H11Protocol

from anosegd.tcp_counters import tcp_counters

HEAD_LIMIT_S = 10.0
"""How long a new connection may take until the head of its first request is complete."""
LOOK_S = 5.0
"""A connection is closed if data waited to be sent all this time and the other end took nothing.

How much waits says nothing about a slow reader: an answer is produced as fast as it is read. And what the kernel takes from the
server comes in steps of a megabyte. So the kernel's count of acknowledged bytes decides.
"""


class ImpatientProtocol(H11Protocol):
    """uvicorn's protocol, with two limits more.

    uvicorn limits the time between two requests, but not the time for the head of a request. When it closes a connection, it
    first waits until the other end has read everything, however long that takes.
    """

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for the first request."""
        super().connection_made(cast(asyncio.Transport, transport))
        self._close_in(HEAD_LIMIT_S)
        self._waited, self._taken = False, 0
        self._look = self.loop.call_later(LOOK_S, self._check_reader)

    def connection_lost(self, exc: Exception | None) -> None:
        """Forget the connection."""
        self._look.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take data. A head that comes in pieces gets no more time than one in one piece."""
        waiting = self.timeout_keep_alive_task
        super().data_received(data)
        nothing_asked = self.cycle is None or self.cycle.response_complete
        if nothing_asked and waiting is not None and self.timeout_keep_alive_task is None:
            self._close_in(waiting.when() - self.loop.time())

    def _close_in(self, after_s: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(max(0.0, after_s), self.timeout_keep_alive_handler)

    def _check_reader(self) -> None:
        counters = tcp_counters(self.transport.get_extra_info("socket"))
        waits, taken = self.transport.get_write_buffer_size() > 0, 0 if counters is None else counters.acknowledged
        if waits and self._waited and taken == self._taken:
            self.transport.abort()
            return
        self._waited, self._taken = waits, taken
        self._look = self.loop.call_later(LOOK_S, self._check_reader)


SERVER_OPTIONS: dict[str, Any] = {
    "log_config": None,
    "access_log": False,
    "server_header": False,
    "lifespan": "off",
    "http": ImpatientProtocol,
    "ws": "none",
    "proxy_headers": False,
    "timeout_graceful_shutdown": 1,
}
"""uvicorn's options of every server here."""
