"""Serves the page of `anosegd collect --view`: the camera's picture, what is saved of it, and what is left out and why.

Everybody at this machine may see it; it changes nothing. It runs on a thread of its own, "view".
"""

from __future__ import annotations

import asyncio
import logging
import re
import threading
import time
from typing import Any, Protocol

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route

from anosegd.view.address import Address, bind
from anosegd.view.hosts import OwnHost
from anosegd.view.http_protocol import SERVER_OPTIONS
from anosegd.view.page_files import SecurityHeaders, file_response, page_files

NO_STORE = {"cache-control": "no-store"}
NUMBER = re.compile(r"\d{1,12}", re.ASCII)
WATCHED_S = 3.0
"""A page asks more often than this while somebody looks at it."""
END_S = 3.0
"""At the end, so long at most is waited until an open page knows how the collection ended."""
STOP_S = 5.0
MAX_CONNECTIONS = 50


class Collection(Protocol):
    """Knows how a collection goes. Any thread."""

    def numbers(self) -> dict[str, Any]:
        """Return everything but the picture; `ended` is not None at the end."""

    def picture(self, number: int) -> bytes | None:
        """Return a picture that `numbers` named, as JPEG; None if it is not kept any more."""


class CollectPage:
    """Serves the page. `stop` ends it.

    Args:
        collection: What the page shows.
    """

    def __init__(self, collection: Collection) -> None:
        self._collection = collection
        self._contents = page_files()
        self._asked_at = float("-inf")
        self._end_is_known = threading.Event()
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    def start(self, listen: Address) -> str:
        """Serve at a loopback address; return where the page is.

        Raises:
            PublishError: The address is in use.
            ConfigError: The address cannot be used.
        """
        listener = bind(listen)
        web = logging.getLogger("uvicorn.error")
        web.setLevel(logging.ERROR)  # its warnings are about what anybody may send
        config = uvicorn.Config(
            self._app(listen.host),
            limit_concurrency=MAX_CONNECTIONS,
            **SERVER_OPTIONS,
        )
        self._server = uvicorn.Server(config)
        server = self._server

        def serve() -> None:
            with listener:
                asyncio.run(server.serve(sockets=[listener]))

        self._thread = threading.Thread(target=serve, name="view")
        self._thread.start()
        host, port = listener.getsockname()[:2]
        return Address(host, port).url()

    def stop(self) -> None:
        """End, as soon as a page that is open knows how the collection ended."""
        try:
            if time.monotonic() - self._asked_at < WATCHED_S:
                self._end_is_known.wait(END_S)
        finally:
            if self._server is not None:
                self._server.should_exit = True
            if self._thread is not None:
                self._thread.join(STOP_S)

    def _app(self, host: str) -> Starlette:
        routes = [
            Route("/", self._page),
            Route("/settings", self._settings),
            Route("/collection.json", self._numbers),
            Route("/collection/{number}", self._picture),
            Route("/{name}", self._file),
        ]
        return Starlette(
            routes=routes, middleware=[Middleware(SecurityHeaders), Middleware(OwnHost, [host], any_address=False)]
        )

    async def _page(self, request: Request) -> Response:
        return file_response(self._contents, "collect.html")

    async def _file(self, request: Request) -> Response:
        name = request.path_params["name"]
        return file_response(self._contents, "" if name.endswith(".html") else name)  # the other pages need a station

    async def _settings(self, request: Request) -> Response:
        return JSONResponse({"person": None}, headers=NO_STORE)

    async def _numbers(self, request: Request) -> Response:
        self._asked_at = time.monotonic()
        numbers = await asyncio.to_thread(self._collection.numbers)
        if numbers["ended"] is not None:
            self._end_is_known.set()
        return JSONResponse(numbers, headers=NO_STORE)

    async def _picture(self, request: Request) -> Response:
        number = request.path_params["number"]
        jpeg = await asyncio.to_thread(self._collection.picture, int(number)) if NUMBER.fullmatch(number) else None
        if jpeg is None:
            return PlainTextResponse("this picture is not kept any more\n", 404, headers=NO_STORE)
        return Response(jpeg, media_type="image/jpeg", headers=NO_STORE)
