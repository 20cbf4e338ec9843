"""What the guard of the write-ahead log takes for the work of SQLite, and what for another program's. The logs are made up."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from anosegd.journal.log_guard import HEADER_BYTES, LogGuard

LIMIT = 500
MAGIC = b"\x37\x7f\x06\x82"


def write_log(log: Path, number: int, size: int) -> None:
    """Write a log with the header of its `number`th beginning."""
    log.write_bytes((MAGIC + bytes([number]) * HEADER_BYTES)[:HEADER_BYTES] + bytes(size - HEADER_BYTES))


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "journal.db-wal"
    write_log(path, 1, 2 * LIMIT)
    return path


@pytest.fixture
def guard(tmp_path: Path, log: Path) -> Iterator[LogGuard]:
    with closing(sqlite3.connect(tmp_path / "other.db")) as db:
        yield LogGuard(log, db, size_limit_bytes=LIMIT)


def test_the_first_commit_may_cut_a_log_under_the_same_header(log: Path, guard: LogGuard) -> None:
    """A kill can leave a header without a commit. Notes without a change before the commit change nothing."""
    guard.note()
    write_log(log, 1, LIMIT)
    guard.note()
    assert not guard.overwritten


def test_a_commit_after_one_that_failed_may_cut_a_log_under_the_same_header(log: Path, guard: LogGuard) -> None:
    """A commit that fails after it has written the header leaves it for the next one."""
    write_log(log, 2, 2 * LIMIT)
    guard.note()
    write_log(log, 3, 2 * LIMIT)
    guard.note(failed=True)
    guard.note()
    assert not guard.overwritten
    write_log(log, 3, LIMIT)
    guard.note()
    assert not guard.overwritten


@pytest.mark.parametrize("size", [LIMIT + 100, LIMIT, HEADER_BYTES])
def test_a_log_with_commits_is_never_cut_under_the_same_header(log: Path, guard: LogGuard, size: int) -> None:
    """Whatever is left of it, another program did that, and a later commit does not hide it."""
    write_log(log, 2, 2 * LIMIT)
    guard.note()
    write_log(log, 2, size)
    assert guard.overwritten
    guard.note()
    assert guard.overwritten


def test_a_log_is_never_cut_below_the_limit_under_the_same_header(log: Path, guard: LogGuard) -> None:
    """SQLite cuts a log to the limit and no further."""
    write_log(log, 1, LIMIT - 1)
    guard.note()
    assert guard.overwritten
