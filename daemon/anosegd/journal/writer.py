"""Opens the journal's file, commits to it, reserves numbers, deletes old verdicts, and sets a damaged file aside.

Runs on the journal's thread, or before that thread is started.
"""

from __future__ import annotations

import dataclasses
import sqlite3
import time
import uuid
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from anoseg_engines.words import agreeing, counted
from anosegd import logs
from anosegd.age_clock import AgeClock
from anosegd.journal.background import Background
from anosegd.journal.numbers import SeqFile
from anosegd.journal.reader import is_damage
from anosegd.journal.retention import Retention
from anosegd.journal.store import VACUUM_PAGES, Store
from anosegd.journal.store_file import create_store, open_store, rename_damaged
from anosegd.journal.transaction import Transaction
from anosegd.journal.types import (
    AcceptedTrigger,
    JournalConfig,
    JournalDamagedError,
    JournalError,
    JournalNewerError,
    JournalStats,
    Range,
)

TICK_S, RETRY_S, EXPIRE_EVERY_S = 0.2, 1.0, 0.02
COPY_LOG_PAGES = 3000
"""After so many written pages, the write-ahead log is copied into the file on the background thread."""
CUT_PAGES, CUT_RETRY_S = 1000, 60.0
"""The log's length is checked after so many pages. If another program prevents cutting it, it may grow for so long."""
MAX_UNCOMMITTED = 100_000
"""While commits fail, numbers are used only up to so far beyond the last one in the file."""
SKIPPED_IN_DOUBT = 1_000_000
"""Numbers left out when the .seq file is missing or damaged. MAX_UNCOMMITTED bounds what can have been used beyond the file's
last number; the rest covers verdicts lost in a power failure, and an older copy of the file put back in its place."""


@dataclass(frozen=True, slots=True)
class Opened:
    """Describes a file that was opened.

    Attributes:
        used_to: The highest number that an earlier run may have used.
        voids: Numbers up to `used_to` without a verdict, still to be declared void.
        cursors: The durable consumers.
        owed: Triggers without a verdict.
        requests: Triggers with a request id, answered or not.
    """

    journal_id: str
    used_to: int
    voids: list[Range]
    cursors: dict[str, int]
    owed: list[AcceptedTrigger]
    requests: list[AcceptedTrigger]


class Writer:
    """Writes the journal's file. No method raises when the disk fails: `stats`, `notices` and the log say so.

    Attributes:
        stats: The journal's state, replaced as a whole.
        notices: What happened to the file, newest last.
    """

    def __init__(
        self,
        config: JournalConfig,
        path: Path,
        seq_file: SeqFile,
        *,
        background: Background,
        on_damage: Callable[[str], None],
        wall_ns: Callable[[], int],
        monotonic_ns: Callable[[], int],
    ) -> None:
        self.stats = JournalStats()
        self.notices: deque[str] = deque(maxlen=20)
        self._config, self._path, self._seq_file = config, path, seq_file
        self._background, self._on_damage = background, on_damage
        self._wall_ns, self._monotonic_ns = wall_ns, monotonic_ns
        self._store: Store | None = None
        self._retention = Retention(config, AgeClock(None, wall_ns(), monotonic_ns))
        self._retry_at = self._cut_at = 0.0
        self._pages_uncopied = self._pages_uncut = 0
        self._copies = 0  # of the log into the file, at the last look
        self._failing = logs.Throttle("journal.failing")

    @property
    def is_open(self) -> bool:
        """Whether there is a file."""
        return self._store is not None

    @property
    def lost_files(self) -> str | None:
        """What of the open journal is no longer in its place, for people. None if everything is."""
        if self._store is None:
            return None
        if self._store.log_lost:
            return "its write-ahead log (-wal, -shm) was moved, deleted or replaced"
        return "its .seq file was moved, deleted or replaced" if self._seq_file.lost else None

    @property
    def overwritten(self) -> str | None:
        """What of the open journal another program has overwritten, for people. None if nothing, or if that is not known."""
        store = self._store
        with suppress(sqlite3.Error):
            if store is not None and not store.moved and store.file.cut:
                return "it was cut or emptied by another program"
            if store is not None and not store.log_lost and store.log.overwritten:
                return "its write-ahead log (-wal) was overwritten by another program"
        return None

    def check_changes(self) -> None:
        """Have the file read through if another program has written into it, as a restored backup does."""
        store, log_in_use = self._store, self._background.log_in_use
        if store is None or not log_in_use.acquire(blocking=False):  # while the log is copied, nobody can tell who writes
            return
        try:
            changed = store.file.changed
            copies, self._copies = self._copies, self._background.copies
        finally:
            log_in_use.release()
        if changed and copies == self._copies:
            self._background.check(store.extent.journal_id, store.extent.settled_to)

    @property
    def may_retry(self) -> bool:
        """Whether enough time has passed since the last failure."""
        return time.monotonic() >= self._retry_at

    @property
    def idle_s(self) -> float:
        """How long the thread may wait when nothing is queued."""
        return min(TICK_S, self._retention.due_in_s)

    # ---- the file

    def open(self, given_to: int) -> Opened | None:
        """Open the file, or create one that begins after `given_to`. A damaged file is set aside.

        Returns None if that fails for now.

        Raises:
            JournalNewerError: The file is the journal of a newer program.
        """
        store = None
        try:
            self._seq_file.restore()
            store = self._open_existing() or self._create(given_to)
            opened = self._adopt(store)
        except JournalNewerError:
            raise
        except (OSError, sqlite3.Error, JournalError) as error:
            if store is not None:
                with suppress(sqlite3.Error):
                    store.close()
            what = error.what if isinstance(error, JournalError) else f"{self._path}: {error}"
            self._failed(f"there is no journal: {what}")
            if isinstance(error, sqlite3.Error) and is_damage(error):
                self._on_damage(what)
            return None
        self._store = store
        self._refresh_stats()
        return opened

    def set_aside(self, what: str) -> None:
        """Set the open file aside because it is damaged or no longer in its place."""
        self._notice(f"{self._path}: {what}")
        store, self._store = self._store, None
        try:
            self._rename_and_close(store)
        except (OSError, JournalError) as error:
            self._failed(
                f"{self._path}: cannot be set aside: {error.what if isinstance(error, JournalError) else error.strerror}"
            )

    def leave(self, what: str) -> None:
        """Close a journal of which files were lost, after what is in its log was saved. It is opened again a second later."""
        self._notice(f"{self._path}: {what}; it is closed and opened again")
        store, self._store = self._store, None
        if store is not None:
            with suppress(sqlite3.Error):
                store.rescue_log()
            with suppress(sqlite3.Error):
                store.close()
        self._failed(f"{self._path}: {what}")

    def close(self, given_to: int) -> None:
        """Close the files, and give the reserved numbers after `given_to` back."""
        if self._store is not None:
            with suppress(OSError):
                self._seq_file.reserve(self._store.extent.journal_id, given_to)
            with suppress(sqlite3.Error):
                self._store.close()
        self._store = None
        self._seq_file.close()

    def _open_existing(self) -> Store | None:
        store = None
        try:
            if self._path.exists():
                store = open_store(self._path, sync=self._config.sync)
                self._check_nothing_lost(store)
                return store
            if self._seq_file.journal_id:
                self._notice(f"{self._path}: the file of journal {self._seq_file.journal_id} is missing")
        except JournalDamagedError as error:
            self._notice(f"{self._path}: {error.what}")
        self._rename_and_close(store)  # even without the file: SQLite would read a leftover write-ahead log into the new one
        return None

    def _rename_and_close(self, store: Store | None) -> None:
        try:
            if aside := rename_damaged(self._path):
                self._notice(f"set aside as {aside}")
        finally:
            if store is not None:  # closed after the renaming, so that its log is not copied into the damaged file
                with suppress(sqlite3.Error):
                    store.close()

    def _check_nothing_lost(self, store: Store) -> None:
        noted = self._seq_file
        lost = noted.committed - store.extent.top if noted.journal_id == store.extent.journal_id else 0
        if lost > 0 and noted.same_boot:
            raise JournalDamagedError(
                f"verdicts were committed up to {noted.committed}, but the file ends with {store.extent.top}"
            )
        if lost > 0:
            were = agreeing(lost, "was", "were")
            self._notice(f"{counted(lost, 'verdict')} {were} committed but not on the disk when the machine stopped: void now")

    def _create(self, given_to: int) -> Store:
        first = max(self._seq_file.reserved_to, given_to) + 1
        new_id = uuid.uuid4().hex
        store = create_store(self._path, journal_id=new_id, first=first, sync=self._config.sync, now_ns=self._wall_ns())
        with suppress(OSError):
            self._seq_file.reserve(new_id, store.extent.top)
        self._notice(f"journal {new_id} begins with number {first}", logs.info)
        return store

    def _adopt(self, store: Store) -> Opened:
        seq_file = self._seq_file
        used_to = max(seq_file.reserved_to, store.extent.top)
        if seq_file.journal_id != store.extent.journal_id or seq_file.reserved_to < store.extent.top:
            first, used_to = used_to + 1, used_to + SKIPPED_IN_DOUBT
            why = "the .seq file does not tell which numbers were used"
            self._notice(f"{why}: {first} to {used_to} are left out; this loses no verdict")
            self._reserve(store, used_to)
        opened = Opened(
            journal_id=store.extent.journal_id,
            used_to=used_to,
            voids=store.unsettled(used_to),
            cursors=store.cursors(),
            owed=store.owed(),
            requests=store.requests(),
        )
        self._retention.clock = AgeClock(store.newest_kept_ns(), self._wall_ns(), self._monotonic_ns)
        if store.unchecked_to:
            self._background.check(store.extent.journal_id, store.unchecked_to)
        return opened

    # ---- writing

    def reserve(self, to: int) -> bool:
        """Reserve the numbers up to `to`. Returns whether they are reserved."""
        store = self._store
        return store is not None and to <= store.extent.top + MAX_UNCOMMITTED and self.may_retry and self._reserve(store, to)

    def _reserve(self, store: Store, to: int) -> bool:
        try:
            self._seq_file.reserve(store.extent.journal_id, to)
        except OSError as error:
            self._failed(f"no numbers could be reserved: {error.strerror}")
            return False
        return True

    def commit(self, transaction: Transaction) -> JournalError | None:
        """Commit a transaction. Returns the error if the file is as before."""
        store = self._store
        assert store is not None
        try:
            store.write(transaction, kept_ns=self._retention.clock.now_ns(), wall_ns=self._wall_ns())
        except sqlite3.Error as error:
            self._write_failed(error)
            self._note_log(failed=True)
            return JournalError(f"{self._path}: {error}", hint="free some space" if "full" in str(error) else "")
        self._note_log()
        if transaction.entries:
            self._seq_file.note_committed(store.extent.journal_id, store.extent.top)
        if not self.stats.working:
            logs.info("journal.working", journal=store.extent.journal_id, last=store.extent.settled_to)
        self.stats = dataclasses.replace(
            self.stats,
            working=True,
            last_committed=store.extent.settled_to,
            commits=self.stats.commits + 1,
            stored=store.stored,
        )
        size = sum(len(e.header) for e in transaction.entries)
        self._retention.wrote(size)
        self._pages_written(2 + size // 4096)
        return None

    # ---- retention and the log's length

    def _note_log(self, *, truncated: bool = False, failed: bool = False) -> None:
        if self._store is not None:
            self._store.log.note(truncated=truncated, failed=failed)
            if self._store.log_is_long:
                self._store.file.note_copied()

    def apply_retention(self) -> None:
        """Take the steps of retention that are due, and bound the write-ahead log."""
        store = self._store
        if store is None:
            self._retention.wait(RETRY_S)
            return
        if self._pages_uncut >= CUT_PAGES and time.monotonic() >= self._cut_at:
            self._cut_log(store)
        steps = self._retention.steps_due()
        if not steps:
            return
        more = self._expire(store)
        while more and (steps := steps - 1) > 0:
            more = self._expire(store)
        self._retention.wait(EXPIRE_EVERY_S if more else RETRY_S)

    def _expire(self, store: Store) -> bool:
        """One step of retention. Returns whether there is more to do."""
        more = False
        try:
            if store.moved:
                self._on_damage("it was moved or deleted")
                return False
            self._retention.forget_names(store)
            more = self._retention.delete_oldest(store)
            if not more and (more := store.shrink()) and not store.may_shrink:
                self._background.copy_log(store.extent.journal_id)  # only this makes the file smaller
            self._pages_written(VACUUM_PAGES if more else 0)
        except sqlite3.Error as error:
            self._write_failed(error)
            self._note_log(failed=True)
        except OSError as error:
            self._failed(f"{self._path}: {error.strerror}")
        self._note_log()
        self._refresh_stats()
        return more

    def _cut_log(self, store: Store) -> None:
        """Bound the write-ahead log: if verdicts arrive faster than it is copied, they wait here."""
        self._pages_uncut = 0
        try:
            with self._background.log_in_use:
                cut = store.cut_log()
        except sqlite3.Error as error:
            self._write_failed(error)
            self._note_log(failed=True)
            return
        self._note_log(truncated=True)
        if not cut:
            self._cut_at = time.monotonic() + CUT_RETRY_S
            self._notice(f"{self._path}: another program keeps reading it, so its write-ahead log grows")

    def _pages_written(self, pages: int) -> None:
        """Note that the write-ahead log has grown by about so many pages."""
        self._pages_uncopied += pages
        self._pages_uncut += pages
        if self._store is not None and self._pages_uncopied >= COPY_LOG_PAGES:
            self._pages_uncopied = 0
            self._background.copy_log(self._store.extent.journal_id)

    # ---- what happened

    def _refresh_stats(self) -> None:
        if self._store is not None:
            self.stats = dataclasses.replace(
                self.stats,
                last_committed=self._store.extent.settled_to,
                first_kept=self._store.extent.first_kept,
                size_bytes=self._store.size_bytes(),
                stored=self._store.stored,
            )

    def _write_failed(self, error: sqlite3.Error) -> None:
        self._failed(f"{self._path}: {error}")
        if is_damage(error):
            self._on_damage(str(error))

    def _failed(self, what: str) -> None:
        self.stats = dataclasses.replace(self.stats, working=False, failures=self.stats.failures + 1, last_error=what)
        self._failing.warning(error=what)
        if self.may_retry:
            self._retry_at = time.monotonic() + RETRY_S
            if self._store is not None:  # once copied, the log starts over, where a full disk has room for it
                self._background.copy_log(self._store.extent.journal_id)

    def _notice(self, what: str, log: Callable[..., None] = logs.warning) -> None:
        if not self.notices or self.notices[-1] != what:  # a repeated attempt is reported once
            self.notices.append(what)
            log("journal.notice", what=what)
