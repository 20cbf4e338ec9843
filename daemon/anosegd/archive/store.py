"""Writes batches into the tables. Runs on the thread "writer", which owns the connection."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from psycopg import errors

from anoseg_engines.errors import ConfigError
from anosegd.archive.database import Connection
from anosegd.archive.rows import CHANGE_COLUMNS, NOTE_COLUMNS, VERDICT_COLUMNS, ArchiveEvent, Batch, text

_LOCK = "SELECT pg_try_advisory_lock(hashtextextended('anosegd archive station ' || current_schema() || ' ' || %s, 0))"
_UNLOCK = "SELECT pg_advisory_unlock(hashtextextended('anosegd archive station ' || current_schema() || ' ' || %s, 0))"
_STAGE = "CREATE TEMP TABLE IF NOT EXISTS staged_verdict (LIKE verdict INCLUDING DEFAULTS) ON COMMIT DELETE ROWS"
_UNSTAGE = f"INSERT INTO verdict ({VERDICT_COLUMNS}) SELECT {VERDICT_COLUMNS} FROM staged_verdict ON CONFLICT DO NOTHING"
_ADVANCE = """UPDATE journal SET cursor = %s, note_cursor = greatest(note_cursor, %s),
    change_cursor = greatest(change_cursor, %s) WHERE journal_id = %s AND station = %s AND cursor = %s"""
_EVENT = "INSERT INTO event (station, kind, alarm, journal_id, first, last, detail) VALUES (%s, %s, %s, %s, %s, %s, %s)"
_NOTE = f"INSERT INTO feedback ({NOTE_COLUMNS}) VALUES ({', '.join(['%s'] * 9)}) ON CONFLICT DO NOTHING"
_CHANGE = f"INSERT INTO change ({CHANGE_COLUMNS}) VALUES ({', '.join(['%s'] * 10)}) ON CONFLICT DO NOTHING"
_POSITION = """SELECT j.journal_id, j.cursor, j.note_cursor, j.change_cursor FROM station AS s
    JOIN journal AS j USING (journal_id) WHERE s.name = %s"""
_SEEN = """UPDATE station SET own_name = coalesce(%s, own_name), version = coalesce(%s, version), state = %s,
    last_seq = coalesce(%s, last_seq),
    answered_at = CASE WHEN %s THEN now() ELSE answered_at END WHERE name = %s"""
_SAME_NAME = """SELECT own_name, array_agg(name ORDER BY name) FROM station
    WHERE own_name IS NOT NULL AND journal_id IS NOT NULL AND answered_at > now() - interval '1 day'
    GROUP BY own_name HAVING count(*) > 1"""


@dataclass(frozen=True, slots=True)
class Position:
    """Says how far a station is archived. `journal_id` is None before the first contact."""

    journal_id: str | None = None
    cursor: int = 0
    note_cursor: int = 0
    change_cursor: int = 0


@dataclass(frozen=True, slots=True)
class Seen:
    """What a station last said about itself; `answers` is False if it is silent."""

    station: str
    own_name: str | None
    version: str | None
    state: str
    last_seq: int | None
    answers: bool


class MovedError(Exception):
    """Another program has moved a cursor, so the page that was read no longer follows what is stored."""


class OtherStationError(Exception):
    """The journal belongs to another station that is being archived. `other` is its name."""

    def __init__(self, other: str) -> None:
        super().__init__(other)
        self.other = other


class Store:
    """The tables, through one connection. Every method may raise psycopg.Error, and then has written nothing.

    Attributes:
        connection: The connection.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection

    def take(self, station: str) -> bool:
        """Take a station for this connection, until it ends. Return False if another archive has it."""
        return bool(self._value(_LOCK, (station,)))

    def position(self, station: str) -> Position:
        """Return how far a station is archived. It gets its row in `station` if it has none."""
        self.connection.execute("INSERT INTO station (name) VALUES (%s) ON CONFLICT DO NOTHING", (station,))
        row = self.connection.execute(_POSITION, (station,)).fetchone()
        return Position() if row is None else Position(row[0].hex, *row[1:])

    def begin_journal(self, station: str, journal_id: str, before: Position) -> list[ArchiveEvent]:
        """Go on with another journal of a station, and return what was noted about that.

        Raises:
            OtherStationError: The journal is that of another station.
        """
        events = []
        with self.connection.transaction():
            found = self.connection.execute("SELECT station FROM journal WHERE journal_id = %s", (journal_id,)).fetchone()
            if found is None:
                self.connection.execute("INSERT INTO journal (journal_id, station) VALUES (%s, %s)", (journal_id, station))
            elif found[0] != station:
                self._take_over(str(found[0]), station, journal_id)
                events.append(ArchiveEvent("renamed", False, f"the station was archived as {found[0]} before", journal_id))
            if before.journal_id is not None:
                detail = f"the station now has the journal {journal_id}: verdicts after the last archived one cannot be fetched"
                events.append(ArchiveEvent("journal_replaced", True, detail, before.journal_id, before.cursor + 1))
            elif found is None:
                events.append(ArchiveEvent("begun", False, "the archive of this station begins", journal_id))
            self._write_events([(station, event) for event in events])
            self.connection.execute("UPDATE station SET journal_id = %s WHERE name = %s", (journal_id, station))
        return events

    def _take_over(self, owner: str, station: str, journal_id: str) -> None:
        """Give a journal to another station name, if nobody archives the station under its old name."""
        if self.position(owner).journal_id == journal_id:  # otherwise the old name is another station's by now
            if self._held_here(owner) or not self.take(owner):
                raise OtherStationError(owner)
            self.connection.execute(_UNLOCK, (owner,))
            self.connection.execute("UPDATE station SET journal_id = NULL WHERE name = %s", (owner,))
        self.connection.execute("UPDATE journal SET station = %s WHERE journal_id = %s", (station, journal_id))

    def _held_here(self, station: str) -> bool:
        held = """SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND pid = pg_backend_pid() AND objsubid = 1
            AND (classid::bigint << 32 | objid::bigint)
                = hashtextextended('anosegd archive station ' || current_schema() || ' ' || %s, 0)"""
        return bool(self._value(held, (station,)))

    def write(self, batches: Sequence[Batch]) -> None:
        """Write batches in one transaction: rows, events and cursors.

        Raises:
            MovedError: A cursor is not where this archive left it. Nothing was written.
        """
        rows = [row for batch in batches for row in batch.verdicts]
        try:
            self._write(batches, rows, copy_into="verdict")
        except errors.UniqueViolation:  # rows without their cursor, such as those of a copy of a table: they count once
            self.connection.execute(_STAGE)
            self._write(batches, rows, copy_into="staged_verdict")

    def _write(self, batches: Sequence[Batch], rows: list[Any], *, copy_into: str) -> None:
        with self.connection.transaction(), self.connection.cursor() as cursor:
            if rows:
                with cursor.copy(f"COPY {copy_into} ({VERDICT_COLUMNS}) FROM STDIN".encode()) as copy:
                    for row in rows:
                        copy.write_row(row)
                if copy_into != "verdict":
                    cursor.execute(_UNSTAGE.encode())
            if notes := [row for batch in batches for row in batch.notes]:
                cursor.executemany(_NOTE.encode(), notes)
            if changes := [row for batch in batches for row in batch.changes]:
                cursor.executemany(_CHANGE.encode(), changes)
            self._write_events([(batch.station, event) for batch in batches for event in batch.events])
            moved = [batch for batch in batches if batch.journal_id is not None]
            if moved:
                cursor.executemany(_ADVANCE, [_advance(batch) for batch in moved])
                if cursor.rowcount != len(moved):
                    raise MovedError

    def _write_events(self, events: Sequence[tuple[str, ArchiveEvent]]) -> None:
        if events:
            values = [(station, text(e.kind), e.alarm, e.journal_id, e.first, e.last, text(e.detail)) for station, e in events]
            with self.connection.cursor() as cursor:
                cursor.executemany(_EVENT, values)

    def note_seen(self, seen: Sequence[Seen]) -> None:
        """Note what stations said about themselves."""
        values = [(text(s.own_name), text(s.version), text(s.state), s.last_seq, s.answers, s.station) for s in seen]
        with self.connection.transaction(), self.connection.cursor() as cursor:
            cursor.executemany(_SEEN, values)

    def same_names(self) -> dict[str, tuple[str, ...]]:
        """Return the names that several stations give themselves, each with the names of these stations here."""
        return {str(name): tuple(stations) for name, stations in self.connection.execute(_SAME_NAME)}

    def set_report(self, time_zone: str, shifts: Sequence[str]) -> None:
        """Set where days and shifts begin in the views.

        Raises:
            ConfigError: The database does not know the time zone.
        """
        check_time_zone(self.connection, time_zone)
        with self.connection.transaction():
            self.connection.execute(
                "UPDATE report_setting SET time_zone = %s, shifts = %s::time[] WHERE (time_zone, shifts) IS DISTINCT FROM "
                "(%s, %s::time[])",
                (time_zone, list(shifts), time_zone, list(shifts)),
            )

    def _value(self, query: str, values: tuple[Any, ...]) -> Any:
        row = self.connection.execute(query.encode(), values).fetchone()
        return None if row is None else row[0]


def check_time_zone(connection: Connection, time_zone: str) -> None:
    """Find out whether the database knows a time zone.

    Raises:
        ConfigError: It does not.
    """
    try:
        connection.execute("SELECT now() AT TIME ZONE %s", (time_zone,))
    except errors.InvalidParameterValue:
        what = f"time_zone: {time_zone}: the database does not know it"
        raise ConfigError(what, hint="write a name such as Europe/Berlin") from None


def _advance(batch: Batch) -> tuple[Any, ...]:
    before = batch.first - 1
    cursor = batch.next - 1
    return (cursor, batch.note_cursor or 0, batch.change_cursor or 0, batch.journal_id, batch.station, before)
