"""Answers the browser: page files, the stream of events, pictures, and what `posts` has. Runs on the event loop's thread."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable, Iterable
from typing import Any

from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import HTTPConnection, Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from anosegd.view import login
from anosegd.view.board import Board, Key, PictureKind, clock_ms, key_of
from anosegd.view.event_log import FellBehindError, encoded
from anosegd.view.hosts import OwnHost
from anosegd.view.page_files import SecurityHeaders, file_response, page_files
from anosegd.view.people import Access, NoLogin
from anosegd.view.same_site import is_own_page
from anosegd.view.sessions import Sessions

MAX_STREAMS = 40
SEND_LIMIT_S = 10.0
GATHER_S = 0.05
"""A page gets events at most this often, however many parts there are a second."""
PAGES = {
    "": "index.html",
    "parts": "parts.html",
    "trend": "trend.html",
    "what-if": "what-if.html",
    "report": "report.html",
    "bundle": "bundle.html",
}
LOGIN_PAGE = {login.PAGE: "login.html"}
SEQ = re.compile(r"\d{1,18}", re.ASCII)
Endpoint = Callable[[Request], Awaitable[Response]]


def build_app(
    board: Board,
    settings: dict[str, Any],
    more: dict[str, Endpoint],
    *,
    hosts: Iterable[str],
    any_address: bool = False,
    sessions: Sessions | None = None,
    posts: dict[str, Endpoint] | None = None,
) -> Starlette:
    """Return the application.

    Args:
        board: What the screen shows.
        settings: What the pages need to know, such as `stale_after_ms`.
        more: Further routes by path.
        hosts: The names and addresses at which the screen is served.
        any_address: Whether every address may be asked for.
        sessions: Who is logged in; None lets everybody do everything.
        posts: Routes that take POST, and only from this screen's own pages.
    """
    access: Access = sessions or NoLogin()
    posts = posts or {}
    contents, pages = page_files(), PAGES
    if sessions is not None:
        pages = PAGES | LOGIN_PAGE
        answers = login.Login(sessions)
        posts = {**posts, "/login": answers.log_in, "/logout": answers.log_out}

    async def page_file(request: Request) -> Response:
        name = request.path_params.get("name", "")
        return file_response(contents, pages.get(name, name))

    async def picture(request: Request) -> Response:
        return _picture(board, request.path_params)

    async def settings_of(request: Request) -> Response:
        person = access.person(request)
        known = None if person is None else {"name": person.name, "role": person.role}
        return JSONResponse({**settings, "person": known}, headers={"cache-control": "no-store"})

    routes = [
        *(Route(path, endpoint, methods=["POST"]) for path, endpoint in posts.items()),
        Route("/events", _Stream(board)),
        Route("/settings", settings_of),
        Route("/pictures/{journal}/{seq}/{kind}", picture),
        *(Route(path, endpoint) for path, endpoint in more.items()),
        Route("/", page_file),
        Route("/{name}", page_file),
    ]
    middleware = [
        Middleware(SecurityHeaders),
        Middleware(OwnHost, hosts, any_address=any_address),
        Middleware(_Guard, posts=tuple(path.partition("{")[0] for path in posts)),
    ]
    if sessions is not None:
        assets = {f"/{name}" for name in contents if not name.endswith(".html")}
        public = frozenset(assets | {"/login", "/logout"})
        middleware.append(Middleware(login.UsersOnly, sessions, public, frozenset(f"/{name}" for name in PAGES)))
    return Starlette(routes=routes, middleware=middleware)


def _picture(board: Board, path: dict[str, str]) -> Response:
    kinds: dict[str, PictureKind] = {"map": "map", "image": "image"}
    kind = kinds.get(path["kind"])
    if kind is None or not SEQ.fullmatch(path["seq"]):
        return PlainTextResponse("not found\n", 404)
    pictures = board.pictures((path["journal"], int(path["seq"])))
    if pictures is None or kind not in pictures.files:
        return PlainTextResponse("this picture is not kept any more\n", 404, headers={"cache-control": "no-store"})
    media_type, content = pictures.files[kind]
    return Response(content, media_type=media_type, headers={"cache-control": "private, max-age=600, immutable"})


class _Guard:
    """Refuses all methods but GET and HEAD, and POST where `posts` takes it and a page of this screen sends it.

    The middleware before it has checked the name in `Host`.
    """

    def __init__(self, app: ASGIApp, posts: tuple[str, ...]) -> None:
        self._app, self._posts = app, posts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        refusal: Response | None = None
        if scope["type"] == "http" and scope["method"] not in ("GET", "HEAD"):
            if scope["method"] != "POST" or not scope["path"].startswith(self._posts):
                refusal = PlainTextResponse("this address only shows\n", 405, headers={"allow": "GET, HEAD"})
            elif not is_own_page(HTTPConnection(scope)):
                message = "only the screen's own pages may change something"
                refusal = JSONResponse({"error": "other_site", "message": message}, 403, headers={"cache-control": "no-store"})
        await (refusal or self._app)(scope, receive, send)


class _Stream:
    """Sends one page its events until it leaves, or takes nothing for `SEND_LIMIT_S`."""

    def __init__(self, board: Board) -> None:
        self._board = board

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        if scope["method"] == "HEAD":
            await PlainTextResponse("ask with GET: this is a stream\n", 405, headers={"allow": "GET"})(scope, receive, send)
            return
        if self._board.pages >= MAX_STREAMS:
            refusal = PlainTextResponse(f"{MAX_STREAMS} pages are open already\n", 503, headers={"retry-after": "5"})
            await refusal(scope, receive, send)
            return
        after = request.headers.get("last-event-id") or request.query_params.get("after", "")
        self._board.pages += 1
        left = asyncio.ensure_future(_left(receive))
        try:
            await self._send_all(send, left, key_of(after))
        except (asyncio.TimeoutError, FellBehindError):
            return  # too slow: uvicorn closes the connection, and the page connects again
        finally:
            self._board.pages -= 1
            left.cancel()

    async def _send_all(self, send: Send, left: asyncio.Future[None], after: Key | None) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8"), (b"cache-control", b"no-store")]
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        events = self._board.events
        chunk, place = encoded("hello", self._board.hello(after)), events.end
        while not left.done() and not events.closed:
            await asyncio.wait_for(send({"type": "http.response.body", "body": chunk, "more_body": True}), SEND_LIMIT_S)
            await asyncio.wait({left}, timeout=GATHER_S)
            waiting = asyncio.ensure_future(events.wait(place))
            await asyncio.wait({left, waiting}, timeout=1.0, return_when=asyncio.FIRST_COMPLETED)
            waiting.cancel()
            chunk, place = events.read(place)
            if not chunk:
                chunk = tick()
        if events.closed:
            await asyncio.wait_for(send({"type": "http.response.body", "body": b""}), 1.0)


def tick() -> bytes:
    """Return the event by which a page knows that its connection lives, and learns the screen's clock."""
    return encoded("tick", {"now": clock_ms()})


async def _left(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
