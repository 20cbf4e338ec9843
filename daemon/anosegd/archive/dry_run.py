"""Says what the archive would do, and changes nothing. Main thread."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import psycopg

from anoseg_engines.words import counted
from anosegd.archive import schema
from anosegd.archive.config import ArchiveConfig
from anosegd.archive.database import Connection, Database, connect, translated_errors
from anosegd.archive.reader import NOT_UNDERSTOOD
from anosegd.archive.rows import journal_of
from anosegd.archive.store import Position, check_time_zone
from anosegd.client import Client, Key, NoAnswerError

_POSITION = """SELECT j.journal_id, j.cursor FROM station AS s JOIN journal AS j USING (journal_id) WHERE s.name = %s"""
_MAY_CREATE = "SELECT has_database_privilege(current_database(), 'CREATE')"
_MAY_CREATE_IN = "SELECT has_schema_privilege(%s, 'CREATE') AND has_schema_privilege(%s, 'USAGE')"

_MAY_WRITE = """SELECT bool_and(has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
    AND has_table_privilege(c.oid, 'UPDATE') AND (NOT %s OR has_table_privilege(c.oid, 'DELETE'))) FROM pg_class AS c
    WHERE c.relnamespace = to_regnamespace(%s)
    AND c.relname IN ('station', 'journal', 'verdict', 'feedback', 'change', 'event', 'report_setting')"""


def dry_run(config: ArchiveConfig, database: Database, keys: Mapping[str, Key | None]) -> int:
    """Print what would be done. Returns 0, or 1 if a station does not answer.

    Raises:
        ConfigError: The database refuses the archive.
        DatabaseAwayError: The database does not answer.
    """
    with translated_errors(database), connect(database) as connection:
        connection.execute("SET default_transaction_read_only = on")
        positions = _print_database(config, database, connection)
    silent = 0
    for name, station in config.stations.items():
        with Client(control=station.control, key=keys[name]) as client:
            silent += not _print_station(name, station.control, client, positions.get(name), keys[name])
    return 1 if silent else 0


def _print_database(config: ArchiveConfig, database: Database, connection: Connection) -> dict[str, Position]:
    _say(f"{database.shown}: PostgreSQL {connection.info.parameter_status('server_version')}")
    check_time_zone(connection, config.time_zone)
    version = schema.version_of(connection, database)
    steps = [step.name for step in schema.migrations() if step.version > version]
    if steps:
        _check_rights(database, connection)
        what = "would be created" if version == 0 else f"has version {version} and would be changed"
        _say(f"schema {database.schema}: {what}: {', '.join(steps)}")
    else:
        row = connection.execute(_MAY_WRITE, (config.keep_days is not None, database.schema)).fetchone()
        if row is None or not row[0]:
            raise psycopg.errors.InsufficientPrivilege(f"permission denied: this user may not write into {database.schema}")
        _say(f"schema {database.schema}: version {version}, nothing to change")
    keep = "everything is kept" if config.keep_days is None else f"rows older than {config.keep_days:g} days would be deleted"
    _say(f"retention: {keep}")
    if version == 0:
        return {}
    found = {name: connection.execute(_POSITION, (name,)).fetchone() for name in config.stations}
    return {name: Position(row[0].hex, row[1]) for name, row in found.items() if row is not None}


def _check_rights(database: Database, connection: Connection) -> None:
    """Find out whether the tables could be made.

    Raises:
        psycopg.errors.InsufficientPrivilege: They could not.
    """
    row = connection.execute("SELECT to_regnamespace(%s) IS NOT NULL", (database.schema,)).fetchone()
    exists = row is not None and bool(row[0])
    query, values = (_MAY_CREATE_IN, (database.schema,) * 2) if exists else (_MAY_CREATE, ())
    allowed = connection.execute(query.encode(), values).fetchone()
    if allowed is None or not allowed[0]:
        raise psycopg.errors.InsufficientPrivilege(f"permission denied: this user may not create tables in {database.schema}")


def _print_station(name: str, control: str, client: Client, position: Position | None, key: Key | None) -> bool:
    """Print how far a station is archived, and what would be fetched. Returns whether it answers."""
    try:
        state = client.status()
        cursor = 0 if position is None else position.cursor
        page: dict[str, Any] = client.request("replay", **{"from": cursor + 1}, limit=1)
        if position is not None and journal_of(page) != position.journal_id:
            _say(f"station {name} at {control}: has another journal now; it would be fetched from the beginning")
            return True
    except NoAnswerError:
        why = "is it running? Or does it ask for a key?" if key is None else f"its log says if it refuses the key {key.name}"
        _say(f"station {name} at {control}: no answer: {why}")
        return False
    except NOT_UNDERSTOOD as error:
        _say(f"station {name} at {control}: {error}")
        return False
    numbers = counted(max(int(page["last"]) - cursor, 0), "number")
    begin = "would begin" if position is None else f"archived to {cursor}"
    gone = f"; {page['gone'][0]} to {page['gone'][1]} are deleted there" if page["gone"] else ""
    _say(f"station {name} ({state['station']}) at {control}: {begin}, {numbers} to fetch{gone}")
    return True


def _say(line: str) -> None:
    sys.stdout.write(line + "\n")
