"""Finds out whether another program has cut the journal's file or written into it. Runs on the journal's thread.

SQLite would notice only when it reads a page that is damaged, which may be hours later. The guard never opens the file: to
close it again would end the locks that SQLite holds on it.
"""

from __future__ import annotations

import sqlite3
from pathlib import Path


class FileGuard:
    """Compares the file's length and time of change with those at the last look.

    SQLite makes the file shorter only when it copies the write-ahead log into it after pages became free. So the file is
    at least as long as the smallest database since the last look.

    Args:
        path: The journal's file.
        db: The connection that writes the journal.
    """

    def __init__(self, path: Path, db: sqlite3.Connection) -> None:
        self._path, self._db = path, db
        self._least, self._changed_ns = self._seen() or (0, 0)
        self._version = self._pragma("data_version")
        self.note()

    def note(self) -> None:
        """Take note of the database's size, after every write that may have made it smaller."""
        self._least = min(self._least, self._pragma("page_count") * self._pragma("page_size"))

    def note_copied(self) -> None:
        """Take note of the time of change, after this program copied the write-ahead log into the file."""
        if (seen := self._seen()) is not None:
            self._changed_ns = seen[1]

    @property
    def cut(self) -> bool:
        """Whether the file is shorter than SQLite left it.

        Raises:
            sqlite3.Error: The journal cannot be read.
        """
        seen = self._seen()
        if seen is None:  # the loss of the file is noticed elsewhere
            return False
        size, _ = seen
        version = self._pragma("data_version")
        if size < self._least and version == self._version:
            return True
        self._version, self._least = version, size
        self.note()
        return False

    @property
    def changed(self) -> bool:
        """Whether anything was written into the file since the last call, or since `note_copied`."""
        seen = self._seen()
        if seen is None or seen[1] == self._changed_ns:
            return False
        self._changed_ns = seen[1]
        return True

    def _seen(self) -> tuple[int, int] | None:
        try:
            status = self._path.stat()
        except OSError:
            return None
        return status.st_size, status.st_mtime_ns

    def _pragma(self, name: str) -> int:
        return int(self._db.execute(f"PRAGMA {name}").fetchone()[0])
