"""The files' format: a journal written by an earlier version opens without loss. The format is spelled out here on purpose."""

import dataclasses
import sqlite3
import threading
import time
import zlib
from contextlib import closing
from pathlib import Path

import pytest
from support.journal_tools import commit, config, eventually, open_journal, read_all

from anosegd.journal import Change, JournalError, Range, Tally, store
from anosegd.journal.retention import DAY_NS

ID = "0123456789abcdef" * 2
VERSION_1 = """
PRAGMA page_size = 4096;
PRAGMA auto_vacuum = INCREMENTAL;
PRAGMA application_id = 0x414E4F53;
PRAGMA user_version = 1;
CREATE TABLE journal (only_row INTEGER PRIMARY KEY CHECK (only_row = 1), journal_id TEXT NOT NULL,
    begun_ns INTEGER NOT NULL, first_kept INTEGER NOT NULL, barrier INTEGER);
CREATE TABLE entry (seq INTEGER PRIMARY KEY, camera TEXT NOT NULL, outcome TEXT NOT NULL, captured_ns INTEGER NOT NULL,
    committed_ns INTEGER NOT NULL, kept_ns INTEGER NOT NULL, crc INTEGER NOT NULL, header BLOB NOT NULL);
CREATE TABLE mark (seq INTEGER PRIMARY KEY, latest_ns INTEGER NOT NULL);
CREATE TABLE void (first INTEGER PRIMARY KEY, last INTEGER NOT NULL);
CREATE TABLE consumer (name TEXT PRIMARY KEY, seq INTEGER NOT NULL, acked_ns INTEGER NOT NULL);
CREATE TABLE owed (number INTEGER PRIMARY KEY, camera TEXT NOT NULL, part_id TEXT NOT NULL, at_ns INTEGER NOT NULL);
"""
VERSION_2 = (
    VERSION_1.replace("user_version = 1", "user_version = 2")
    + """
CREATE TABLE request (number INTEGER PRIMARY KEY, request_id TEXT NOT NULL, camera TEXT NOT NULL,
    part_id TEXT NOT NULL, at_ns INTEGER NOT NULL);
"""
)
VERSION_3 = (
    VERSION_2.replace("user_version = 2", "user_version = 3")
    + """
CREATE TABLE change (number INTEGER PRIMARY KEY, at_ns INTEGER NOT NULL, kind TEXT NOT NULL, camera TEXT,
    old TEXT NOT NULL, new TEXT NOT NULL, who TEXT NOT NULL, why TEXT NOT NULL);
CREATE TABLE tally (camera TEXT NOT NULL, outcome TEXT NOT NULL, count INTEGER NOT NULL, PRIMARY KEY (camera, outcome));
CREATE TRIGGER tally_added AFTER INSERT ON entry BEGIN
    INSERT INTO tally VALUES (new.camera, new.outcome, 1)
    ON CONFLICT (camera, outcome) DO UPDATE SET count = count + 1; END;
CREATE TRIGGER tally_removed AFTER DELETE ON entry BEGIN
    UPDATE tally SET count = count - 1 WHERE camera = old.camera AND outcome = old.outcome; END;
CREATE TRIGGER tally_amended AFTER UPDATE OF camera, outcome ON entry BEGIN
    UPDATE tally SET count = count - 1 WHERE camera = old.camera AND outcome = old.outcome;
    INSERT INTO tally VALUES (new.camera, new.outcome, 1)
    ON CONFLICT (camera, outcome) DO UPDATE SET count = count + 1; END;
"""
)
VERSION_4 = (
    VERSION_3.replace("user_version = 3", "user_version = 4")
    + """
CREATE TABLE feedback (number INTEGER PRIMARY KEY, change INTEGER NOT NULL, seq INTEGER NOT NULL, at_ns INTEGER NOT NULL,
    mark TEXT NOT NULL, comment TEXT NOT NULL, who TEXT NOT NULL, undoes INTEGER);
CREATE INDEX feedback_by_part ON feedback (seq, number);
CREATE INDEX feedback_undone ON feedback (undoes) WHERE undoes IS NOT NULL;
"""
)
VERSION_5 = (
    VERSION_4.replace("user_version = 4", "user_version = 5")
    + """
CREATE TABLE asked (number INTEGER PRIMARY KEY, recipe TEXT NOT NULL);
"""
)


def write_journal(path: Path) -> dict[int, bytes]:
    """A journal of a killed daemon: numbers 11 to 20 with 14 void and 18 pending, up to 10 gone, 400 reserved."""
    headers = {seq: b'{"seq": %d}' % seq for seq in (11, 12, 13, 15, 16, 17, 19, 20)}
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.executescript(VERSION_1)
        db.execute("INSERT INTO journal VALUES (1, ?, 1000, 11, 18)", (ID,))
        for seq, header in headers.items():
            fields = [seq, b"top", b"PASS", 100 + seq, 200 + seq, 300 + seq]
            crc = zlib.crc32(header, zlib.crc32(repr(fields).encode()))
            row = (seq, "top", "PASS", 100 + seq, 200 + seq, 300 + seq, crc, header)
            db.execute("INSERT INTO entry VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        db.execute("INSERT INTO void VALUES (14, 14)")
        db.execute("INSERT INTO consumer VALUES ('archive', 12, 500)")
        db.execute("INSERT INTO owed VALUES (7, 'top', 'P-4711', 600)")
        db.execute("PRAGMA journal_mode = WAL").fetchall()
    return headers


def write_seq_file(path: Path) -> None:
    """Two reservations, the newer one in the second slot, and the note of what was committed."""
    slots = (f"{ID} 200 4", f"{ID} 400 5", f"{ID} 20 some-boot")
    records = [f"anoseg-seq/1 {text} {zlib.crc32(text.encode()):08x}\n".encode().ljust(4096, b"\0") for text in slots]
    path.write_bytes(b"".join(records))


def test_a_journal_of_an_earlier_version_opens_without_loss(tmp_path: Path) -> None:
    """Verdicts, voids, the consumer's cursor, the owed trigger and the reserved numbers are as that version left them."""
    path = tmp_path / "journal.db"
    headers = write_journal(path)
    write_seq_file(tmp_path / "journal.db.seq")
    journal = open_journal(config(path, keep_days=36_500))
    contents = read_all(journal)
    assert (journal.journal_id, journal.notices) == (ID, [])
    assert {seq: e.header for seq, e in contents.entries.items()} == headers
    entry = contents.entries[13]
    assert (entry.camera, entry.outcome, entry.captured_ns, entry.committed_ns) == ("top", "PASS", 113, 213)
    assert journal.stats().stored == Tally({("top", "PASS"): len(headers)}, 211)
    assert (contents.gone, contents.void()) == ([Range(1, 10)], {14, 18} | set(range(21, 401)))
    assert journal.consumer("archive") == 12
    assert [(t.number, t.camera, t.part_id, t.at_ns) for t in journal.take_owed()] == [(7, "top", "P-4711", 600)]
    assert [e.seq for e in commit(journal, 2)] == [401, 402]
    assert journal.close()


def backups(path: Path) -> list[Path]:
    return sorted(path.parent.glob(f"{path.name}.version-*"))


def test_an_upgrade_is_made_once_and_after_a_backup(tmp_path: Path) -> None:
    """The backup is the file as that version left it, which opens again; the second start upgrades nothing."""
    path = tmp_path / "journal.db"
    headers = write_journal(path)
    write_seq_file(tmp_path / "journal.db.seq")
    assert open_journal(config(path, keep_days=36_500)).close()
    (backup,) = backups(path)
    assert backup.name.startswith("journal.db.version-1-")
    with closing(sqlite3.connect(backup)) as db:
        assert dict(db.execute("SELECT seq, header FROM entry")) == headers
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
    assert open_journal(config(path, keep_days=36_500)).close()
    assert backups(path) == [backup]


def test_without_a_backup_there_is_no_upgrade(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the file cannot be copied, the journal stays as it is and says why; when it can, the verdicts are all there."""
    path = tmp_path / "journal.db"
    headers = write_journal(path)
    write_seq_file(tmp_path / "journal.db.seq")
    (tmp_path / "journal.db.copying").mkdir()  # the copy's temporary name is taken, after the place was checked
    monkeypatch.setattr("anosegd.journal.journal.check_place", lambda settings: Path(settings.path))
    journal = open_journal(config(path, keep_days=36_500))
    assert "there is no journal" in str(journal.stats().last_error)
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
    assert backups(path) == []
    (tmp_path / "journal.db.copying").rmdir()
    eventually(lambda: journal.stats().working)
    assert {seq: e.header for seq, e in read_all(journal).entries.items()} == headers
    assert len(backups(path)) == 1
    assert journal.close()


@pytest.mark.parametrize("copied", [True, False], ids=["in the file", "in its write-ahead log"])
def test_a_journal_of_a_newer_program_is_refused(tmp_path: Path, copied: bool) -> None:
    """It is not set aside: the message names both versions, a restart is pointless (exit code 2), and nothing is written."""
    path = tmp_path / "journal.db"
    journal = open_journal(config(path))
    commit(journal)
    assert journal.close()
    with closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA user_version = 6")
        if copied:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
            db.close()
        before = path.read_bytes()
        with pytest.raises(
            JournalError, match=r"(?s)a journal of version 6; this program reads versions up to 5.*update"
        ) as caught:
            open_journal(config(path))
        assert caught.value.exit_code == 2
        assert path.read_bytes() == before
    assert not list(tmp_path.glob("*.damaged-*"))


def test_the_newest_requests_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trigger with a request id is known to the next run, whether it was answered or not; the oldest are forgotten."""
    monkeypatch.setattr(store, "REQUESTS_KEPT", 5)
    path = tmp_path / "journal.db"
    journal = open_journal(config(path))
    noted = threading.Semaphore(0)
    for number in range(8):
        journal.accept("top", "P", number, lambda error: noted.release(), request_id=f"r{number}" if number else None)
        assert noted.acquire(timeout=30)
    assert journal.close()
    known = open_journal(config(path)).take_requests()
    assert [(t.request_id, t.camera, t.part_id, t.at_ns) for t in known] == [(f"r{n}", "top", "P", n) for n in range(3, 8)]


@pytest.mark.parametrize("table", ["request", "owed"])
def test_a_clock_that_went_back_forgets_no_new_request(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, table: str) -> None:
    """The file is full of triggers of a clock that was a year ahead: new triggers are newer than those, and remembered."""
    monkeypatch.setattr(store, "REQUESTS_KEPT", 5)
    path = tmp_path / "journal.db"
    assert open_journal(config(path)).close()
    ahead = time.time_ns() + 365 * DAY_NS
    with closing(sqlite3.connect(path)) as db:
        for number in range(ahead, ahead + 5):
            row = (number, f"old {number}", "top", "P", number) if table == "request" else (number, "top", "P", number)
            db.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)
        db.commit()
    journal = open_journal(config(path))
    noted = threading.Semaphore(0)
    accepted = [journal.accept("top", "P", 1, lambda error: noted.release(), request_id=f"new {n}") for n in range(3)]
    for _ in accepted:
        assert noted.acquire(timeout=30)
    assert min(trigger.number for trigger in accepted) > ahead + 4
    assert journal.close()
    known = [trigger.request_id for trigger in open_journal(config(path)).take_requests()]
    assert known[-3:] == ["new 0", "new 1", "new 2"]
    assert len(known) == (5 if table == "request" else 3)


def test_changes_are_kept_and_the_oldest_are_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who changed what, when and why is there after a restart, in the order of the changes, with any text as it was."""
    monkeypatch.setattr(store, "CHANGES_KEPT", 3)
    path = tmp_path / "journal.db"
    journal = open_journal(config(path))
    noted = threading.Semaphore(0)
    now, why = time.time_ns(), "[/b]\n\x1b=1"  # retention removes old names
    changes = [Change(now + n, "threshold", "top" if n else None, f"0.{n}", f"0.{n + 1}", "Jörg", why) for n in range(5)]
    for change in changes:
        journal.note(change, lambda error: noted.release())
        assert noted.acquire(timeout=30)
    assert journal.close()
    with open_journal(config(path)).reader() as reader:
        assert reader.changes() == changes[2:]
        numbers = [number for number, _ in reader.numbered_changes(3)[1]]
        assert numbers == sorted({*numbers, now // 1000 + 2})  # not one that a power failure has taken back
        assert reader.changes(1) == changes[4:]


def test_the_tally_is_that_of_the_entries(tmp_path: Path) -> None:
    """Verdicts that are added, replaced or deleted for their age: the journal's counts are those of the verdicts it has."""
    path = tmp_path / "journal.db"
    now = [10 * DAY_NS]
    journal = open_journal(config(path, keep_days=1), monotonic_ns=lambda: now[0], wall_ns=lambda: now[0])
    old = commit(journal, 5)
    assert journal.stats().stored.counts == {("top", "PASS"): 5}
    journal.amend(dataclasses.replace(old[0], outcome="UNKNOWN"))
    eventually(lambda: journal.stats().stored.counts == {("top", "PASS"): 4, ("top", "UNKNOWN"): 1})
    now[0] += 2 * DAY_NS
    commit(journal, 2)
    eventually(lambda: journal.stats().first_kept == 6)
    stored = journal.stats().stored
    assert {key: n for key, n in stored.counts.items() if n} == {("top", "PASS"): 2}
    assert journal.close()


def test_the_format_is_as_spelled_out_here(tmp_path: Path) -> None:
    """The schema, the checksums and the .seq file: a later program reads them so."""
    path = tmp_path / "journal.db"
    journal = open_journal(config(path))
    (verdict,) = commit(journal)
    journal_id = journal.journal_id
    assert journal.close()
    with closing(sqlite3.connect(path)) as db, closing(sqlite3.connect(":memory:")) as spelled_out:
        spelled_out.executescript(VERSION_5)
        tables = "SELECT sql FROM sqlite_master WHERE sql IS NOT NULL"
        assert set(db.execute(tables)) == set(spelled_out.execute(tables))
        for name, value in (("page_size", 4096), ("auto_vacuum", 2), ("application_id", 0x414E4F53), ("user_version", 5)):
            assert db.execute(f"PRAGMA {name}").fetchone() == (value,)
        ((*fields, kept_ns, crc, header),) = db.execute("SELECT * FROM entry")
    assert fields == [1, "top", "PASS", verdict.captured_ns, verdict.committed_ns]
    summed = [1, b"top", b"PASS", verdict.captured_ns, verdict.committed_ns, kept_ns]
    assert (header, crc) == (verdict.header, zlib.crc32(header, zlib.crc32(repr(summed).encode())))
    content = (tmp_path / "journal.db.seq").read_bytes()
    assert len(content) == 3 * 4096
    reserved, text = {}, ""
    for slot in range(3):
        kind, _, rest = content[slot * 4096 :].partition(b"\n")[0].decode().partition(" ")
        text, _, crc_text = rest.rpartition(" ")
        assert (kind, crc_text) == ("anoseg-seq/1", f"{zlib.crc32(text.encode()):08x}")
        if slot < 2:
            written_id, to, generation = text.split(" ")
            assert written_id == journal_id
            reserved[int(generation)] = int(to)
    assert reserved[max(reserved)] == 1  # an orderly end gives the rest back
    assert text.startswith(f"{journal_id} 1 ")
