"""Reads pages of consecutive numbers from the journal, through a connection that never writes.

Each thread has its own reader.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from operator import itemgetter
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from anosegd.journal.feedback import PartMark, PartNote, current_marks, notes_after
from anosegd.journal.types import MAX_SEQ, Change, Entry, JournalDamagedError, JournalError, Page, Range, merged, missing

BUSY_S = 2.0

_ENTRIES = """SELECT seq, CAST(camera AS BLOB), CAST(outcome AS BLOB), captured_ns, committed_ns, kept_ns, crc, header
    FROM entry WHERE seq BETWEEN ? AND ? ORDER BY seq LIMIT ?"""
_ENTRY = _ENTRIES.replace("BETWEEN ? AND ? ORDER BY seq LIMIT ?", "= ?")
_VOIDS = """SELECT first, last FROM void WHERE first >= coalesce((SELECT max(first) FROM void WHERE first <= ?), 0)
    AND first <= ? AND last >= ? ORDER BY first"""
_SINCE = """SELECT min(seq) FROM entry WHERE committed_ns >= ? AND seq > coalesce((SELECT max(seq) FROM mark WHERE seq <
    coalesce((SELECT min(seq) FROM mark WHERE latest_ns >= ?), 1 << 62)), 0)"""

_NEWEST = "SELECT number, at_ns, kind, camera, old, new, who, why FROM change ORDER BY number DESC LIMIT ?"
_CHANGES = "SELECT number, at_ns, kind, camera, old, new, who, why FROM change WHERE number > ? ORDER BY number LIMIT ?"


class Extent(NamedTuple):
    """Describes the numbers in a journal's file.

    Attributes:
        first_kept: Lower numbers are gone.
        barrier: The first number below `top` that is still pending, if any.
        top: The highest number in the file.
    """

    journal_id: str
    first_kept: int
    barrier: int | None
    top: int

    @property
    def settled_to(self) -> int:
        """Every number up to here is a verdict, void or gone."""
        return self.top if self.barrier is None else self.barrier - 1


class JournalReader:
    """A reader for one thread. The writing thread never waits for it."""

    def __init__(
        self,
        path: Path,
        *,
        current: Callable[[], str | None] = lambda: None,
        openings: Callable[[], int] = lambda: 0,
        stop_before: Callable[[], int | None] = lambda: None,
        on_damage: Callable[[str, str], None] = lambda journal_id, what: None,
        mode: str = "ro",
        ended: bool = False,
    ) -> None:
        """Prepare a reader; it opens the file when it is first used.

        Args:
            path: The journal's file.
            current: The id of the journal that `path` now holds. When it changes, the file is opened again.
            openings: How often the journal's own thread has opened a file. When it changes, the file is opened again.
            stop_before: The first number that must not be read yet, if any.
            on_damage: Called with the journal's id and a description if the file is damaged.
            mode: How SQLite opens the file.
            ended: No daemon is going to settle what is pending: numbers without a verdict are void.
        """
        self._mode, self._ended = mode, ended
        self._path = path
        self._current, self._openings, self._stop_before, self._on_damage = current, openings, stop_before, on_damage
        self._db: sqlite3.Connection | None = None
        self._opened_for: tuple[str | None, int] = (None, 0)

    def __enter__(self) -> JournalReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def page(self, first: int, last: int | None = None, *, limit: int = 500, max_bytes: int = 1 << 20) -> Page:
        """Return the numbers from `first` on.

        Args:
            first: The first number.
            last: The last number; None reads to the end.
            limit: The most verdicts on the page.
            max_bytes: The most bytes of headers, unless the first verdict alone has more.

        Raises:
            JournalDamagedError: The file differs from what was written. It is being set aside.
            JournalError: The journal cannot be read now, or the arguments are out of range.
        """
        if not (0 < first < MAX_SEQ and limit > 0 and max_bytes > 0):
            raise JournalError(f"page out of range: from number {first}, {limit} verdicts, {max_bytes} bytes")
        with self._open() as db:
            return read_page(
                db, first, last, limit=limit, max_bytes=max_bytes, stop_before=self._stop_before, ended=self._ended
            )

    def find_since(self, wall_ns: int) -> int:
        """Return the first number committed at or after a Unix time; the next number if there is none.

        If the clock was set back, the answer may be too early but never too late.

        Raises:
            JournalDamagedError: As for `page`.
            JournalError: As for `page`.
        """
        with self._open() as db, snapshot(db):
            bound = max(-MAX_SEQ, min(wall_ns, 2 * MAX_SEQ - 1))
            row = db.execute(_SINCE, (bound, bound)).fetchone()
            extent = read_extent(db)
            settled_to = extent.top if self._ended else extent.settled_to
        return settled_to + 1 if row[0] is None else min(int(row[0]), settled_to + 1)

    def changes(self, limit: int = 100) -> list[Change]:
        """Return the newest changes that people made, ascending.

        Raises:
            JournalDamagedError: As for `page`.
            JournalError: As for `page`.
        """
        return [change for _, change in self.numbered_changes(limit)[1]]

    def numbered_changes(self, limit: int, *, after: int | None = None) -> tuple[str, list[tuple[int, Change]]]:
        """Return the journal's id, and changes that people made with their numbers, ascending.

        Args:
            limit: The most changes.
            after: Return the oldest changes with greater numbers than this; None returns the newest changes.

        Raises:
            JournalDamagedError: As for `page`.
            JournalError: As for `page`.
        """
        with self._open() as db, snapshot(db):
            journal_id = read_extent(db).journal_id
            if not _has_table(db, "change"):
                return journal_id, []  # the file of an earlier version, read while its station is down
            rows = db.execute(_NEWEST, (limit,)) if after is None else db.execute(_CHANGES, (after, limit))
            return journal_id, sorted(((row[0], Change(*row[1:])) for row in rows), key=itemgetter(0))

    def notes(self, after: int, *, limit: int) -> tuple[str, list[PartNote]]:
        """Return the journal's id, and what people said about parts in notes with greater numbers, the oldest first.

        Raises:
            JournalDamagedError: As for `page`.
            JournalError: As for `page`.
        """
        with self._open() as db, snapshot(db):
            journal_id = read_extent(db).journal_id
            return journal_id, notes_after(db, after, limit=limit) if _has_table(db, "feedback") else []

    def entries(self, seqs: Sequence[int]) -> list[Entry]:
        """Return the verdicts with these numbers. Numbers without a verdict that may be read are left out.

        Raises:
            JournalDamagedError: As for `page`.
            JournalError: As for `page`.
        """
        with self._open() as db, snapshot(db):
            extent = read_extent(db)
            stop = self._stop_before()
            settled_to = extent.settled_to if stop is None else min(extent.settled_to, stop - 1)
            rows = (db.execute(_ENTRY, (seq,)).fetchone() for seq in seqs if seq <= settled_to)
            return [checked_entry(extent.journal_id, row) for row in rows if row is not None]

    def marks(self, first: int, last: int | None, *, newest_first: bool = False, limit: int = -1) -> list[PartMark]:
        """Return what people said about the parts with the numbers from `first` to `last`; only what counts now.

        Args:
            first: The first number.
            last: The last number; None reads to the end.
            newest_first: The other order.
            limit: The most marks; -1 returns all.

        Raises:
            JournalDamagedError: As for `page`.
            JournalError: As for `page`.
        """
        with self._open() as db:
            if not _has_table(db, "feedback"):
                return []  # the file of an earlier version, read while its station is down
            end = MAX_SEQ if last is None else last
            return current_marks(db, first, end, newest_first=newest_first, limit=limit)

    def close(self) -> None:
        """Close the connection. The next call opens it again."""
        if self._db is not None:
            self._db.close()
            self._db = None

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        current = self._current()
        opened_for = (current, self._openings())
        if opened_for != self._opened_for:
            self.close()
        try:
            with translated_errors(self._path):
                if self._db is None:
                    self._db = sqlite3.connect(uri(self._path, self._mode), uri=True, isolation_level=None, timeout=BUSY_S)
                    self._opened_for = opened_for
                yield self._db
        except JournalDamagedError as error:
            self.close()
            self._on_damage(current or "", error.what)
            raise


def _has_table(db: sqlite3.Connection, name: str) -> bool:
    return db.execute("SELECT 1 FROM sqlite_master WHERE name = ?", (name,)).fetchone() is not None


def read_extent(db: sqlite3.Connection) -> Extent:
    """Return the numbers in the file.

    Raises:
        JournalDamagedError: The record of the journal is missing or invalid.
    """
    row = db.execute(
        """SELECT journal_id, first_kept, barrier, (SELECT max(seq) FROM entry),
        (SELECT last FROM void ORDER BY first DESC LIMIT 1) FROM journal"""
    ).fetchone()
    if row is None or not isinstance(row[0], str) or not all(isinstance(n, int) for n in row[1:] if n is not None):
        raise JournalDamagedError("the record of the journal itself is damaged")
    journal_id, first_kept, barrier, last_entry, last_void = row
    return Extent(journal_id, first_kept, barrier, max(last_entry or 0, last_void or 0, first_kept - 1))


def read_page(
    db: sqlite3.Connection,
    first: int,
    last: int | None,
    *,
    limit: int,
    max_bytes: int,
    stop_before: Callable[[], int | None] = lambda: None,
    ended: bool = False,
) -> Page:
    """As `JournalReader.page`, on any connection outside a transaction. `ended` as for `JournalReader`.

    Raises:
        JournalDamagedError: An entry fails its checksum, or a number is in none or several of entries, voids and gone.
        sqlite3.Error: The file cannot be read.
    """
    # Asked before the snapshot, because a replacement may be written before the snapshot begins; and asked again inside it,
    # because a verdict may have been submitted, held and committed in between.
    before = stop_before()
    with snapshot(db):
        extent = read_extent(db)
        if ended:
            extent = extent._replace(barrier=None)
        stops = [stop for stop in (before, stop_before()) if stop is not None]
        end = extent.settled_to if last is None else min(last, extent.settled_to)
        end = min([end, *(stop - 1 for stop in stops)])
        gone = Range(first, min(extent.first_kept - 1, end)) if first < extent.first_kept and first <= end else None
        start = gone.last + 1 if gone else first
        entries: list[Entry] = []
        size = 0
        for row in db.execute(_ENTRIES, (start, end, limit)):
            entry = checked_entry(extent.journal_id, row)
            if entries and size + len(entry.header) > max_bytes:
                end = entry.seq - 1
                break
            entries.append(entry)
            size += len(entry.header)
        if len(entries) == limit:
            end = entries[-1].seq
        voids = merged([Range(max(a, start), min(b, end)) for a, b in db.execute(_VOIDS, (start, end, start)) if start <= end])
    if start <= end and ended:
        voids = merged([*voids, *missing([*voids, *(Range(e.seq, e.seq) for e in entries)], start, end)])
    if start <= end:
        lost = missing([*voids, *(Range(e.seq, e.seq) for e in entries)], start, end)
        if lost or len(entries) + sum(b - a + 1 for a, b in voids) != end - start + 1:
            number = lost[0].first if lost else start
            raise JournalDamagedError(f"verdict {number} is missing, or in the file twice")
    return Page(extent.journal_id, entries, voids, gone, max(end + 1, first), extent.settled_to)


def checked_entry(journal_id: str, row: tuple[Any, ...]) -> Entry:
    """Return an entry from a row of `seq, camera, outcome, captured_ns, committed_ns, kept_ns, crc, header`.

    Raises:
        JournalDamagedError: The row differs from what was written.
    """
    *fields, crc, header = row
    if not isinstance(header, bytes) or crc != checksum(fields, header):
        raise JournalDamagedError(f"verdict {row[0]} fails its checksum")
    seq, camera, outcome, captured_ns, committed_ns, _ = fields  # the checksum proves their types
    return Entry(journal_id, seq, camera.decode(), outcome.decode(), captured_ns, committed_ns, header)


def checksum(fields: list[object], header: bytes) -> int:
    """CRC-32 of everything in an entry, with texts as bytes."""
    return zlib.crc32(header, zlib.crc32(repr(fields).encode()))


@contextmanager
def snapshot(db: sqlite3.Connection) -> Iterator[None]:
    """Make everything that is read inside come from one moment."""
    db.execute("BEGIN")
    try:
        yield
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


@contextmanager
def translated_errors(path: Path) -> Iterator[None]:
    """Translate SQLite's errors into the journal's.

    Raises:
        JournalDamagedError: The file is damaged.
        JournalError: The file cannot be used now.
    """
    try:
        yield
    except sqlite3.Error as error:
        if is_damage(error):
            raise JournalDamagedError(f"{path}: {error}") from error
        raise JournalError(f"{path}: {error}") from error


def is_damage(error: sqlite3.Error) -> bool:
    """Whether an error means that the file is damaged, rather than that the disk is full or another program holds the file.

    Python has no class for this: SQLITE_CORRUPT and SQLITE_NOTADB are plain DatabaseError. The daemon never writes a number
    twice (IntegrityError), invalid text, or a file without its tables.
    """
    plain = type(error) is sqlite3.DatabaseError
    return plain or isinstance(error, sqlite3.IntegrityError) or str(error).startswith(_DAMAGE)


_DAMAGE = ("Could not decode to UTF-8", "no such table", "no such index", "no such column")


def uri(path: Path, mode: str) -> str:
    """SQLite's URI of a file; `mode` is ro, rw or rwc."""
    return f"file:{quote(str(path))}?mode={mode}"
