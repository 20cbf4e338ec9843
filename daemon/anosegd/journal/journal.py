"""The verdict journal: every verdict is committed here before it is sent. Its writer's thread is "journal".

Files: PATH (SQLite, with its -wal and -shm), PATH.seq (reserved numbers, and the lock), PATH.damaged-TIME (set aside).
"""

from __future__ import annotations

import dataclasses
import itertools
import os
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from anoseg_engines.errors import ConfigError
from anosegd.journal.inbox import Done, Inbox
from anosegd.journal.ledger import Ledger
from anosegd.journal.numbers import Numbers
from anosegd.journal.reader import JournalReader
from anosegd.journal.types import (
    Cursor,
    Entry,
    JournalConfig,
    JournalError,
    JournalStats,
    Trigger,
    VerdictId,
)
from anosegd.journal.upkeep import Upkeep
from anosegd.journal.writer import Writer
from anosegd.worker import Worker


class Journal:
    """A station's journal; made by `open`. Every method may be called on any thread and returns at once, unless it says more.

    A commit that fails costs its verdicts their place: `done` says so, and their numbers are declared void as soon as writing
    works again. A file found damaged, at start or later, is set aside, and a new journal begun under a new journal_id; the
    numbers go on rising. While there is no file at all, verdicts get identities, each `done` gets an error, and opening is
    tried every second.
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
        """Open or begin the journal, check it, start its threads. For the main thread; takes as long as the check does.

        on_new_journal: called on the journal's thread with the id of a journal begun or opened later; must raise nothing.

        Raises:
            JournalError: it may not be written, or another daemon uses it. ConfigError: there can be no journal at this path.
        """
        path = check_place(config)
        for name in (path, path.with_name(path.name + "-wal"), path.with_name(path.name + "-shm")):
            if name.exists() and not os.access(name, os.R_OK | os.W_OK):
                raise JournalError(f"{name}: may not be written", hint="give it to the daemon's user")
        ledger = Ledger(path.with_name(path.name + ".seq"))
        numbers = Numbers(ledger.reserved_to)
        inbox = Inbox(numbers, wall_ns)
        reader = ReaderFactory(path, numbers, inbox)
        upkeep = Upkeep(path, reader=reader, journal_id=lambda: numbers.journal_id, on_damage=inbox.damage_found)
        writer = Writer(
            config,
            path,
            ledger,
            numbers,
            inbox,
            wall_ns=wall_ns,
            monotonic_ns=monotonic_ns,
            upkeep=upkeep,
            on_new_journal=on_new_journal,
        )
        try:
            writer.open_file()
        except BaseException:
            writer.close()
            raise
        upkeep.start()
        writer.start()
        return cls(path, numbers, inbox, writer, upkeep, reader)

    def __init__(
        self,
        path: Path,
        numbers: Numbers,
        inbox: Inbox,
        writer: Writer,
        upkeep: Upkeep,
        reader: ReaderFactory,
    ) -> None:
        self.path = path
        # From the clock, so that they are never those of an earlier run, whose triggers may turn up when the file is opened.
        self._trigger_numbers = itertools.count(time.time_ns())
        self._numbers, self._inbox, self._writer, self._upkeep, self._reader = numbers, inbox, writer, upkeep, reader

    @property
    def workers(self) -> tuple[Worker, ...]:
        """The journal's threads, for the station to watch: while the journal is open they are alive."""
        return self._writer, self._upkeep

    @property
    def notices(self) -> list[str]:
        """What happened to the file, newest last; each was logged, too."""
        return list(self._writer.notices)

    @property
    def journal_id(self) -> str:
        """The id that new numbers carry: the file's, or one of this process while there is no file."""
        return self._numbers.journal_id

    def next_id(self) -> VerdictId:
        """An identity that was never given out before, in this run or any other, and never will be.

        It must be submitted or discarded: readers stop before it until then. When no number could be reserved, the identity is
        one of a journal_id of this process; `submit` takes it, and its `done` gets an error.
        """
        verdict_id = self._numbers.next_id()
        if self._numbers.low:
            self._inbox.wake()
        return verdict_id

    def submit(self, entries: Sequence[Entry], done: Done, *, hold: bool = False) -> None:
        """Have verdicts committed, all or none of them, after everything submitted before.

        hold: readers made by this journal stop before these numbers, committed or not, until each is released or amended.
        `done` is called on the journal's thread with the entries and None when they are committed (sync `full`: and synced),
        or with the error. It must be quick and raise nothing.

        Raises:
            JournalBacklogError: too many wait; these are refused, and their numbers become void. `done` is not called.
            JournalError: a number was never given out or is used twice, or the journal is closed. `done` is not called.
        """
        self._inbox.submit(entries, done, hold=hold)

    def release(self, seq: int) -> None:
        """Readers may have this number, as it was submitted."""
        self._inbox.release(seq)

    def accept(self, camera: str, part_id: str, at_ns: int, done: Callable[[Exception | None], None]) -> Trigger:
        """Note that a part is owed a verdict: the entry that `answers` it ends that, a crash before does not.

        `done` is called on the journal's thread when it is noted, or with the error. It must be quick and raise nothing.

        Raises:
            JournalError: it takes no more just now. `done` is not called.
        """
        trigger = Trigger(next(self._trigger_numbers), camera, part_id, at_ns)
        self._inbox.accept(trigger, done)
        return trigger

    def take_owed(self) -> list[Trigger]:
        """Triggers that an earlier run accepted and did not answer, each once; known when the file has been opened."""
        return self._writer.take_owed()

    def discard(self, ids: Sequence[VerdictId]) -> None:
        """These numbers are not going to be submitted; they become void.

        Raises:
            JournalError: one was never given out, or was submitted or discarded before.
        """
        self._inbox.discard(ids)

    def amend(self, entry: Entry) -> None:
        """Replace what a submitted number carries; from now on no reader made by this journal gets the old. Ends its hold.

        Tried until it is written. If the number's commit fails, it becomes void all the same.
        """
        self._inbox.amend(entry)

    def ack(self, consumer: str, seq: int) -> None:
        """A durable consumer has done with everything up to `seq`. Its cursor never goes back; written within a second.

        Raises:
            JournalError: there can be no such name or number, or there are too many consumers.
        """
        self._inbox.ack(consumer, seq)

    def consumer(self, name: str) -> int:
        """How far a durable consumer has come; one that is not known stands just before the oldest verdict kept.

        Raises:
            JournalError: the name cannot be one.
        """
        known = self._inbox.consumer(name)
        return known.seq if known else max(self._writer.stats.first_kept - 1, 0)

    def forget(self, consumer: str) -> None:
        """This durable consumer is no more."""
        self._inbox.forget(consumer)

    def cursors(self) -> dict[str, Cursor]:
        """All durable consumers."""
        return self._inbox.cursors()

    def reader(self) -> JournalReader:
        """A reader for the calling thread, which closes it."""
        return self._reader()

    def stats(self) -> JournalStats:
        """How it goes."""
        return dataclasses.replace(self._writer.stats, waiting=self._inbox.waiting)

    def close(self, timeout_s: float = 5.0) -> bool:
        """Take no more, commit what waits, close the files. For the main thread; waits for `timeout_s` at most.

        Returns False if the disk did not let it in time: the process has to go without (os._exit).
        """
        end = time.monotonic() + timeout_s
        self._inbox.close()
        self._upkeep.stop()
        return self._upkeep.join(timeout_s) and self._writer.join(end - time.monotonic())


def check_place(config: JournalConfig) -> Path:
    """Where the journal lies, absolute.

    Raises:
        ConfigError: there can be no journal at this path.
    """
    path = Path(config.path).absolute()
    if path.exists() and not path.is_file():
        raise ConfigError(f"journal.path: {path} is no file", hint="give the path of a file; it is made if it is missing")
    if not path.parent.is_dir():
        raise ConfigError(f"journal.path: {path.parent}: no such folder", hint="make it, writable for the daemon's user")
    return path


class ReaderFactory:
    """Makes readers that know of what is not in the file yet."""

    def __init__(self, path: Path, numbers: Numbers, inbox: Inbox) -> None:
        self._path, self._numbers, self._inbox = path, numbers, inbox

    def __call__(self) -> JournalReader:
        """A reader for the calling thread."""
        return JournalReader(
            self._path,
            current=lambda: self._numbers.journal_id,
            stop_before=self._inbox.stop_before,
            on_damage=self._inbox.damage_found,
        )
