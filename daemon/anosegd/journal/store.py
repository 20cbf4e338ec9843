"""Creates, checks and writes the journal's SQLite file, and renames a damaged one. Runs on the journal's thread."""

from __future__ import annotations

import contextlib
import sqlite3
from dataclasses import dataclass, field
from datetime import datetime, timezone
from pathlib import Path

from anosegd.journal import feedback
from anosegd.journal.file_guard import FileGuard
from anosegd.journal.format import (
    APPLICATION_ID,
    SCHEMA,
    SCHEMA_VERSION,
    beside,
    check_kind,
    files_of,
    in_transaction,
    upgrade,
)
from anosegd.journal.log_guard import LogGuard
from anosegd.journal.numbers import sync_folder
from anosegd.journal.place import is_foreign
from anosegd.journal.reader import BUSY_S, checksum, read_extent, read_page, translated_errors, uri
from anosegd.journal.types import (
    AcceptedTrigger,
    Change,
    Entry,
    JournalDamagedError,
    JournalError,
    Range,
    Tally,
    missing,
)

REQUESTS_KEPT = 2000
CHANGES_KEPT = 10_000
PAGE_BYTES = 4096
WAL_PAGES = 5000
"""20 MiB. If the write-ahead log grows beyond this, the writing thread itself copies it into the file and restarts it."""
WHOLE_CHECK_BYTES = 32 << 20
"""A file up to this size is checked whole at the start (in half a second), a larger one only its newest entries."""
NEWEST_CHECKED = 1000
ASIDE_KEPT = 3
EXPIRE_ROWS, EXPIRE_BYTES = 200, 1 << 20
"""The most that one step of retention deletes. It takes a few milliseconds."""
VACUUM_PAGES = 256
MARK_EVERY = 500

_WAL_MAGIC = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")
_INSERT = """INSERT INTO entry (seq, camera, outcome, captured_ns, committed_ns, kept_ns, crc, header)
    VALUES (?, ?, ?, ?, ?, ?, ?, ?)"""
_REMARK = "UPDATE mark SET latest_ns = max(latest_ns, ?) WHERE seq = (SELECT min(seq) FROM mark WHERE seq >= ?)"
_FORGET_REQUESTS = "DELETE FROM request WHERE number < (SELECT number FROM request ORDER BY number DESC LIMIT 1 OFFSET ?)"
_FORGET_CHANGES = "DELETE FROM change WHERE number <= (SELECT max(number) FROM change) - ?"
_FORGET_NAMES = ("UPDATE change SET who = '' WHERE at_ns < ? AND who NOT IN ('', 'configuration')", feedback.FORGET_NAMES)
"""For each table with names of persons: removes those from before a moment."""
_CHANGE = "INSERT INTO change (at_ns, kind, camera, old, new, who, why) VALUES (?, ?, ?, ?, ?, ?, ?)"
_VOID_BEFORE = "SELECT first, last FROM void WHERE first < ? ORDER BY first DESC LIMIT 1"
_AMEND = "UPDATE entry SET camera = ?, outcome = ?, captured_ns = ?, committed_ns = ?, crc = ?, header = ? WHERE seq = ?"


@dataclass(slots=True)
class Transaction:
    """Holds what is written at once.

    Attributes:
        entries: New verdicts. An entry that answers a trigger removes it.
        amends: Replacements for committed verdicts. Those without a committed verdict are ignored.
        voids: Numbers that will never carry a verdict.
        cursors: How far durable consumers have come; None removes a consumer.
        triggers: Accepted triggers.
        changes: What somebody changed.
        feedback: What somebody said about parts. Each gets its results.
        barrier: The first number given out that stays pending, if any.
    """

    entries: list[Entry] = field(default_factory=list)
    amends: list[Entry] = field(default_factory=list)
    voids: list[Range] = field(default_factory=list)
    cursors: dict[str, int | None] = field(default_factory=dict)
    triggers: list[AcceptedTrigger] = field(default_factory=list)
    changes: list[Change] = field(default_factory=list)
    feedback: list[feedback.FeedbackChange] = field(default_factory=list)
    barrier: int | None = None

    def __bool__(self) -> bool:
        """Return whether there is anything to write."""
        written = (self.entries, self.amends, self.voids, self.cursors, self.triggers, self.changes, self.feedback)
        return any(written)


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
        self.log = LogGuard(beside(path, "-wal"), db)
        self.log.note()
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
        return [
            AcceptedTrigger(*row) for row in self._db.execute("SELECT number, camera, part_id, at_ns FROM owed ORDER BY number")
        ]

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
            requests = [(t.number, t.request_id, t.camera, t.part_id, t.at_ns) for t in t.triggers if t.request_id is not None]
            self._db.executemany("INSERT INTO request VALUES (?, ?, ?, ?, ?)", requests)
            if requests:
                self._db.execute(_FORGET_REQUESTS, (REQUESTS_KEPT - 1,))
            self._db.executemany(_CHANGE, ((c.at_ns, c.kind, c.camera, c.old, c.new, c.who, c.why) for c in t.changes))
            if t.changes:
                self._db.execute(_FORGET_CHANGES, (CHANGES_KEPT,))
            answered = ((e.answers,) for e in t.entries if e.answers is not None)
            self._db.executemany("DELETE FROM owed WHERE number = ?", answered)
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


def create_store(path: Path, *, journal_id: str, first: int, sync: str, now_ns: int) -> Store:
    """Create a journal whose first number is `first`. It is written under another name and then renamed.

    Raises:
        OSError: The file cannot be written.
        sqlite3.Error: The file cannot be written.
    """
    new = beside(path, ".new")
    for leftover in files_of(new):
        leftover.unlink(missing_ok=True)
    db = sqlite3.connect(uri(new, "rwc"), uri=True, isolation_level=None)
    try:
        db.execute(f"PRAGMA page_size = {PAGE_BYTES}")
        # All at once: by what a kill could leave before the id is written, the next start could not tell whose file it is.
        # Not with in_transaction: after BEGIN IMMEDIATE, auto_vacuum has no effect.
        db.execute("BEGIN")
        db.execute("PRAGMA auto_vacuum = INCREMENTAL")
        db.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
        for statement in SCHEMA:
            db.execute(statement)
        db.execute("INSERT INTO journal VALUES (1, ?, ?, 1, NULL)", (journal_id, now_ns))
        if first > 1:  # earlier journals used these numbers
            db.execute("INSERT INTO void VALUES (1, ?)", (first - 1,))
        db.execute("COMMIT")
        db.execute("PRAGMA journal_mode = WAL").fetchall()
    finally:
        db.close()
    new.rename(path)
    sync_folder(path.parent)
    return open_store(path, sync=sync)


def open_store(path: Path, *, sync: str) -> Store:
    """Open a journal, and check as much of it as can be checked quickly. A journal of an earlier version is upgraded.

    Raises:
        JournalDamagedError: The file is damaged or is not a journal.
        JournalNewerError: It is a journal of a newer program.
        JournalError: The file cannot be used now: the disk is full, or another program holds it.
    """
    wal = beside(path, "-wal")
    if wal.exists() and (magic := _head(wal)) not in _WAL_MAGIC and magic.strip(b"\0"):
        raise JournalDamagedError(f"{path}: its write-ahead log is damaged")  # SQLite would silently ignore it
    with translated_errors(path):
        db = sqlite3.connect(uri(path, "rw"), uri=True, isolation_level=None, timeout=BUSY_S, check_same_thread=False)
        try:
            version = check_kind(path, db)
            _set_up(db, sync)
            unchecked_to = _check_content(path, db)
            if version < SCHEMA_VERSION:
                upgrade(path, db, version)
            return Store(path, db, unchecked_to)
        except sqlite3.OperationalError as error:
            db.close()
            if "readonly" in str(error):  # permissions were checked, so the file's own header says so
                raise JournalDamagedError(f"{path}: {error}") from error
            raise
        except BaseException:
            db.close()
            raise


def rename_damaged(path: Path) -> Path | None:
    """Rename a damaged journal and its logs to `<name>.damaged-<time>`. Returns the new name, or None if there is no file.

    The file's content stays as it is: `sqlite3 FILE .recover` may still read it. Only the newest damaged files are kept.

    Raises:
        JournalError: The file is another program's.
        OSError: The file cannot be renamed.
    """
    if not any(name.exists() for name in files_of(path)):
        return None
    if is_foreign(path):
        raise JournalError(f"{path}: another program's file is in the journal's place", hint="move it away")
    stamp = f"{datetime.now(timezone.utc):%Y%m%dT%H%M%S}"
    names = (beside(path, f".damaged-{stamp}{f'-{n}' if n else ''}") for n in range(1000))
    aside = next(name for name in names if not any(f.exists() for f in files_of(name)))
    for old, new in zip(files_of(path), files_of(aside), strict=True):
        with contextlib.suppress(FileNotFoundError):
            old.rename(new)
    sync_folder(path.parent)
    damaged = (f for f in path.parent.iterdir() if f.name.startswith(f"{path.name}.damaged-"))
    others = sorted({f.with_name(f.name.removesuffix("-wal").removesuffix("-shm")) for f in damaged} - {aside})
    for old in others[: max(0, len(others) - ASIDE_KEPT + 1)]:
        for name in files_of(old):
            name.unlink(missing_ok=True)
    return aside


def _set_up(db: sqlite3.Connection, sync: str) -> None:
    for pragma in (
        "journal_mode = WAL",
        f"synchronous = {'FULL' if sync == 'full' else 'NORMAL'}",
        f"wal_autocheckpoint = {WAL_PAGES}",
        f"journal_size_limit = {WAL_PAGES * PAGE_BYTES}",
        "secure_delete = OFF",  # some builds of SQLite overwrite deleted data
        "cell_size_check = ON",
        "trusted_schema = OFF",
        "cache_size = -8192",
    ):
        db.execute(f"PRAGMA {pragma}").fetchall()


def _check_content(path: Path, db: sqlite3.Connection) -> int:
    """Check all of a small journal, or the newest entries of a large one. Returns the highest number that was not checked."""
    extent = read_extent(db)
    unchecked_to = max(0, extent.settled_to - NEWEST_CHECKED)
    if path.stat().st_size <= WHOLE_CHECK_BYTES:
        unchecked_to = 0
        if (report := db.execute("PRAGMA integrity_check(1)").fetchone()[0]) != "ok":
            raise JournalDamagedError(f"{path}: {' '.join(str(report).split())}")
    first = max(extent.first_kept, unchecked_to + 1)
    while first <= extent.settled_to:
        first = read_page(db, first, None, limit=2000, max_bytes=8 << 20).next
    return unchecked_to


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


def _head(path: Path) -> bytes:
    with path.open("rb") as f:
        return f.read(4)
