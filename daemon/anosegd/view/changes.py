"""The one way in which a page changes anything: `POST /changes/NAME`. On the event loop's thread.

The body is JSON: `{"who": …, "values": {…}}`. With login, the name of the user counts, and `who` is passed over. Requests from
pages of other sites do not come here: `app` refuses them.
"""

from __future__ import annotations

import asyncio
from typing import Any

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response

from anosegd import logs
from anosegd.client import ClientError, NoAnswerError, RefusedError, RequestError
from anosegd.control.requests import MAX_TEXT, in_words
from anosegd.view import part_feedback, station_changes
from anosegd.view.change import Change, ChangeRefusedError
from anosegd.view.journal_search import TooManyRequestsError
from anosegd.view.people import Access, Person
from anosegd.view.rate_limit import RateLimit
from anosegd.view.station_requests import StationRequests

CHANGES: tuple[Change, ...] = (
    station_changes.SET_THRESHOLD,
    station_changes.PAUSE,
    station_changes.RESUME,
    part_feedback.FEEDBACK,
    part_feedback.UNDO_FEEDBACK,
)
MAX_BODY_BYTES = 32 << 10
BODY_LIMIT_S = 10.0
A_SECOND, AT_ONCE = 5.0, 20
"""How often one person may ask for a change: on average, and in one burst."""
NAMELESS_A_SECOND, NAMELESS_AT_ONCE = 20.0, 80
"""The same for all persons of one address together where there is no login: a page can give any name."""


class _Body(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    values: msgspec.Raw
    who: str = ""


class Changes:
    """Answers requests for changes. `stop` ends its threads."""

    def __init__(self, access: Access, station: StationRequests, known: tuple[Change, ...] = CHANGES) -> None:
        self._access, self._station = access, station
        self._known = {change.name: change for change in known}
        self._rate = RateLimit(A_SECOND, AT_ONCE)
        self._nameless = RateLimit(NAMELESS_A_SECOND, NAMELESS_AT_ONCE)
        self._refused = logs.Throttle("change.refused")

    async def make(self, request: Request) -> Response:
        """Make the change that the request names, and answer with `{"answer": …}` or `{"error": CODE, "message": …}`."""
        name = request.path_params["name"]
        person = self._access.person(request)
        who = None if person is None else person.name
        try:
            if person is None:
                raise ChangeRefusedError("no_login", "nobody is logged in", 401)
            self._check_rate(person, request)
            change = self._allowed(name, person)
            body = _decoded(await read_json(request), _Body)
            who = person.name or self._given_name(body.who)
            answer = await self._make(change, who, _decoded(body.values, change.values))
        except ChangeRefusedError as error:
            self._refused.warning(change=name[:MAX_TEXT], who=who, code=error.code, error=str(error))
            headers = {"retry-after": "1"} if error.status == 429 else {}
            return answer_of({"error": error.code, "message": str(error)}, error.status, headers)
        logs.info("change.made", change=name, who=who)
        return answer_of({"answer": answer})

    def stop(self) -> None:
        """End the threads."""
        self._station.stop()

    def _check_rate(self, person: Person, request: Request) -> None:
        """Check what is known before the body is read: the user, or the address of somebody without login."""
        if person.name is not None:
            _check(self._rate.allows(person.name), A_SECOND)
        else:
            _check(self._nameless.allows(request.client.host if request.client else ""), NAMELESS_A_SECOND)

    def _given_name(self, given: str) -> str:
        """Check the name that somebody without login gives, and return it."""
        name = _checked_name(given)
        _check(self._rate.allows(name), A_SECOND)
        return name

    def _allowed(self, name: str, person: Person) -> Change:
        change = self._known.get(name)
        if change is None:
            raise ChangeRefusedError("unknown_change", "there is no such change", 404)
        if not person.may(change.role):
            raise ChangeRefusedError(
                "not_allowed",
                f"your role is {person.role}, and this needs the role {change.role}: ask who manages the users",
                403,
            )
        return change

    async def _make(self, change: Change, who: str, values: Any) -> Any:
        try:
            return await change.make(self._station, who, values)
        except TooManyRequestsError:
            raise ChangeRefusedError("busy", "too many requests wait for the station", 503) from None
        except RefusedError as error:
            raise ChangeRefusedError(error.code, error.message) from error
        except NoAnswerError as error:
            raise ChangeRefusedError("not_known", str(error), 503) from error
        except RequestError as error:
            raise ChangeRefusedError("bad_values", str(error), 400) from error
        except ClientError as error:
            raise ChangeRefusedError("no_answer", str(error), 503) from error


def _check(allowed: bool, a_second: float) -> None:
    if not allowed:
        raise ChangeRefusedError("too_often", f"more than {a_second:g} changes a second", 429)


async def read_json(request: Request) -> bytes:
    """Return the body of a request that carries JSON.

    Raises:
        ChangeRefusedError: It says that it is something else, is too large, or does not come.
    """
    # A form of another site can send other types without asking the browser for leave, but not this one.
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise ChangeRefusedError("bad_type", "the content type must be application/json", 415)
    try:
        return await asyncio.wait_for(_body(request), BODY_LIMIT_S)
    except (asyncio.TimeoutError, ClientDisconnect):
        raise ChangeRefusedError("bad_values", "the request ended early", 400) from None


async def _body(request: Request) -> bytes:
    body = bytearray()
    async for chunk in request.stream():
        body += chunk
        if len(body) > MAX_BODY_BYTES:
            raise ChangeRefusedError("too_large", f"the request has more than {MAX_BODY_BYTES} bytes", 413)
    return bytes(body)


def answer_of(content: dict[str, Any], status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Return an answer in JSON that no browser keeps."""
    return JSONResponse(content, status, headers={"cache-control": "no-store", **(headers or {})})


def _decoded(body: bytes | msgspec.Raw, kind: type[Any]) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ChangeRefusedError("bad_values", in_words(str(error)), 400) from error


def _checked_name(name: str) -> str:
    name = name.strip()
    if not name:
        raise ChangeRefusedError("no_name", "give your name", 400)
    if len(name) > MAX_TEXT or not name.isprintable():
        raise ChangeRefusedError("bad_name", f"a name has at most {MAX_TEXT} characters, and no line ends", 400)
    return name
