"""Runs the screen's web server. Its main thread runs the event loop, which owns the board; `station_feed` has the others."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import uvicorn

from anoseg_engines.errors import PublishError
from anosegd.client import Event
from anosegd.view.address import Address, bind
from anosegd.view.app import build_app
from anosegd.view.board import Board, PictureKind
from anosegd.view.event_log import EventLog
from anosegd.view.station_feed import PictureFeed, VerdictFeed, wait_for

MAX_CONNECTIONS = 200
STOP_S = 5.0


@dataclass(frozen=True, kw_only=True)
class ViewSettings:
    """Says which station is shown, and where.

    Attributes:
        publish: Endpoint at which the station publishes.
        control: Endpoint at which it answers requests; None without one.
        listen: Where the screen is served.
        stale_after_s: A verdict older than this is shown as an old one.
    """

    publish: str
    control: str | None
    listen: Address
    stale_after_s: float


def serve(settings: ViewSettings) -> int:
    """Serve the screen until SIGINT or SIGTERM; return the exit code.

    Raises:
        PublishError: The address is in use, or a thread has died.
        ConfigError: The address cannot be used.
    """
    listener = bind(settings.listen)
    with listener:
        host, port = listener.getsockname()[:2]
        sys.stdout.write(f"the screen is at {Address(host, port).url}\n")
        sys.stdout.flush()
        return asyncio.run(_serve(settings, listener))


async def _serve(settings: ViewSettings, listener: socket.socket) -> int:
    logging.getLogger("uvicorn.error").addFilter(lambda record: "without completing response" not in record.getMessage())
    loop = asyncio.get_running_loop()
    board = Board(EventLog())
    receiver = _OnLoop(board, loop)
    pages = {"stale_after_ms": settings.stale_after_s * 1000}
    server = _Server(
        board.events,
        uvicorn.Config(
            build_app(board, pages, {}),
            log_config=None,
            access_log=False,
            server_header=False,
            lifespan="off",
            ws="none",
            limit_concurrency=MAX_CONNECTIONS,
            timeout_keep_alive=30,
            timeout_graceful_shutdown=1,
        ),
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, server.stop)
    workers = (
        VerdictFeed(settings.publish, settings.control, receiver),
        PictureFeed(settings.publish, receiver, lambda: board.pages > 0),
    )
    for worker in workers:
        worker.start()
    watch = asyncio.ensure_future(_stop_if_dead(workers, server))
    try:
        await server.serve(sockets=[listener])
    finally:
        watch.cancel()
        for worker in workers:
            worker.stop()
        await asyncio.to_thread(wait_for, workers, STOP_S)
    if (failure := next((worker.failure for worker in workers if worker.failure), None)) is not None:
        raise PublishError(f"the screen ended: {failure}", hint="its log has the details; start it again") from failure
    return 0


async def _stop_if_dead(workers: tuple[VerdictFeed, PictureFeed], server: _Server) -> None:
    while all(worker.alive for worker in workers):
        await asyncio.sleep(0.5)
    server.stop()


class _Server(uvicorn.Server):
    """Is uvicorn's server without its own signal handlers, which would raise the signal again at the end."""

    def __init__(self, events: EventLog, config: uvicorn.Config) -> None:
        super().__init__(config)
        self._events = events

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals to `_serve`."""
        yield

    def stop(self) -> None:
        """End soon."""
        self._events.close()
        self.should_exit = True


class _OnLoop:
    """Passes what the feeds' threads receive to the event loop's thread."""

    def __init__(self, board: Board, loop: asyncio.AbstractEventLoop) -> None:
        self._board, self._loop = board, loop

    def state(self, state: dict[str, Any]) -> None:
        self._call(self._board.add_state, state)

    def verdict(self, shown: dict[str, Any]) -> None:
        self._call(self._board.add_verdict, shown)

    def event(self, event: Event) -> None:
        self._call(self._board.add_event, event)

    def picture(self, header: dict[str, Any], kind: PictureKind, content: bytes) -> None:
        self._call(self._board.add_picture, header, kind, content)

    def _call(self, call: Callable[..., None], *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(call, *arguments)
