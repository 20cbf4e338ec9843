"""Writes the journal's SQLite file. Runs on the journal's thread."""

from __future__ import annotations

import sqlite3
from pathlib import Path

from anosegd.journal import feedback
from anosegd.journal.file_guard import FileGuard
from anosegd.journal.format import (
    beside,
    files_of,
    in_transaction,
)
from anosegd.journal.log_guard import LogGuard
from anosegd.journal.reader import checksum, read_extent
from anosegd.journal.transaction import Transaction
from anosegd.journal.types import (
    AcceptedTrigger,
    Entry,
    Range,
    Tally,
    missing,
)

REQUESTS_KEPT = 2000
CHANGES_KEPT = 10_000
PAGE_BYTES = 4096
WAL_PAGES = 5000
"""20 MiB. If the write-ahead log grows beyond this, the writing thread itself copies it into the file and restarts it."""
EXPIRE_ROWS, EXPIRE_BYTES = 200, 1 << 20
"""The most that one step of retention deletes. It takes a few milliseconds."""
VACUUM_PAGES = 256
MARK_EVERY = 500

_INSERT = """INSERT INTO entry (seq, camera, outcome, captured_ns, committed_ns, kept_ns, crc, header)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)"""
_REMARK = "UPDATE mark SET latest_ns = max(latest_ns, ?) WHERE seq = (SELECT min(seq) FROM mark WHERE seq >= ?)"
_FORGET_REQUESTS = "DELETE FROM request WHERE number < (SELECT number FROM request ORDER BY number DESC LIMIT 1 OFFSET ?)"
_FORGET_CHANGES = "DELETE FROM change WHERE number <= (SELECT number FROM change ORDER BY number DESC LIMIT 1 OFFSET ?)"
_FORGET_NAMES = ("UPDATE change SET who = '' WHERE at_ns < ? AND who NOT IN ('', 'configuration')", feedback.FORGET_NAMES)
"""For each table with names of persons: removes those from before a moment."""
# By the clock, so that a number that a power failure has taken back is not used again. Microseconds, as of feedback.
_CHANGE = """INSERT INTO change (number, at_ns, kind, camera, old, new, who, why)
    VALUES ((SELECT max(coalesce(max(number), 0) + 1, ? / 1000) FROM change), ?, ?, ?, ?, ?, ?, ?)"""
_VOID_BEFORE = "SELECT first, last FROM void WHERE first < ? ORDER BY first DESC LIMIT 1"
_AMEND = "UPDATE entry SET camera = ?, outcome = ?, captured_ns = ?, committed_ns = ?, crc = ?, header = ? WHERE seq = ?"


class Store:
    """An open journal file, made by `open_store` or `create_store`. Used by one thread; every method may raise sqlite3.Error.

    Attributes:
        extent: The file's id and the numbers in it.
        stored: How many entries it has.
        unchecked_to: Entries up to this number were not checked when the file was opened.
        file: Finds out whether another program cut the file or wrote into it.
        log: Finds out whether the write-ahead log was overwritten. `note` is called after every method that writes.
    """

    def __init__(self, path: Path, db: sqlite3.Connection, unchecked_to: int) -> None:
        self.extent = read_extent(db)
        self.unchecked_to = unchecked_to
        self.path, self._db = path, db
        self.stored = self._tally()
        self._inode = path.stat().st_ino
        (self._marked_to,) = db.execute("SELECT coalesce(max(seq), 0) FROM mark").fetchone()
        unmarked = "SELECT count(*), coalesce(max(committed_ns), 0) FROM entry WHERE seq > ?"
        self._unmarked, self._latest_ns = db.execute(unmarked, (self._marked_to,)).fetchone()
        self.file = FileGuard(path, db)
        self.log = LogGuard(beside(path, "-wal"), db, size_limit_bytes=WAL_PAGES * PAGE_BYTES)
        self._log_inodes = [_inode(name) for name in files_of(path)[1:]]

    @property
    def moved(self) -> bool:
        """Whether the path no longer names this file, so that anything written to it would be lost."""
        try:
            return self.path.stat().st_ino != self._inode
        except OSError as error:
            return isinstance(error, FileNotFoundError)

    @property
    def log_lost(self) -> bool:
        """Whether the write-ahead log or its index is no longer at its path. The next start would not find what is in it."""
        return [_inode(name) for name in files_of(self.path)[1:]] != self._log_inodes

    @property
    def log_is_long(self) -> bool:
        """Whether the write-ahead log is so long that SQLite itself copies it into the file after a commit."""
        return _size(beside(self.path, "-wal")) > WAL_PAGES * PAGE_BYTES

    def rescue_log(self) -> None:
        """Copy the write-ahead log, which is still open, into the file. SQLite waits for readers, but not for long."""
        for _ in self._db.execute("PRAGMA wal_checkpoint(RESTART)"):
            pass

    def newest_kept_ns(self) -> int | None:
        """Return the time of the newest entry by the journal's clock."""
        row = self._db.execute("SELECT kept_ns FROM entry ORDER BY seq DESC LIMIT 1").fetchone()
        return None if row is None else int(row[0])

    def cursors(self) -> dict[str, int]:
        """Return the durable consumers."""
        return dict(self._db.execute("SELECT name, seq FROM consumer"))

    def owed(self) -> list[AcceptedTrigger]:
        """Accepted triggers without a verdict, ascending."""
        columns = "number, camera, part_id, at_ns, NULL, recipe"
        rows = self._db.execute(f"SELECT {columns} FROM owed LEFT JOIN asked USING (number) ORDER BY number")
        return [AcceptedTrigger(*row) for row in rows]

    def requests(self) -> list[AcceptedTrigger]:
        """The newest triggers with a request id, ascending."""
        rows = self._db.execute("SELECT number, camera, part_id, at_ns, request_id FROM request ORDER BY number")
        return [AcceptedTrigger(*row) for row in rows]

    def unsettled(self, to: int) -> list[Range]:
        """Return the numbers up to `to` that are neither entries nor void nor gone."""
        first = self.extent.settled_to + 1
        covered = [Range(seq, seq) for (seq,) in self._db.execute("SELECT seq FROM entry WHERE seq >= ?", (first,))]
        covered += [Range(a, b) for a, b in self._db.execute("SELECT first, last FROM void WHERE last >= ?", (first,))]
        return missing(covered, first, to)

    def write(self, transaction: Transaction, *, kept_ns: int, wall_ns: int = 0) -> None:
        """Commit a transaction, and sync it with synchronous=FULL. If it fails, the file is as before."""
        t = transaction
        top = max([self.extent.top, *(e.seq for e in t.entries), *(r.last for r in t.voids)])
        barrier = t.barrier if t.barrier is not None and t.barrier < top else None
        marked_to, unmarked = self._marked_to, self._unmarked + len(t.entries)
        latest_ns = max([self._latest_ns, *(e.committed_ns for e in (*t.entries, *t.amends))])
        with in_transaction(self._db):
            trigger_rows = ((each.number, each.camera, each.part_id, each.at_ns) for each in t.triggers)
            self._db.executemany("INSERT INTO owed VALUES (?, ?, ?, ?)", trigger_rows)
            asked = ((each.number, each.recipe) for each in t.triggers if each.recipe is not None)
            self._db.executemany("INSERT INTO asked VALUES (?, ?)", asked)
            requests = [(t.number, t.request_id, t.camera, t.part_id, t.at_ns) for t in t.triggers if t.request_id is not None]
            self._db.executemany("INSERT INTO request VALUES (?, ?, ?, ?, ?)", requests)
            if requests:
                self._db.execute(_FORGET_REQUESTS, (REQUESTS_KEPT - 1,))
            self._db.executemany(_CHANGE, ((c.at_ns, c.at_ns, c.kind, c.camera, c.old, c.new, c.who, c.why) for c in t.changes))
            if t.changes:
                self._db.execute(_FORGET_CHANGES, (CHANGES_KEPT,))
            answered = [(number,) for number in (*t.answered, *(e.answers for e in t.entries)) if number is not None]
            for table in ("owed", "asked"):
                self._db.executemany(f"DELETE FROM {table} WHERE number = ?", answered)
            self._db.executemany(_INSERT, (_row(e, kept_ns) for e in t.entries))
            for entry in t.amends:
                self._amend(entry)
            for entry in (*t.amends, *(e for e in t.entries if e.seq <= marked_to)):
                self._db.execute(_REMARK, (entry.committed_ns, entry.seq))
            if t.entries and unmarked >= MARK_EVERY:
                marked_to = max(marked_to, *(e.seq for e in t.entries))
                self._db.execute("INSERT OR REPLACE INTO mark VALUES (?, ?)", (marked_to, latest_ns))
                unmarked = latest_ns = 0
            for void in t.voids:
                self._declare_void(void)
            for name, seq in t.cursors.items():
                if seq is None:
                    self._db.execute("DELETE FROM consumer WHERE name = ?", (name,))
                else:
                    self._db.execute("INSERT OR REPLACE INTO consumer VALUES (?, ?, ?)", (name, seq, wall_ns))
            for said in t.feedback:
                if said.journal_id == self.extent.journal_id:
                    feedback.write_feedback(self._db, said)
            if barrier != self.extent.barrier:
                self._db.execute("UPDATE journal SET barrier = ?", (barrier,))
            stored = self._tally() if t.entries or t.amends else self.stored
        self.stored = stored
        self.extent = self.extent._replace(top=top, barrier=barrier)
        self._marked_to, self._unmarked, self._latest_ns = marked_to, unmarked, latest_ns

    def expire(self, *, before_kept_ns: int, max_bytes: int) -> int:
        """Delete some of the oldest entries: those that are too old, and more if the file is too large.

        Returns how many were deleted. More may be due.
        """
        rows = self._db.execute(
            "SELECT seq, kept_ns, length(header) FROM entry WHERE seq <= ? ORDER BY seq LIMIT ?",
            (self.extent.settled_to, EXPIRE_ROWS),
        ).fetchall()
        too_large = self.used_bytes() > max_bytes
        count, size = 0, 0
        for _, kept_ns, length in rows:
            if not (too_large or kept_ns < before_kept_ns) or (count and size + length > EXPIRE_BYTES):
                break
            count, size = count + 1, size + length
        if count:
            first_kept = int(rows[count - 1][0]) + 1
            with in_transaction(self._db):
                self._db.execute("DELETE FROM entry WHERE seq < ?", (first_kept,))
                self._db.execute(feedback.EXPIRE, (first_kept,))
                self._db.execute("DELETE FROM mark WHERE seq < ?", (first_kept,))
                self._db.execute("DELETE FROM void WHERE last < ?", (first_kept,))
                self._db.execute("UPDATE void SET first = ? WHERE first < ?", (first_kept, first_kept))
                self._db.execute("UPDATE journal SET first_kept = ?", (first_kept,))
                stored = self._tally()
            self.stored = stored
            self.extent = self.extent._replace(first_kept=first_kept)
        return count

    def forget_names(self, before_ns: int) -> None:
        """Remove the names of persons who changed something before a moment (Unix time). What they changed stays."""
        with in_transaction(self._db):
            for forget in _FORGET_NAMES:
                self._db.execute(forget, (before_ns,))

    def shrink(self) -> bool:
        """Give some free pages back to the file system if there are many. Returns whether it did."""
        if not self.may_shrink:
            return False
        self._db.executescript(f"PRAGMA incremental_vacuum({VACUUM_PAGES})")  # with execute it frees one page
        self.file.note()
        return True

    @property
    def may_shrink(self) -> bool:
        """Whether there are more free pages than will soon be needed."""
        return self._pragma("freelist_count") >= 4 * VACUUM_PAGES

    def used_bytes(self) -> int:
        """Return the size of the file without its free pages."""
        return (self._pragma("page_count") - self._pragma("freelist_count")) * self._pragma("page_size")

    def cut_log(self) -> bool:
        """If the write-ahead log is too long, copy it into the file and truncate it, waiting for readers.

        Returns False if another program keeps reading, so that the log must grow.
        """
        if not self.log_is_long:
            return True
        ((busy, *_),) = self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        self.file.note_copied()
        return not busy

    def size_bytes(self) -> int:
        """Return the size of the file and its write-ahead log."""
        return _size(self.path) + _size(beside(self.path, "-wal"))

    def close(self) -> None:
        """Close. SQLite copies the write-ahead log into the file, unless the file was moved."""
        self._db.close()

    def _tally(self) -> Tally:
        counts = {(camera, outcome): n for camera, outcome, n in self._db.execute("SELECT camera, outcome, count FROM tally")}
        oldest = self._db.execute("SELECT committed_ns FROM entry ORDER BY seq LIMIT 1").fetchone()
        return Tally(counts, None if oldest is None else int(oldest[0]))

    def _amend(self, entry: Entry) -> None:
        row = self._db.execute("SELECT kept_ns FROM entry WHERE seq = ?", (entry.seq,)).fetchone()
        if row is not None:
            seq, camera, outcome, captured_ns, committed_ns, _, crc, header = _row(entry, row[0])
            self._db.execute(_AMEND, (camera, outcome, captured_ns, committed_ns, crc, header, seq))

    def _declare_void(self, void: Range) -> None:
        """Declare a range void, by extending the range that ends just before it if there is one."""
        before = self._db.execute(_VOID_BEFORE, (void.first,)).fetchone()
        if before is not None and before[1] == void.first - 1:
            self._db.execute("UPDATE void SET last = ? WHERE first = ?", (void.last, before[0]))
        else:
            self._db.execute("INSERT INTO void VALUES (?, ?)", void)

    def _pragma(self, name: str) -> int:
        return int(self._db.execute(f"PRAGMA {name}").fetchone()[0])


def _row(entry: Entry, kept_ns: int) -> tuple[int, str, str, int, int, int, int, bytes]:
    fields = (entry.seq, entry.camera, entry.outcome, entry.captured_ns, entry.committed_ns, kept_ns)
    crc = checksum([entry.seq, entry.camera.encode(), entry.outcome.encode(), *fields[3:]], entry.header)
    return (*fields, crc, entry.header)


def _size(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return 0


def _inode(path: Path) -> int | None:
    try:
        return path.stat().st_ino
    except OSError:
        return None
