"""Checks what somebody says about parts, and hands it to the journal. Runs on the thread "control"."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Any

from anosegd.control.requests import FeedbackRequest, RefusedError, UndoFeedbackRequest
from anosegd.journal import Entry, FeedbackChange, Journal, JournalReader, PartMark, PartNote
from anosegd.wire import reason_of, utc

MARKS = {
    "PASS": ("right", "missed_defect", "unsure"),
    "FAIL": ("right", "false_reject", "unsure"),
    "review": ("right", "false_reject", "unsure"),
}
"""The marks that a part takes, by its outcome. A part for review was rejected, as every UNKNOWN."""
NAMED = 10
"""The most numbers that a refusal names."""


def note_feedback(
    journal: Journal,
    reader: JournalReader,
    request: FeedbackRequest | UndoFeedbackRequest,
    done: Callable[[dict[str, Any] | RefusedError], None],
) -> None:
    """Have the journal note the request.

    Args:
        journal: The journal.
        reader: The reader of the calling thread.
        request: What somebody says.
        done: Called on the journal's thread with the answer's fields, or with why nothing was noted.

    Raises:
        RefusedError: A part does not exist, is of another journal, or the mark does not fit its verdict.
        JournalError: The journal cannot do it now.
    """
    if request.journal_id != journal.journal_id:
        raise RefusedError("other_journal", f"the journal is now {journal.journal_id}")
    if isinstance(request, FeedbackRequest):
        seqs = sorted(set(request.seqs))
        _check(request.mark, seqs, reader.entries(seqs))
        said = FeedbackChange(
            request.journal_id, time.time_ns(), request.who, seqs=seqs, mark=request.mark, comment=request.comment
        )
    else:
        said = FeedbackChange(request.journal_id, time.time_ns(), request.who, undo=request.change)

    def answer(error: Exception | None) -> None:
        if error is not None:
            done(RefusedError("failed", f"nothing was noted: {error}"))
        elif said.change is None:
            done(RefusedError("nothing_to_undo" if said.mark is None else "bad_request", _none(request)))
        else:
            done({"change": said.change, "seqs": list(said.parts)})

    journal.note_feedback(said, answer)


def shown_mark(mark: PartMark) -> dict[str, Any]:
    """Return a mark as it is in an answer."""
    return {
        "seq": mark.seq,
        "mark": mark.mark,
        "comment": mark.comment,
        "who": mark.who,
        "at": utc(mark.at_ns),
        "change": mark.change,
    }


def shown_note(note: PartNote) -> dict[str, Any]:
    """Return a note as it is in an answer."""
    return {
        "number": note.number,
        "seq": note.seq,
        "mark": note.mark,
        "comment": note.comment,
        "who": note.who,
        "at": utc(note.at_ns),
        "change": note.change,
        "undoes": note.undoes,
    }


def _check(mark: str, seqs: Sequence[int], entries: Sequence[Entry]) -> None:
    missing = sorted(set(seqs) - {entry.seq for entry in entries})
    if missing:
        raise RefusedError("no_such_part", f"the journal has no verdict (any more) with the number {_named(missing)}")
    unfit: dict[str, list[int]] = {}
    for entry in entries:
        reason = reason_of(entry.header) if entry.outcome == "UNKNOWN" else None
        if mark not in MARKS.get(reason or entry.outcome, ()):
            unfit.setdefault(f"UNKNOWN: {reason}" if reason else entry.outcome, []).append(entry.seq)
    for outcome, parts in unfit.items():
        marks = MARKS.get(outcome.removeprefix("UNKNOWN: "))
        what = f"takes {', '.join(marks[:-1])} or {marks[-1]}" if marks else "was not inspected, so it takes no mark"
        raise RefusedError(
            "senseless_mark", f"{mark} does not fit the verdict of {_named(parts)}: a part with {outcome} {what}"
        )


def _none(request: FeedbackRequest | UndoFeedbackRequest) -> str:
    if isinstance(request, FeedbackRequest):
        return "the journal has none of these parts any more"
    return f"the journal has no feedback of {request.who}" if request.change is None else "the journal has no such feedback"


def _named(seqs: Sequence[int]) -> str:
    more = f" and {len(seqs) - NAMED} more" if len(seqs) > NAMED else ""
    return ", ".join(map(str, seqs[:NAMED])) + more
