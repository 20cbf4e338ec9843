"""On a full disk inspection continues, and the journal works again when there is space."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.journal_tools import commit, config, eventually, open_journal, read_all, submit
from support.paths import SUPPORT

from anosegd.journal import JournalError

SCRIPT = SUPPORT / "journal_no_writing.py"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A separate file system of 4 MiB."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("may not mount here")
    try:
        yield disk
    finally:
        subprocess.run(["umount", disk], check=True)


def fill(disk: Path) -> Path:
    """Fill the remaining space with another file."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as f:
        for size in (65536, 4096, 1):
            try:
                while f.write(bytes(size)) == size:
                    pass
            except OSError:
                continue
    return filler


def test_verdicts_are_not_stored_while_the_disk_is_full(small_disk: Path) -> None:
    """Commits report their failure, numbers and readers continue. With space again, commits work and the holes are void."""
    path = small_disk / "journal.db"
    journal = open_journal(config(path))
    before = commit(journal, 50, size=1000)
    filler = fill(small_disk)
    answers = [submit(journal, size=30_000) for _ in range(100)]
    failed = {entries[0].seq for entries, answer in answers if answer.error is not None}
    kept = {entries[0].seq for entries, answer in answers if answer.error is None}  # allocated space is used up first
    assert len(failed) > 50
    assert all(isinstance(answer.error, (JournalError, type(None))) for _, answer in answers)
    assert {entries[0].journal_id for entries, _ in answers} == {before[0].journal_id}
    assert not journal.stats().working
    assert list(read_all(journal).entries)[:50] == [e.seq for e in before]
    filler.unlink()
    eventually(lambda: failed <= read_all(journal).void())
    after = commit(journal)
    assert journal.stats().working
    assert journal.close()
    journal = open_journal(config(path))
    contents = read_all(journal)
    assert journal.close()
    assert contents.entries.keys() == {e.seq for e in before} | kept | {e.seq for e in after}
    assert contents.void() == failed


def test_a_daemon_starts_on_a_full_disk_and_stores_verdicts_once_there_is_space(small_disk: Path) -> None:
    """Each verdict gets an identity and an error. Later the existing journal continues, and no number is used twice."""
    path = small_disk / "journal.db"
    journal = open_journal(config(path))
    before = commit(journal, 50, size=1000)
    assert journal.close()
    filler = fill(small_disk)
    begun: list[str] = []
    journal = open_journal(config(path), on_new_journal=begun.append)
    during = []
    for _ in range(50):
        entries, answer = submit(journal, size=60_000)
        during += [(e.journal_id, e.seq, answer.error is None) for e in entries]
    assert not all(committed for *_, committed in during)
    filler.unlink()
    eventually(lambda: submit(journal)[1].error is None)
    (after,) = commit(journal)
    contents = read_all(journal)
    assert journal.close()
    assert after.journal_id == before[0].journal_id
    seqs = [e.seq for e in before] + [seq for _, seq, _ in during] + [after.seq]
    assert seqs == sorted(set(seqs))
    committed = {seq for journal_id, seq, committed in during if committed}
    assert {e.seq for e in before} | committed | {after.seq} <= contents.entries.keys()
    assert not {seq for _, seq, committed in during if not committed} & contents.entries.keys()


def test_a_journal_is_created_once_there_is_space(small_disk: Path) -> None:
    """The daemon starts although only the .seq file fits on the disk; the journal is created later."""
    (small_disk / "journal.db.seq").write_bytes(bytes(12288))
    filler = fill(small_disk)
    begun: list[str] = []
    journal = open_journal(config(small_disk / "journal.db"), on_new_journal=begun.append)
    unsaved = [submit(journal) for _ in range(5)]
    assert all(isinstance(answer.error, JournalError) for _, answer in unsaved)
    assert [e[0].seq for e, _ in unsaved] == [1, 2, 3, 4, 5]
    with journal.reader() as reader, pytest.raises(JournalError):
        reader.page(1)
    filler.unlink()
    eventually(lambda: begun)
    (verdict,) = commit(journal)
    assert journal.close()
    assert verdict.journal_id == begun[0] != unsaved[0][0][0].journal_id
    assert verdict.seq > 5


def test_no_write_at_all(tmp_path: Path) -> None:
    """Numbers cannot be reserved either: those in hand are used up, then verdicts get another journal_id; later all works."""
    done = subprocess.run(
        [sys.executable, str(SCRIPT), str(tmp_path / "journal.db")], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert (result["errors"], result["working"], result["alive"]) == (["JournalError"], False, True)
    seqs = [seq for _, seq in result["failed"]]
    ids = [journal_id for journal_id, _ in result["failed"]]
    assert seqs == list(range(21, 721))
    assert set(ids[:400]) == {result["file_id"]}
    assert ids[-1] != result["file_id"]
    assert ids == sorted(ids, key=lambda each: each != result["file_id"])  # the file's id returns only with a new reservation
    assert min(result["after"]) > max(seqs)
    assert list(map(int, result["entries"])) == result["before"] + result["after"]
    assert result["entries"][str(result["before"][0])] == "UNKNOWN"  # the amendment was written in the end
    assert {seq for journal_id, seq in result["failed"]} <= set(result["void"])
    assert result["notices"] == []
