"""Commits every verdict before it is sent, and keeps it for readers.

A verdict passes through the journal in four steps:

1. `next_id` gives it a number. Numbers are reserved on the disk ahead of use, so no run ever gives a number out twice.
2. `submit` queues it. The journal's thread commits the whole queue in one transaction and then calls `done`.
3. The publisher sends it and calls `release`; until then no reader sees it. If something else had to be sent, `amend` first
   replaces the stored verdict. So a replay always says what was sent.
4. If the commit fails, `done` gets the error, and the number is declared void as soon as the file can be written. Numbers
   that a killed daemon left unused are declared void at the next start. So every number is a verdict, is void, or
   is gone because the journal has deleted it.

A damaged file is set aside and a new journal begins under a new id, with higher numbers.

Any thread may use `Journal`. Only its own thread, "journal", writes entries. Files: PATH (SQLite, with its -wal and
-shm), PATH.seq (reserved numbers, and the lock), PATH.damaged-TIME (set aside).
"""

from __future__ import annotations

import dataclasses
import os
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from anosegd.journal.background import Background
from anosegd.journal.consumers import Consumers
from anosegd.journal.feedback import FeedbackChange
from anosegd.journal.numbers import Numbers, SeqFile
from anosegd.journal.place import check_content, check_place
from anosegd.journal.queue import Queue, Queued
from anosegd.journal.reader import JournalReader
from anosegd.journal.transaction import Transaction
from anosegd.journal.triggers import Triggers
from anosegd.journal.types import (
    AcceptedTrigger,
    Change,
    Entry,
    JournalConfig,
    JournalError,
    JournalStats,
    VerdictId,
    merged,
)
from anosegd.journal.writer import RETRY_S, Writer
from anosegd.worker import Worker

Done = Callable[[Sequence[Entry], Exception | None], None]

HANGS_AFTER_S = 10.0
"""If the journal's thread has not answered for this long, its disk hangs: a write neither succeeds nor fails."""
JOIN_S = 5.0
"""How long the background thread may take to end if the journal cannot be opened."""


@dataclass(frozen=True, slots=True)
class _Batch:
    """Holds what was taken from the queue at once. `taken` gets the transaction's result; `refused` gets an error."""

    transaction: Transaction
    taken: list[Queued]
    refused: list[Queued]


class Journal(Worker):
    """A station's journal, made by `open`. Methods return at once unless their docstring says otherwise.

    While there is no file at all, verdicts still get identities and each `done` gets an error. Opening is retried every
    second.

    Attributes:
        path: The journal's file.
    """

    @classmethod
    def open(
        cls,
        config: JournalConfig,
        *,
        on_new_journal: Callable[[str], None] = lambda journal_id: None,
        wall_ns: Callable[[], int] = time.time_ns,
        monotonic_ns: Callable[[], int] = time.monotonic_ns,
    ) -> Journal:
        """Open or create the journal, check it, and start its threads. Takes as long as the check does.

        Args:
            config: The journal's configuration.
            on_new_journal: Called on the journal's thread with the id of a journal that was created or opened after the
                start. It must not raise.
            wall_ns: The clock that a new run starts from.
            monotonic_ns: The clock that measures how old verdicts are.

        Raises:
            JournalError: The journal cannot be written, another daemon uses it, or it is of a newer program.
            ConfigError: A journal cannot exist at this path.
        """
        path = check_place(config)
        check_content(path)
        for name in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
            if name.exists() and not os.access(name, os.R_OK | os.W_OK):
                raise JournalError(f"{name}: no permission to write", hint="give the file to the daemon's user")
        seq_file = SeqFile.open(path.with_name(path.name + ".seq"))
        journal = cls(config, path, seq_file, on_new_journal=on_new_journal, wall_ns=wall_ns, monotonic_ns=monotonic_ns)
        try:
            journal._open_file()
            journal._background.start()
            journal.start()
        except BaseException:
            journal._background.stop()
            journal._background.join(JOIN_S)
            journal._close_file()
            raise
        return journal

    def __init__(
        self,
        config: JournalConfig,
        path: Path,
        seq_file: SeqFile,
        *,
        on_new_journal: Callable[[str], None],
        wall_ns: Callable[[], int],
        monotonic_ns: Callable[[], int],
    ) -> None:
        super().__init__("journal")
        self.path = path
        self._on_new_journal = on_new_journal
        self._replaced_at = 0.0

        self._changed = threading.Condition()  # guards what follows
        self._numbers = Numbers(seq_file.reserved_to)
        self._latest_id = self._numbers.unsaved_id  # of the file that was opened last
        self._queue = Queue()
        self._held: set[int] = set()
        self._amends: dict[int, Entry] = {}  # not written yet
        self._consumers = Consumers()
        self._triggers = Triggers()
        self._damage: str | None = None
        self._openings = 0  # of files; readers open theirs again when it changes
        self._woken = self._closing = False

        self._background = Background(path, reader=self.reader(), on_damage=self._report_damage)
        self._writer = Writer(
            config,
            path,
            seq_file,
            background=self._background,
            on_damage=lambda what: self._report_damage(self.journal_id, what),
            wall_ns=wall_ns,
            monotonic_ns=monotonic_ns,
        )

    # ---- verdicts

    @property
    def journal_id(self) -> str:
        """The id that new numbers carry: the file's, or one of this process while there is no file."""
        return self._numbers.journal_id or self._numbers.unsaved_id

    def next_id(self) -> VerdictId:
        """Return a new identity. No run has given it out before or will give it out again.

        The caller must submit or discard it. Until then, readers stop before it. If no reserved number is left, the identity
        has a journal_id of this process; `submit` takes it, and its `done` gets an error.
        """
        with self._changed:
            verdict_id = self._numbers.next_id()
            if self._numbers.reserve_next(urgent=True) is not None:
                self._wake()
        return verdict_id

    def submit(self, entries: Sequence[Entry], done: Done, *, hold: bool = False) -> None:
        """Queue verdicts to be committed, all or none of them, after everything submitted before.

        Args:
            entries: Verdicts with numbers from `next_id`.
            done: Called on the journal's thread with the entries and None when they are committed (and synced, with sync
                `full`), or with the error. It must be quick and must not raise.
            hold: Readers made by this journal stop before these numbers until each is released or amended.

        Raises:
            JournalError: Too many verdicts wait (the numbers then become void), a number was never given out or is used
                twice, or the journal is closed. `done` is not called.
        """
        with self._changed:
            self._check_open()
            seqs = self._numbers.claim(entries)
            try:
                self._queue.add(Queued(lambda error: done(entries, error), entries=entries))
            except JournalError:
                self._numbers.void(seqs)
                raise
            if hold:
                self._held.update(seqs)
            self._wake()

    def discard(self, ids: Sequence[VerdictId]) -> None:
        """Declare that these numbers will not be submitted. They become void.

        Raises:
            JournalError: A number was never given out, or was submitted or discarded before.
        """
        with self._changed:
            self._numbers.void(self._numbers.claim(ids))

    def release(self, seq: int) -> None:
        """Let readers have this number's verdict as it was submitted."""
        with self._changed:
            self._held.discard(seq)

    def amend(self, entry: Entry) -> None:
        """Replace the stored verdict of a submitted number and end its hold. From now on no reader gets the old one.

        The journal retries until the replacement is written. If the number's commit fails, the number becomes void.
        """
        with self._changed:
            if entry.journal_id in (self._numbers.journal_id, self._latest_id):  # which may be closed for a moment
                self._amends[entry.seq] = entry
                self._held.discard(entry.seq)
                self._wake()

    # ---- triggers

    def accept(
        self,
        camera: str,
        part_id: str,
        at_ns: int,
        done: Callable[[Exception | None], None],
        *,
        request_id: str | None = None,
        recipe: str | None = None,
    ) -> AcceptedTrigger:
        """Record a trigger until an entry `answers` it. If the daemon crashes first, the next run owes the verdict.

        Args:
            camera: The camera.
            part_id: The part's name.
            at_ns: The time of the trigger, Unix time.
            done: Called on the journal's thread when the trigger is recorded, or with the error. It must be quick and must not
                raise.
            request_id: The sender's name for the request; it is remembered longer than the trigger.
            recipe: The recipe that it asks for.

        Raises:
            JournalError: The journal is closed or too many wait. `done` is not called.
        """
        with self._changed:
            self._check_open()
            trigger = self._triggers.accept(camera, part_id, at_ns, request_id, recipe)
            try:
                self._queue.add(Queued(done, triggers=(trigger,)))
            except JournalError:
                self._triggers.forget([trigger.number])
                raise
            self._wake()
        return trigger

    def answered(self, number: int) -> None:
        """A trigger's verdict was sent without being stored. Its record is removed as soon as the file can be written."""
        with self._changed:
            if self._triggers.answer(number):
                self._wake()

    def take_owed(self) -> list[AcceptedTrigger]:
        """Return the triggers that an earlier run accepted and did not answer, each once. Empty before the file is open."""
        with self._changed:
            return self._triggers.take_owed()

    def take_requests(self) -> list[AcceptedTrigger]:
        """Return the triggers with a request id that earlier runs accepted, once, oldest first."""
        with self._changed:
            return self._triggers.take_requests()

    # ---- changes

    def note(self, change: Change, done: Callable[[Exception | None], None] = lambda error: None) -> None:
        """Record what somebody changed.

        Args:
            change: The change.
            done: Called on the journal's thread when it is recorded, or with the error. It must be quick and must not raise.

        Raises:
            JournalError: The journal is closed or too much waits. `done` is not called.
        """
        self._record(Queued(done, changes=(change,)))

    def note_feedback(self, said: FeedbackChange, done: Callable[[Exception | None], None]) -> None:
        """Record what somebody said about parts, or take it back. Verdicts go first, even if they are submitted later.

        Args:
            said: The change. It gets its results before `done` is called without an error.
            done: As for `note`.

        Raises:
            JournalError: As `note`.
        """
        self._record(Queued(done, feedback=(said,)))

    def _record(self, item: Queued) -> None:
        with self._changed:
            self._check_open()
            self._queue.add(item)
            self._wake()

    # ---- durable consumers

    def ack(self, consumer: str, seq: int) -> None:
        """A durable consumer has processed everything up to `seq`. Its cursor never goes back; it is written within a second.

        Raises:
            JournalError: The name or the number is invalid, or there are too many consumers.
        """
        with self._changed:
            if not 0 <= seq <= self._numbers.highest:
                raise JournalError(f"{consumer}: number {seq} was never given out")
            self._consumers.ack(consumer, seq)

    def consumer(self, name: str) -> int:
        """Return a durable consumer's cursor. The cursor of an unknown consumer is just before the oldest verdict kept.

        Raises:
            JournalError: The name is invalid.
        """
        with self._changed:
            cursor = self._consumers.cursor(name)
        return max(self._writer.stats.first_kept - 1, 0) if cursor is None else cursor

    def forget(self, consumer: str) -> None:
        """Remove a durable consumer."""
        with self._changed:
            self._consumers.forget(consumer)

    # ---- readers, state, end

    def reader(self) -> JournalReader:
        """Return a reader for one thread, which closes it."""
        return JournalReader(
            self.path,
            current=lambda: self.journal_id,
            openings=lambda: self._openings,
            stop_before=self.stop_before,
            on_damage=self._report_damage,
        )

    def stop_before(self) -> int | None:
        """Return the first number that readers must not have yet: it is held, or its replacement is not written."""
        with self._changed:
            return min([*self._amends, *self._held], default=None)

    def stats(self) -> JournalStats:
        """Return the journal's state. While the disk hangs, it does not work."""
        stats = dataclasses.replace(self._writer.stats, waiting=self._queue.verdicts)
        hang = self.hang
        return stats if hang is None else dataclasses.replace(stats, working=False, last_error=hang)

    @property
    def hang(self) -> str | None:
        """How long the disk has hung, for people. None if it does not hang."""
        silent_s = self.silent_s
        return f"the journal's disk has not answered for {silent_s:.0f} s" if self.alive and silent_s > HANGS_AFTER_S else None

    @property
    def notices(self) -> list[str]:
        """What happened to the file, newest last. Each notice was also logged."""
        return list(self._writer.notices)

    @property
    def workers(self) -> tuple[Worker, ...]:
        """The journal's threads, for the station to supervise. They run until the journal is closed."""
        return self, self._background

    def close(self, timeout_s: float = 5.0) -> bool:
        """Take no more, commit what waits, close the files. Waits for at most `timeout_s`.

        Returns False if the disk did not finish in time. The process must then end without the journal (`os._exit`).
        """
        end = time.monotonic() + timeout_s
        with self._changed:
            self._closing = True
            self._wake()
        self._background.stop()
        return self._background.join(timeout_s) and self.join(end - time.monotonic())

    # ---- the journal's thread

    def work(self) -> None:
        """Commit what is queued, until the journal is closed and the queue is empty."""
        try:
            while True:
                self.answer()
                with self._changed:
                    if not (self._woken or self._queue):
                        self._changed.wait(self._writer.idle_s)
                    self._woken = False
                self._repair()
                self._reserve(urgent=True)
                with self._changed:
                    batch = self._take(retry=self._closing or self._writer.may_retry)
                    ending = self._closing and not self._queue
                self._settle(batch, self._writer.commit(batch.transaction) if batch.transaction else None)
                if ending:
                    return
                self._reserve()  # it syncs the disk, so it comes when no verdict waits for its commit
                self._writer.apply_retention()
        finally:
            self._close_file()

    def _repair(self) -> None:
        """Replace a damaged file; open or create one if there is none."""
        with self._changed:
            may_replace = time.monotonic() >= self._replaced_at + RETRY_S
            damage = (self._damage or self._writer.overwritten) if may_replace else None
            if damage is not None:
                self._damage = None
                self._numbers.end()
        if damage is not None:
            self._replaced_at = time.monotonic()
            self._writer.set_aside(damage)
            self._open_file()
        elif (what := self._writer.lost_files) is not None:
            with self._changed:
                self._numbers.end()
            self._writer.leave(what)
        elif not self._writer.is_open and self._writer.may_retry:
            self._open_file()
        else:
            self._writer.check_changes()

    def _open_file(self) -> None:
        opened = self._writer.open(self._numbers.highest)
        if opened is None:
            return
        with self._changed:
            self._numbers.begin(opened.journal_id, opened.used_to, opened.voids)
            is_new, self._latest_id = self._latest_id != opened.journal_id, opened.journal_id
            self._triggers.number_above([*opened.owed, *opened.requests])
            self._damage = None
            self._openings += 1
            if is_new:  # otherwise the file also lists triggers of this run, whose parts are still being inspected
                self._triggers.begin(opened.owed, opened.requests)
                self._consumers.begin(opened.cursors)
                self._amends.clear()
                self._held.clear()
        self._reserve()
        with self._changed:
            batch = self._take(retry=True)
        self._settle(batch, self._writer.commit(batch.transaction))
        self._reserve()  # refused the first time if too many numbers had to be declared void
        if self.alive and is_new:
            self._on_new_journal(opened.journal_id)

    def _reserve(self, *, urgent: bool = False) -> None:
        with self._changed:
            to = self._numbers.reserve_next(urgent=urgent)
        if to is not None and self._writer.reserve(to):
            with self._changed:
                self._numbers.reserved_to = to

    def _take(self, *, retry: bool) -> _Batch:
        """Take from the queue what one transaction may hold. Call with the lock held.

        `retry` includes amendments, voids, cursors and answered triggers even if no verdict or trigger is queued.
        """
        taken, refused = self._queue.take(self._fits_file)
        numbers, transaction = self._numbers, Transaction()
        for item in taken:
            transaction.entries += (self._amends.get(e.seq, e) for e in item.entries)
            transaction.triggers += item.triggers
            transaction.changes += item.changes
            transaction.feedback += item.feedback
        if numbers.journal_id is not None and (taken or retry):
            transaction.amends += (e for e in self._amends.values() if e.seq not in numbers.pending)
            transaction.voids, numbers.voids = numbers.voids, []
            transaction.cursors.update(self._consumers.take())
            if self._queue.only_feedback:  # otherwise a trigger's record could still wait, and must come before its removal
                transaction.answered = self._triggers.answered
        seqs = {e.seq for e in transaction.entries}
        transaction.barrier = next((seq for seq in numbers.pending if seq not in seqs), None)
        return _Batch(transaction, taken, refused)

    def _fits_file(self, item: Queued) -> bool:
        """Return whether the open file can take an item. Verdicts that were numbered before it was opened become void."""
        seqs = self._numbers.claimed(item.entries)
        if self._numbers.journal_id is not None and len(seqs) == len(item.entries):
            return True
        self._numbers.void(seqs)
        return False

    def _settle(self, batch: _Batch, error: JournalError | None) -> None:
        """Record what a transaction wrote, or that it failed with `error`, and call every `done`."""
        transaction = batch.transaction
        seqs = [e.seq for e in transaction.entries]
        with self._changed:
            if error is None:
                self._numbers.settle(seqs)
                self._triggers.forget([*transaction.answered, *(e.answers for e in transaction.entries)])
                for entry in (*transaction.entries, *transaction.amends):
                    if self._amends.get(entry.seq) is entry:  # not amended again meanwhile
                        del self._amends[entry.seq]
            else:
                for seq in seqs:
                    self._amends.pop(seq, None)
                self._numbers.void(seqs)
                self._numbers.voids = merged([*self._numbers.voids, *transaction.voids])
                self._consumers.put_back(transaction.cursors)
                self._triggers.forget(trigger.number for trigger in transaction.triggers)  # they are not in the file
            for item in batch.refused:
                self._triggers.forget(trigger.number for trigger in item.triggers)
            self._queue.settle([*batch.taken, *batch.refused])
        for item in batch.taken:
            item.answer(error)
        for item in batch.refused:
            item.answer(JournalError("there is no journal, or it was opened after the verdict got its number"))

    def _close_file(self) -> None:
        """Close the files. Unused numbers are given back: only a crash leaves a hole."""
        with self._changed:
            self._closing = True
            self._numbers.end()
        self._writer.close(self._numbers.highest)

    def _report_damage(self, journal_id: str, what: str) -> None:
        """A thread found this journal's file damaged. Damage to an earlier file no longer matters."""
        with self._changed:
            if journal_id == self.journal_id:
                self._damage = what
                self._wake()

    def _check_open(self) -> None:
        if self._closing:
            raise JournalError("the journal is closed")

    def _wake(self) -> None:
        """Let the journal's thread work at once. Call with the lock held."""
        self._woken = True
        self._changed.notify()
