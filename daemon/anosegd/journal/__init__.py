"""The verdict journal: every verdict is committed here before it is sent. `Journal` is what the rest of the daemon uses.

journal: the API. inbox: what waits for the writer. writer: the thread that commits. store: SQLite. ledger, numbers: seq
numbers. reader: pages for replay. upkeep: checks and checkpoints on a thread of their own. types: what these hand to
each other.
"""

from anosegd.journal.journal import Journal, check_place
from anosegd.journal.reader import JournalReader
from anosegd.journal.types import (
    Cursor,
    Entry,
    JournalBacklogError,
    JournalConfig,
    JournalDamagedError,
    JournalError,
    JournalStats,
    Page,
    Range,
    Trigger,
    VerdictId,
)

__all__ = [
    "Cursor",
    "Entry",
    "Journal",
    "JournalBacklogError",
    "JournalConfig",
    "JournalDamagedError",
    "JournalError",
    "JournalReader",
    "JournalStats",
    "Page",
    "Range",
    "Trigger",
    "VerdictId",
    "check_place",
]
