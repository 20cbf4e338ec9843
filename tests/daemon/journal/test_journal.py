"""The journal as the publisher and the control socket use it, with a real file and real threads."""

import dataclasses
import sqlite3
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.journal_tools import (
    Answer,
    commit,
    config,
    entry,
    eventually,
    open_journal,
    read_all,
    submit,
    walk,
    writing_blocked,
)

from anosegd.journal import Entry, Journal, JournalError, JournalReader, VerdictId
from anosegd.journal import numbers as journal_numbers
from anosegd.journal import queue as journal_queue
from anosegd.journal import store as journal_store
from anosegd.journal import store_file as journal_file
from anosegd.journal import writer as journal_writer
from anosegd.journal.consumers import MAX_CONSUMERS

Opener = Callable[..., Journal]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db"


@pytest.fixture
def opened(path: Path) -> Iterator[Opener]:
    """Open journals at `path` and close them at the end."""
    journals: list[Journal] = []

    def opener(**settings: object) -> Journal:
        journals.append(open_journal(config(path, **settings)))
        return journals[-1]

    yield opener
    for journal in journals:
        assert journal.close()


def test_a_verdict_is_in_the_file_when_done_is_called(opened: Opener, path: Path) -> None:
    """Another connection sees the entry when `done` is called on the journal's thread."""
    journal = opened()
    seen: list[object] = []
    finished = threading.Event()

    def done(entries: object, error: object) -> None:
        with closing(sqlite3.connect(path)) as db:
            seen.extend([threading.current_thread().name, error, *db.execute("SELECT seq, header FROM entry").fetchall()])
        finished.set()

    verdict = entry(journal.next_id())
    journal.submit([verdict], done)
    assert finished.wait(30)
    assert seen == ["journal", None, (verdict.seq, verdict.header)]


def test_a_journal_whose_thread_cannot_be_started_is_closed(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No thread is left that would keep the process alive, and the next attempt gets the lock."""

    def refused(self: Journal) -> None:
        raise RuntimeError("can't start new thread")

    before = set(threading.enumerate())
    with monkeypatch.context() as limited:
        limited.setattr(Journal, "start", refused)
        with pytest.raises(RuntimeError, match="can't start new thread"):
            Journal.open(config(path))
    assert [t.name for t in threading.enumerate() if t not in before] == []
    assert Journal.open(config(path)).close()


def test_committed_verdicts_are_read_back_unchanged(opened: Opener) -> None:
    """Every field is equal and the order is kept, with small and large pages."""
    journal = opened()
    entries = [e for n in (1, 7, 100) for e in commit(journal, n, size=n * 50)]
    assert list(read_all(journal).entries.values()) == entries
    with journal.reader() as reader:
        assert list(walk(reader, limit=3).entries.values()) == entries
        assert list(walk(reader, max_bytes=1).entries.values()) == entries
        assert reader.page(5, 6).entries == entries[4:6]
        assert reader.page(5, 6).next == 7


def test_waiting_verdicts_are_committed_together(opened: Opener, path: Path) -> None:
    """Fifty submissions return at once while the file is locked, and then need at most two transactions."""
    journal = opened()
    commit(journal)
    before = journal.stats().commits
    with writing_blocked(path):
        answers = [submit(journal)[1] for _ in range(50)]
        assert not answers[-1].called
    assert [a.error for a in answers] == [None] * 50
    assert journal.stats().commits - before <= 2


def test_numbers_continue_after_a_restart(opened: Opener) -> None:
    """Ten runs that end in order share one journal_id and leave no hole in the numbers."""
    seqs: list[int] = []
    journal_ids = set()
    for run in range(10):
        journal = opened()
        seqs += [e.seq for e in commit(journal, run + 1)]
        journal_ids.add(journal.journal_id)
        journal.close()
    journal = opened()
    contents = read_all(journal)
    assert list(contents.entries) == seqs == list(range(1, 56))
    assert len(journal_ids) == 1


def test_readers_stop_before_a_pending_number(opened: Opener) -> None:
    """A later number that is committed first is not readable until the earlier one is committed or discarded."""
    journal = opened()
    first, second, third = (journal.next_id() for _ in range(3))
    answer = Answer()
    journal.submit([entry(third)], answer)
    assert answer.error is None
    assert read_all(journal).next == first.seq
    journal.submit([entry(first)], answer := Answer())
    assert answer.error is None
    assert list(read_all(journal).entries) == [first.seq]
    journal.discard([second])
    eventually(lambda: read_all(journal).next == third.seq + 1)
    contents = read_all(journal)
    assert (list(contents.entries), contents.void()) == ([first.seq, third.seq], {second.seq})


def test_a_number_never_submitted_is_void_after_a_restart(opened: Opener) -> None:
    """If a run takes a number and ends before submitting it, later verdicts stay and the number becomes void."""
    journal = opened()
    lost = journal.next_id()
    (kept,) = commit(journal)
    journal.close()
    contents = read_all(opened())
    assert list(contents.entries) == [kept.seq]
    assert lost.seq in contents.void()


def test_a_number_is_used_once(opened: Opener) -> None:
    """A number that is submitted twice, was discarded, or was never given out is refused, and nothing is written."""
    journal = opened()
    (committed,) = commit(journal)
    discarded = journal.next_id()
    journal.discard([discarded])
    doubled = entry(journal.next_id())
    for entries in ([committed], [entry(discarded)], [entry(VerdictId(journal.journal_id, 77))], [doubled, doubled]):
        with pytest.raises(JournalError):
            journal.submit(entries, Answer())
    with pytest.raises(JournalError):
        journal.discard([discarded])
    assert list(read_all(journal).entries) == [committed.seq]


def test_a_verdict_of_another_journal_is_refused_not_committed(opened: Opener) -> None:
    """`done` gets an error, and other verdicts are committed."""
    journal = opened()
    answer = Answer()
    journal.submit([entry(VerdictId("0" * 32, 1))], answer)
    assert isinstance(answer.error, JournalError)
    commit(journal)


def test_an_amendment_replaces_the_verdict(opened: Opener, path: Path) -> None:
    """This holds if the first version still waits, and if it is already committed."""
    journal = opened()
    with writing_blocked(path):
        (waiting,), answer = submit(journal)
        journal.amend(entry(VerdictId(*journal_id_seq(waiting)), "UNKNOWN"))
    assert answer.error is None
    (committed,) = commit(journal)
    journal.amend(entry(VerdictId(*journal_id_seq(committed)), "UNKNOWN"))
    eventually(lambda: len(read_all(journal).entries) == 2)
    assert [(e.outcome, b"UNKNOWN" in e.header) for e in read_all(journal).entries.values()] == [("UNKNOWN", True)] * 2


def journal_id_seq(verdict: object) -> tuple[str, int]:
    return verdict.journal_id, verdict.seq  # type: ignore[attr-defined]


def test_no_reader_gets_a_verdict_that_is_being_amended(opened: Opener, path: Path) -> None:
    """This holds from the call on, even while the new version cannot be written."""
    journal = opened()
    verdicts = commit(journal, 3)
    with journal.reader() as reader, writing_blocked(path):
        assert list(walk(reader).entries) == [1, 2, 3]
        journal.amend(entry(VerdictId(*journal_id_seq(verdicts[1])), "UNKNOWN"))
        assert list(walk(reader).entries) == [1]
    eventually(lambda: list(read_all(journal).entries) == [1, 2, 3])
    assert read_all(journal).entries[2].outcome == "UNKNOWN"


def test_no_reader_gets_a_held_verdict(opened: Opener) -> None:
    """Readers stop before a committed verdict until it is released or amended."""
    journal = opened()
    held = [entry(journal.next_id()) for _ in range(3)]
    answer = Answer()
    journal.submit(held, answer, hold=True)
    assert answer.error is None
    with journal.reader() as reader:
        assert (list(walk(reader).entries), reader.page(1).last_committed) == ([], 3)
        journal.release(held[1].seq)  # the first one is still held
        assert list(walk(reader).entries) == []
        journal.release(held[0].seq)
        assert list(walk(reader).entries) == [1, 2]
        journal.amend(dataclasses.replace(held[2], outcome="UNKNOWN"))
        eventually(lambda: list(walk(reader).entries) == [1, 2, 3])
        assert walk(reader).entries[3].outcome == "UNKNOWN"


def test_a_number_held_while_a_page_is_read_is_not_in_it(opened: Opener) -> None:
    """This holds even if it is submitted and committed after the reader asked which numbers are held."""
    journal = opened()
    commit(journal)
    late: list[Answer] = []

    def meanwhile() -> int | None:
        stop = journal.stop_before()
        if not late:
            late.append(Answer())
            journal.submit([entry(journal.next_id())], late[0], hold=True)
            assert late[0].error is None
        return stop

    with JournalReader(journal.path, stop_before=meanwhile) as reader:
        assert [e.seq for e in reader.page(1).entries] == [1]


def test_amending_a_void_changes_nothing(opened: Opener) -> None:
    """A void stays void, because consumers may have read it."""
    journal = opened()
    unused = journal.next_id()
    journal.discard([unused])
    commit(journal)
    journal.amend(entry(unused))
    commit(journal)
    eventually(lambda: read_all(journal).next == 4)
    contents = read_all(journal)
    assert (sorted(contents.entries), contents.void()) == ([2, 3], {1})


def test_only_verdicts_submitted_while_another_program_holds_the_file_are_lost(opened: Opener, path: Path) -> None:
    """`done` gets the error, the number becomes void, and the next verdict is committed."""
    journal = opened()
    commit(journal)
    with writing_blocked(path):
        (failed,), answer = submit(journal)
        assert isinstance(answer.error, JournalError)
    assert not journal.stats().working
    (after,) = commit(journal)
    contents = read_all(journal)
    assert sorted(contents.entries) == [1, after.seq]
    assert failed.seq in contents.void()
    assert journal.stats().working


def test_holes_are_declared_without_waiting_for_the_next_verdict(opened: Opener, path: Path) -> None:
    """Readers get past the hole after a failed commit even if no further verdict follows."""
    journal = opened()
    with writing_blocked(path):
        (failed,), answer = submit(journal)
        assert answer.error is not None
    eventually(lambda: read_all(journal).next > failed.seq)


def test_too_many_waiting_verdicts_are_refused(opened: Opener, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A disk that hangs does not fill the memory. The numbers of refused verdicts become void."""
    monkeypatch.setattr(journal_queue, "MAX_WAITING", 100)
    journal = opened()
    with writing_blocked(path):
        _, answer = submit(journal, 100)
        with pytest.raises(JournalError, match="wait for the commit"):
            submit(journal)
    assert answer.error is None
    commit(journal)
    contents = read_all(journal)
    assert (len(contents.entries), contents.void()) == (101, {101})


def test_numbers_stay_close_to_the_file_while_commits_fail(opened: Opener, path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This bounds how many numbers must be left out if the .seq file is lost. Verdicts still get identities."""
    monkeypatch.setattr(journal_writer, "MAX_UNCOMMITTED", 600)
    monkeypatch.setattr(journal_writer, "RETRY_S", 0.05)
    monkeypatch.setattr(journal_file, "BUSY_S", 0.05)
    journal = opened()
    commit(journal)
    used: list[Entry] = []
    with writing_blocked(path):
        for _ in range(30):
            entries, answer = submit(journal, 50)
            assert answer.error is not None
            used += entries
            time.sleep(0.05)
    of_the_file = [e.seq for e in used if e.journal_id == journal.journal_id]
    assert 500 <= max(of_the_file) <= 601
    assert [e.seq for e in used] == list(range(2, 1502))
    eventually(lambda: submit(journal)[1].error is None)
    contents = read_all(journal)
    assert {e.seq for e in used} <= contents.void()
    assert min(contents.entries.keys() - {1}) > 1501


def test_cursors_of_consumers_never_go_back_and_survive_a_restart(opened: Opener) -> None:
    """Names are checked, their number is bounded, numbers never given out are refused, and a consumer can be removed."""
    journal = opened()
    commit(journal, 10)
    assert journal.consumer("archive") == 0
    for seq in (3, 7, 5):
        journal.ack("archive", seq)
    journal.ack("other", 1)
    journal.forget("other")
    for name, seq in (("archive", 11), ("archive", -1), ("", 1), ("a b", 1), ("x" * 65, 1), ("-", 1)):
        with pytest.raises(JournalError):
            journal.ack(name, seq)
    journal.close()
    journal = opened()
    assert (journal.consumer("other"), journal.consumer("archive")) == (0, 7)
    for n in range(MAX_CONSUMERS - 1):
        journal.ack(f"consumer-{n}", 1)
    with pytest.raises(JournalError):
        journal.ack("one-more", 1)
    journal.ack("archive", 8)
    journal.close()
    assert opened().consumer("archive") == 8


def test_since_a_time_finds_the_first_number_and_a_clock_set_back_hides_none(
    opened: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The answers equal a search through all entries, with a clock that jumps in both directions, and after a restart."""
    monkeypatch.setattr(journal_store, "MARK_EVERY", 7)
    hours = [8, 9, 10, 11, 10, 10, 11, 12, 12, 50, 12, 13]  # set back once, and for a moment far ahead
    journal = opened()
    times: dict[int, int] = {}
    for n, hour in enumerate(hours):
        for minute in range(0, 60, 20):
            wall_ns = (hour * 60 + minute) * 60_000_000_000
            (verdict,) = commit(journal, wall_ns=wall_ns)
            times[verdict.seq] = wall_ns
        if n == 6:
            journal.close()
            journal = opened()
    with journal.reader() as reader:
        for minute in range(7 * 60, 52 * 60, 10):
            wall_ns = minute * 60_000_000_000
            expected = min((seq for seq, at in times.items() if at >= wall_ns), default=max(times) + 1)
            assert reader.find_since(wall_ns) == expected
        assert reader.find_since(-(1 << 80)) == 1
        assert reader.find_since(1 << 80) == max(times) + 1


def test_pages_out_of_range_are_refused(opened: Opener) -> None:
    """Numbers, limits and sizes must be at least one, and numbers within the range of SQLite."""
    journal = opened()
    commit(journal)
    with journal.reader() as reader:
        for first, limit, max_bytes in ((0, 1, 1), (-5, 1, 1), (1, 0, 1), (1, 1, 0), (1 << 70, 1, 1)):
            with pytest.raises(JournalError):
                reader.page(first, limit=limit, max_bytes=max_bytes)
        assert reader.page(1000).next == 1000
        assert reader.page(1000).last_committed == 1
        assert reader.page(1, 0).next == 1


def test_two_daemons_never_share_a_journal(opened: Opener, path: Path) -> None:
    """A second process is refused with exit code 1 and a reason, until the first has closed the journal."""
    journal = opened()
    script = (
        "import sys; from anosegd.journal import *\n"
        "try: Journal.open(JournalConfig(path=sys.argv[1])).close()\n"
        "except JournalError as error: print(error); sys.exit(error.exit_code)"
    )

    def other_daemon() -> subprocess.CompletedProcess[str]:
        return subprocess.run([sys.executable, "-c", script, str(path)], capture_output=True, text=True, timeout=60)

    refused = other_daemon()
    assert (refused.returncode, "in use by another daemon" in refused.stdout) == (1, True)
    assert "Traceback" not in refused.stderr
    journal.close()
    assert other_daemon().returncode == 0


def test_no_verdict_waits_for_a_reservation_while_numbers_are_left(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """The verdict that makes a reservation due is committed before the disk has to sync it; later ones go on after it."""
    journal = opened()
    commit(journal)
    synced, syncing = threading.Event(), threading.Event()

    def slow_sync(_: int) -> None:
        syncing.set()
        assert synced.wait(30)

    monkeypatch.setattr(journal_numbers.os, "fdatasync", slow_sync)
    commit(journal, journal_numbers.RESERVE_AFTER - 2)
    assert not syncing.is_set()
    commit(journal)  # its `done` comes, although no sync can end
    assert syncing.wait(30)
    synced.set()
    commit(journal)


def test_closing_commits_what_waits_and_then_refuses_verdicts(opened: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    """All verdicts submitted before the close are stored, and every `done` was called."""
    monkeypatch.setattr(journal_numbers, "RESERVED_AHEAD", 1000)
    journal = opened()
    answers = [submit(journal, 10)[1] for _ in range(50)]
    last = journal.next_id()
    assert journal.close()
    assert [a.error for a in answers] == [None] * 50
    with pytest.raises(JournalError):
        journal.submit([entry(last)], Answer())
    assert len(read_all(opened()).entries) == 500


def test_a_callback_that_raises_ends_the_journal(opened: Opener) -> None:
    """The thread ends with that error, further verdicts are refused, and what was committed stays."""
    journal = opened()

    def done(*_: object) -> None:
        raise RuntimeError("a mistake")

    journal.submit([entry(journal.next_id())], done)
    writer = journal.workers[0]
    eventually(lambda: not writer.alive)
    assert isinstance(writer.failure, RuntimeError)
    with pytest.raises(JournalError):
        submit(journal)
    assert journal.close()
    assert list(read_all(opened()).entries) == [1]


@pytest.mark.parametrize(
    "change", [{"camera": "\ud800"}, {"captured_ns": 1 << 70}, {"committed_ns": -(1 << 70)}, {"header": b"x" * 65537}]
)
def test_invalid_entries_are_refused_before_they_are_submitted(opened: Opener, change: dict[str, Any]) -> None:
    """An invalid entry never reaches a transaction, where it would make other verdicts fail."""
    good = entry(opened().next_id())
    with pytest.raises(JournalError):
        dataclasses.replace(good, **change)


def test_an_impossible_path_is_a_configuration_error(tmp_path: Path) -> None:
    """A missing folder, or a folder in place of the file, gives exit code 2, and nothing is moved."""
    for at in (tmp_path / "missing" / "journal.db", tmp_path):
        with pytest.raises(Exception, match=r"journal\.path") as caught:
            open_journal(config(at))
        assert getattr(caught.value, "exit_code", None) == 2
    assert list(tmp_path.iterdir()) == []
