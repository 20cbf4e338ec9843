"""Deletes rows that were stored long ago, and names of persons. Runs on the thread "writer", a small step at a time.

Cursors are never deleted: a station goes on where it was, whatever is deleted here.
"""

from __future__ import annotations

import time

from anosegd import logs
from anosegd.archive.config import ArchiveConfig
from anosegd.archive.database import Connection

STEP_ROWS = 2000
EVERY_S = 60.0
"""The pause after everything that is old was deleted."""
_TABLES = {"verdict": "archived_at", "feedback": "archived_at", "change": "archived_at", "event": "at"}
"""The tables, each with the time that decides. It is the database's own: a station's clock may be wrong."""
_DELETE = """DELETE FROM {table} WHERE ctid = ANY (ARRAY(
    SELECT ctid FROM {table} WHERE {time} < now() - make_interval(secs => %s) LIMIT %s))"""
_FORGET = "UPDATE {table} SET who = '' WHERE at < now() - make_interval(secs => %s) AND who NOT IN ('', 'configuration')"


class Retention:
    """Decides when a step is due, and takes it."""

    def __init__(self, config: ArchiveConfig) -> None:
        self._keep_days, self._keep_names_days = config.keep_days, config.keep_names_days
        self._due_at = 0.0
        self._deleted = 0

    def step(self, connection: Connection) -> None:
        """Delete some old rows if it is time. Each statement is a transaction of its own.

        Raises:
            psycopg.Error: The database does not do it.
        """
        if time.monotonic() < self._due_at:
            return
        if self._keep_days is not None:
            for table, column in _TABLES.items():
                delete = _DELETE.format(table=table, time=column).encode()
                count = connection.execute(delete, (self._keep_days * 86_400, STEP_ROWS)).rowcount
                self._deleted += count
                if count == STEP_ROWS:
                    return  # there is more; batches that wait come first
        for table in ("feedback", "change"):
            connection.execute(_FORGET.format(table=table).encode(), (self._keep_names_days * 86_400,))
        if self._deleted:
            logs.info("archive.deleted", rows=self._deleted, older_than_days=self._keep_days)
            self._deleted = 0
        self._due_at = time.monotonic() + EVERY_S
