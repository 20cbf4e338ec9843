"""Browsers that ask and do not read, at the screen's server in the process of the test."""

import asyncio
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, closing

import pytest
import uvicorn
from starlette.responses import StreamingResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from anosegd.view import http_protocol
from anosegd.view.app import build_app
from anosegd.view.board import Board, Pictures
from anosegd.view.event_log import EventLog

LIMIT_S = 60.0
KEY = ("journal", 1)
Address = tuple[str, int]


@asynccontextmanager
async def screen(board: Board) -> AsyncIterator[tuple[uvicorn.Server, Address]]:
    """Serve a board."""
    async with serving(build_app(board, {}, {}, hosts=[])) as served:
        try:
            yield served
        finally:
            board.events.close()


@asynccontextmanager
async def serving(app: ASGIApp) -> AsyncIterator[tuple[uvicorn.Server, Address]]:
    """Serve an application as the screen is served."""
    listener = socket.create_server(("127.0.0.1", 0))
    server = uvicorn.Server(
        uvicorn.Config(
            app,
            log_config=None,
            lifespan="off",
            ws="none",
            http=http_protocol.ImpatientProtocol,
            timeout_keep_alive=1,
            timeout_graceful_shutdown=1,
        )
    )
    task = asyncio.ensure_future(server.serve(sockets=[listener]))
    try:
        await until(lambda: server.started)
        yield server, listener.getsockname()
    finally:
        server.should_exit = True
        await task
        listener.close()


async def until(condition: Callable[[], bool], meanwhile: Callable[[], None] = lambda: None) -> None:
    end = asyncio.get_running_loop().time() + LIMIT_S
    while not condition():
        assert asyncio.get_running_loop().time() < end
        meanwhile()
        await asyncio.sleep(0.02)


def ask(address: Address, path: str) -> socket.socket:
    """Ask for a path. The answer finds little room on this side."""
    one = socket.socket()
    one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
    one.connect(address)
    one.send(f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n".encode())
    return one


@pytest.mark.parametrize("path", ["/events", "/pictures/journal/1/image"])
def test_a_reader_that_reads_nothing_loses_its_connection(path: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """It takes none of the places for connections for long, and a page that reads gets its events meanwhile."""
    monkeypatch.setattr(http_protocol, "LOOK_S", 0.5)
    board = Board(EventLog())
    board.keep_ready(KEY, Pictures("top", {}, {"image": ("image/png", b"x" * (7 << 20))}))

    async def run() -> None:
        async with screen(board) as (server, address):
            slow = [ask(address, path) for _ in range(3)]
            reader, writer = await asyncio.open_connection(*address)
            writer.write(b"GET /events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            read = asyncio.ensure_future(count(reader))
            await until(lambda: len(server.server_state.connections) == 4)
            await until(lambda: len(server.server_state.connections) == 1, lambda: say(board))
            assert not read.done()
            writer.close()
            assert await read > 0
            for one in slow:
                one.close()

    asyncio.run(run())


def test_a_slow_reader_keeps_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever reads a picture slowly, but reads, gets it to the end."""
    monkeypatch.setattr(http_protocol, "LOOK_S", 0.5)
    board = Board(EventLog())
    size = 7 << 20
    board.keep_ready(KEY, Pictures("top", {}, {"image": ("image/png", b"x" * size)}))

    async def run() -> None:
        async with screen(board) as (_, address):
            reader, writer = await asyncio.open_connection(*address, limit=1 << 14)
            writer.write(b"GET /pictures/journal/1/image HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            got = 0
            while data := await reader.read(1 << 15):
                got += len(data)
                await asyncio.sleep(0.01)
            assert got > size
            writer.close()

    asyncio.run(run())


def test_a_reader_that_is_slower_than_the_answer_grows_keeps_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Flow control keeps about as much waiting as before at every look, as of a CSV file over a bad Wi-Fi."""
    monkeypatch.setattr(http_protocol, "LOOK_S", 0.2)

    async def export(scope: Scope, receive: Receive, send: Send) -> None:
        async def rows() -> AsyncIterator[bytes]:
            while True:
                yield b"1,top,pass\n" * 100
                await asyncio.sleep(0)  # after the end, nothing else lets the event loop go on

        await StreamingResponse(rows(), media_type="text/csv")(scope, receive, send)

    async def run() -> None:
        async with serving(export) as (server, address):
            with closing(ask(address, "/")) as slow:
                slow.setblocking(False)
                loop = asyncio.get_running_loop()
                end = loop.time() + 6
                while loop.time() < end:
                    assert await asyncio.wait_for(loop.sock_recv(slow, 2048), LIMIT_S)
                    assert len(server.server_state.connections) == 1  # the kernel sends for a while after it has been closed
                    await asyncio.sleep(0.02)

    asyncio.run(run())


def say(board: Board) -> None:
    """Have the board say something to all pages."""
    for _ in range(20):
        board.events.add("shift", {"filler": "x" * 2000})


async def count(reader: asyncio.StreamReader) -> int:
    n = 0
    while data := await reader.read(1 << 16):
        n += len(data)
    return n
