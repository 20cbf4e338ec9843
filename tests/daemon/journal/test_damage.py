"""Damaged journal files, found at the start or later, have the documented outcome and never give a wrong verdict."""

import os
import random
import shutil
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path

import pytest
from support.journal_tools import (
    Answer,
    Contents,
    commit,
    config,
    entry,
    eventually,
    open_journal,
    read_all,
    submit,
)
from support.paths import SUPPORT

from anoseg_engines.errors import AnosegError
from anosegd.journal import Journal, JournalDamagedError, JournalError, JournalReader, Page
from anosegd.journal import background as journal_background
from anosegd.journal import store_file as journal_file
from anosegd.journal import writer as journal_writer
from anosegd.journal.format import APPLICATION_ID
from anosegd.journal.numbers import SeqFile

SCRIPT = SUPPORT / "journal_process.py"
Damage = Callable[[Path], object]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Contents]:
    """A journal whose daemon was killed, and its contents. Part of them is still in the write-ahead log."""
    path = tmp_path_factory.mktemp("original") / "journal.db"

    def write(groups: int, end: str) -> None:
        subprocess.run(
            [sys.executable, str(SCRIPT), str(path), "normal", str(groups), end, "5"], capture_output=True, timeout=60
        )

    write(150, "close")
    write(60, "kill")
    assert path.with_name("journal.db-wal").stat().st_size > 50_000
    copy = copy_of(path, tmp_path_factory.mktemp("copy"))
    journal = open_journal(config(copy))
    contents = read_all(journal)
    assert journal.close()
    assert len(contents.entries) > 500
    return path, contents


def copy_of(path: Path, folder: Path) -> Path:
    shutil.copytree(path.parent, folder, dirs_exist_ok=True)
    return folder / path.name


@pytest.fixture
def path(original: tuple[Path, Contents], tmp_path: Path) -> Path:
    return copy_of(original[0], tmp_path / "journal")


def beside(path: Path, suffix: str) -> Path:
    return path.with_name(path.name + suffix)


def aside(path: Path) -> list[Path]:
    return sorted(p for p in path.parent.iterdir() if ".damaged-" in p.name and not p.name.endswith(("-wal", "-shm")))


def overwrite(path: Path, at: int, data: bytes) -> None:
    with path.open("r+b") as f:
        f.seek(at)
        f.write(data)


def flip(path: Path, at: int) -> None:
    byte = path.read_bytes()[at]
    overwrite(path, at, bytes([byte ^ 0x10]))


def change(statement: str) -> Damage:
    def damage(path: Path) -> None:
        with closing(sqlite3.connect(path, isolation_level=None)) as db:
            db.execute(statement).fetchall()

    return damage


def log_copied(path: Path) -> Path:
    """Copy the write-ahead log into the file; otherwise the log would repair the first page."""
    change("PRAGMA wal_checkpoint(TRUNCATE)")(path)
    return path


def another_database(path: Path) -> None:
    for suffix in ("", "-wal", "-shm"):
        beside(path, suffix).unlink(missing_ok=True)
    change("CREATE TABLE recipes (name TEXT)")(path)


SET_ASIDE: dict[str, Damage] = {
    "file of no bytes": lambda p: os.truncate(p, 0),
    "file cut in its header": lambda p: os.truncate(p, 60),
    "file cut between two pages": lambda p: os.truncate(p, p.stat().st_size // 8192 * 4096),
    "file cut within a page": lambda p: os.truncate(p, p.stat().st_size // 2 + 100),
    "zeros for a header": lambda p: overwrite(log_copied(p), 0, bytes(100)),
    "zeros for its second half": lambda p: overwrite(p, p.stat().st_size // 2, bytes(p.stat().st_size // 2)),
    "random bytes for a file": lambda p: p.write_bytes(random.Random(1).randbytes(100_000)),
    "text for a file": lambda p: p.write_text("this is no journal\n" * 1000),
    "table dropped": change("DROP TABLE void"),
    "trigger added": change("CREATE TRIGGER t AFTER INSERT ON entry BEGIN DELETE FROM entry; END"),
    "verdict deleted": change("DELETE FROM entry WHERE seq = 77"),
    "verdict changed": change("UPDATE entry SET outcome = 'PASS ' WHERE seq = 77"),
    "number in it twice": change("INSERT INTO void VALUES (77, 78)"),
    "its own record deleted": change("DELETE FROM journal"),
    "text where a number is": change("UPDATE journal SET first_kept = 'x'"),
    "write-ahead log missing": lambda p: beside(p, "-wal").unlink(),
    "write-ahead log of no bytes": lambda p: os.truncate(beside(p, "-wal"), 0),
    "write-ahead log of random bytes": lambda p: beside(p, "-wal").write_bytes(random.Random(1).randbytes(50_000)),
    "write-ahead log cut": lambda p: os.truncate(beside(p, "-wal"), 30_000),
    "write-ahead log with a bit flipped": lambda p: flip(beside(p, "-wal"), 30_000),
    "file missing, its log not": lambda p: p.unlink(),
    "an old copy in its place": lambda p: change("DELETE FROM entry WHERE seq > 200")(p),
}


def test_a_file_that_cannot_be_set_aside_owes_no_part_twice(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the same file is opened again, this run's triggers are still with their cameras: only a restart leaves them owed."""

    def read_only(path: Path) -> None:
        raise OSError(30, "Read-only file system")

    journal = open_journal(config(path))
    noted = threading.Event()
    journal.accept("top", "P-1", 1, lambda error: noted.set())
    assert noted.wait(20)
    monkeypatch.setattr(journal_writer, "rename_damaged", read_only)
    same_id = journal.journal_id
    journal._report_damage(same_id, "a page does not match its checksum")
    eventually(lambda: any("checksum" in notice for notice in journal.notices))
    eventually(lambda: journal.next_id().journal_id == same_id)
    commit(journal)
    assert journal.take_owed() == []
    assert journal.close()
    assert [t.part_id for t in open_journal(config(path)).take_owed()] == ["P-1"]


@pytest.mark.parametrize("damage", SET_ASIDE.values(), ids=SET_ASIDE.keys())
def test_a_damaged_journal_is_set_aside_and_a_new_one_begun(
    path: Path, original: tuple[Path, Contents], damage: Damage
) -> None:
    """A notice says so, the damaged file is kept under a new name, numbers keep rising, and the new journal works."""
    before = original[1]
    damage(path)
    journal = open_journal(config(path))
    new = commit(journal, 3)
    contents = read_all(journal)
    assert journal.close()
    assert any("begins with number" in notice for notice in journal.notices)
    assert any("set aside as" in notice for notice in journal.notices)
    assert any(".damaged-" in p.name for p in path.parent.iterdir())
    assert new[0].journal_id != before.entries[1].journal_id
    assert new[0].seq > max(before.entries)
    assert list(contents.entries.values()) == new
    assert contents.void() == set(range(1, new[0].seq))


def garbage_seq_file(path: Path) -> None:
    beside(path, ".seq").write_bytes(random.Random(1).randbytes(12288))


KEPT: dict[str, Damage] = {
    "index of the log of random bytes": lambda p: beside(p, "-shm").write_bytes(random.Random(1).randbytes(32768)),
    "index of the log missing": lambda p: beside(p, "-shm").unlink(),
    "opened by a person with sqlite3": change("SELECT count(*) FROM entry"),
    "analysed by a person with sqlite3": change("ANALYZE"),
    ".seq file missing": lambda p: beside(p, ".seq").unlink(),
    ".seq file cut": lambda p: os.truncate(beside(p, ".seq"), 50),
    ".seq file of random bytes": garbage_seq_file,
    ".seq file with one record torn": lambda p: flip(beside(p, ".seq"), 20),
}


@pytest.mark.parametrize("damage", KEPT.values(), ids=KEPT.keys())
def test_repairable_damage_keeps_the_journal(path: Path, original: tuple[Path, Contents], damage: Damage) -> None:
    """Every verdict is still stored, and no number is used again."""
    before = original[1]
    damage(path)
    journal = open_journal(config(path))
    (new,) = commit(journal)
    contents = read_all(journal)
    assert journal.close()
    assert aside(path) == []
    assert new.journal_id == before.entries[1].journal_id
    assert new.seq > max(before.entries)
    assert list(contents.entries.values()) == [*before.entries.values(), new]


def test_a_lost_seq_file_leaves_out_a_million_numbers_and_says_which(path: Path, original: tuple[Path, Contents]) -> None:
    """The notice names the numbers that the journal then declares void."""
    known_to = original[1].next - 1
    beside(path, ".seq").unlink()
    journal = open_journal(config(path))
    (new,) = commit(journal)
    contents = read_all(journal)
    assert journal.close()
    left_out = contents.voids[-1]
    assert left_out.last - known_to <= 1_000_000
    assert new.seq == left_out.last + 1
    assert any(f"to {left_out.last} are left out; this loses no verdict" in notice for notice in journal.notices)


@pytest.mark.parametrize("seed", range(4))
def test_a_flipped_bit_anywhere_never_gives_a_wrong_verdict(original: tuple[Path, Contents], tmp_path: Path, seed: int) -> None:
    """One bit is flipped in each of ten copies: the journal is set aside, or it still gives exactly what was written."""
    before, chance = original[1], random.Random(seed)
    outcomes = set()
    for n in range(10):
        path = copy_of(original[0], tmp_path / str(n))
        name = beside(path, chance.choice(("", "", "-wal")))
        flip(name, chance.randrange(name.stat().st_size))
        journal = open_journal(config(path))
        (new,) = commit(journal)
        contents = read_all(journal)
        assert journal.close()
        outcomes.add(not aside(path))
        if not aside(path):
            assert list(contents.entries.values()) == [*before.entries.values(), new]
    assert False in outcomes


def test_verdicts_lost_in_a_power_failure_are_reported_and_void(path: Path, original: tuple[Path, Contents]) -> None:
    """After a restart of the machine, missing verdicts are not damage: sync normal may lose some. No number is reused."""
    before = original[1]
    seq_file = SeqFile.open(beside(path, ".seq"))
    seq_file._boot = "another-boot"
    seq_file.note_committed(seq_file.journal_id, seq_file.committed)
    seq_file.close()
    beside(path, "-wal").unlink()
    journal = open_journal(config(path))
    (new,) = commit(journal)
    contents = read_all(journal)
    assert journal.close()
    assert any("not on the disk when the machine stopped" in notice for notice in journal.notices)
    assert new.journal_id == before.entries[1].journal_id
    assert new.seq > max(before.entries)
    lost = before.entries.keys() - contents.entries.keys()
    assert lost
    assert lost <= contents.void()


def test_only_the_newest_damaged_files_are_kept(path: Path) -> None:
    """A disk that damages the journal before every start does not fill up with damaged journals."""
    for _ in range(6):
        os.truncate(path, 60)
        journal = open_journal(config(path))
        commit(journal)
        assert journal.close()
    assert len(aside(path)) == journal_file.ASIDE_KEPT


# ---- found while the daemon runs


@pytest.fixture
def unchecked(path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A journal with a damaged old entry, so large that only its newest entries are checked at the start."""
    change("UPDATE entry SET header = 'x' || header WHERE seq = 5")(path)
    monkeypatch.setattr(journal_file, "WHOLE_CHECK_BYTES", 0)
    monkeypatch.setattr(journal_file, "NEWEST_CHECKED", 50)
    return path


@pytest.fixture
def running(unchecked: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Journal, list[str]]]:
    """An open journal whose old entries are never checked in the background."""
    monkeypatch.setattr(journal_background.Background, "check", lambda *_: None)
    begun: list[str] = []
    journal = open_journal(config(unchecked), on_new_journal=begun.append)
    yield journal, begun
    assert journal.close()


def test_damage_found_by_a_reader_starts_a_new_journal(running: tuple[Journal, list[str]]) -> None:
    """The reader gets an error and no wrong verdict. Then the journal and the reader continue under a new id."""
    journal, begun = running
    old = commit(journal)[0]
    in_flight = entry(journal.next_id())
    with journal.reader() as reader:
        with pytest.raises(JournalDamagedError):
            reader.page(1)
        eventually(lambda: begun)
        assert begun == [journal.journal_id] != [old.journal_id]
        journal.submit([in_flight], answer := Answer())
        assert isinstance(answer.error, JournalError)
        (new,) = commit(journal)
        assert new.seq > in_flight.seq > old.seq
        assert reader.page(new.seq).entries == [new]
    assert len(aside(journal.path)) == 1


def test_damage_is_found_without_a_reader(unchecked: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The old entries of a large journal are checked while the daemon runs."""
    monkeypatch.setattr(journal_background, "CHECK_EVERY_S", 0.02)
    begun: list[str] = []
    journal = open_journal(config(unchecked), on_new_journal=begun.append)
    eventually(lambda: begun)
    commit(journal)
    assert journal.close()
    assert len(aside(journal.path)) == 1


def test_a_large_undamaged_journal_is_checked_once_and_kept(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The background check ends, finds nothing, and the journal stays."""
    monkeypatch.setattr(journal_file, "WHOLE_CHECK_BYTES", 0)
    monkeypatch.setattr(journal_file, "NEWEST_CHECKED", 50)
    monkeypatch.setattr(journal_background, "CHECK_EVERY_S", 0.005)
    begun: list[str] = []
    journal = open_journal(config(path), on_new_journal=begun.append)
    eventually(lambda: not (journal._background._requested or journal._background._unchecked))
    assert journal.close()
    assert (begun, aside(path)) == ([], [])


def test_a_check_that_is_running_ends_before_the_next(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """However often another one is requested. It begins with the first number, and no request is lost."""
    monkeypatch.setattr(journal_background, "CHECK_EVERY_S", 0.005)
    monkeypatch.setattr(journal_background, "ROWS_EACH", 20)
    read: list[int] = []
    page = JournalReader.page

    def noted(self: JournalReader, first: int, *limits: int, **more: int) -> Page:
        read.append(first)
        if len(read) < 5:
            journal._background.check(journal_id, 100)
        return page(self, first, *limits, **more)

    journal = open_journal(config(path))
    journal_id = str(journal.journal_id)
    monkeypatch.setattr(JournalReader, "page", noted)
    journal._background.check(journal_id, 100)
    eventually(lambda: len(read) >= 10)
    time.sleep(0.1)
    assert journal.close()
    assert read == [1, 21, 41, 61, 81] * 2


@pytest.mark.parametrize("what", ["deleted", "moved away", "another put in its place"])
def test_a_file_taken_away_is_noticed(path: Path, tmp_path: Path, what: str) -> None:
    """A new journal begins, because the next start would not find the old file."""
    begun: list[str] = []
    journal = open_journal(config(path), on_new_journal=begun.append)
    old = commit(journal)[0]
    if what == "deleted":
        path.unlink()
    elif what == "moved away":
        path.rename(tmp_path / "taken.db")
    else:
        other = tmp_path / "other.db"
        other.write_bytes(b"other")
        other.replace(path)  # in one step: a journal that begins in between would be overwritten
    eventually(lambda: begun)
    (new,) = commit(journal)
    assert journal.close()
    assert new.journal_id != old.journal_id
    assert new.seq > old.seq
    reopened = open_journal(config(path))
    assert read_all(reopened).entries == {new.seq: new}
    assert reopened.close()


def test_a_file_cut_while_the_daemon_runs_ends_in_a_new_journal(path: Path) -> None:
    """No thread dies; verdicts are refused for a while and then committed again."""
    begun: list[str] = []
    journal = open_journal(config(path), on_new_journal=begun.append)
    commit(journal)
    os.truncate(path, 4096)
    with journal.reader() as reader, pytest.raises(JournalError):
        reader.page(1)
    submit(journal)
    eventually(lambda: begun)
    commit(journal)
    assert all(worker.alive for worker in journal.workers)
    assert journal.close()


# ---- what is refused


def test_a_read_only_place_is_refused(path: Path) -> None:
    """The error names the path, the exit code is 1, and nothing changes. Root needs a read-only mount for this test."""
    root = os.geteuid() == 0
    if root and subprocess.run(["mount", "--bind", path.parent, path.parent], capture_output=True).returncode:
        pytest.skip("may not mount here")
    try:
        if root:
            subprocess.run(["mount", "-o", "remount,ro,bind", path.parent], check=True)
        else:
            path.parent.chmod(0o555)
            path.chmod(0o444)
            beside(path, ".seq").chmod(0o444)
        with pytest.raises(AnosegError) as caught:
            open_journal(config(path))
    finally:
        if root:
            subprocess.run(["umount", path.parent], check=True)
        else:
            path.parent.chmod(0o755)
    assert caught.value.exit_code == 1
    assert str(path) in caught.value.what
    assert aside(path) == []


def test_a_folder_in_its_place_is_refused_and_left_alone(path: Path) -> None:
    """A path that names a folder is an error in the configuration; the folder's content stays."""
    path.unlink()
    path.mkdir()
    (path / "precious").touch()
    with pytest.raises(AnosegError) as caught:
        open_journal(config(path))
    assert caught.value.exit_code == 2
    assert (path / "precious").exists()


def test_another_programs_database_is_refused_and_left_alone(path: Path) -> None:
    """Although a journal was there before: the exit code is 2, and no file is renamed or changed."""
    another_database(path)
    before = {p.name: p.read_bytes() for p in path.parent.iterdir()}
    with pytest.raises(AnosegError, match="another file") as caught:
        open_journal(config(path))
    assert caught.value.exit_code == 2
    assert {p.name: p.read_bytes() for p in path.parent.iterdir()} == before


def test_another_programs_database_put_in_its_place_is_left_alone(path: Path, tmp_path: Path) -> None:
    """While the daemon runs: verdicts are refused until it is moved away; then a new journal begins."""
    journal = open_journal(config(path))
    commit(journal)
    other = tmp_path / "other.db"
    change("CREATE TABLE recipes (name TEXT)")(other)
    content = other.read_bytes()
    for name in (path, beside(path, "-wal"), beside(path, "-shm")):
        name.unlink()
    other.rename(path)
    eventually(lambda: not journal.stats().working)
    eventually(lambda: "another program's file" in str(journal.stats().last_error))
    assert path.read_bytes() == content
    path.rename(other)
    eventually(lambda: journal.stats().working)
    commit(journal)
    assert journal.close()


def test_a_new_journal_has_its_id_from_its_first_byte_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whenever the process is killed, the next start can tell that the file it finds is a journal's, and begins again."""
    path, heads, connect = tmp_path / "journal.db", set(), sqlite3.connect

    class Watched(sqlite3.Connection):
        def execute(self, *arguments: object) -> sqlite3.Cursor:
            done = super().execute(*arguments)  # type: ignore[arg-type]
            if (new := beside(path, ".new")).exists():
                heads.add(new.read_bytes()[68:72])
            return done

    monkeypatch.setattr(sqlite3, "connect", lambda *names, **more: connect(*names, factory=Watched, **more))
    journal_file.create_store(path, journal_id="j", first=1, sync="normal", now_ns=1).close()
    assert heads == {b"", APPLICATION_ID.to_bytes(4, "big")}
    with closing(connect(path)) as db:
        assert db.execute("PRAGMA auto_vacuum").fetchone() == (2,)
