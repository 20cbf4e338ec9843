"""Reads the files of the pages, and serves them with the headers that keep other sites out. On the event loop's thread."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.resources import files

from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

TYPES = {
    "html": "text/html; charset=utf-8",
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "json": "application/json",
    "svg": "image/svg+xml",
}
HEADERS = (
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        b"base-uri 'none'; form-action 'self'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cross-origin-opener-policy", b"same-origin"),
)


def page_files() -> dict[str, bytes]:
    """Read every page file once. A request can name only these: no path of the machine is ever made of a request."""
    folder = files("anosegd.view") / "page"
    return {entry.name: entry.read_bytes() for entry in folder.iterdir() if entry.name.rpartition(".")[2] in TYPES}


def file_response(contents: Mapping[str, bytes], name: str) -> Response:
    """Return a file; 404 if there is no such file."""
    if name not in contents:
        return PlainTextResponse("not found\n", 404)
    return Response(contents[name], media_type=TYPES[name.rpartition(".")[2]], headers={"cache-control": "no-cache"})


class SecurityHeaders:
    """Adds the security headers to every answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                message["headers"] = [*message["headers"], *HEADERS]
            await send(message)

        await self._app(scope, receive, send_with_headers)
