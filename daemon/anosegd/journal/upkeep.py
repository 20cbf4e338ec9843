"""The journal's second thread: what would make a commit wait if the writer did it.

Carrying the write-ahead log over into the file syncs the disk, which takes long on an eMMC; SQLite lets the writer go on
meanwhile. And of a journal too large to be checked whole at start, the rest is read through once, slowly.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

from anosegd.journal.reader import BUSY_S, JournalReader, is_damage, uri
from anosegd.journal.types import JournalError
from anosegd.worker import Worker

CHECK_EVERY_S, ROWS_EACH, BYTES_EACH = 0.2, 200, 1 << 20


class Upkeep(Worker):
    """Works on the journal's file beside the writer. reader: makes a reader for this thread. on_damage: told what was found.

    log_in_use: held while the write-ahead log is carried over; SQLite refuses a second attempt instead of waiting.
    """

    def __init__(
        self,
        path: Path,
        *,
        reader: Callable[[], JournalReader],
        journal_id: Callable[[], str],
        on_damage: Callable[[str, str], None],
    ) -> None:
        super().__init__("journal-upkeep")
        self._path, self._reader, self._journal_id, self._on_damage = path, reader, journal_id, on_damage
        self.log_in_use = threading.Lock()
        self._wake = threading.Event()
        self._log_is_long = False
        self._stopping = False
        self._unchecked: tuple[str, int, int] | None = None

    def carry_over(self) -> None:
        """The write-ahead log has grown (writer's thread)."""
        self._log_is_long = True
        self._wake.set()

    def check(self, journal_id: str, to: int) -> None:
        """Read this journal through once, up to a number (writer's thread, or before the start)."""
        self._unchecked = (journal_id, 1, to)
        self._wake.set()

    def stop(self) -> None:
        """End after what is being done (any thread)."""
        self._stopping = True
        self._wake.set()

    def work(self) -> None:
        """Carry over when told to, check while there is something to check."""
        with contextlib.suppress(OSError):  # where both want a core, the writer gets it
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 10)
        with self._reader() as reader:
            while not self._stopping:
                self.answer()
                self._wake.wait(CHECK_EVERY_S if self._unchecked else 1.0)
                self._wake.clear()
                if self._log_is_long:
                    self._log_is_long = False
                    self._carry_over()
                elif self._unchecked and not self._stopping:
                    self._check(reader, self._unchecked)

    def _carry_over(self) -> None:
        journal_id = self._journal_id()
        try:
            with (
                self.log_in_use,
                closing(sqlite3.connect(uri(self._path, "rw"), uri=True, isolation_level=None, timeout=BUSY_S)) as db,
            ):
                db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.Error as error:
            if is_damage(error):
                self._on_damage(journal_id, str(error))
            # no space, or just being replaced: the writer meets the same, and says so

    def _check(self, reader: JournalReader, unchecked: tuple[str, int, int]) -> None:
        journal_id, first, to = unchecked
        try:
            page = reader.page(first, to, limit=ROWS_EACH, max_bytes=BYTES_EACH)
        except JournalError:
            return  # of damage the reader tells; anything else may pass
        if self._unchecked == unchecked:
            self._unchecked = (journal_id, page.next, to) if page.journal_id == journal_id and first < page.next <= to else None
