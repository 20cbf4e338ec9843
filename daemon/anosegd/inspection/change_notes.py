"""Notes in the journal what has changed at a running station, where the change is made in any case."""

from __future__ import annotations

from collections.abc import Callable

from anosegd import logs
from anosegd.journal import Change, Journal, JournalError


def note_change(journal: Journal, change: Change, done: Callable[[bool], None] = lambda noted: None) -> bool:
    """Have a change recorded. A failure is logged.

    Args:
        journal: Where it is recorded.
        change: The change.
        done: Called once, on any thread, with whether it was recorded. While the journal's disk hangs, it is called at once,
            with False, although the change is recorded if the disk answers again.

    Returns:
        False if it is known at once that it cannot be recorded.
    """

    def end(error: Exception | None) -> None:
        _log_failure(error)
        if not answered:
            done(error is None)

    if answered := journal.hang is not None:
        done(False)
    try:
        journal.note(change, end)
    except JournalError as error:
        end(error)
        return False
    return True


def _log_failure(error: Exception | None) -> None:
    if error is not None:
        logs.warning("change.not_noted", error=str(error))
