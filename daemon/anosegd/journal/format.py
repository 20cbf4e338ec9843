"""Owns the format of the journal's file: its tables, its version, and the upgrade from earlier versions.

Runs on the journal's thread, or before that thread is started.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from pathlib import Path

from anosegd import logs
from anosegd.journal import feedback
from anosegd.journal.numbers import sync_folder
from anosegd.journal.reader import uri
from anosegd.journal.types import JournalDamagedError, JournalNewerError

APPLICATION_ID = 0x414E4F53  # "ANOS"
SCHEMA_VERSION = 5
_REQUESTS = """CREATE TABLE request (number INTEGER PRIMARY KEY, request_id TEXT NOT NULL, camera TEXT NOT NULL,
    part_id TEXT NOT NULL, at_ns INTEGER NOT NULL)"""
_CHANGES = """CREATE TABLE change (number INTEGER PRIMARY KEY, at_ns INTEGER NOT NULL, kind TEXT NOT NULL, camera TEXT,
    old TEXT NOT NULL, new TEXT NOT NULL, who TEXT NOT NULL, why TEXT NOT NULL)"""
_ASKED = "CREATE TABLE asked (number INTEGER PRIMARY KEY, recipe TEXT NOT NULL)"
_TALLY = (
    "CREATE TABLE tally (camera TEXT NOT NULL, outcome TEXT NOT NULL, count INTEGER NOT NULL, PRIMARY KEY (camera, outcome))",
    """CREATE TRIGGER tally_added AFTER INSERT ON entry BEGIN
    INSERT INTO tally VALUES (new.camera, new.outcome, 1)
    ON CONFLICT (camera, outcome) DO UPDATE SET count = count + 1; END""",
    """CREATE TRIGGER tally_removed AFTER DELETE ON entry BEGIN
    UPDATE tally SET count = count - 1 WHERE camera = old.camera AND outcome = old.outcome; END""",
    """CREATE TRIGGER tally_amended AFTER UPDATE OF camera, outcome ON entry BEGIN
    UPDATE tally SET count = count - 1 WHERE camera = old.camera AND outcome = old.outcome;
    INSERT INTO tally VALUES (new.camera, new.outcome, 1)
    ON CONFLICT (camera, outcome) DO UPDATE SET count = count + 1; END""",
)
SCHEMA = (
    """CREATE TABLE journal (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), journal_id TEXT NOT NULL,
    begun_ns INTEGER NOT NULL, first_kept INTEGER NOT NULL, barrier INTEGER)""",
    # kept_ns: by the journal's own clock, which decides an entry's age. crc: over the rest of the row.
    """CREATE TABLE entry (seq INTEGER PRIMARY KEY, camera TEXT NOT NULL, outcome TEXT NOT NULL, captured_ns INTEGER NOT NULL,
    committed_ns INTEGER NOT NULL, kept_ns INTEGER NOT NULL, crc INTEGER NOT NULL, header BLOB NOT NULL)""",
    # After every MARK_EVERY entries, the latest committed_ns since the previous mark: an index by time that is rarely written.
    "CREATE TABLE mark (seq INTEGER PRIMARY KEY, latest_ns INTEGER NOT NULL)",
    "CREATE TABLE void (first INTEGER PRIMARY KEY, last INTEGER NOT NULL)",
    "CREATE TABLE consumer (name TEXT PRIMARY KEY, seq INTEGER NOT NULL, acked_ns INTEGER NOT NULL)",
    # Accepted triggers whose parts have no verdict yet.
    "CREATE TABLE owed (number INTEGER PRIMARY KEY, camera TEXT NOT NULL, part_id TEXT NOT NULL, at_ns INTEGER NOT NULL)",
    # The newest triggers with a request id, answered or not.
    _REQUESTS,
    # Changes that people made to thresholds and bundles.
    _CHANGES,
    # How many entries each camera has, by outcome. The triggers keep it equal to the entries.
    *_TALLY,
    # The marks that persons gave to parts.
    *feedback.TABLE,
    # The recipes that owed triggers asked for.
    _ASKED,
)
UPGRADES: dict[int, tuple[str, ...]] = {
    1: (_REQUESTS,),
    2: (_CHANGES, *_TALLY, "INSERT INTO tally SELECT camera, outcome, count(*) FROM entry GROUP BY camera, outcome"),
    3: feedback.TABLE,
    4: (_ASKED,),
}
"""For each earlier version, the statements that make the next version of it."""


def refuse_newer(path: Path) -> None:
    """Look at the head of the file at `path`, if there is one.

    Raises:
        JournalNewerError: It is a journal of a newer program.
    """
    try:
        with path.open("rb") as file:
            head = file.read(72)
    except OSError:
        return
    application_id, version = (int.from_bytes(head[at : at + 4], "big") for at in (68, 60))
    if len(head) == 72 and application_id == APPLICATION_ID and version > SCHEMA_VERSION:
        raise _newer(path, version)


def _newer(path: Path, version: int) -> JournalNewerError:
    return JournalNewerError(
        f"{path}: a journal of version {version}; this program reads versions up to {SCHEMA_VERSION}",
        hint="update anoseg-edge on this machine, or set another journal.path",
    )


def upgrade(path: Path, db: sqlite3.Connection, version: int) -> None:
    """Bring a journal to this version, step by step in one transaction. Copies the file first."""
    stamp = f"{datetime.now(timezone.utc):%Y%m%dT%H%M%S}"
    backup = beside(path, f".version-{version}-{stamp}")
    new = beside(path, ".copying")
    new.unlink(missing_ok=True)
    try:
        with contextlib.closing(sqlite3.connect(uri(new, "rwc"), uri=True)) as copy:
            db.backup(copy)
        with new.open("rb") as file:
            os.fsync(file.fileno())
        new.rename(backup)
        sync_folder(path.parent)
    except BaseException:
        for leftover in files_of(new):
            leftover.unlink(missing_ok=True)
        raise
    with in_transaction(db):
        for step in range(version, SCHEMA_VERSION):
            for statement in UPGRADES[step]:
                db.execute(statement)
        db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()  # a program that looks at the file's head finds the version there
    logs.info("journal.upgraded", path=str(path), version=SCHEMA_VERSION, backup=str(backup))


def check_kind(path: Path, db: sqlite3.Connection) -> int:
    """Return the version of the journal.

    Raises:
        JournalDamagedError: It is not a journal.
        JournalNewerError: It is a journal of a newer program.
    """
    application_id, version = (db.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
    if application_id != APPLICATION_ID:
        raise JournalDamagedError(f"{path}: not a journal")
    if version > SCHEMA_VERSION:
        raise _newer(path, version)
    schema = set(SCHEMA) - {statement for step, added in UPGRADES.items() if step >= version for statement in added}
    own = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite^_%' ESCAPE '^'"
    if version < 1 or {sql for (sql,) in db.execute(own)} != schema:
        raise JournalDamagedError(f"{path}: its tables are not those of a journal of version {version}")
    return int(version)


@contextmanager
def in_transaction(db: sqlite3.Connection) -> Iterator[None]:
    """Commit what the block writes, or nothing of it."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            with contextlib.suppress(sqlite3.Error):
                db.execute("ROLLBACK")
        raise


def beside(path: Path, suffix: str) -> Path:
    """Return the path with a longer name."""
    return path.with_name(path.name + suffix)


def files_of(path: Path) -> tuple[Path, Path, Path]:
    """Return the paths of the file, its write-ahead log and its shared memory."""
    return path, beside(path, "-wal"), beside(path, "-shm")
