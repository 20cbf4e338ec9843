"""Stores what people say about parts: the table `feedback`. Written on the journal's thread, read through any connection.

A row is one mark of one part, and is never changed. Rows of one request have the same `change`. To take a change back, a row
that `undoes` the mark is added for each of its parts. The newest mark of a part that is not undone counts. Retention deletes
the rows together with their part.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple, get_args

Mark = Literal["right", "false_reject", "missed_defect", "unsure"]
"""What a person says about a verdict:

right          the part is good and passed, or is defective and was rejected
false_reject   the part is good and was rejected
missed_defect  the part is defective and passed
unsure         it is not clear
"""
MARKS: tuple[Mark, ...] = get_args(Mark)
ROWS_KEPT = 20
"""The most rows that are kept for one part, so that a part which is marked again and again does not fill the journal."""

TABLE = (
    """CREATE TABLE feedback (number INTEGER PRIMARY KEY, change INTEGER NOT NULL, seq INTEGER NOT NULL, at_ns INTEGER NOT NULL,
    mark TEXT NOT NULL, comment TEXT NOT NULL, who TEXT NOT NULL, undoes INTEGER)""",
    "CREATE INDEX feedback_by_part ON feedback (seq, number)",
    "CREATE INDEX feedback_undone ON feedback (undoes) WHERE undoes IS NOT NULL",
)
FORGET_NAMES = "UPDATE feedback SET who = '' WHERE at_ns < ? AND who <> ''"
# The newest stays, even if its part is deleted, so that no number is used again if the clock went back.
EXPIRE = "DELETE FROM feedback WHERE seq < ? AND number < (SELECT max(number) FROM feedback)"

_COUNTS = "f.undoes IS NULL AND NOT EXISTS (SELECT 1 FROM feedback u WHERE u.undoes = f.number)"
# The limit is inside, so that a page of marks does not read the whole table.
_CURRENT = f"""SELECT seq, mark, comment, who, at_ns, change FROM feedback WHERE number IN (
    SELECT max(f.number) FROM feedback f WHERE f.seq BETWEEN ? AND ? AND {_COUNTS}
    AND EXISTS (SELECT 1 FROM entry WHERE entry.seq = f.seq) GROUP BY f.seq ORDER BY f.seq {{order}} LIMIT ?)
    ORDER BY seq {{order}}"""
_NOTES = """SELECT number, seq, mark, comment, who, at_ns, change, undoes FROM feedback WHERE number > ?
    ORDER BY number LIMIT ?"""
_LAST_OF_PERSON = f"""SELECT f.change FROM feedback f WHERE f.who = ? AND {_COUNTS}
    AND EXISTS (SELECT 1 FROM entry WHERE entry.seq = f.seq) ORDER BY f.number DESC LIMIT 1"""
_OF_CHANGE = f"SELECT f.number, f.seq FROM feedback f WHERE f.change = ? AND {_COUNTS}"
_KNOWN = "SELECT 1 FROM feedback WHERE change = ? AND undoes IS NULL"
# By the clock, so that the number of a deleted change is not used again. Microseconds: JavaScript reads them exactly.
_NEXT = "SELECT max(coalesce(max(number), 0) + 1, ? / 1000) FROM feedback"
_ADD = "INSERT INTO feedback VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
_TRIM = """DELETE FROM feedback WHERE seq = ? AND number <=
    (SELECT number FROM feedback WHERE seq = ? ORDER BY number DESC LIMIT 1 OFFSET ?)"""


class PartMark(NamedTuple):
    """The mark of a part that counts.

    Attributes:
        seq: The number of the part's verdict.
        mark: What was said.
        comment: In the person's words; may be empty.
        who: The person; empty if the name was removed.
        at_ns: Unix time.
        change: The number of the change, for taking it back.
    """

    seq: int
    mark: str
    comment: str
    who: str
    at_ns: int
    change: int


class PartNote(NamedTuple):
    """One row: a mark of a part, or that a mark was taken back. Rows are never changed.

    Attributes:
        number: Identifies the note in its journal; a later note has a greater number.
        seq, comment, who, at_ns, change: As in `PartMark`.
        mark: What was said; empty if a mark was taken back.
        undoes: The number of the note that was taken back; None for a mark.
    """

    number: int
    seq: int
    mark: str
    comment: str
    who: str
    at_ns: int
    change: int
    undoes: int | None


@dataclass(slots=True)
class FeedbackChange:
    """Marks parts, or takes such a change back. The journal's thread sets the results when it has written them.

    Attributes:
        journal_id: The journal in which the parts are.
        at_ns: Unix time.
        who: The person.
        seqs, mark, comment: The parts, and what is said about them; no mark takes a change back.
        undo: The change to take back; None takes the last one of this person.
        change: The number of the change that was made or taken back, set by the journal; None if nothing was changed.
        parts: Result: the parts concerned.
    """

    journal_id: str
    at_ns: int
    who: str
    seqs: Sequence[int] = ()
    mark: Mark | None = None
    comment: str = ""
    undo: int | None = None
    change: int | None = None
    parts: tuple[int, ...] = ()


def write_feedback(db: sqlite3.Connection, wanted: FeedbackChange) -> None:
    """Write one change inside a transaction. What is so already is not written again.

    Raises:
        sqlite3.Error: The file cannot be written.
    """
    if wanted.mark is None:
        _undo(db, wanted)
    else:
        _mark(db, wanted)


def _mark(db: sqlite3.Connection, wanted: FeedbackChange) -> None:
    kept = [seq for seq in wanted.seqs if db.execute("SELECT 1 FROM entry WHERE seq = ?", (seq,)).fetchone()]
    before = {seq: found[0] for seq in kept if (found := current_marks(db, seq, seq))}
    said = (wanted.mark, wanted.comment, wanted.who)
    new = [seq for seq in kept if seq not in before or before[seq][1:4] != said]
    change = int(db.execute(_NEXT, (wanted.at_ns,)).fetchone()[0])
    for number, seq in enumerate(new, change):
        db.execute(_ADD, (number, change, seq, wanted.at_ns, wanted.mark, wanted.comment, wanted.who, None))
        db.execute(_TRIM, (seq, seq, ROWS_KEPT))
    wanted.parts = tuple(kept)
    wanted.change = change if new else max((mark.change for mark in before.values()), default=None)


def _undo(db: sqlite3.Connection, wanted: FeedbackChange) -> None:
    change = wanted.undo
    if change is None:
        last = db.execute(_LAST_OF_PERSON, (wanted.who,)).fetchone()
        change = None if last is None else last[0]
    if change is None or db.execute(_KNOWN, (change,)).fetchone() is None:
        return
    rows = db.execute(_OF_CHANGE, (change,)).fetchall()
    number = int(db.execute(_NEXT, (wanted.at_ns,)).fetchone()[0])
    for own, (undone, seq) in enumerate(rows, number):
        db.execute(_ADD, (own, number, seq, wanted.at_ns, "", "", wanted.who, undone))
        db.execute(_TRIM, (seq, seq, ROWS_KEPT))
    wanted.change, wanted.parts = int(change), tuple(seq for _, seq in rows)


def current_marks(
    db: sqlite3.Connection, first: int, last: int, *, newest_first: bool = False, limit: int = -1
) -> list[PartMark]:
    """Return the marks that count, of the parts with these numbers.

    Raises:
        sqlite3.Error: The file cannot be read.
    """
    order = "DESC" if newest_first else "ASC"
    rows = db.execute(_CURRENT.format(order=order), (first, last, limit))
    return [PartMark(*row) for row in rows]


def notes_after(db: sqlite3.Connection, number: int, *, limit: int) -> list[PartNote]:
    """Return the notes with greater numbers, the oldest first.

    Raises:
        sqlite3.Error: The file cannot be read.
    """
    return [PartNote(*row) for row in db.execute(_NOTES, (number, limit))]
