"""What people say about parts, in the journal's file: limits, retention, names, failed writes, earlier versions."""

import sqlite3
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from support.journal_tools import commit, config, entry, eventually, open_journal

from anosegd.journal import FeedbackChange, Journal, feedback, offline_reader
from anosegd.journal.retention import DAY_NS


def note(journal: Journal, **fields: Any) -> FeedbackChange:
    """Note one change, and return it with its results."""
    said = FeedbackChange(**{"journal_id": journal.journal_id, "at_ns": time.time_ns(), "who": "Anna", **fields})
    errors: list[Exception | None] = []
    done = threading.Event()
    journal.note_feedback(said, lambda error: _keep(error, errors, done))
    assert done.wait(30)
    if errors[0] is not None:
        raise errors[0]
    return said


def _keep(error: Exception | None, errors: list[Exception | None], done: threading.Event) -> None:
    errors.append(error)
    done.set()


def marks(journal: Journal) -> dict[int, tuple[str, str]]:
    with journal.reader() as reader:
        return {m.seq: (m.mark, m.who) for m in reader.marks(1, None)}


def test_marks_go_with_their_part_and_names_before_them(tmp_path: Path) -> None:
    """Retention deletes the marks of a deleted verdict. Names are removed as from the changes; the mark stays."""
    now = [400 * DAY_NS]
    journal = open_journal(
        config(tmp_path / "j.db", keep_days=5, keep_names_days=1), monotonic_ns=lambda: now[0], wall_ns=lambda: now[0]
    )
    commit(journal, 2)
    note(journal, seqs=[1, 2], mark="right", at_ns=400 * DAY_NS)
    now[0] += 2 * DAY_NS
    commit(journal, 1)
    note(journal, seqs=[3], mark="unsure", at_ns=now[0])
    journal._writer._retention._names_due_at = 0.0
    eventually(lambda: marks(journal) == {1: ("right", ""), 2: ("right", ""), 3: ("unsure", "Anna")})
    now[0] += 4 * DAY_NS
    commit(journal, 1)
    eventually(lambda: marks(journal).keys() == {3})
    assert journal.close()


def test_numbers_do_not_go_back_with_the_clock(tmp_path: Path) -> None:
    """A mark was given while the clock was ahead, and its part is deleted: later marks have greater numbers all the same."""
    now = [400 * DAY_NS]
    journal = open_journal(config(tmp_path / "j.db", keep_days=1), monotonic_ns=lambda: now[0], wall_ns=lambda: now[0])
    commit(journal, 1)
    ahead = note(journal, seqs=[1], mark="right", at_ns=4000 * DAY_NS).change
    now[0] += 2 * DAY_NS
    commit(journal, 1)
    eventually(lambda: journal.stats().first_kept == 2)
    assert note(journal, seqs=[2], mark="unsure", at_ns=now[0]).change > ahead
    assert marks(journal).keys() == {2}
    assert journal.close()


def test_a_part_that_is_marked_without_end_does_not_fill_the_journal(tmp_path: Path) -> None:
    """The newest notes of a part stay; the mark that counts is the last one, and it can be taken back."""
    journal = open_journal(config(tmp_path / "j.db"))
    commit(journal, 1)
    for n in range(2 * feedback.ROWS_KEPT):
        note(journal, seqs=[1], mark=("right", "unsure")[n % 2])
    assert marks(journal) == {1: ("unsure", "Anna")}
    note(journal)
    assert marks(journal) == {1: ("right", "Anna")}
    assert journal.close()
    with closing(sqlite3.connect(tmp_path / "j.db")) as db:
        assert db.execute("SELECT count(*) FROM feedback").fetchone() == (feedback.ROWS_KEPT,)


def test_what_cannot_be_written_is_not_noted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The disk is full: the person gets the error, nothing of the change is there, what was there stays, and it works again."""
    journal = open_journal(config(tmp_path / "j.db"))
    commit(journal, 3)
    note(journal, seqs=[1], mark="right")

    def write_half(db: sqlite3.Connection, wanted: FeedbackChange) -> None:
        original(db, wanted)
        raise sqlite3.OperationalError("database or disk is full")

    original = feedback.write_feedback
    monkeypatch.setattr(feedback, "write_feedback", write_half)
    with pytest.raises(Exception, match="disk is full"):
        note(journal, seqs=[1, 2, 3], mark="unsure")
    monkeypatch.setattr(feedback, "write_feedback", original)
    assert marks(journal) == {1: ("right", "Anna")}
    commit(journal, 1)
    note(journal, seqs=[2], mark="unsure")
    assert marks(journal) == {1: ("right", "Anna"), 2: ("unsure", "Anna")}
    assert journal.close()


def test_feedback_of_another_journal_is_not_written(tmp_path: Path) -> None:
    """The journal was set aside between the check and the write: its numbers are other parts now."""
    journal = open_journal(config(tmp_path / "j.db"))
    commit(journal, 1)
    assert note(journal, seqs=[1], mark="right", journal_id="0" * 32).change is None
    assert marks(journal) == {}
    assert journal.close()
    with offline_reader(config(tmp_path / "j.db")) as reader:
        assert reader.marks(1, None) == []


def test_verdicts_do_not_wait_for_the_feedback_of_many(tmp_path: Path) -> None:
    """A verdict is committed with at most 200 marks, however many wait before it. All of them are noted in the end."""
    journal = open_journal(config(tmp_path / "j.db"))
    commit(journal, 200)
    noted: list[Exception | None] = []
    with journal._changed:  # so that the journal's thread finds all of it at once
        for person in range(40):
            said = FeedbackChange(journal.journal_id, time.time_ns(), f"person {person}", seqs=range(1, 201), mark="right")
            journal.note_feedback(said, noted.append)
        before: list[int] = []
        journal.submit([entry(journal.next_id())], lambda *_: before.append(len(noted)))
    eventually(lambda: len(noted) == 40)
    assert before == [0]  # its answer comes before those of the feedback in the same transaction
    assert set(noted) == {None}
    assert {who for _, who in marks(journal).values()} == {"person 39"}
    assert journal.close()


def test_small_feedback_is_noted_together_and_the_rest_at_the_end(tmp_path: Path) -> None:
    """Marks of one part each take few transactions. What waits when the journal is closed is noted."""
    journal = open_journal(config(tmp_path / "j.db"))
    commit(journal, 100)
    commits = journal.stats().commits
    noted: list[Exception | None] = []
    now = time.time_ns()
    with journal._changed:
        for seq in range(1, 101):
            journal.note_feedback(FeedbackChange(journal.journal_id, now, "Anna", seqs=[seq], mark="right"), noted.append)
        for seq in range(1, 4):
            journal.note_feedback(FeedbackChange(journal.journal_id, now, "Anna", undo=seq), noted.append)
        journal._closing = True
    assert journal.close()
    assert noted == [None] * 103
    assert journal.stats().commits - commits == 4
