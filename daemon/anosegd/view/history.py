"""Keeps the table of past verdicts up to date with the station's journal. A task on the event loop's thread."""

from __future__ import annotations

import asyncio
import math
import time
from typing import Any

from anosegd.client import Client, ClientError, RefusedError
from anosegd.view.journal_search import NO_JOURNAL_S, JournalSearch, TooManyRequestsError, page_from
from anosegd.view.part_filter import PartFilter, unix_ns
from anosegd.view.verdict_table import MAX_ROWS, Row, VerdictTable, rows_of

KEPT_S = 8 * 24 * 3600.0
"""A week, and the shift in which it begins."""
EVERY_S = 1.0
BETWEEN_PAGES_S = 0.02
"""The station answers other requests between two pages. Twelve hours of five parts a second take half a minute."""


def read_page(client: Client, start: int) -> tuple[dict[str, Any], list[Row]]:
    """Return the journal's page from this number on, and its rows. Runs on the journal's thread."""
    page = page_from(client, PartFilter(), start)
    return page, rows_of(page["verdicts"])


def beginning(client: Client) -> tuple[int, bool]:
    """Return the number at which the table begins, and whether the journal never had a verdict before it. As `read_page`."""
    journal = client.status()["journal"]
    if journal is None:
        raise RefusedError("replay", "no_journal", "this station keeps no journal")
    oldest = client.first_seq_since(0)
    start = client.first_seq_since(time.time_ns() - int(KEPT_S * 1e9))
    newest = journal["last_committed"] - MAX_ROWS
    if newest > start and sum(journal["stored"].values()) > MAX_ROWS:  # numbers alone say little: many may never have been used
        start = newest
    return start, start <= oldest and journal["first_kept"] <= 1


class History:
    """Reads the journal into `table`.

    Attributes:
        table: What is known of past verdicts.
        refusal: Why there are none: the station stores no verdicts. None otherwise.
    """

    def __init__(self, journal: JournalSearch) -> None:
        self.table = VerdictTable.empty()
        self.refusal: RefusedError | None = None
        self._journal = journal

    def newest(self, chosen: PartFilter) -> int:
        """Return the highest number that is known of a filter's period, however the station's clock was set; 0 for none."""
        since = 0.0 if chosen.since is None else unix_ns(chosen.since) / 1e9
        until = math.inf if chosen.until is None else unix_ns(chosen.until) / 1e9
        return int(self.table.of_period(since, until)["seq"].max(initial=0))

    async def keep(self) -> None:
        """Read without end."""
        while True:
            failed = True
            try:
                await self._step()
                self.refusal, failed = None, False
            except RefusedError as error:
                self.table.complete = False
                if error.code == "no_journal":
                    self.refusal = error
                    await asyncio.sleep(NO_JOURNAL_S)
                    continue
            except (ClientError, TooManyRequestsError):
                pass  # down, or busy: the next second tries again
            table = self.table
            await asyncio.sleep(EVERY_S if failed or table.complete or table.next is None else BETWEEN_PAGES_S)

    async def _step(self) -> None:
        table = self.table
        start = await self._begin(table) if table.next is None else table.next
        page, rows = await self._journal.ask(lambda client: read_page(client, start))
        if table.journal_id not in (None, page["journal_id"]):
            self.table = VerdictTable.empty()  # numbers of two journals cannot be compared
            return
        table.add(rows)
        table.journal_id, table.next = page["journal_id"], page["next"]
        table.complete = page["next"] > page["last"]

    async def _begin(self, table: VerdictTable) -> int:
        start, table.from_beginning = await self._journal.ask(beginning)
        return start
