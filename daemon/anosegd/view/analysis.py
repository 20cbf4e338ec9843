"""Answers the pages "Trend", "What if" and "Report" from the table of past verdicts. On the event loop's thread."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from datetime import datetime, time, timedelta
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from anosegd.client import Client, ClientError, RefusedError
from anosegd.view.history import KEPT_S, History
from anosegd.view.journal_search import JournalSearch, TooManyRequestsError, one_verdict
from anosegd.view.part_filter import PartFilter, part_filter, unix_ns
from anosegd.view.shift import shift_start
from anosegd.view.shown_verdict import part_time, past_verdict
from anosegd.view.trend import totals, trend
from anosegd.view.what_if import of_marked, what_if

NO_STORE = {"cache-control": "no-store"}
MAX_CHANGES = 200
MAX_MARKS = 1000
"""Of the newest parts that persons marked."""


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

        return self._answer(request, compute)

    async def _what_if(self, request: Request) -> Response:
        query = request.query_params

        def compute(history: History, chosen: PartFilter) -> Any:
            tried = float(query.get("threshold") or "nan")
            if not 0 < tried <= 1:
                raise ValueError("threshold: write a number above 0, up to 1")
            since, until = self._period(chosen)
            rows = history.table.of_period(since, until, chosen.camera or "")
            found = what_if(rows, history.table, bundle=query.get("bundle", ""), tried=tried)
            return {"since": since, "until": until, "journal_id": history.table.journal_id, **found}

        answer = self._answer(request, compute)
        if isinstance(answer, JSONResponse) and answer.status_code == 200 and query.get("parts") == "yes":
            return await self._with_parts(request, compute)
        return answer

    async def _with_parts(self, request: Request, compute: Callable[[History, PartFilter], Any]) -> Response:
        """Add the parts whose verdicts would change."""
        assert self._history is not None
        assert self._journal is not None
        found = compute(self._history, part_filter(request.query_params))
        seqs = sorted([*found["fail_seqs"], *found["pass_seqs"]], reverse=True)

        def read(client: Client) -> tuple[list[dict[str, Any]], dict[int, str]]:
            verdicts = [one_verdict(client, seq) for seq in seqs]
            marks = client.request("marks", limit=MAX_MARKS)["marks"]
            parts = [{**past_verdict(one), "part_time": part_time(one)} for one in verdicts if one is not None]
            return parts, {mark["seq"]: mark["mark"] for mark in marks}

        try:
            listed, marks = await self._journal.ask(read)
        except (ClientError, TooManyRequestsError) as error:
            return _refusal(503, "no_answer", str(error))
        query, table = request.query_params, self._history.table
        rows = table.of_period(found["since"], found["until"], query.get("camera", ""))
        marked = of_marked(rows, table, marks, bundle=query.get("bundle", ""), tried=float(query["threshold"]))
        return JSONResponse({**self._about(self._history), **found, "listed": listed, "marked": marked}, headers=NO_STORE)

    async def _report(self, request: Request) -> Response:
        def compute(history: History, chosen: PartFilter) -> Any:
            since, until = self._period(chosen)
            table = history.table
            cameras = self._trends(history, since, until)
            found = totals(table, table.of_period(since, until))
            return {"since": since, "until": until, **found, "trend": {name: cameras[name] for name in found["cameras"]}}

        return self._answer(request, compute)

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

    def _answer(self, request: Request, compute: Callable[[History, PartFilter], Any]) -> Response:
        if self._history is None:
            return _refusal(409, "no_control", "the station has no control socket: set `control` in its configuration")
        try:
            found = compute(self._history, part_filter(request.query_params))
        except ValueError as error:
            return _refusal(400, "bad_filter", str(error))
        return JSONResponse({**self._about(self._history), **found}, headers=NO_STORE)

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


def _refusal(status: int, code: str, message: str) -> JSONResponse:
    return JSONResponse({"error": code, "message": message}, status, headers=NO_STORE)
