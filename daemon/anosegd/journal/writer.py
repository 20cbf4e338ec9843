"""The journal's one writing thread, "journal": group commits, reserved numbers, retention, and a new file for a damaged one."""

from __future__ import annotations

import dataclasses
import sqlite3
import time
import uuid
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from anosegd import logs
from anosegd.journal.inbox import Accepted, Amended, Inbox, Submitted, Work
from anosegd.journal.ledger import Ledger
from anosegd.journal.numbers import Numbers
from anosegd.journal.reader import is_damage
from anosegd.journal.store import EXPIRE_BYTES, VACUUM_PAGES, Store, Transaction, create_store, open_store, set_aside
from anosegd.journal.types import (
    Entry,
    JournalConfig,
    JournalDamagedError,
    JournalError,
    JournalStats,
    Range,
    Trigger,
    VerdictId,
    merged,
)
from anosegd.journal.upkeep import Upkeep
from anosegd.worker import Worker

TICK_S, RETRY_S, EXPIRE_EVERY_S = 0.2, 1.0, 0.02
CARRY_OVER_PAGES = 3000
"""Pages written until the write-ahead log is carried over into the file, beside the writer."""
CUT_PAGES, CUT_RETRY_S = 1000, 60.0
"""How often the log's length is looked at; and how long it may grow on when another program keeps it from being cut."""
LOG_BYTES = 36 << 20
"""Of keep_mb, what is left to the write-ahead log (20 MiB, and what is written between two looks) and to free pages."""
SKIPPED_IN_DOUBT = 1 << 24
"""Numbers passed over when it is not known which were used: more than four hours of failed commits at 1,000 a second."""
DAY_NS = 86_400_000_000_000


class AgeClock:
    """The clock by which entries grow old: it goes with the machine's uptime and only starts from the wall clock.

    A wall clock that is set, is wrong at boot (no battery) or put right by NTP hours later deletes nothing: at start this
    clock goes on from the newest entry, forward by at most a day. A station switched off for long keeps its entries longer.
    """

    def __init__(self, newest_ns: int | None, wall_ns: int, monotonic_ns: Callable[[], int]) -> None:
        self._monotonic_ns = monotonic_ns
        start = wall_ns if newest_ns is None else min(max(newest_ns, wall_ns), newest_ns + DAY_NS)
        self._offset = start - monotonic_ns()

    def now_ns(self) -> int:
        """Nanoseconds; never goes back, within a run or from one to the next."""
        return self._monotonic_ns() + self._offset


class Writer(Worker):
    """Empties the inbox into the file. Everything here runs on its thread, or before it is started.

    upkeep: does beside this thread what would make verdicts wait. on_new_journal: told the id of a journal that was begun or
    opened after the start.
    """

    def __init__(
        self,
        config: JournalConfig,
        path: Path,
        ledger: Ledger,
        numbers: Numbers,
        inbox: Inbox,
        *,
        wall_ns: Callable[[], int],
        monotonic_ns: Callable[[], int],
        upkeep: Upkeep,
        on_new_journal: Callable[[str], None],
    ) -> None:
        super().__init__("journal")
        self.notices: deque[str] = deque(maxlen=20)
        self.stats = JournalStats(numbers.journal_id, False, 0, 0, 0, 0, 0, 0, 0, None, 0.0)
        self._config, self._path, self._ledger, self._numbers, self._inbox = config, path, ledger, numbers, inbox
        self._wall_ns, self._monotonic_ns = wall_ns, monotonic_ns
        self._upkeep, self._on_new_journal = upkeep, on_new_journal
        self._store: Store | None = None
        self._clock = AgeClock(None, wall_ns(), monotonic_ns)
        self._holes: list[Range] = []  # numbers to be declared void with the next transaction
        self._amends: dict[int, Entry] = {}
        self._damage: str | None = None
        self._owed: list[Trigger] = []
        self._retry_at = self._upkeep_at = self._replaced_at = self._cut_at = 0.0
        self._pages_written = self._pages_uncut = self._bytes_written = 0
        self._failing = logs.Throttle("journal.failing")

    def work(self) -> None:
        """Until the inbox is closed and empty."""
        try:
            while True:
                self.answer()
                now = time.monotonic()
                if self._damage is not None and now >= self._replaced_at + RETRY_S:
                    self._replace(self._damage)
                elif self._store is None and now >= self._retry_at:
                    self.open_file()
                work = self._inbox.take(min(now + TICK_S, self._upkeep_at), numbers=now >= self._retry_at)
                if work.damage is not None:
                    self._damage = work.damage
                    continue
                if self._store is not None and self._numbers.low and time.monotonic() >= self._retry_at:
                    self._reserve()
                self._do(work)
                if work.closing:
                    break
                self._keep_up()
        finally:
            self._inbox.close()
            self.close()

    def close(self) -> None:
        """Close the files, unless `work` has done so. Numbers in hand are given back: only a crash leaves them unused."""
        given_to = self._numbers.end()
        if self._store is not None:
            with suppress(OSError):
                self._ledger.reserve(self._store.journal_id, given_to)
            with suppress(sqlite3.Error):
                self._store.close()
        self._store = None
        self._ledger.close()

    def take_owed(self) -> list[Trigger]:
        """Triggers of an earlier run that were found unanswered, each once. Any thread."""
        owed, self._owed = self._owed, []
        return owed

    # ---- opening

    def open_file(self) -> None:
        """Open the journal, or begin one; what is damaged is set aside. If it cannot be done now, it is tried again."""
        store = None
        try:
            store = self._existing() or self._begin()
            self._adopt(store)
        except (OSError, sqlite3.Error, JournalError) as error:
            if store is not None and store is not self._store:
                with suppress(sqlite3.Error):
                    store.close()
            what = error.what if isinstance(error, JournalError) else f"{self._path}: {error}"
            self._failed(f"there is no journal: {what}")
            if isinstance(error, sqlite3.Error) and is_damage(error):
                self._damage = what

    def _existing(self) -> Store | None:
        store = None
        try:
            if self._path.exists():
                store = open_store(self._path, sync=self._config.sync)
                self._compare_with_ledger(store)
                return store
            if self._ledger.journal_id:
                self._notice(f"{self._path}: missing, it was journal {self._ledger.journal_id}")
        except JournalDamagedError as error:
            self._notice(f"{self._path}: {error.what}")
        self._set_aside(store)  # without its file, too: a write-ahead log left behind would be read into the new one
        return None

    def _set_aside(self, store: Store | None) -> None:
        try:
            if aside := set_aside(self._path):
                self._notice(f"set aside as {aside}")
        finally:
            if store is not None:  # only now: closing carries nothing over into a file that was moved away
                with suppress(sqlite3.Error):
                    store.close()

    def _compare_with_ledger(self, store: Store) -> None:
        ledger = self._ledger
        lost = ledger.committed - store.top if ledger.journal_id == store.journal_id else 0
        if lost > 0 and ledger.same_boot:
            raise JournalDamagedError(f"verdicts were committed up to {ledger.committed}, the file ends with {store.top}")
        if lost > 0:
            self._notice(f"{lost} verdicts were committed, but not on the disk yet when the machine stopped; they are void")

    def _begin(self) -> Store:
        first = max(self._ledger.reserved_to, self._numbers.highest) + 1
        new_id = uuid.uuid4().hex
        store = create_store(self._path, journal_id=new_id, first=first, sync=self._config.sync, now_ns=self._wall_ns())
        with suppress(OSError):
            self._ledger.reserve(new_id, store.top)
        self._notice(f"journal {new_id} begins with number {first}", logs.info)
        return store

    def _adopt(self, store: Store) -> None:
        ledger = self._ledger
        used_to = max(ledger.reserved_to, store.top)
        if ledger.journal_id != store.journal_id or ledger.reserved_to < store.top:
            used_to += SKIPPED_IN_DOUBT
            self._notice(f"it is not known which numbers were used; going on with {used_to + 1}")
        holes = store.unsettled(used_to)
        reserved_to = max(used_to, self._numbers.highest) + 2 * Numbers.BLOCK
        try:
            ledger.reserve(store.journal_id, reserved_to)
        except OSError as error:
            reserved_to = used_to
            self._failed(f"no numbers could be reserved: {error.strerror}")
        self._clock = AgeClock(store.newest_kept_ns(), self._wall_ns(), self._monotonic_ns)
        known_id, self._store = self.stats.journal_id, store
        self._inbox.begin(store.cursors())
        self._owed = store.owed()
        self._amends.clear()
        self._holes = merged([*holes, *self._numbers.begin(store.journal_id, used_to + 1, reserved_to)])
        if store.unchecked_to:
            self._upkeep.check(store.journal_id, store.unchecked_to)
        self._commit(Transaction(voids=self._holes), [])
        self._refresh(journal_id=store.journal_id)
        if self.alive and store.journal_id != known_id:
            self._on_new_journal(store.journal_id)

    def _replace(self, what: str) -> None:
        """The file is damaged, or gone from its place: begin another."""
        self._notice(f"{self._path}: {what}")
        store, self._store, self._damage = self._store, None, None
        self._replaced_at = time.monotonic()
        self._numbers.end()
        self._holes.clear()
        try:
            self._set_aside(store)
        except OSError as error:
            self._failed(f"{self._path}: cannot be set aside: {error.strerror}")
        self.open_file()

    # ---- writing

    def _reserve(self) -> None:
        """Reserve a block more. While that fails, numbers in hand are used up, then spare identities."""
        assert self._store is not None
        to = self._numbers.wanted()
        try:
            self._ledger.reserve(self._store.journal_id, to)
        except OSError as error:
            self._failed(f"no numbers could be reserved: {error.strerror}")
        else:
            self._holes = merged([*self._holes, *self._numbers.reserved(to)])

    def _do(self, work: Work) -> None:
        """Commit in one transaction what can be committed, and tell everybody."""
        rows: dict[int, Entry] = {}
        taken: list[Submitted] = []
        accepted: list[Accepted] = []
        for item in work.items:
            if isinstance(item, Amended):
                (rows if item.entry.seq in rows else self._amends)[item.entry.seq] = item.entry
            elif isinstance(item, Accepted):
                accepted.append(item)
            elif self._store is not None and self._numbers.awaited(item.entries):
                taken.append(item)
                rows.update((e.seq, e) for e in item.entries)
            else:  # numbered in a journal that is no more, or while there was none
                self._lose(e.seq for e in item.entries if self._numbers.awaited([e]))
                self._answer(item, JournalError("there is no journal, or it was begun after the verdict got its number"))
        journal_id = self._numbers.journal_id
        given_up = (VerdictId(journal_id, seq) for void in work.discarded for seq in range(void.first, void.last + 1))
        self._lose(each.seq for each in given_up if self._numbers.awaited([each]))
        again = bool(self._holes or self._amends or work.cursors) and time.monotonic() >= self._retry_at
        if self._store is not None and (taken or accepted or again):
            triggers = [each.trigger for each in accepted]
            transaction = Transaction(list(rows.values()), list(self._amends.values()), self._holes, work.cursors, triggers)
            self._commit(transaction, taken, accepted)
        else:
            self._inbox.cursors_failed(list(work.cursors))
            for each in accepted:
                each.done(JournalError("there is no journal"))

    def _lose(self, seqs: Iterable[int]) -> None:
        """These numbers are not going to carry a verdict."""
        lost = list(seqs)
        self._numbers.settled(lost)
        self._holes = merged([*self._holes, *(Range(seq, seq) for seq in lost)])

    def _commit(self, transaction: Transaction, taken: list[Submitted], accepted: Sequence[Accepted] = ()) -> None:
        store = self._store
        assert store is not None
        seqs = {e.seq for e in transaction.entries}
        error: JournalError | None = None
        started = time.perf_counter()
        try:
            transaction.barrier = self._numbers.first_unsettled(seqs)
            store.write(transaction, self._clock.now_ns())
        except sqlite3.Error as failure:
            error = JournalError(f"{self._path}: {failure}", hint="free some space" if "full" in str(failure) else "")
            self._lose(seqs)
            self._inbox.cursors_failed(list(transaction.cursors))
            self._inbox.amended(transaction.entries)
            self._troubled(failure)
        else:
            self._numbers.settled(seqs)
            self._committed(transaction, 1000 * (time.perf_counter() - started))
        for item in taken:
            self._answer(item, error)
        for each in accepted:
            each.done(error)

    def _committed(self, transaction: Transaction, ms: float) -> None:
        store = self._store
        assert store is not None
        self._holes = []
        self._amends.clear()
        self._inbox.amended([*transaction.entries, *transaction.amends])
        if transaction.entries:
            self._ledger.note_committed(store.journal_id, store.top)
        if not self.stats.working:
            logs.info("journal.working", journal=store.journal_id, last=store.settled_to)
        self.stats = dataclasses.replace(
            self.stats,
            working=True,
            last_committed=store.settled_to,
            commits=self.stats.commits + 1,
            committed=self.stats.committed + len(transaction.entries),
            slowest_commit_ms=max(self.stats.slowest_commit_ms, ms),
        )
        size = sum(len(e.header) for e in transaction.entries)
        self._bytes_written += size
        self._written(2 + size // 4096)

    def _answer(self, item: Submitted, error: JournalError | None) -> None:
        self._inbox.answered(item)
        item.done(item.entries, error)

    # ---- upkeep

    def _keep_up(self) -> None:
        """Some steps of retention where they are due: every second, and as fast as verdicts come in."""
        if self._pages_uncut >= CUT_PAGES and time.monotonic() >= self._cut_at:
            self._cut_log()
        steps = self._bytes_written // (EXPIRE_BYTES // 2)
        if not steps and time.monotonic() < self._upkeep_at:
            return
        self._bytes_written = 0
        more = self._expire()
        while more and (steps := steps - 1) > 0:
            more = self._expire()
        self._upkeep_at = time.monotonic() + (EXPIRE_EVERY_S if more else RETRY_S)

    def _cut_log(self) -> None:
        """The write-ahead log never grows without bound: where verdicts come faster than it is carried over, they wait."""
        self._pages_uncut = 0
        try:
            with self._upkeep.log_in_use:
                cut = self._store is None or self._store.cut_log()
        except sqlite3.Error as error:
            self._troubled(error)
            return
        if not cut:
            self._cut_at = time.monotonic() + CUT_RETRY_S
            self._notice(f"{self._path}: another program keeps reading it, so its write-ahead log grows")

    def _written(self, pages: int) -> None:
        """The write-ahead log has grown, by about so many pages."""
        self._pages_written += pages
        self._pages_uncut += pages
        if self._pages_written >= CARRY_OVER_PAGES:
            self._pages_written = 0
            self._upkeep.carry_over()

    def _expire(self) -> bool:
        """One step of retention; whether there is more to do."""
        store, config = self._store, self._config
        if store is None:
            return False
        more = False
        try:
            if store.moved:
                self._replace("it was moved or deleted")
                return False
            oldest_ns = self._clock.now_ns() - int(config.keep_days * DAY_NS)
            more = store.expire(before_kept_ns=oldest_ns, max_bytes=(config.keep_mb << 20) - LOG_BYTES) > 0
            if not more and (more := store.shrink()) and not store.may_shrink:
                self._upkeep.carry_over()  # only then the file is cut
            self._written(VACUUM_PAGES if more else 0)
        except sqlite3.Error as error:
            self._troubled(error)
        except OSError as error:
            self._failed(f"{self._path}: {error.strerror}")
        self._refresh()
        return more

    def _refresh(self, journal_id: str | None = None) -> None:
        store = self._store
        if store is not None:
            self.stats = dataclasses.replace(
                self.stats,
                journal_id=journal_id or self.stats.journal_id,
                last_committed=store.settled_to,
                first_kept=store.first_kept,
                size_bytes=store.size_bytes(),
            )

    def _troubled(self, error: sqlite3.Error) -> None:
        self._failed(f"{self._path}: {error}")
        self._damage = str(error) if is_damage(error) else self._damage

    def _failed(self, what: str) -> None:
        self.stats = dataclasses.replace(self.stats, working=False, failures=self.stats.failures + 1, last_error=what)
        self._failing.warning(error=what)
        if time.monotonic() >= self._retry_at:
            self._retry_at = time.monotonic() + RETRY_S
            self._upkeep.carry_over()  # the log starts over afterwards, where a full disk has room for it

    def _notice(self, what: str, tell: Callable[..., None] = logs.warning) -> None:
        if not self.notices or self.notices[-1] != what:  # an attempt repeated every second is told once
            self.notices.append(what)
            tell("journal.notice", what=what)
