"""Finds out whether another program has overwritten the journal's write-ahead log in its place. Runs on the journal's thread.

SQLite does not look at the log's header again while it has the file open, so it would go on. The next start would find neither
the verdicts that were in the log nor those that were written into it later.
"""

from __future__ import annotations

import os
import sqlite3
from dataclasses import dataclass
from pathlib import Path

HEADER_BYTES = 32
"""Of a write-ahead log. It contains numbers that change whenever the log begins from its start again."""


_MAGIC = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")


@dataclass(frozen=True, slots=True)
class _Log:
    header: bytes
    size: int


_UNKNOWN = _Log(b"", 0)


class LogGuard:
    """Compares the log's header and size with those after the last write of this program.

    Another SQLite program may write or truncate the log properly. SQLite knows about that.

    Args:
        path: The write-ahead log.
        db: The connection that writes the journal.
        size_limit_bytes: SQLite cuts a longer log to this length when it begins it from its start again.
    """

    def __init__(self, path: Path, db: sqlite3.Connection, *, size_limit_bytes: int) -> None:
        self._path, self._db, self._size_limit_bytes = path, db, size_limit_bytes
        self._noted = _UNKNOWN
        self._version = 0
        self._uncommitted = False
        self.note()
        self._uncommitted = True

    def note(self, *, truncated: bool = False, failed: bool = False) -> None:
        """Remember the log as it is, after this program wrote to it, failed to, or truncated it.

        A log that this program cannot have left so was overwritten meanwhile, and is not remembered.
        """
        found = self._look()
        begun_again = found.header != self._noted.header and found.header.startswith(_MAGIC)
        # After a kill or an error between header and commit, the next commit writes the same header again and cuts the log.
        cut = self._uncommitted and found.header == self._noted.header and found.size >= self._size_limit_bytes
        if failed:
            self._uncommitted |= begun_again
        elif found != self._noted:
            self._uncommitted = False
        if self._continues(found) or begun_again or cut or (truncated and found.size == 0):
            try:
                self._noted, self._version = found, self._data_version()
            except sqlite3.Error:  # nothing is compared until the next note
                self._noted = _UNKNOWN

    @property
    def overwritten(self) -> bool:
        """Whether the log was changed by something other than SQLite.

        Raises:
            sqlite3.Error: The journal cannot be read.
        """
        found = self._look()
        if self._noted.size == 0 or self._continues(found):
            return False
        if self._data_version() == self._version and not (found.size == 0 and self._is_copied()):
            return True
        self._noted, self._version = found, self._data_version()
        return False

    def _continues(self, found: _Log) -> bool:
        return found.header == self._noted.header and found.size >= self._noted.size

    def _look(self) -> _Log:
        # This file may be opened and closed. To close -shm or the journal itself would end SQLite's locks.
        try:
            with self._path.open("rb") as file:
                return _Log(file.read(HEADER_BYTES), os.fstat(file.fileno()).st_size)
        except OSError:  # the loss of the file is noticed elsewhere
            return self._noted

    def _data_version(self) -> int:
        return int(self._db.execute("PRAGMA data_version").fetchone()[0])

    def _is_copied(self) -> bool:
        """Whether SQLite needs nothing from the log, as after it has truncated the log itself."""
        try:
            ((_, pages, _),) = self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
        except sqlite3.OperationalError:  # it looks in the log for what is not there
            return False
        return bool(pages == 0)
