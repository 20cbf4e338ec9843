"""Runs the screen's web server. Its main thread runs the event loop, which owns the board; `station_feed` has the others."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import time
from pathlib import Path
from typing import Any

import uvicorn

from anoseg_engines.errors import PublishError
from anosegd import logs
from anosegd.client import ClientError, Event, Key, RefusedError
from anosegd.view.address import Address, bind
from anosegd.view.analysis import Analysis
from anosegd.view.app import build_app
from anosegd.view.board import REJECTS, Board, PictureKind, clock_ms, is_reject
from anosegd.view.bundle_store import BundleStore
from anosegd.view.changes import CHANGES, Changes
from anosegd.view.event_log import EventLog
from anosegd.view.history import History
from anosegd.view.http_protocol import SERVER_OPTIONS
from anosegd.view.journal_search import JournalSearch, TooManyRequestsError, search
from anosegd.view.kept_pictures import KeptPictures
from anosegd.view.part_filter import PartFilter
from anosegd.view.past_parts import CsvForm, PastParts
from anosegd.view.people import NoLogin
from anosegd.view.sessions import Sessions
from anosegd.view.shift import count_shifts
from anosegd.view.shown_verdict import shown_verdict
from anosegd.view.station_feed import PictureFeed, VerdictFeed, wait_for
from anosegd.view.station_requests import StationRequests
from anosegd.view.tls import Certificate

MAX_CONNECTIONS = 200
STOP_S = 5.0
FILL_S = 2.0


@dataclass(frozen=True, kw_only=True)
class ViewSettings:
    """Says which station is shown, and where.

    Attributes:
        publish: Endpoint at which the station publishes.
        control: Endpoint at which it answers requests; None without one.
        key: The screen's key, where the station asks for one.
        listen: Where the screen is served.
        stale_after_s: A verdict older than this is shown as an old one.
        evidence: Folder of the station's evidence, or None if the station keeps none or the folder is not known.
        csv_form: How verdicts are exported.
        shifts: The times of day at which shifts begin.
        users: File of the users; None lets everybody who reaches the screen do everything.
        certificate: The certificate for TLS; None serves without.
        bundles: The bundle of each recipe of the station's configuration, the default recipe first; empty without one.
        names: Further names and addresses under which browsers reach the screen.
    """

    publish: str
    control: str | None
    key: Key | None = None
    listen: Address
    stale_after_s: float
    evidence: Path | None
    csv_form: CsvForm
    shifts: tuple[time, ...]
    users: Path | None = None
    certificate: Certificate | None = None
    bundles: Mapping[str, Path] = field(default_factory=dict)
    names: tuple[str, ...] = ()

    @property
    def hosts(self) -> set[str]:
        """The names and addresses at which the screen is served."""
        found = {self.listen.host, *self.names}
        return found if self.certificate is None else found | self.certificate.names | {socket.gethostname()}


def serve(settings: ViewSettings) -> int:
    """Serve the screen until SIGINT or SIGTERM; return the exit code.

    Raises:
        PublishError: The address is in use, or a thread has died.
        ConfigError: The address, or the file of users, cannot be used.
    """
    sessions = (
        None
        if settings.users is None
        else Sessions(settings.users, secure=settings.certificate is not None, port=settings.listen.port)
    )
    if sessions is not None:
        sessions.load()
    listener = bind(settings.listen)
    with listener:
        host, port = listener.getsockname()[:2]
        certificate = settings.certificate
        address = Address(host, port)
        if certificate is None:
            sys.stdout.write(f"the screen is at {address.url()}\n")
        else:
            sys.stdout.write(f"the screen is at {address.url('https', certificate.names)}\n")
            sys.stdout.write(f"its certificate ends on {certificate.ends:%Y-%m-%d}; SHA-256 {certificate.fingerprint}\n")
        sys.stdout.flush()
        return asyncio.run(_serve(settings, listener, sessions))


async def _serve(settings: ViewSettings, listener: socket.socket, sessions: Sessions | None = None) -> int:
    web = logging.getLogger("uvicorn.error")
    web.setLevel(logging.ERROR)  # its warnings are about what anybody may send
    web.addFilter(lambda record: "without completing response" not in record.getMessage())
    loop = asyncio.get_running_loop()
    board = Board(EventLog())
    receiver = _OnLoop(board, loop)
    journal = None if settings.control is None else JournalSearch(settings.publish, settings.control, key=settings.key)
    kept = None if settings.evidence is None else KeptPictures(settings.evidence)
    history = None if journal is None else History(journal)
    past = PastParts(board, journal, kept, settings.csv_form, history=history)
    certificate = settings.certificate
    store = BundleStore(settings.bundles, lambda: board.recipe)
    requests = StationRequests(settings.publish, settings.control, key=settings.key)
    changes = Changes(sessions or NoLogin(), requests, (*CHANGES, *store.changes))
    pages = {"stale_after_ms": settings.stale_after_s * 1000}
    analysis = Analysis(history, journal, settings.shifts)
    server = _Server(
        board.events,
        uvicorn.Config(
            build_app(
                board,
                pages,
                {**past.routes, **analysis.routes, "/bundles.json": store.list},
                hosts=settings.hosts,
                any_address=settings.certificate is not None,
                sessions=sessions,
                posts={"/changes/{name}": changes.make},
            ),
            ssl_context_factory=None if certificate is None else lambda *_: certificate.context,
            limit_concurrency=MAX_CONNECTIONS,
            timeout_keep_alive=30,
            **SERVER_OPTIONS,
        ),
    )
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, server.stop)
    workers = (
        VerdictFeed(settings.publish, settings.control, receiver, key=settings.key),
        PictureFeed(settings.publish, receiver, lambda: board.pages > 0, key=settings.key),
    )
    for worker in workers:
        worker.start()
    tasks = [asyncio.ensure_future(_stop_if_dead(workers, server))]
    if journal is not None and history is not None:
        tasks.append(asyncio.ensure_future(_fill(board, journal)))
        tasks.append(asyncio.ensure_future(history.keep()))
        tasks.append(asyncio.ensure_future(count_shifts(journal, settings.shifts, board.set_shift)))
    if sessions is not None:
        tasks.append(asyncio.ensure_future(sessions.follow_file()))
    failed: list[BaseException] = []
    for task in tasks:
        task.add_done_callback(lambda task: _stop_if_failed(task, server, failed))
    try:
        await server.serve(sockets=[listener])
    finally:
        for task in tasks:
            task.cancel()
        for worker in workers:
            worker.stop()
        await asyncio.to_thread(wait_for, workers, STOP_S)
        await asyncio.to_thread(changes.stop)
        if sessions is not None:
            await asyncio.to_thread(sessions.stop)
        await asyncio.to_thread(past.stop)
    if (failure := next((worker.failure for worker in workers if worker.failure), failed[0] if failed else None)) is not None:
        raise PublishError(f"the screen ended: {failure}", hint="its log has the details; start it again") from failure
    return 0


async def _fill(board: Board, journal: JournalSearch) -> None:
    """Show the last rejects from before the screen was started, as soon as the station answers."""
    while True:
        try:
            found = await journal.ask(
                lambda client: search(client, PartFilter(outcome="REJECT"), before=None, wanted=REJECTS, limit_s=FILL_S)
            )
        except RefusedError:
            return  # it keeps no journal
        except (ClientError, TooManyRequestsError):
            await asyncio.sleep(2.0)
            continue
        now_ms, clock = clock_ms(), board.station_clock
        board.add_past_rejects(
            [shown_verdict(verdict, now_ms, clock) for verdict in reversed(found.verdicts) if is_reject(verdict)]
        )
        return


def _stop_if_failed(task: asyncio.Future[None], server: _Server, failed: list[BaseException]) -> None:
    """End the screen if a task failed: without it, what the screen shows would stand still and look current."""
    if not task.cancelled() and (error := task.exception()) is not None:
        logs.error("screen.failed", exception=error)
        failed.append(error)
        server.stop()


async def _stop_if_dead(workers: tuple[VerdictFeed, PictureFeed], server: _Server) -> None:
    while all(worker.alive for worker in workers):
        await asyncio.sleep(0.5)
    server.stop()


class _Server(uvicorn.Server):
    """uvicorn's server without its own signal handlers, which would raise the signal again at the end."""

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
