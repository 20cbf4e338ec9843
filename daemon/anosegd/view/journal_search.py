"""Asks the station's journal for the pages, on one thread, "journal". The work for one request is bounded.

One thread, so that however many requests come, the station is asked one question at a time.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, TypeVar

from anosegd.client import BUSY_S, Client, Key, RefusedError, Verdict, with_marks
from anosegd.view.part_filter import MARKED, UNMARKED, PartFilter, unix_ns

T = TypeVar("T")

MAX_WAITING = 20
WINDOW = 256
WIDEST_WINDOW = 1 << 24
SEARCH_S = 0.15
MARKS_A_PAGE = 1000
NEAR = 32
"""Verdicts whose numbers differ by at most this are read together."""
NO_JOURNAL_S = 10.0
"""A station without a journal is asked again after this long: a reload may add one."""
LATE_COMMIT_NS = 60_000_000_000
"""A camera's stamp may be later than the commit, by the difference of two clocks."""
LATE_VERDICT_NS = 600_000_000_000
"""A part of a period is committed at most this long after the period's end."""


class TooManyRequestsError(Exception):
    """Too many requests wait for the journal."""


class JournalChangedError(Exception):
    """The station has begun a new journal, whose numbers mean other verdicts."""


@dataclass(frozen=True, slots=True)
class Found:
    """What one search gave.

    Attributes:
        verdicts: The chosen verdicts, the newest first.
        before: Where to go on: the parts with lower numbers are not searched yet. None at the end.
    """

    verdicts: list[Verdict]
    before: int | None


class JournalSearch:
    """Runs questions to the journal one after another. `stop` ends its thread."""

    def __init__(self, publish: str, control: str, *, key: Key | None = None) -> None:
        self._publish, self._control, self._key = publish, control, key
        self._client: Client | None = None
        self._waiting = 0
        self._thread = ThreadPoolExecutor(1, "journal")

    async def ask(self, question: Callable[[Client], T]) -> T:
        """Run a question on the journal's thread.

        Raises:
            TooManyRequestsError: Too many wait already.
            ClientError: The station does not answer, or refuses.
        """
        if self._waiting >= MAX_WAITING:
            raise TooManyRequestsError
        self._waiting += 1
        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, self._run, question)
        finally:
            self._waiting -= 1

    def stop(self) -> None:
        """End the thread when the present question is answered."""
        self._thread.submit(self._close)
        self._thread.shutdown(wait=True, cancel_futures=False)

    def _run(self, question: Callable[[Client], T]) -> T:
        if self._client is None:
            self._client = _PatientClient(self._publish, self._control, key=self._key)
        return question(self._client)

    def _close(self) -> None:
        if self._client is not None:
            self._client.close()


def search(
    client: Client, chosen: PartFilter, *, before: int | None, wanted: int, limit_s: float = SEARCH_S, newest_known: int = 0
) -> Found:
    """Search backwards from the newest parts, for a bounded time.

    Args:
        client: A client of the station.
        chosen: Which parts.
        before: Only parts with lower numbers; None begins with the newest, or with the end of the filter's period.
        wanted: Stop at so many.
        limit_s: Stop after this time. At least one question is asked.
        newest_known: The highest number of the filter's period that the caller knows; 0 for none.
    """
    give_up_at = time.monotonic() + limit_s
    journal = client.status()["journal"]
    if journal is None:
        raise RefusedError("search", "no_journal", "this station keeps no journal")
    first = journal["first_kept"]
    highest = _page(client, max(1, journal["last_committed"]), None, limit=1)["last"]  # the status is up to a second old
    if chosen.since is not None:
        first = max(first, client.first_seq_since(max(0, unix_ns(chosen.since) - LATE_COMMIT_NS)))
    if before is None and chosen.until is not None:
        # If the station's clock was set back, a part of the period may have a higher number than the first one after its end.
        before = max(client.first_seq_since(unix_ns(chosen.until) + LATE_VERDICT_NS), newest_known + 1)
    high = highest if before is None else min(before - 1, highest)
    if chosen.feedback not in (None, UNMARKED):
        return _search_marks(client, chosen, (first, high), wanted, give_up_at)
    found: list[Verdict] = []
    width = WINDOW
    while high >= first and len(found) < wanted:
        low = max(first, high - width + 1)
        page = _page(client, low, high)
        if page["next"] <= high and width > 1:  # more than one answer holds
            width = max(1, width // 4)
            continue
        found += (verdict for verdict in reversed(list(with_marks(page))) if chosen.has(verdict))
        high = low - 1
        width = WINDOW if page["verdicts"] else min(width * 8, WIDEST_WINDOW)  # numbers that were never used take no time
        if time.monotonic() > give_up_at:
            break
    if len(found) > wanted:
        return Found(found[:wanted], found[wanted - 1]["seq"])
    return Found(found, high + 1 if high >= first else None)


def _search_marks(client: Client, chosen: PartFilter, within: tuple[int, int], wanted: int, give_up_at: float) -> Found:
    """Search as `search`, by the few parts that are marked instead of by all."""
    first, before = within[0], within[1] + 1
    limit = wanted if chosen.feedback == MARKED else MARKS_A_PAGE
    found: list[Verdict] = []
    while True:
        marks = client.request("marks", before=before, limit=limit)["marks"]
        seqs = [mark["seq"] for mark in marks if mark["seq"] >= first and chosen.feedback in (MARKED, mark["mark"])]
        for start in range(0, len(seqs), wanted):
            some = seqs[start : start + wanted]
            found += (verdict for verdict in verdicts_of(client, some) if chosen.has(verdict))
            if len(found) >= wanted:
                return Found(found[:wanted], found[wanted - 1]["seq"])
            if time.monotonic() > give_up_at:
                return Found(found, some[-1])
        if len(marks) < limit or marks[-1]["seq"] <= first:
            return Found(found, None)
        before = marks[-1]["seq"]
        if time.monotonic() > give_up_at:
            return Found(found, before)


def marks_between(client: Client, first: int, last: int) -> dict[int, str]:
    """Return the marks that count of the verdicts with these numbers, by number."""
    found: dict[int, str] = {}
    before = last + 1
    while True:
        marks = client.request("marks", before=before, limit=MARKS_A_PAGE)["marks"]
        found.update((mark["seq"], mark["mark"]) for mark in marks if mark["seq"] >= first)
        if len(marks) < MARKS_A_PAGE or (before := marks[-1]["seq"]) <= first:
            return found


def one_verdict(client: Client, seq: int) -> Verdict | None:
    """Return the verdict with this number, or None if the journal has no such verdict."""
    return next(iter(verdicts_of(client, [seq])), None)


def verdicts_of(client: Client, seqs: Sequence[int]) -> list[Verdict]:
    """Return the verdicts with these numbers, in this order, without those that the journal does not have."""
    wanted = sorted(seqs)
    found: dict[int, Verdict] = {}
    while wanted:
        # One answer with what is between two numbers comes sooner than two answers, if they are near.
        near = next((i for i in range(1, len(wanted)) if wanted[i] - wanted[i - 1] > NEAR), len(wanted))
        page = _page(client, wanted[0], wanted[near - 1])
        found.update((verdict["seq"], verdict) for verdict in with_marks(page))
        wanted = [seq for seq in wanted if seq >= max(page["next"], wanted[0] + 1)]
    return [found[seq] for seq in seqs if seq in found]


class JournalPages:
    """Reads the chosen verdicts of one journal in order, page by page. Runs on the journal's thread."""

    def __init__(self, chosen: PartFilter) -> None:
        self._chosen = chosen
        self._journal_id: str | None = None

    def read(self, client: Client, first: int | None) -> tuple[list[Verdict], int | None]:
        """Return the verdicts of one page, and where to go on; None at the end.

        Args:
            client: A client of the station.
            first: Where to begin; None begins with the filter's period.

        Raises:
            JournalChangedError: The station has begun a new journal since the first page.
        """
        page = page_from(client, self._chosen, first)
        if self._journal_id not in (None, page["journal_id"]):
            raise JournalChangedError("the station has begun a new journal")
        self._journal_id = page["journal_id"]
        rest = page["next"] if page["next"] <= page["last"] else None
        return [verdict for verdict in with_marks(page) if self._chosen.has(verdict)], rest


def page_from(client: Client, chosen: PartFilter, first: int | None) -> dict[str, Any]:
    """Return the journal's answer to one question: verdicts in order.

    Args:
        client: A client of the station.
        chosen: Which parts. Only the beginning of its period counts.
        first: Where to begin; None begins with the period.
    """
    if first is None:
        first = 1 if chosen.since is None else client.first_seq_since(max(0, unix_ns(chosen.since) - LATE_COMMIT_NS))
    return _page(client, first, None)


def _page(client: Client, first: int, last: int | None, limit: int = 1000) -> dict[str, Any]:
    return client.request("replay", **{"from": first}, to=last, limit=limit)


class _PatientClient(Client):
    """Asks again if the station is busy: it takes 200 requests a second from one client."""

    def request(self, op: str, **arguments: Any) -> dict[str, Any]:
        """Send one request as `Client.request`."""
        for pause in (BUSY_S, 2 * BUSY_S, 4 * BUSY_S):
            try:
                return super().request(op, **arguments)
            except RefusedError as error:
                if error.code != "busy":
                    raise
                time.sleep(pause)
        return super().request(op, **arguments)
