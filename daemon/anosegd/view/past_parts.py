"""Answers questions about past parts: search, one part, CSV. On the event loop's thread; the work is done on others."""

from __future__ import annotations

import asyncio
import csv
import io
import re
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from anosegd import logs
from anosegd.client import Client, ClientError, RefusedError, Verdict
from anosegd.view.board import Board, Key, Pictures, clock_ms
from anosegd.view.history import History
from anosegd.view.journal_search import (
    Found,
    JournalChangedError,
    JournalPages,
    JournalSearch,
    TooManyRequestsError,
    one_verdict,
    search,
)
from anosegd.view.kept_pictures import KeptPictures
from anosegd.view.part_filter import part_filter
from anosegd.view.shown_verdict import part_time, past_verdict, shown_verdict

PARTS_A_PAGE = 50
MAX_EXPORTS = 2
MAX_THUMBNAILS = 4 * PARTS_A_PAGE
"""Small pictures that wait to be read."""
BUSY_PAUSE_S = 0.2
NO_ANSWER_PAUSE_S = 1.0
NO_ANSWER_LIMIT_S = 60.0
"""An export waits this long for a station that does not answer."""
NO_STORE = {"cache-control": "no-store"}
SEQ = re.compile(r"[1-9]\d{0,17}", re.ASCII)


@dataclass(frozen=True, slots=True)
class CsvForm:
    """How `anosegd export` writes verdicts: the head, and the cells of one."""

    head: Sequence[str]
    row: Callable[[Verdict], list[Any]]


class PastParts:
    """Serves past parts. `stop` ends its threads."""

    def __init__(
        self,
        board: Board,
        journal: JournalSearch | None,
        kept: KeptPictures | None,
        form: CsvForm,
        *,
        history: History | None = None,
    ) -> None:
        self._board, self._journal, self._kept, self._form, self._history = board, journal, kept, form, history
        self._evidence = ThreadPoolExecutor(1, "evidence")
        self._thumbnails = ThreadPoolExecutor(1, "thumbnails")  # of a whole page: one large picture must not wait for them
        self._thumbnails_waiting = 0
        self._exports = 0

    @property
    def routes(self) -> dict[str, Callable[[Request], Awaitable[Response]]]:
        """The endpoints by path."""
        return {"/journal": self._search, "/part": self._part, "/thumbnail": self._thumbnail, "/parts.csv": self._export}

    def stop(self) -> None:
        """End the threads."""
        if self._journal is not None:
            self._journal.stop()
        for thread in (self._evidence, self._thumbnails):
            thread.shutdown(wait=True, cancel_futures=True)

    async def _search(self, request: Request) -> Response:
        try:
            chosen, before = part_filter(request.query_params), _number(request, "before")
        except ValueError as error:
            return _refusal(400, "bad_filter", str(error))
        known = 0 if self._history is None else self._history.newest(chosen)
        found = await self._ask(lambda client: search(client, chosen, before=before, wanted=PARTS_A_PAGE, newest_known=known))
        if isinstance(found, Response):
            return found
        assert isinstance(found, Found)
        parts = [{**past_verdict(verdict), "part_time": part_time(verdict)} for verdict in found.verdicts]
        return JSONResponse({"parts": parts, "before": found.before}, headers=NO_STORE)

    async def _part(self, request: Request) -> Response:
        """One part with its boxes, and which pictures there are; those of the evidence are kept ready for the next request."""
        try:
            seq = _number(request, "seq")
        except ValueError as error:
            return _refusal(400, "bad_number", str(error))
        journal_id = request.query_params.get("journal", "")
        if seq is None:
            return _refusal(400, "bad_number", "seq: give the number of a verdict")
        verdict = await self._ask(lambda client: one_verdict(client, seq))
        if isinstance(verdict, Response):
            return verdict
        if verdict is None or verdict["journal_id"] != journal_id:
            return _refusal(404, "not_kept", "the journal has no such verdict (any more)")
        key = (journal_id, seq)
        pictures = await self._pictures(key, part_time(verdict))
        announced = None if pictures is None else self._board.announcement(key, pictures)
        shown = shown_verdict(verdict, clock_ms(), self._board.station_clock)
        return JSONResponse({"verdict": shown, "pictures": announced}, headers=NO_STORE)

    async def _thumbnail(self, request: Request) -> Response:
        """Answer with a small picture of a part from the evidence, which the browser keeps. `at` is the part's own time."""
        query = request.query_params
        try:
            seq = _number(request, "seq")
        except ValueError as error:
            return _refusal(400, "bad_number", str(error))
        if self._kept is None or seq is None:
            return _refusal(404, "not_kept", "there is no picture of this part")
        if self._thumbnails_waiting >= MAX_THUMBNAILS:
            return _refusal(503, "busy", "too many requests wait for pictures")
        self._thumbnails_waiting += 1
        try:
            what = (query.get("journal", ""), seq, query.get("at", ""))
            jpeg = await asyncio.get_running_loop().run_in_executor(self._thumbnails, self._kept.thumbnail, *what)
        finally:
            self._thumbnails_waiting -= 1
        if jpeg is None:
            return _refusal(404, "not_kept", "there is no picture of this part")
        return Response(jpeg, media_type="image/jpeg", headers={"cache-control": "private, max-age=3600, immutable"})

    async def _pictures(self, key: Key, at: str) -> Pictures | None:
        pictures = self._board.pictures(key)
        if self._kept is None or (pictures is not None and "image" in pictures.files):
            return pictures
        kept = await asyncio.get_running_loop().run_in_executor(self._evidence, self._kept.read, *key, at)
        if kept is None:
            return pictures
        self._board.keep_ready(key, kept)
        return kept

    async def _export(self, request: Request) -> Response:
        try:
            chosen = part_filter(request.query_params)
        except ValueError as error:
            return _refusal(400, "bad_filter", str(error))
        if self._exports >= MAX_EXPORTS:
            return _refusal(503, "busy", f"{MAX_EXPORTS} exports are running already")
        self._exports += 1
        response: Response | None = None
        try:
            pages = JournalPages(chosen)
            first = await self._ask(lambda client: pages.read(client, None))  # before the answer begins: it may fail
            if isinstance(first, Response):
                return first
            response = _CsvResponse(self._lines(pages, *first), self._export_ended)
            return response
        finally:
            if response is None:
                self._export_ended()

    def _export_ended(self) -> None:
        self._exports -= 1

    async def _lines(self, pages: JournalPages, verdicts: list[Verdict], rest: int | None) -> AsyncIterator[bytes]:
        yield b"\xef\xbb\xbf" + self._csv([self._form.head])  # a byte order mark, without which spreadsheets guess
        while True:
            if verdicts:
                yield self._csv([self._form.row(verdict) for verdict in verdicts])
            if rest is None:
                return
            verdicts, rest = await self._next_page(pages, rest)

    async def _next_page(self, pages: JournalPages, start: int) -> tuple[list[Verdict], int | None]:
        """Return the next page, also of a station that restarts meanwhile.

        Raises:
            _UnfinishedError: The rest cannot be had.
        """
        assert self._journal is not None
        give_up_at = time.monotonic() + NO_ANSWER_LIMIT_S
        while True:
            try:
                return await self._journal.ask(lambda client: pages.read(client, start))
            except TooManyRequestsError:
                await asyncio.sleep(BUSY_PAUSE_S)  # half a file would look like a whole one
            except JournalChangedError as error:
                raise _UnfinishedError(str(error)) from error
            except ClientError as error:
                if time.monotonic() >= give_up_at:
                    raise _UnfinishedError(str(error)) from error
                await asyncio.sleep(NO_ANSWER_PAUSE_S)

    @staticmethod
    def _csv(rows: Sequence[Sequence[Any]]) -> bytes:
        text = io.StringIO(newline="")
        csv.writer(text).writerows(rows)
        return text.getvalue().encode()

    async def _ask(self, question: Callable[[Client], Any]) -> Any:
        """Return the journal's answer, or a response that says why the journal did not answer."""
        if self._journal is None:
            return _refusal(409, "no_control", "the station has no control socket: set `control` in its configuration")
        try:
            return await self._journal.ask(question)
        except TooManyRequestsError:
            return _refusal(503, "busy", "too many requests wait for the journal")
        except RefusedError as error:
            return _refusal(409, error.code, str(error))
        except ClientError as error:
            return _refusal(503, "no_answer", str(error))


class _UnfinishedError(Exception):
    """The rest of a file cannot be had."""


class _CsvResponse(StreamingResponse):
    """Sends a CSV file, and calls `ended` however that ends, even if the browser left before the first line."""

    def __init__(self, lines: AsyncIterator[bytes], ended: Callable[[], None]) -> None:
        headers = {**NO_STORE, "content-disposition": 'attachment; filename="parts.csv"'}
        super().__init__(lines, media_type="text/csv; charset=utf-8", headers=headers)
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        except _UnfinishedError as error:
            # The answer has no end then, by which the browser knows that the file is not whole.
            logs.warning("export.failed", error=str(error))
        finally:
            self._ended()


def _number(request: Request, name: str) -> int | None:
    text = request.query_params.get(name, "")
    if text and not SEQ.fullmatch(text):
        raise ValueError(f"{name}: not the number of a verdict")
    return int(text) if text else None


def _refusal(status: int, code: str, message: str) -> JSONResponse:
    return JSONResponse({"error": code, "message": message}, status, headers=NO_STORE)
