"""Checks that a journal may be at a path, before anything there is opened for writing, renamed or deleted.

Runs in the command, or on the thread that opens the journal.
"""

from __future__ import annotations

import contextlib
import sqlite3
from pathlib import Path

from anoseg_engines.errors import ConfigError
from anoseg_engines.permissions import ENTER, looking
from anosegd.journal.format import APPLICATION_ID, beside, files_of, refuse_newer
from anosegd.journal.numbers import holds_record
from anosegd.journal.reader import uri
from anosegd.journal.types import JournalConfig

SQLITE = b"SQLite format 3\0"
_TABLES = {"journal", "entry", "void"}
_LOG = (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")
_BEGINNINGS = {
    "-wal": _LOG,
    ".seq": (b"\0", b"anoseg-seq"),
    ".bundles": (b"{",),
    ".thresholds": (b"{",),
    ".recipe": (b"{",),
}
_WRITTEN = (".new", ".copying")
"""A new journal and a copy are written under these names, and what is there is deleted first."""
_CHOOSE = "give the path of a new file, in a folder that only this station uses"


@looking(ConfigError, key="journal.path", hint=ENTER)
def check_place(config: JournalConfig) -> Path:
    """Return the journal's absolute path, with a link followed. Opens no file.

    Raises:
        ConfigError: A journal cannot exist at this path.
    """
    path = Path(config.path).absolute()
    if path.is_symlink():
        if not path.exists():
            raise ConfigError(f"journal.path: {path} is a link to {path.readlink()}, which does not exist", hint=_CHOOSE)
        path = path.resolve()  # the lock and the logs must be beside the file, whatever name a daemon is given
    if path.exists() and not path.is_file():
        raise ConfigError(f"journal.path: {path} is not a file", hint="give the path of a file; a missing file is created")
    if not path.parent.is_dir():
        hint = "create the folder, writable for the daemon's user"
        raise ConfigError(f"journal.path: {path.parent}: no such folder", hint=hint)
    if path.exists() and path.stat().st_nlink > 1:
        what = f"journal.path: {path} has a second name (a hard link), so two daemons could use it"
        raise ConfigError(what, hint="delete the other name, or make a copy")
    for name in _companions(path):
        if name.is_symlink() or (name.exists() and not name.is_file()):
            raise ConfigError(f"journal.path: {name} belongs to the journal, but is not a file of its own", hint=_CHOOSE)
    return path


def check_content(path: Path) -> None:
    """Check that the files at a journal's path are a journal's, perhaps damaged ones.

    Call it only while this process has no journal open there: to close a file ends all locks that the process holds on it.

    Args:
        path: As `check_place` returns it.

    Raises:
        ConfigError: A file belongs to something else.
        JournalNewerError: The file is the journal of a newer program.
    """
    refuse_newer(path)
    known = holds_record(beside(path, ".seq"))  # a journal was here, whatever its file holds now
    head = _head(path)
    if is_foreign(path) or (head and not known and not _is_journal(path)):
        raise ConfigError(f"journal.path: {path} is not a journal, but another file", hint=_CHOOSE)
    if path.exists() and not head and not known:  # a journal is never empty: another program may keep this file for itself
        what = f"journal.path: {path} is an empty file, and no journal was here before"
        raise ConfigError(what, hint=f"delete the file if nobody needs it, or {_CHOOSE}")
    if not known and not _is_journal(path):
        for suffix, kinds in _BEGINNINGS.items():
            name = beside(path, suffix)
            if (found := _head(name)) and not found.startswith(kinds):
                raise ConfigError(f"journal.path: {name} belongs to another program", hint=_CHOOSE)
    for new in (beside(path, suffix) for suffix in _WRITTEN):
        if _head(new) and not _is_journal(new):
            raise ConfigError(f"journal.path: {new} belongs to another program, and the journal needs this name", hint=_CHOOSE)


def is_foreign(path: Path) -> bool:
    """Return whether the file is another program's SQLite file. A journal that is damaged is not."""
    if not _head(path).startswith(SQLITE) or _is_journal(path):
        return False
    try:
        with contextlib.closing(sqlite3.connect(f"{uri(path, 'ro')}&immutable=1", uri=True)) as db:
            tables = {name for (name,) in db.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
    except sqlite3.Error:  # so damaged that it could be anything
        return False
    return len(tables & _TABLES) < 2


def _is_journal(path: Path) -> bool:
    head = _head(path)
    return head.startswith(SQLITE) and int.from_bytes(head[68:72], "big") == APPLICATION_ID


def _head(path: Path) -> bytes:
    """Return the beginning of a file. It is empty if the file is missing or cannot be read."""
    try:
        with path.open("rb") as file:
            return file.read(100)
    except OSError:
        return b""


def _companions(path: Path) -> list[Path]:
    _, *logs = files_of(path)
    return [
        *logs,
        beside(path, ".seq"),
        beside(path, ".bundles"),
        beside(path, ".thresholds"),
        beside(path, ".recipe"),
        *(name for suffix in _WRITTEN for name in files_of(beside(path, suffix))),
    ]
