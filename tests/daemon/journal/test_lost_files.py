"""Files of a journal that are deleted or replaced while the daemon runs: it says so, saves what it can, and goes on."""

import os
import random
import sqlite3
import subprocess
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest
from support.journal_tools import commit, config, entry, eventually, open_journal, read_all, submit

from anosegd.journal import Entry, Journal, JournalError, background, store, writer
from anosegd.journal.file_guard import FileGuard


def beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def replaced(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def copied_back(path: Path) -> None:
    """As a backup program or an editor may do: the content is the same, the file another."""
    replaced(path, path.read_bytes())


def assert_set_aside(path: Path, journal: Journal, after: list[Entry]) -> None:
    """The damaged file is kept under another name, and the new journal has what was committed since."""
    assert [p.suffix for p in path.parent.iterdir() if "damaged" in p.name and not p.name.endswith(("-wal", "-shm"))]
    assert journal.close()
    reopened = open_journal(config(path))
    assert list(read_all(reopened).entries.values())[1:] == after
    assert reopened.close()


LOST: dict[str, Callable[[Path], object]] = {
    "log deleted": lambda p: beside(p, "-wal").unlink(),
    "log moved away": lambda p: beside(p, "-wal").rename(p.with_name("elsewhere")),
    "log replaced by a copy": lambda p: copied_back(beside(p, "-wal")),
    "index deleted": lambda p: beside(p, "-shm").unlink(),
    "both deleted": lambda p: (beside(p, "-wal").unlink(), beside(p, "-shm").unlink()),
    ".seq deleted": lambda p: beside(p, ".seq").unlink(),
    ".seq replaced": lambda p: replaced(beside(p, ".seq"), random.Random(1).randbytes(12288)),
}


@pytest.mark.parametrize("lose", LOST.values(), ids=LOST.keys())
def test_a_file_lost_while_the_daemon_runs(tmp_path: Path, lose: Callable[[Path], object]) -> None:
    """The journal does not work until the file is back. It loses no verdict, and no number is used again."""
    path = tmp_path / "verdicts.db"
    journal = open_journal(config(path))
    with journal.reader() as reader:
        before = commit(journal, 20)
        assert reader.page(1).entries == before
        lose(path)
        eventually(lambda: not journal.stats().working)
        assert "moved, deleted or replaced" in str(journal.stats().last_error)
        eventually(lambda: journal.stats().working)
        assert journal.journal_id == before[0].journal_id
        after = commit(journal, 3)
        assert after[0].seq > before[-1].seq
        eventually(lambda: reader.page(1).entries == [*before, *after])  # a reader that was open does not stay behind
    assert any("closed and opened again" in notice for notice in journal.notices)
    assert journal.close()
    assert [p.name for p in tmp_path.iterdir() if "damaged" in p.name] == []
    reopened = open_journal(config(path))
    assert list(read_all(reopened).entries.values()) == [*before, *after]
    assert not [notice for notice in reopened.notices if "left out" in notice]
    assert reopened.close()


OVERWRITTEN: dict[str, Callable[[Path], object]] = {
    "other content": lambda log: log.write_bytes(random.Random(1).randbytes(log.stat().st_size)),
    "a shorter text": lambda log: log.write_text("precious"),
    "emptied": lambda log: log.write_bytes(b""),
    "its own beginning": lambda log: os.truncate(log, log.stat().st_size // 2),
    "its first bytes": lambda log: log.write_bytes(bytes(16) + log.read_bytes()[16:]),
}


@pytest.mark.parametrize("overwrite", OVERWRITTEN.values(), ids=OVERWRITTEN.keys())
def test_a_log_that_is_overwritten_in_its_place(tmp_path: Path, overwrite: Callable[[Path], object]) -> None:
    """SQLite would not notice. The damaged journal is set aside, and a new one begins, which loses nothing from then on."""
    path = tmp_path / "verdicts.db"
    journal = open_journal(config(path))
    before = commit(journal, 20)
    overwrite(beside(path, "-wal"))
    eventually(lambda: journal.journal_id != before[0].journal_id and path.exists())
    eventually(lambda: submit(journal)[1].error is None)  # a number that was given out before the new file is ready is void
    after = commit(journal, 20)
    assert after[0].seq > before[-1].seq
    assert any("overwritten by another program" in notice for notice in journal.notices)
    assert_set_aside(path, journal, after)


@pytest.mark.parametrize("left", [0, 100, 8192, 100_000])
def test_a_journal_that_is_cut_in_its_place(tmp_path: Path, left: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a program does that empties large files. It is set aside, and a new one begins, which loses nothing from then on."""
    if left == 0:  # reading it through, which may come first, would say that there is no such table
        monkeypatch.setattr(background.Background, "check", lambda *_: None)
    path = tmp_path / "verdicts.db"
    journal = open_journal(config(path))
    before = [each for _ in range(10) for each in commit(journal, 60)]
    with closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()
    assert path.stat().st_size > left
    os.truncate(path, left)
    eventually(lambda: journal.journal_id != before[0].journal_id and path.exists())
    eventually(lambda: submit(journal)[1].error is None)
    after = commit(journal, 20)
    assert after[0].seq > before[-1].seq
    assert any("cut or emptied by another program" in notice or "malformed" in notice for notice in journal.notices)
    assert_set_aside(path, journal, after)


@pytest.mark.parametrize("left", [0, 100, 8192, 100_000])
def test_a_cut_is_noticed_before_a_page_is_read(tmp_path: Path, left: int) -> None:
    """SQLite itself makes the file shorter only in a way that the guard knows."""
    path = tmp_path / "verdicts.db"
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA auto_vacuum = FULL")
        db.execute("PRAGMA journal_mode = WAL").fetchall()
        db.execute("CREATE TABLE filler (content)")
        db.execute("INSERT INTO filler VALUES (zeroblob(400000))")
        db.execute("PRAGMA wal_checkpoint").fetchall()
        guard = FileGuard(path, db)
        db.execute("UPDATE filler SET content = zeroblob(200000)")
        guard.note()
        db.execute("PRAGMA wal_checkpoint").fetchall()
        assert 200_000 < path.stat().st_size < 300_000
        assert not guard.cut
        os.truncate(path, left)
        assert guard.cut


def test_an_earlier_copy_that_is_written_over_a_running_journal(tmp_path: Path) -> None:
    """As by a person who restores a backup and does not stop the daemon. The file keeps its length, so it is read through."""
    path = tmp_path / "verdicts.db"
    journal = open_journal(config(path))
    before = [each for _ in range(5) for each in commit(journal, 60)]
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        subprocess.run(["cp", path, tmp_path / "backup"], check=True)  # to close the file here would end SQLite's locks
        for _ in range(30):
            commit(journal, 60)
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    subprocess.run(["dd", f"if={tmp_path}/backup", f"of={path}", "conv=notrunc", "status=none"], check=True)
    eventually(lambda: journal.journal_id not in (None, before[0].journal_id) and path.exists())
    eventually(lambda: submit(journal)[1].error is None)
    assert [p for p in tmp_path.iterdir() if "damaged" in p.name]
    assert journal.close()


@pytest.mark.parametrize("who", ["background", "journal", "SQLite"])
def test_copies_of_the_log_are_not_another_programs_writes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, who: str) -> None:
    """Whoever makes them: they give no reason to read the file through."""
    checked: list[int] = []
    monkeypatch.setattr(background.Background, "check", lambda _, __, to: checked.append(to))
    monkeypatch.setattr(writer, "COPY_LOG_PAGES", 20 if who == "background" else 10**6)
    monkeypatch.setattr(writer, "CUT_PAGES", 20 if who == "journal" else 10**6)
    monkeypatch.setattr(store, "WAL_PAGES", 10**6 if who == "background" else 60)
    path = tmp_path / "verdicts.db"
    journal = open_journal(config(path))
    times = set()
    while len(times) < 6:
        commit(journal, 2, size=3000)
        times.add(path.stat().st_mtime_ns)
    eventually(lambda: not journal._background.log_in_use.locked())
    time.sleep(0.5)
    assert checked == []
    for module, limit in ((writer, "COPY_LOG_PAGES"), (writer, "CUT_PAGES"), (store, "WAL_PAGES")):
        monkeypatch.setattr(module, limit, 10**6)  # nothing of the log may be copied before the other program does it
    commit(journal)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    eventually(lambda: checked)
    assert journal.close()


def test_a_log_that_sqlite_itself_changes_is_no_loss(tmp_path: Path) -> None:
    """A backup may have SQLite truncate the log, and a person may write with the command sqlite3."""
    path = tmp_path / "verdicts.db"
    journal = open_journal(config(path))
    first = commit(journal, 20)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        assert other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone() == (0, 0, 0)
        time.sleep(0.5)
        second = commit(journal, 20)
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
        other.execute("DELETE FROM mark")
        time.sleep(0.5)
        third = commit(journal, 20)
    time.sleep(0.5)
    assert list(read_all(journal).entries.values()) == [*first, *second, *third]
    assert not [notice for notice in journal.notices if "overwritten" in notice]
    assert journal.close()
    assert [p.name for p in tmp_path.iterdir() if "damaged" in p.name] == []


def test_a_journal_whose_marks_another_program_deleted(tmp_path: Path) -> None:
    """They only make a search by time quick. The journal opens again, and goes on."""
    path = tmp_path / "verdicts.db"
    journal = open_journal(config(path))
    before = [each for _ in range(12) for each in commit(journal, 60)]
    assert journal.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        assert other.execute("DELETE FROM mark").rowcount
    journal = open_journal(config(path))
    after = commit(journal, 20)
    assert list(read_all(journal).entries.values()) == [*before, *after]
    assert journal.close()


def test_no_verdict_is_committed_into_a_lost_log(tmp_path: Path) -> None:
    """Every verdict whose commit succeeded is there after a crash, however soon after the loss it came."""
    path = tmp_path / "verdicts.db"
    journal = open_journal(config(path))
    committed: list[Entry] = []
    refused = 0
    for n in range(400):
        if n == 100:
            beside(path, "-wal").unlink()
        made = entry(journal.next_id())
        answers: list[Exception | None] = []
        journal.submit([made], lambda _, error, answers=answers: answers.append(error))  # type: ignore[misc]
        eventually(lambda answers=answers: bool(answers))
        if answers[0] is None:
            committed.append(made)
        else:
            refused += 1
            time.sleep(0.02)
    assert refused > 0
    assert len(committed) > 110
    assert set(committed) <= set(read_all(journal).entries.values())
    assert journal.close()
    reopened = open_journal(config(path))
    assert set(committed) <= set(read_all(reopened).entries.values())
    assert reopened.close()


def test_a_second_daemon_is_refused_after_the_lock_was_deleted(tmp_path: Path) -> None:
    """The first one puts its lock back within a second."""
    path = tmp_path / "verdicts.db"
    journal = open_journal(config(path))
    commit(journal)
    beside(path, ".seq").unlink()
    eventually(lambda: beside(path, ".seq").exists())
    with pytest.raises(JournalError, match="in use by another daemon"):
        Journal.open(config(path))
    eventually(lambda: journal.stats().working)
    commit(journal)
    assert journal.close()


def test_all_files_deleted_begin_a_new_journal(tmp_path: Path) -> None:
    """Numbers keep rising, and the notices say that the old journal is missing."""
    folder = tmp_path / "journal"
    folder.mkdir()
    path = folder / "verdicts.db"
    begun: list[str] = []
    journal = open_journal(config(path), on_new_journal=begun.append)
    old = commit(journal, 5)
    # All at once: deleted one after another, the last of them may already be files of the new journal, which is then left too.
    folder.rename(tmp_path / "deleted")
    folder.mkdir()
    eventually(lambda: bool(begun))  # before that, numbers carry an id of this process, and are refused
    (new,) = commit(journal)
    assert new.journal_id == begun[0] != old[0].journal_id
    assert new.seq > old[-1].seq
    assert journal.close()
    assert any("is missing" in notice for notice in journal.notices)
    assert sorted(p.name for p in folder.iterdir()) == ["verdicts.db", "verdicts.db.seq"]
