"""Commits every verdict before it is sent, and gives past verdicts to readers. The daemon uses `Journal`.

`journal` makes the promise, has the API and runs the thread. `writer` does that thread's work on the file. `store` writes the
SQLite file, and `transaction` is what it writes at once. `store_file` creates, opens and checks it, `format` has its tables
and versions, and `retention` deletes the oldest verdicts. `place` checks that a journal may be at its path. `numbers` reserves
verdict numbers. `reader` reads pages for a replay, `offline` those of a station that is down. `feedback` stores what people say
about parts, `consumers` has the cursors of durable consumers. `background` does slow work on a second thread. `types` has the
values that these modules exchange.
"""

from anosegd.journal.feedback import MARKS, FeedbackChange, Mark, PartMark, PartNote
from anosegd.journal.journal import Journal
from anosegd.journal.offline import offline_reader
from anosegd.journal.place import check_content, check_place
from anosegd.journal.reader import JournalReader
from anosegd.journal.types import (
    Change,
    ChangeKind,
    Entry,
    JournalConfig,
    JournalDamagedError,
    JournalError,
    Page,
    Range,
    Tally,
    VerdictId,
)

__all__ = [
    "MARKS",
    "Change",
    "ChangeKind",
    "Entry",
    "FeedbackChange",
    "Journal",
    "JournalConfig",
    "JournalDamagedError",
    "JournalError",
    "JournalReader",
    "Mark",
    "Page",
    "PartMark",
    "PartNote",
    "Range",
    "Tally",
    "VerdictId",
    "check_content",
    "check_place",
    "offline_reader",
]
