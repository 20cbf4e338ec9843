"""Reading the journal: pages of consecutive numbers, from a connection of one's own that never writes."""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from anosegd.journal.types import MAX_SEQ, Entry, JournalDamagedError, JournalError, Page, Range, merged, missing

BUSY_S = 2.0

_ENTRIES = """SELECT seq, CAST(camera AS BLOB), CAST(outcome AS BLOB), captured_ns, committed_ns, kept_ns, crc, header
    FROM entry WHERE seq BETWEEN ? AND ? ORDER BY seq LIMIT ?"""
_VOIDS = """SELECT first, last FROM void WHERE first >= coalesce((SELECT max(first) FROM void WHERE first <= ?), 0)
    AND first <= ? AND last >= ? ORDER BY first"""
_SINCE = """SELECT min(seq) FROM entry WHERE committed_ns >= ? AND seq > coalesce((SELECT max(seq) FROM mark WHERE seq <
    coalesce((SELECT min(seq) FROM mark WHERE latest_ns >= ?), 1 << 62)), 0)"""


class Extent(NamedTuple):
    """What a journal holds. top: the highest number it knows of. barrier: the first number below that is not settled."""

    journal_id: str
    first_kept: int
    barrier: int | None
    top: int

    @property
    def settled_to(self) -> int:
        """Every number up to here carries a verdict, is void, or is gone."""
        return self.top if self.barrier is None else self.barrier - 1


class JournalReader:
    """A reader for one thread, which also makes it. Takes no lock that the writer waits for.

    current: the id of the journal that `path` now holds; when it changes, the file is opened anew. stop_before: a number
    that must not be read yet. on_damage: told what was found, with the journal's id.
    """

    def __init__(
        self,
        path: Path,
        *,
        current: Callable[[], str | None] = lambda: None,
        stop_before: Callable[[], int | None] = lambda: None,
        on_damage: Callable[[str, str], None] = lambda journal_id, what: None,
    ) -> None:
        self._path = path
        self._current, self._stop_before, self._on_damage = current, stop_before, on_damage
        self._db: sqlite3.Connection | None = None
        self._opened_for: str | None = None

    def __enter__(self) -> JournalReader:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def page(self, first: int, last: int | None = None, *, limit: int = 500, max_bytes: int = 1 << 20) -> Page:
        """The numbers from `first` on: at most `limit` verdicts and, beyond one, `max_bytes` of headers; to `last` at most.

        Raises:
            JournalDamagedError: what lies in the file is not what was written; it is being set aside.
            JournalError: the journal cannot be read now, or not so.
        """
        if not (0 < first < MAX_SEQ and limit > 0 and max_bytes > 0):
            raise JournalError(f"no such page: numbers from {first}, {limit} verdicts, {max_bytes} bytes")
        with self._open() as db:
            return read_page(db, first, last, limit=limit, max_bytes=max_bytes, stop_before=self._stop_before)

    def find_since(self, wall_ns: int) -> int:
        """The first number committed at or after a Unix time, by the clock of that moment; the next number if there is none.

        A clock that was set back makes the answer too early, never too late.

        Raises:
            JournalDamagedError, JournalError: as `page`.
        """
        with self._open() as db, snapshot(db):
            bound = max(-MAX_SEQ, min(wall_ns, 2 * MAX_SEQ - 1))
            row = db.execute(_SINCE, (bound, bound)).fetchone()
            settled_to = read_extent(db).settled_to
        return settled_to + 1 if row[0] is None else min(int(row[0]), settled_to + 1)

    def close(self) -> None:
        """Close the connection; the next call opens it again."""
        if self._db is not None:
            self._db.close()
            self._db = None

    @contextmanager
    def _open(self) -> Iterator[sqlite3.Connection]:
        current = self._current()
        if current != self._opened_for:
            self.close()
        try:
            with telling_damage(self._path):
                if self._db is None:
                    self._db = sqlite3.connect(uri(self._path, "ro"), uri=True, isolation_level=None, timeout=BUSY_S)
                    self._opened_for = current
                yield self._db
        except JournalDamagedError as error:
            self.close()
            self._on_damage(current or "", error.what)
            raise


def read_extent(db: sqlite3.Connection) -> Extent:
    """What the journal holds.

    Raises:
        JournalDamagedError: its own record is missing or makes no sense.
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
) -> Page:
    """As `JournalReader.page`, on any connection that is in no transaction.

    Raises:
        JournalDamagedError: an entry fails its checksum, or a settled number is in no entry, void or gone.
        sqlite3.Error: the file cannot be read.
    """
    # Asked before the snapshot, for a header that is replaced by the time it is taken, and after it, for a number that was
    # submitted, held and committed in between.
    before = stop_before()
    with snapshot(db):
        extent = read_extent(db)
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
    if start <= end:
        lost = missing([*voids, *(Range(e.seq, e.seq) for e in entries)], start, end)
        if lost or len(entries) + sum(b - a + 1 for a, b in voids) != end - start + 1:
            number = lost[0].first if lost else start
            raise JournalDamagedError(f"verdict {number} is missing, or in it twice")
    return Page(extent.journal_id, entries, voids, gone, max(end + 1, first), extent.settled_to)


def checked_entry(journal_id: str, row: tuple[Any, ...]) -> Entry:
    """An entry from a row of `seq, camera, outcome, captured_ns, committed_ns, kept_ns, crc, header`.

    Raises:
        JournalDamagedError: it is not what was written.
    """
    *fields, crc, header = row
    if not isinstance(header, bytes) or crc != checksum(fields, header):
        raise JournalDamagedError(f"verdict {row[0]} fails its checksum")
    seq, camera, outcome, captured_ns, committed_ns, _ = fields  # of the right types, as their checksum says
    return Entry(journal_id, seq, camera.decode(), outcome.decode(), captured_ns, committed_ns, header)


def checksum(fields: list[object], header: bytes) -> int:
    """CRC-32 over everything in an entry; texts as bytes."""
    return zlib.crc32(header, zlib.crc32(repr(fields).encode()))


@contextmanager
def snapshot(db: sqlite3.Connection) -> Iterator[None]:
    """Everything read inside is of one moment."""
    db.execute("BEGIN")
    try:
        yield
    finally:
        if db.in_transaction:
            db.execute("ROLLBACK")


@contextmanager
def telling_damage(path: Path) -> Iterator[None]:
    """SQLite's errors as the journal's.

    Raises:
        JournalDamagedError: the file is damaged. JournalError: it cannot be used at the moment.
    """
    try:
        yield
    except sqlite3.Error as error:
        if is_damage(error):
            raise JournalDamagedError(f"{path}: {error}") from error
        raise JournalError(f"{path}: {error}") from error


def is_damage(error: sqlite3.Error) -> bool:
    """Whether it says that the file is not what was written, and not that there is no space, or that another holds it.

    Python has no class of its own for this: SQLITE_CORRUPT and SQLITE_NOTADB are plain DatabaseError. A number that is in the
    file already (IntegrityError), a text that is none, a table that is not there: none of it was written by us.
    """
    told = str(error)
    return type(error) is sqlite3.DatabaseError or isinstance(error, sqlite3.IntegrityError) or told.startswith(_DAMAGE)


_DAMAGE = ("Could not decode to UTF-8", "no such table", "no such index", "no such column")


def uri(path: Path, mode: str) -> str:
    """SQLite's name for a file. mode: ro, rw, rwc."""
    return f"file:{quote(str(path))}?mode={mode}"
