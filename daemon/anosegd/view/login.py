"""Answers log-in and log-out, and lets nobody else than a user see the station. On the event loop's thread."""

from __future__ import annotations

from urllib.parse import urlencode

import msgspec
from starlette.requests import HTTPConnection, Request
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from anosegd.view.change import ChangeRefusedError
from anosegd.view.changes import answer_of, read_json
from anosegd.view.sessions import Sessions, TooManyAttemptsError
from anosegd.view.users import MAX_TOKEN

PAGE = "login"
LOOKS = ("lang", "theme")
"""What a kiosk's address says about the looks of every page."""


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    token: str


class Login:
    """Answers `POST /login` and `POST /logout`. `app` has refused other sites before."""

    def __init__(self, sessions: Sessions) -> None:
        self._sessions = sessions

    async def log_in(self, request: Request) -> Response:
        """Begin a session. A wrong token, an expired and a revoked one get the same answer."""
        try:
            token = msgspec.json.decode(await read_json(request), type=_Body).token
        except ChangeRefusedError as error:
            return answer_of({"error": error.code, "message": str(error)}, error.status)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
            return answer_of({"error": "bad_values", "message": "a token is missing"}, 400)
        try:
            secret = await self._sessions.log_in(token, request.client.host if request.client else "")
        except TooManyAttemptsError:
            refusal = {"error": "too_many_attempts", "message": "too many attempts: wait a minute"}
            return answer_of(refusal, 429, {"retry-after": "60"})
        if secret is None:
            return answer_of({"error": "bad_token", "message": f"this token is not valid (at most {MAX_TOKEN} letters)"}, 403)
        self._sessions.log_out(request)  # a session that the browser had before
        answer = answer_of({"answer": {}})
        self._set_cookie(answer, secret, None)
        return answer

    async def log_out(self, request: Request) -> Response:
        """End the session, and with it every page that uses it."""
        self._sessions.log_out(request)
        answer = answer_of({"answer": {}})
        self._set_cookie(answer, "", 0)
        return answer

    def _set_cookie(self, answer: Response, value: str, max_age: int | None) -> None:
        answer.set_cookie(
            self._sessions.cookie,
            value,
            max_age=max_age,
            path="/",
            secure=self._sessions.secure,
            httponly=True,
            samesite="strict",
        )


class UsersOnly:
    """Passes on requests of users, and what the page of login needs. Ends an answer when its user has no session any more.

    Args:
        app: What is protected.
        sessions: Knows the users.
        public: Paths that everybody may ask for.
        pages: Paths of pages: who is not logged in is sent to the page of login, and back.
    """

    def __init__(self, app: ASGIApp, sessions: Sessions, public: frozenset[str], pages: frozenset[str]) -> None:
        self._app, self._sessions, self._public, self._pages = app, sessions, public, pages

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if scope["type"] != "http" or scope["path"] in self._public:
            await self._app(scope, receive, send)
            return
        connection = HTTPConnection(scope)
        if self._sessions.person(connection) is None:
            await self._refusal(connection)(scope, receive, send)
            return
        ended = False

        async def send_while_logged_in(message: Message) -> None:
            nonlocal ended
            if ended:
                return
            goes_on = message["type"] == "http.response.body" and message.get("more_body")
            if goes_on and self._sessions.person(connection) is None:
                ended = True
                message = {"type": "http.response.body", "body": b""}  # then `receive` says that the browser has left
            await send(message)

        await self._app(scope, receive, send_while_logged_in)

    def _refusal(self, connection: HTTPConnection) -> Response:
        path = connection.url.path
        if path not in self._pages:
            return answer_of({"error": "no_login", "message": "log in first"}, 401)
        query = {"to": path.lstrip("/") + (f"?{connection.url.query}" if connection.url.query else "")}
        query |= {name: connection.query_params[name] for name in LOOKS if name in connection.query_params}
        return RedirectResponse(f"/{PAGE}?{urlencode(query)}", 303, headers={"cache-control": "no-store"})
