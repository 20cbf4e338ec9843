"""The journal survives SIGKILL and, as system-call traces show, a power failure. The tests use real processes."""

import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.journal_tools import commit, config, open_journal, read_all
from support.paths import SUPPORT

from anosegd.journal.store import PAGE_BYTES, WAL_PAGES

SCRIPT = SUPPORT / "journal_process.py"
KILLS = 40
LOG_HEADER_BYTES, FRAME_HEADER_BYTES = 32, 24
"""Of SQLite's write-ahead log (sqlite.org/fileformat2.html#walformat)."""


def command(path: Path, *, sync: str = "normal", groups: int = 0, end: str = "close", seed: int = 0) -> list[str]:
    return [sys.executable, str(SCRIPT), str(path), sync, str(groups), end, str(seed)]


@dataclass
class Printed:
    """What the processes of all runs printed."""

    given: list[int] = field(default_factory=list)
    done: list[int] = field(default_factory=list)
    discarded: list[int] = field(default_factory=list)
    journal_ids: set[str] = field(default_factory=set)

    def read(self, line: str) -> None:
        kind, *words = line.split()
        if kind == "given":
            self.journal_ids.add(words[0])
            self.given += map(int, words[1:])
        elif kind in ("done", "discarded"):
            getattr(self, kind).extend(map(int, words))
        else:
            assert kind == "ready", line


def run_and_kill(path: Path, printed: Printed, lines: int, seed: int) -> None:
    """Start a process and kill it after `lines` lines, or, if negative, that many milliseconds after its start."""
    with subprocess.Popen(command(path, seed=seed), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            if lines < 0:
                time.sleep(-lines / 1000)
                process.kill()
            for count, line in enumerate(process.stdout):
                if count == lines:
                    process.kill()
                if line.startswith("failed"):
                    process.kill()
                    raise AssertionError(line + process.stderr.read())
                if line.endswith("\n"):
                    printed.read(line)
            assert "Traceback" not in process.stderr.read()
            assert process.wait(60) == -signal.SIGKILL
        finally:
            process.kill()


def test_nothing_reported_done_is_lost_and_no_number_used_twice_through_sigkill(tmp_path: Path) -> None:
    """Killed at random 40 times: each verdict reported done is stored once, and each number is a verdict or void."""
    path, printed, chance = tmp_path / "journal.db", Printed(), random.Random(1)
    for kill in range(KILLS):
        run_and_kill(path, printed, chance.choice((-chance.randrange(50, 250), 0, 5, chance.randrange(3000))), kill)
    journal = open_journal(config(path))
    contents = read_all(journal)
    journal_id = journal.journal_id
    journal.close()
    assert printed.done
    assert len(printed.given) == len(set(printed.given))
    assert printed.given == sorted(printed.given)
    assert printed.journal_ids == {journal_id}
    assert set(printed.done) <= contents.entries.keys() <= set(printed.given)
    assert set(printed.discarded) <= contents.void()
    assert contents.entries.keys() | contents.void() == set(range(1, contents.next))
    assert contents.gone == []
    assert max(printed.given) < contents.next


def test_a_killed_daemon_leaves_some_hundred_numbers_unused(tmp_path: Path) -> None:
    """After a kill, the hole behind the last verdict has at most 500 numbers, however many were used before."""
    path = tmp_path / "journal.db"
    for groups in (1, 200):
        killed = subprocess.run(command(path, groups=groups, end="kill", seed=3), capture_output=True, text=True, timeout=60)
        printed = Printed()
        for line in killed.stdout.splitlines():
            printed.read(line)
        journal = open_journal(config(path))
        hole = read_all(journal).voids[-1]
        assert journal.close()
        assert hole.first == max(printed.done) + 1
        assert 1 <= hole.last - hole.first + 1 <= 500


def test_a_kill_while_a_long_log_begins_again_loses_nothing(tmp_path: Path) -> None:
    """SQLite wrote the header of a new log over a long old one, and was killed before a commit followed. Nothing is damaged.

    The next commit begins the log under the same header again, and cuts it to its usual length.
    """
    journal = open_journal(config(tmp_path / "journal.db"))
    before = [entry for _ in range(10) for entry in commit(journal, 40, size=60_000)]
    assert journal.close()
    with closing(sqlite3.connect(tmp_path / "journal.db", isolation_level=None)) as db:
        db.execute("PRAGMA wal_autocheckpoint = 0")
        db.execute("UPDATE entry SET header = zeroblob(length(header))")
        db.executemany("UPDATE entry SET header = ? WHERE seq = ?", [(entry.header, entry.seq) for entry in before])
        db.execute("PRAGMA wal_checkpoint(PASSIVE)")  # the next commit begins the log again
        db.execute("UPDATE journal SET barrier = 1")
        for file in tmp_path.glob("journal.db*"):
            shutil.copy(file, tmp_path / file.name.replace("journal", "killed"))
    (tmp_path / "killed.db-shm").unlink()
    log = tmp_path / "killed.db-wal"
    assert log.stat().st_size > WAL_PAGES * PAGE_BYTES
    with log.open("r+b") as file:
        file.seek(LOG_HEADER_BYTES)
        file.write(bytes(FRAME_HEADER_BYTES))  # as before the commit's first frame
    journal = open_journal(config(tmp_path / "killed.db"))
    after = commit(journal, 1)
    assert log.stat().st_size == WAL_PAGES * PAGE_BYTES
    after += commit(journal, 1)  # the journal's thread has looked at its files again
    assert journal.notices == []
    assert list(read_all(journal).entries) == [entry.seq for entry in (*before, *after)]
    assert {entry.journal_id for entry in (*before, *after)} == {journal.journal_id}


needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed: apt-get install strace")
COMMITS = 40


def traced(path: Path, sync: str) -> list[str]:
    """What a process did while it committed verdicts one by one: `write` or `sync` of its write-ahead log, and `done`."""
    trace = path.with_name("trace")
    strace = ["strace", "-f", "-y", "-s", "5", "-e", "trace=write,pwrite64,fsync,fdatasync", "-o", str(trace)]
    subprocess.run([*strace, *command(path, sync=sync, groups=COMMITS)], check=True, capture_output=True, timeout=120)
    kinds = (
        (r"pwrite64\(\d+<[^>]*-wal>", "write"),
        (r"f(data)?sync\(\d+<[^>]*-wal>", "sync"),
        (r'write\(1<[^>]*>, "done ', "done"),
    )
    calls = [kind for line in trace.read_text().splitlines() for pattern, kind in kinds if re.search(r"^\d+ +" + pattern, line)]
    return calls[calls.index("done") + 1 : len(calls) - calls[::-1].index("done")]  # without the start and the end


@needs_strace
def test_sync_full_syncs_each_commit_before_it_is_done(tmp_path: Path) -> None:
    """The log is synced after every verdict is written and before it is reported done."""
    calls = traced(tmp_path / "journal.db", "full")
    assert calls.count("done") == COMMITS - 1
    for n in [n for n, call in enumerate(calls) if call == "done"]:
        before = calls[max((i for i in range(n) if calls[i] == "done"), default=-1) + 1 : n]
        assert "write" in before
        assert before[-1] == "sync"


@needs_strace
def test_sync_normal_does_not_sync_a_commit(tmp_path: Path) -> None:
    """The same verdicts are written to the log, but the log is not synced."""
    calls = traced(tmp_path / "journal.db", "normal")
    assert calls.count("done") == COMMITS - 1
    assert "write" in calls
    assert "sync" not in calls


@needs_strace
def test_numbers_are_synced_before_they_are_used(tmp_path: Path) -> None:
    """A number is given out only after its reservation was written to the .seq file and synced."""
    path, trace = tmp_path / "journal.db", tmp_path / "trace"
    strace = ["strace", "-f", "-y", "-s", "120", "-e", "trace=write,pwrite64,fdatasync", "-o", str(trace)]
    subprocess.run([*strace, *command(path, groups=400)], check=True, capture_output=True, timeout=120)
    written = reserved = given = blocks = 0
    for line in trace.read_text().splitlines():
        if found := re.search(r'pwrite64\(\d+<[^>]*\.seq>, "anoseg-seq/1 \w+ (\d+) \d+ \w{8}\\n', line):
            written = int(found[1])
        elif re.search(r"(fdatasync\(\d+<[^>]*\.seq>\)|fdatasync resumed>\)) += 0", line) and written > reserved:
            reserved, blocks = written, blocks + 1
        elif found := re.search(r'write\(1<[^>]*>, "given \w+ ([\d ]+)\\n', line):
            given = max(map(int, found[1].split()))
            assert given <= reserved
    assert given > 300
    assert blocks >= 3
