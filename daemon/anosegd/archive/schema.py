"""Makes the tables and brings them to this version. Runs on the thread that owns the connection.

Each file in `migrations/` is one step, and its number is the version that it makes. A step that was published never changes.
"""

from __future__ import annotations

from importlib.resources import files
from typing import Any

import psycopg
from psycopg import sql

from anoseg_engines.errors import ConfigError
from anosegd.archive.database import Connection, Database

_LOCK = "SELECT pg_advisory_xact_lock(hashtextextended('anosegd archive schema ' || %s, 0))"
_VERSION_TABLE = (
    "CREATE TABLE schema_version (only_row boolean PRIMARY KEY DEFAULT true CHECK (only_row), version integer NOT NULL)"
)


class Migration:
    """A step from one version of the tables to the next.

    Attributes:
        version: The version that it makes.
        name: Its file's name.
        statements: SQL.
    """

    def __init__(self, name: str, statements: str) -> None:
        self.version, self.name, self.statements = int(name.partition("_")[0]), name, statements


def migrations() -> list[Migration]:
    """Return all steps in their order."""
    found = (each for each in files("anosegd.archive").joinpath("migrations").iterdir() if each.name.endswith(".sql"))
    return [Migration(each.name, each.read_text(encoding="utf-8")) for each in sorted(found, key=lambda each: each.name)]


def newest_version() -> int:
    """Return the version of the tables that this program writes."""
    return migrations()[-1].version


def version_of(connection: Connection, database: Database) -> int:
    """Return the version of the tables; 0 if there are none.

    Raises:
        ConfigError: They are of a newer program, or the schema has other tables.
        psycopg.Error: The database cannot be read.
    """
    exists = connection.execute("SELECT to_regclass('schema_version')").fetchone()
    if exists is None or exists[0] is None:
        others = "SELECT count(*) FROM pg_class AS c JOIN pg_namespace AS n ON n.oid = c.relnamespace WHERE n.nspname = %s"
        if _one(connection, others, (database.schema,)):
            if not _one(connection, "SELECT has_schema_privilege(%s, 'USAGE')", (database.schema,)):
                raise psycopg.errors.InsufficientPrivilege(f"permission denied for schema {database.schema}")
            hint = "set another schema in the configuration; the archive makes it"
            raise ConfigError(
                f"{database.shown}: the schema {database.schema} has tables that are not the archive's", hint=hint
            )
        return 0
    version = int(_one(connection, "SELECT version FROM schema_version", ()))
    if version > newest_version():
        what = f"the schema {database.schema} has version {version}; this program knows versions up to {newest_version()}"
        raise ConfigError(f"{database.shown}: {what}", hint="update anoseg-edge on this machine, or set another schema")
    return version


def migrate(connection: Connection, database: Database) -> list[str]:
    """Bring the tables to this version, all steps in one transaction. Returns the names of the steps.

    Raises:
        ConfigError: As `version_of`.
        psycopg.Error: The database refuses.
    """
    if version_of(connection, database) == newest_version():
        return []
    with connection.transaction():
        connection.execute(_LOCK, (database.schema,))
        exists = connection.execute("SELECT to_regnamespace(%s)", (database.schema,)).fetchone()
        if exists is None or exists[0] is None:
            connection.execute(sql.SQL("CREATE SCHEMA {}").format(sql.Identifier(database.schema)))
        version = version_of(connection, database)  # another archive may just have done it
        if version == 0:
            connection.execute(_VERSION_TABLE)
            connection.execute("INSERT INTO schema_version (version) VALUES (0)")
        steps = [step for step in migrations() if step.version > version]
        for step in steps:
            psycopg.ClientCursor(connection).execute(step.statements.encode())
        connection.execute("UPDATE schema_version SET version = %s", (newest_version(),))
    return [step.name for step in steps]


def _one(connection: Connection, query: str, values: tuple[Any, ...]) -> Any:
    row = connection.execute(query.encode(), values).fetchone()
    return None if row is None else row[0]
