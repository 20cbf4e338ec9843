"""Answers the pages "Trend", "What if" and "Report" from the table of past verdicts. On the event loop's thread."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, time, timedelta
from functools import partial
from typing import Any

from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from anosegd.client import Client, ClientError, RefusedError
from anosegd.view.history import KEPT_S, History
from anosegd.view.journal_search import JournalSearch, TooManyRequestsError, marks_between, verdicts_of
from anosegd.view.part_filter import PartFilter, part_filter, unix_ns
from anosegd.view.shift import shift_start
from anosegd.view.shown_verdict import part_time, past_verdict
from anosegd.view.trend import totals, trend
from anosegd.view.what_if import of_marked, what_if

NO_STORE = {"cache-control": "no-store"}
MAX_CHANGES = 200


class Analysis:
    """Answers the pages What if, Trend and Report from past verdicts."""

    def __init__(self, history: History | None, journal: JournalSearch | None, shifts: tuple[time, ...]) -> None:
        self._history, self._journal, self._shifts = history, journal, shifts

    @property
    def routes(self) -> dict[str, Callable[[Request], Awaitable[Response]]]:
        """The endpoints by path."""
        return {
            "/trend.json": self._trend,
            "/what-if.json": self._what_if,
            "/report.json": self._report,
            "/changes.json": self._changes,
        }

    async def _trend(self, request: Request) -> Response:
        def compute(history: History, chosen: PartFilter) -> Any:
            since, until = self._period(chosen)
            cameras = self._trends(history, since, until, chosen.camera)
            return {"since": since, "until": until, "cameras": cameras}

        return _answer(self._found(request, compute))

    async def _what_if(self, request: Request) -> Response:
        query = request.query_params
        bundle = query.get("bundle", "")
        rows: Any = None

        def compute(history: History, chosen: PartFilter) -> Any:
            nonlocal rows
            tried = float(query.get("threshold") or "nan")
            if not 0 < tried <= 1:
                raise ValueError("threshold: write a number above 0, up to 1")
            since, until = self._period(chosen)
            rows = history.table.of_period(since, until, chosen.camera or "")
            found = what_if(rows, history.table, bundle=bundle, tried=tried)
            return {"since": since, "until": until, "journal_id": history.table.journal_id, **found}

        found = self._found(request, compute)
        if query.get("parts") == "yes" and isinstance(found, dict) and self._journal is not None and self._history is not None:
            seqs = sorted([*found["fail_seqs"], *found["pass_seqs"]], reverse=True)
            table, threshold = self._history.table, float(query["threshold"])
            try:
                parts, marks = await self._journal.ask(partial(_parts_and_marks, seqs=seqs, among=rows["seq"]))
            except (ClientError, TooManyRequestsError) as error:
                return _refusal(503, "no_answer", str(error))
            found |= {"listed": parts, "marked": of_marked(rows, table, marks, bundle=bundle, tried=threshold)}
        return _answer(found)

    async def _report(self, request: Request) -> Response:
        def compute(history: History, chosen: PartFilter) -> Any:
            since, until = self._period(chosen)
            table = history.table
            cameras = self._trends(history, since, until)
            found = totals(table, table.of_period(since, until))
            return {"since": since, "until": until, **found, "trend": {name: cameras[name] for name in found["cameras"]}}

        return _answer(self._found(request, compute))

    async def _changes(self, request: Request) -> Response:
        if self._journal is None:
            return _refusal(409, "no_control", "the station has no control socket: set `control` in its configuration")
        try:
            found = await self._journal.ask(lambda client: client.changes(MAX_CHANGES))
        except RefusedError as error:
            return _refusal(409, error.code, str(error))
        except (ClientError, TooManyRequestsError) as error:
            return _refusal(503, "no_answer", str(error))
        return JSONResponse({"changes": found}, headers=NO_STORE)

    def _found(
        self, request: Request, compute: Callable[[History, PartFilter], dict[str, Any]]
    ) -> dict[str, Any] | JSONResponse:
        """Return what `compute` finds, with what is said about every answer; or a refusal."""
        if self._history is None:
            return _refusal(409, "no_control", "the station has no control socket: set `control` in its configuration")
        if (refusal := self._history.refusal) is not None:
            return _refusal(409, refusal.code, str(refusal))
        try:
            found = compute(self._history, part_filter(request.query_params))
        except ValueError as error:
            return _refusal(400, "bad_filter", str(error))
        return {**self._about(self._history), **found}

    @staticmethod
    def _trends(history: History, since: float, until: float, camera: str | None = None) -> dict[str, Any]:
        """Return the trend of each camera, or of one, from the oldest part that is known."""
        table = history.table
        names = [name for name in table.cameras.all if camera in (None, name)]
        rows = {name: table.of_period(since, until, name) for name in names}
        begins = min((float(found["at"].min()) for found in rows.values() if len(found)), default=since)
        return {name: trend(found, since=begins, until=until) for name, found in rows.items() if len(found)}

    @staticmethod
    def _about(history: History) -> dict[str, Any]:
        rows = history.table.rows
        oldest = float(rows["at"].min()) if len(rows) and not history.table.from_beginning else None
        return {
            "complete": history.table.complete,
            "oldest": oldest,
            "read": len(rows),
            "all_cameras": history.table.cameras.all,
        }

    def _period(self, chosen: PartFilter) -> tuple[float, float]:
        """Return the period that was asked for: by itself, the present shift. At most `KEPT_S` long."""
        now = datetime.now().astimezone()
        until = now.timestamp() if chosen.until is None else unix_ns(chosen.until) / 1e9
        if chosen.since is not None:
            since = unix_ns(chosen.since) / 1e9
        else:
            moment = now if chosen.until is None else datetime.fromtimestamp(until).astimezone() - timedelta(seconds=1)
            since = shift_start(self._shifts, moment).timestamp()
        if not since < until <= since + 4 * KEPT_S:
            raise ValueError("the period must end after it begins, and may have 32 days")
        return since, until


def _parts_and_marks(client: Client, *, seqs: list[int], among: NDArray[Any]) -> tuple[list[dict[str, Any]], dict[int, str]]:
    """Return the parts with these numbers, and all marks among others. Runs on the journal's thread."""
    parts = [{**past_verdict(one), "part_time": part_time(one)} for one in verdicts_of(client, seqs)]
    return parts, marks_between(client, int(among.min()), int(among.max())) if len(among) else {}


def _answer(found: dict[str, Any] | JSONResponse) -> Response:
    return JSONResponse(found, headers=NO_STORE) if isinstance(found, dict) else found


def _refusal(status: int, code: str, message: str) -> JSONResponse:
    return JSONResponse({"error": code, "message": message}, status, headers=NO_STORE)
