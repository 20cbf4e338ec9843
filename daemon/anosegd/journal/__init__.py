"""The verdict journal: every verdict is committed here before it is sent. The daemon uses `Journal`.

journal: the promise, the API and the journal's thread. writer: what that thread does with the file. store: the SQLite file
itself. numbers: reserved verdict numbers. reader: pages for replay. background: a second thread for slow work. types: values that
they exchange.
"""

from anosegd.journal.journal import Journal, check_place
from anosegd.journal.reader import JournalReader
from anosegd.journal.types import (
    Entry,
    JournalConfig,
    JournalDamagedError,
    JournalError,
    Page,
    Range,
    VerdictId,
)

__all__ = [
    "Entry",
    "Journal",
    "JournalConfig",
    "JournalDamagedError",
    "JournalError",
    "JournalReader",
    "Page",
    "Range",
    "VerdictId",
    "check_place",
]
