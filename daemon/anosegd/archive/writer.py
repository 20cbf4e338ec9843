"""Stores batches of all stations in the database, on the thread "writer", which owns the connection.

A station's thread hands over one batch and waits until it is committed. So at most one page of each station is in memory, and
while the database is away nothing is read from stations.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import psycopg

from anoseg_engines.errors import AnosegError, ConfigError
from anoseg_engines.words import counted
from anosegd import logs
from anosegd.archive import schema
from anosegd.archive.config import ArchiveConfig
from anosegd.archive.database import Database, DatabaseAwayError, break_off, connect, in_words, translated_errors
from anosegd.archive.retention import Retention
from anosegd.archive.rows import ArchiveEvent, Batch
from anosegd.archive.store import MovedError, OtherStationError, Position, Seen, Store
from anosegd.worker import Worker

MOST_ROWS = 5000
"""Verdicts in one transaction."""
GATHER_S = 0.02
"""How long a transaction waits for the pages of further stations."""
IDLE_S = 0.2
RETRY_S = 2.0
"""The pause between two attempts to reach the database."""
SEEN_EVERY = 10
"""What stations said about themselves is written once in so many of their rounds."""
HUNG_S = 60.0
"""The database has not answered a statement for this long, other than a change of its tables: the connection is broken off."""


_ROWS_REFUSED = (psycopg.DataError, psycopg.IntegrityError, psycopg.errors.ProgramLimitExceeded, psycopg.errors.RaiseException)
"""What the database says of rows that it does not take. ProgramLimitExceeded: a text is too long for an index."""


class NotStoredError(Exception):
    """The batch was not stored, or perhaps it was: the station goes on from the cursor in the database."""


@dataclass(slots=True)
class _Wanted:
    """A batch, or another journal, that a station's thread waits for."""

    batch: Batch
    begin: tuple[str, Position] | None = None
    done: threading.Event = field(default_factory=threading.Event)
    result: Position | Exception | None = None


class Writer(Worker):
    """Owns the database's connection. Station threads call `position`, `store`, `begin_journal` and `see`."""

    def __init__(self, config: ArchiveConfig, database: Database) -> None:
        super().__init__("writer")
        self.rows = 0
        self._config, self._database = config, database
        self._changed = threading.Condition()
        self._queue: deque[_Wanted] = deque()
        self._positions: dict[str, Position] | None = None  # None: the database is away
        self._taken_elsewhere: set[str] = set()
        self._seen: dict[str, Seen] = {}
        self._same_names: dict[str, tuple[str, ...]] = {}
        self._refused_pages: dict[str, int] = {}
        self._stopping = False
        self._connection: psycopg.Connection[Any] | None = None
        self._busy_since: float | None = None
        self._was_up = False
        self._away: set[str] = set()  # what the log said about the database

    # ---- any thread

    @property
    def is_up(self) -> bool:
        """Whether the database can be used."""
        with self._changed:
            return self._positions is not None

    def position(self, station: str) -> Position | None:
        """Return how far a station is archived; None while the database is away or another archive has the station."""
        with self._changed:
            return None if self._positions is None else self._positions.get(station)

    def store(self, batch: Batch) -> Position:
        """Store a batch, and return how far the station is archived now. Waits for the commit.

        Raises:
            NotStoredError: It was not stored, or the connection was lost during the commit.
        """
        return self._ask(_Wanted(batch))

    def begin_journal(self, station: str, journal_id: str, before: Position) -> Position:
        """Go on with another journal of a station. Waits for the commit.

        Raises:
            OtherStationError: The journal is that of another station.
            NotStoredError: As `store`.
        """
        return self._ask(_Wanted(Batch(station), begin=(journal_id, before)))

    def see(self, seen: Seen) -> None:
        """Note what a station says about itself; it is written within seconds."""
        with self._changed:
            self._seen[seen.station] = seen

    def stop(self) -> None:
        """Ask the thread to end after the present transaction."""
        with self._changed:
            self._stopping = True
            self._changed.notify_all()

    def break_off_if_hung(self) -> None:
        """End the connection if the database has not answered for `HUNG_S`. Main thread."""
        since, connection = self._busy_since, self._connection
        if since is not None and connection is not None and time.monotonic() - since > HUNG_S:
            self._busy_since = None
            logs.warning("archive.database_hung", database=self._database.shown, seconds=int(HUNG_S))
            break_off(connection)

    def _ask(self, wanted: _Wanted) -> Position:
        with self._changed:
            # The station may have been lost to another archive since its position was read.
            if self._positions is None or wanted.batch.station not in self._positions or self._stopping:
                raise NotStoredError
            self._queue.append(wanted)
            self._changed.notify_all()
        wanted.done.wait()
        if isinstance(wanted.result, Position):
            return wanted.result
        raise wanted.result or NotStoredError

    # ---- the thread

    def work(self) -> None:
        """Keep a connection and write, until asked to stop.

        Raises:
            ConfigError: The database refuses the archive, and has never let it in.
        """
        while not self._stopping:
            self.answer()
            try:
                with translated_errors(self._database):
                    self._serve()
            except DatabaseAwayError as error:
                self._report_away(error)
            except ConfigError as error:
                if not self._was_up:
                    raise
                self._report_away(error)
            finally:
                self._leave()
            with self._changed:
                self._changed.wait_for(lambda: self._stopping, RETRY_S)

    def _report_away(self, error: AnosegError) -> None:
        """Log that the database is away, once for each reason."""
        if error.what not in self._away:
            self._away.add(error.what)
            logs.warning("archive.database_away", error=error.what, hint=error.hint or None)

    def _leave(self) -> None:
        """Give up the connection, and everything that waits for it."""
        with self._changed:
            self._positions = None
            waiting, self._queue = list(self._queue), deque()
        for wanted in waiting:
            _settle(wanted, NotStoredError())
        self._busy_since = None
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _serve(self) -> None:
        """Connect, and write until asked to stop or until the database is lost."""
        connection = self._connection = connect(self._database)
        self._busy_since = time.monotonic()
        schema.version_of(connection, self._database)
        self._busy_since = None  # a step that changes a large table, or another archive that does, may take hours
        steps = schema.migrate(connection, self._database)
        self._busy_since = time.monotonic()
        if steps:
            logs.info("archive.schema_changed", schema=self._database.schema, steps=" ".join(steps))
        store, retention = Store(connection), Retention(self._config)
        store.set_report(self._config.time_zone, self._config.shifts)
        positions = self._take_stations(store, list(self._config.stations))
        with self._changed:
            self._positions = positions
        self._was_up = True
        if self._away:
            logs.info("archive.database_back", database=self._database.shown)
            self._away.clear()
        seen_at = time.monotonic()
        while True:
            self._busy_since = None
            self.answer()
            with self._changed:
                self._changed.wait_for(lambda: self._queue or self._stopping, IDLE_S)
                few = 0 < len(self._queue) < len(self._config.stations)
                if self._stopping:
                    return
            if few:
                time.sleep(GATHER_S)
            self._busy_since = time.monotonic()
            self._write(store, self._take())
            if time.monotonic() - seen_at > SEEN_EVERY * self._config.poll_s:
                seen_at = time.monotonic()
                self._note_seen(store)
            retention.step(connection)

    def _take_stations(self, store: Store, names: Sequence[str]) -> dict[str, Position]:
        """Take stations for this archive, and return their positions. Another archive may have some."""
        taken = {name: store.position(name) for name in names if store.take(name)}
        for name in sorted(set(names) - set(taken) - self._taken_elsewhere):
            hint = "each station may be in the configuration of one archive only"
            logs.warning("archive.station_taken", station=name, hint=hint)
            self._taken_elsewhere.add(name)
        for name in sorted(set(taken) & self._taken_elsewhere):
            logs.info("archive.station_free", station=name)
            self._taken_elsewhere.discard(name)
        return taken

    def _take(self) -> list[_Wanted]:
        taken: list[_Wanted] = []
        rows = 0
        with self._changed:
            while self._queue and rows < MOST_ROWS:
                taken.append(self._queue.popleft())
                rows += len(taken[-1].batch.verdicts)
        return taken

    def _write(self, store: Store, taken: list[_Wanted]) -> None:
        """Write what was taken, in one transaction if possible. One batch that is refused does not hold up the others."""
        try:
            batches = []
            for wanted in taken:
                if wanted.begin is None:
                    batches.append(wanted)
                else:
                    self._begin(store, wanted)
            if batches:
                self._write_together(store, batches)
        finally:
            for wanted in taken:
                if not wanted.done.is_set():
                    _settle(wanted, NotStoredError())

    def _begin(self, store: Store, wanted: _Wanted) -> None:
        assert wanted.begin is not None
        try:
            events = store.begin_journal(wanted.batch.station, *wanted.begin)
            log_events(wanted.batch.station, events)
            self._settled(wanted, store.position(wanted.batch.station))
        except OtherStationError as error:
            _settle(wanted, error)

    def _write_together(self, store: Store, batches: Sequence[_Wanted]) -> None:
        try:
            store.write([wanted.batch for wanted in batches])
        except (MovedError, psycopg.Error) as error:
            if isinstance(error, psycopg.Error) and not _is_about_rows(error):
                raise
            if len(batches) > 1:
                for wanted in batches:
                    self._write_together(store, [wanted])
                return
            station = batches[0].batch.station
            if not isinstance(error, MovedError):
                self._note_refused_page(store, batches[0].batch, in_words(error, self._database).what)
            with self._changed:  # what another program has written counts
                assert self._positions is not None
                self._positions[station] = store.position(station)
            _settle(batches[0], NotStoredError())
            return
        for wanted in batches:
            self.rows += len(wanted.batch.verdicts)
            log_events(wanted.batch.station, wanted.batch.events)
            self._settled(wanted, self._moved(wanted.batch))

    def _note_refused_page(self, store: Store, batch: Batch, error: str) -> None:
        """Note that the database does not take these rows, once for each page. The station goes on asking for them."""
        if self._refused_pages.get(batch.station) != batch.first:
            self._refused_pages[batch.station] = batch.first
            event = ArchiveEvent("page_refused", True, error, batch.journal_id, batch.first, batch.next - 1)
            store.write([Batch(batch.station, events=[event])])
            log_events(batch.station, [event])

    def _moved(self, batch: Batch) -> Position:
        assert self._positions is not None
        before = self._positions[batch.station]
        if batch.journal_id is None:
            return before
        notes = max(before.note_cursor, batch.note_cursor or 0)
        changes = max(before.change_cursor, batch.change_cursor or 0)
        return Position(batch.journal_id, batch.next - 1, notes, changes)

    def _settled(self, wanted: _Wanted, position: Position) -> None:
        with self._changed:
            assert self._positions is not None
            self._positions[wanted.batch.station] = position
        _settle(wanted, position)

    def _note_seen(self, store: Store) -> None:
        """Write what stations said about themselves, and look for two of one name and for stations that have become free."""
        with self._changed:
            assert self._positions is not None
            seen, self._seen = list(self._seen.values()), {}
            missing = [name for name in self._config.stations if name not in self._positions]
        store.note_seen(seen)
        found = store.same_names()
        for own_name, names in found.items():
            if self._same_names.get(own_name) != names and set(names) & set(self._config.stations):
                detail = f"{counted(len(names), 'station')} call themselves {own_name}: {', '.join(names)}"
                batches = [Batch(name, events=[ArchiveEvent("same_name", True, detail)]) for name in names]
                store.write(batches)
                log_events(names[-1], batches[-1].events)
        self._same_names = found
        if missing and (taken := self._take_stations(store, missing)):
            with self._changed:
                self._positions |= taken


def _is_about_rows(error: psycopg.Error) -> bool:
    """Whether the database, or psycopg before it, does not take these rows, but may take others."""
    unknown_type = isinstance(error, psycopg.ProgrammingError) and error.sqlstate is None
    return unknown_type or isinstance(error, _ROWS_REFUSED)


def log_events(station: str, events: Sequence[ArchiveEvent]) -> None:
    """Log what was just written into the table `event`."""
    for event in events:
        fields = {"station": station, "kind": event.kind, "first": event.first, "last": event.last, "why": event.detail}
        if event.alarm:
            logs.warning("archive.alarm", **fields)
        else:
            logs.info("archive.noted", **fields)


def _settle(wanted: _Wanted, result: Position | Exception) -> None:
    wanted.result = result
    wanted.done.set()
