"""Does slow work on the journal's file that would delay commits, on the thread "journal-background".

The thread copies the write-ahead log into the file. Copying syncs the disk, which is slow on an eMMC, but SQLite lets the
journal's thread write meanwhile. The thread also reads through a file that was too large to be checked whole at the start,
or into which another program wrote.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import deque
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from anosegd.journal.reader import BUSY_S, JournalReader, is_damage, uri
from anosegd.journal.types import JournalError
from anosegd.worker import Worker

CHECK_EVERY_S, ROWS_EACH, BYTES_EACH = 0.2, 200, 1 << 20


class Background(Worker):
    """Works on the journal's file beside the writing thread.

    Attributes:
        log_in_use: Held while the write-ahead log is copied. SQLite refuses a second attempt instead of waiting.
        copies: How often the log was copied.
    """

    def __init__(self, path: Path, *, reader: JournalReader, on_damage: Callable[[str, str], None]) -> None:
        super().__init__("journal-background")
        self.log_in_use = threading.Lock()
        self.copies = 0
        self._path, self._reader, self._on_damage = path, reader, on_damage
        self._wake = threading.Event()
        self._stopping = False
        self._long_log_of: str | None = None
        self._requested: deque[tuple[str, int, int]] = deque(maxlen=1)
        self._unchecked: tuple[str, int, int] | None = None

    def copy_log(self, journal_id: str) -> None:
        """Request a copy of this journal's write-ahead log into its file (writing thread)."""
        self._long_log_of = journal_id
        self._wake.set()

    def check(self, journal_id: str, to: int) -> None:
        """Request that this journal is read through once, up to a number (writing thread, or before the start).

        A check that is running ends first: in a large file, none would end if each request began it again.
        """
        self._requested.append((journal_id, 1, to))
        self._wake.set()

    def stop(self) -> None:
        """End after the current step (any thread)."""
        self._stopping = True
        self._wake.set()

    def work(self) -> None:
        """Copy the log on request, and check while something is unchecked."""
        self.give_way()
        with self._reader:
            while not self._stopping:
                self.answer()
                self._wake.wait(CHECK_EVERY_S if self._unchecked or self._requested else 1.0)
                self._wake.clear()
                if self._unchecked is None and self._requested:
                    self._unchecked = self._requested.pop()
                if self._long_log_of is not None:
                    journal_id, self._long_log_of = self._long_log_of, None
                    self._copy_log(journal_id)
                elif self._unchecked and not self._stopping:
                    self._check(self._unchecked)

    def _copy_log(self, journal_id: str) -> None:
        try:
            with (
                self.log_in_use,
                closing(sqlite3.connect(uri(self._path, "rw"), uri=True, isolation_level=None, timeout=BUSY_S)) as db,
            ):
                self.copies += 1
                db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.Error as error:
            if is_damage(error):
                self._on_damage(journal_id, str(error))
            # Any other error, such as a full disk, also meets the writing thread, which reports it.

    def _check(self, unchecked: tuple[str, int, int]) -> None:
        journal_id, first, to = unchecked
        if first == 1:
            self._reader.close()  # it would read again what it remembers, and not what is in the file now
        try:
            page = self._reader.page(first, to, limit=ROWS_EACH, max_bytes=BYTES_EACH)
        except JournalError:
            return  # the reader reports damage; any other error may be temporary
        if page.journal_id == journal_id and page.last_committed < to:
            self._on_damage(journal_id, f"verdicts were committed up to {to}, but the file ends with {page.last_committed}")
        self._unchecked = (journal_id, page.next, to) if page.journal_id == journal_id and first < page.next <= to else None
