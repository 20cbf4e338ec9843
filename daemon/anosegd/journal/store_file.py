"""Creates, opens and checks the journal's SQLite file, and renames a damaged one. Runs on the journal's thread."""

from __future__ import annotations

import contextlib
import sqlite3
from datetime import datetime, timezone
from pathlib import Path

from anosegd.journal.format import (
    APPLICATION_ID,
    SCHEMA,
    SCHEMA_VERSION,
    beside,
    check_kind,
    files_of,
    upgrade,
)
from anosegd.journal.numbers import sync_folder
from anosegd.journal.place import is_foreign
from anosegd.journal.reader import BUSY_S, read_extent, read_page, translated_errors, uri
from anosegd.journal.store import PAGE_BYTES, WAL_PAGES, Store
from anosegd.journal.types import JournalDamagedError, JournalError

WHOLE_CHECK_BYTES = 32 << 20
"""A file up to this size is checked whole at the start (in half a second), a larger one only its newest entries."""
NEWEST_CHECKED = 1000
ASIDE_KEPT = 3
_WAL_MAGIC = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")


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


def _head(path: Path) -> bytes:
    with path.open("rb") as f:
        return f.read(4)
