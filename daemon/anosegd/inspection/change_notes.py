"""Notes in the journal what has changed at a running station, where nobody waits for the answer."""

from __future__ import annotations

from anosegd import logs
from anosegd.journal import Change, Journal, JournalError


def note_change(journal: Journal, change: Change) -> bool:
    """Have a change recorded. A failure is logged. Return False if it is known at once."""
    try:
        journal.note(change, _log_failure)
    except JournalError as error:
        _log_failure(error)
        return False
    return True


def _log_failure(error: Exception | None) -> None:
    if error is not None:
        logs.warning("change.not_noted", error=str(error))
