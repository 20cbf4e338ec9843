"""The journal against SIGKILL and, by system-call trace, against power failure: real processes."""

import random
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from support.journal_tools import close_journals, config, open_journal, read_all
from support.paths import SUPPORT


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    yield
    close_journals()


SCRIPT = SUPPORT / "journal_process.py"
KILLS = 40


def command(path: Path, *, sync: str = "normal", groups: int = 0, end: str = "close", seed: int = 0) -> list[str]:
    return [sys.executable, str(SCRIPT), str(path), sync, str(groups), end, str(seed)]


@dataclass
class Said:
    """What the processes said, all runs together."""

    given: list[int] = field(default_factory=list)
    done: list[int] = field(default_factory=list)
    discarded: list[int] = field(default_factory=list)
    journal_ids: set[str] = field(default_factory=set)

    def hear(self, line: str) -> None:
        kind, *words = line.split()
        if kind == "given":
            self.journal_ids.add(words[0])
            self.given += map(int, words[1:])
        elif kind in ("done", "discarded"):
            getattr(self, kind).extend(map(int, words))
        else:
            assert kind == "ready", line


def run_and_kill(path: Path, said: Said, lines: int, seed: int) -> None:
    """Let a process write until it has said so many lines, kill it, hear the rest. Negative: kill it as it starts."""
    with subprocess.Popen(command(path, seed=seed), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            if lines < 0:
                time.sleep(-lines / 1000)
                process.kill()
            for heard, line in enumerate(process.stdout):
                if heard == lines:
                    process.kill()
                if line.endswith("\n"):
                    said.hear(line)
            assert "Traceback" not in process.stderr.read()
            assert process.wait(60) == -signal.SIGKILL
        finally:
            process.kill()


def test_nothing_reported_done_is_lost_and_no_number_used_twice_through_sigkill(tmp_path: Path) -> None:
    """Killed at random forty times: each verdict reported done is there once, each number accounted for, one journal_id."""
    path, said, chance = tmp_path / "journal.db", Said(), random.Random(1)
    for kill in range(KILLS):
        run_and_kill(path, said, chance.choice((-chance.randrange(50, 250), 0, 5, chance.randrange(3000))), kill)
    journal = open_journal(config(path))
    contents = read_all(journal)
    journal_id = journal.journal_id
    journal.close()
    assert said.done
    assert len(said.given) == len(set(said.given))
    assert said.given == sorted(said.given)
    assert said.journal_ids == {journal_id}
    assert set(said.done) <= contents.entries.keys() <= set(said.given)
    assert set(said.discarded) <= contents.void()
    assert contents.entries.keys() | contents.void() == set(range(1, contents.next))
    assert contents.gone == []
    assert max(said.given) < contents.next


def test_a_killed_daemon_leaves_some_hundred_numbers_unused(tmp_path: Path) -> None:
    """After each kill the hole behind its last verdict has at most 500 numbers, however many were used before."""
    path = tmp_path / "journal.db"
    for groups in (1, 200):
        killed = subprocess.run(command(path, groups=groups, end="kill", seed=3), capture_output=True, text=True, timeout=60)
        said = Said()
        for line in killed.stdout.splitlines():
            said.hear(line)
        journal = open_journal(config(path))
        hole = read_all(journal).voids[-1]
        assert journal.close()
        assert hole.first == max(said.done) + 1
        assert 1 <= hole.last - hole.first + 1 <= 500


needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed: apt-get install strace")
COMMITS = 40


def traced(path: Path, sync: str) -> list[str]:
    """What a process did to its write-ahead log while it committed one verdict after the other: `write`, `sync`, `done`."""
    trace = path.with_name("trace")
    strace = ["strace", "-f", "-y", "-s", "5", "-e", "trace=write,pwrite64,fsync,fdatasync", "-o", str(trace)]
    subprocess.run([*strace, *command(path, sync=sync, groups=COMMITS)], check=True, capture_output=True, timeout=120)
    kinds = (
        (r"pwrite64\(\d+<[^>]*-wal>", "write"),
        (r"f(data)?sync\(\d+<[^>]*-wal>", "sync"),
        (r'write\(1<[^>]*>, "done ', "done"),
    )
    calls = [kind for line in trace.read_text().splitlines() for pattern, kind in kinds if re.search(r"^\d+ +" + pattern, line)]
    return calls[calls.index("done") + 1 : len(calls) - calls[::-1].index("done")]  # without start and end


@needs_strace
def test_sync_full_syncs_each_commit_before_it_is_done(tmp_path: Path) -> None:
    """Between writing a verdict and reporting it done, the log is synced, each time and after the last write."""
    calls = traced(tmp_path / "journal.db", "full")
    assert calls.count("done") == COMMITS - 1
    for n in [n for n, call in enumerate(calls) if call == "done"]:
        before = calls[max((i for i in range(n) if calls[i] == "done"), default=-1) + 1 : n]
        assert "write" in before
        assert before[-1] == "sync"


@needs_strace
def test_sync_normal_does_not_sync_a_commit(tmp_path: Path) -> None:
    """The same verdicts are written to the log, and it is not synced once among them."""
    calls = traced(tmp_path / "journal.db", "normal")
    assert calls.count("done") == COMMITS - 1
    assert "write" in calls
    assert "sync" not in calls


@needs_strace
def test_numbers_are_synced_before_they_are_used(tmp_path: Path) -> None:
    """No number is given out beyond what was written to the ledger and synced before."""
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
