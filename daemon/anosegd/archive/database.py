"""Connects to the database, and says in words what is wrong with it. Any thread; a connection belongs to one."""

from __future__ import annotations

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict

from anoseg_engines.errors import AnosegError, ConfigError
from anosegd.archive.config import ArchiveConfig
from anosegd.keys import CREDENTIALS, keep_out_of_core_dumps

Connection = psycopg.Connection[tuple[Any, ...]]
PASSWORD_CREDENTIAL = "database.password"
"""The name of systemd's credential with the password."""
DEFAULTS: dict[str, Any] = {
    "application_name": "anosegd archive",
    "connect_timeout": 5,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}
"""A database whose machine is gone is noticed within 25 seconds."""
_SESSION = """SET TIME ZONE 'UTC'; SET client_min_messages TO warning; SET tcp_keepalives_idle TO 10;
    SET tcp_keepalives_interval TO 5; SET tcp_keepalives_count TO 3; SET tcp_user_timeout TO 20000"""
"""The server, too, notices a lost connection soon. Until then it keeps the locks of the stations, so that the next connection
gets none of them. By default, that lasts two hours."""
_REFUSALS = (
    "authentication failed",
    "no pg_hba.conf entry",
    "does not exist",
    "not permitted to log in",
    "permission denied",
)
"""What a server says that will not let the archive in; a restart changes nothing."""
_UNPROVEN = ("certificate verify failed", "root certificate file", "server certificate for", "does not support SSL")
"""What libpq says if the connection would not be as safe as `sslmode` demands."""
_RIGHTS = "42501"
_DISK_FULL = "53100"
_READ_ONLY = "25006"


class DatabaseAwayError(AnosegError):
    """The database cannot be used now. It may be later."""


class Database(NamedTuple):
    """Says where the database is. `shown` has no password.

    Attributes:
        arguments: What libpq connects with.
        schema: The schema with the tables.
        shown: The place, for people.
    """

    arguments: dict[str, Any]
    schema: str
    shown: str

    def __repr__(self) -> str:
        """Leave the password out."""
        return f"Database({self.shown})"


def database_of(config: ArchiveConfig, environment: dict[str, str]) -> Database:
    """Return where the configured database is.

    Raises:
        ConfigError: The connection string or the file of the password cannot be used.
    """
    try:
        given = conninfo_to_dict(config.database)
    except psycopg.Error:  # without its words and without `from`: they could contain a part of a password
        hint = "write host=db.example dbname=anoseg user=anoseg, or postgresql://anoseg@db.example/anoseg"
        raise ConfigError("database: not a connection string of libpq", hint=hint) from None
    if any("@" in str(given.get(name) or "")[1:] for name in ("host", "port", "dbname")):  # a part of a password: not shown
        raise ConfigError("database: the address has an @ too many", hint="write %40 for an @ in a password, and %2F for a /")
    password = _password(config, environment)
    if password is not None:
        given["password"] = password
    if "password" in given:
        keep_out_of_core_dumps()
    where = {**{name: environment.get(f"PG{name.upper()}") for name in ("host", "port", "user")}, **given}
    host = where.get("host") or where.get("hostaddr") or "the local socket"
    port = f" port {where['port']}" if where.get("port") else ""
    user = f" as {where['user']}" if where.get("user") else ""
    name = given.get("dbname") or environment.get("PGDATABASE") or where.get("user") or ""
    return Database({**DEFAULTS, **given}, config.schema, f"database {name} at {host}{port}{user}")


def _password(config: ArchiveConfig, environment: dict[str, str]) -> str | None:
    credential = Path(environment.get(CREDENTIALS, "/nonexistent"), PASSWORD_CREDENTIAL)
    path = Path(config.password_file) if config.password_file else credential if credential.is_file() else None
    if path is None:
        return None
    try:
        if path != credential and path.stat().st_mode & 0o027:
            raise ConfigError(f"{path}: other users may read or change this password", hint=f"run: chmod 600 {path}")
        return path.read_text(encoding="utf-8").partition("\n")[0].removesuffix("\r")
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})", hint="password_file must be a file") from error
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: is not a text in UTF-8") from None


def connect(database: Database) -> Connection:
    """Return a new connection without a transaction.

    Raises:
        ConfigError: The server refuses this user, password or database.
        DatabaseAwayError: No server answers.
    """
    try:
        connection: Connection = psycopg.connect(**database.arguments, autocommit=True)
    except psycopg.Error as error:
        raise in_words(error, database) from None
    try:
        connection.execute("SELECT set_config('search_path', %s, false)", (database.schema,))
        connection.execute(_SESSION)
    except psycopg.Error as error:
        connection.close()
        raise in_words(error, database) from None
    return connection


@contextlib.contextmanager
def translated_errors(database: Database) -> Iterator[None]:
    """Translate psycopg's errors.

    Raises:
        ConfigError: A right is missing, or the server refuses the archive.
        DatabaseAwayError: The database cannot be used now.
    """
    try:
        yield
    except psycopg.Error as error:
        raise in_words(error, database) from error


def in_words(error: psycopg.Error, database: Database) -> AnosegError:
    """Return psycopg's error as one of ours."""
    said = first_line(error)
    what = f"{database.shown}: {said}"
    if error.sqlstate == _RIGHTS:
        hint = f"give this user the right: GRANT CREATE ON DATABASE …, or make it the owner of the schema {database.schema}"
        return ConfigError(what, hint=hint)
    if error.sqlstate is None and any(words in said for words in _UNPROVEN):
        return ConfigError(
            what, hint="see sslmode and sslrootcert of `database` in docs/archive.md, and the server's certificate"
        )
    refused = "no password supplied" in said or ("FATAL" in said and any(words in said for words in _REFUSALS))
    if error.sqlstate is None and refused:
        return ConfigError(what, hint="see database in the configuration, and the server's pg_hba.conf")
    if error.sqlstate == _DISK_FULL:
        return DatabaseAwayError(what, hint="the disk of the database is full: make room; the archive goes on by itself")
    if error.sqlstate == _READ_ONLY:
        hint = "this server takes no changes, as a standby: name the primary, or all hosts with target_session_attrs=read-write"
        return DatabaseAwayError(what, hint=hint)
    return DatabaseAwayError(what, hint="does the server run, and can this machine reach it? The archive tries again by itself")


def first_line(error: BaseException) -> str:
    """Return the line of an error that says most, without the `connection failed:` that precedes it."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    line = next((line for line in lines if "FATAL" in line), lines[0])  # several addresses may have been tried
    return line.removeprefix("connection failed: ")


def break_off(connection: Connection) -> None:
    """End a connection that another thread waits for, whose call then fails. Any thread."""
    with contextlib.suppress(OSError, psycopg.Error):
        if connection.pgconn.status == pq.ConnStatus.OK:
            with socket.socket(fileno=os.dup(connection.pgconn.socket)) as own:
                own.shutdown(socket.SHUT_RDWR)
