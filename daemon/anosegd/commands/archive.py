"""Runs `anosegd archive`: keeps the verdicts of many stations in a PostgreSQL database."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from anoseg_engines.errors import ConfigError
from anosegd import logs, signals
from anosegd.archive.config import ArchiveConfig, load_archive_config
from anosegd.client import Key, KeyFileError
from anosegd.keys import CREDENTIALS, keep_out_of_core_dumps


def main(options: argparse.Namespace) -> int:
    """Archive until stopped; with --dry-run, say what would be done and change nothing.

    Raises:
        ConfigError: The configuration, a key or the database is refused, or a package is not installed.
        DatabaseAwayError: With --dry-run, the database does not answer.
    """
    config = load_archive_config(options.config)
    try:
        from anosegd.archive.database import database_of
        from anosegd.archive.dry_run import dry_run
        from anosegd.archive.service import run_archive
    except ImportError as error:  # without libpq, psycopg raises ImportError
        if not (error.name or "psycopg").startswith("psycopg"):
            raise
        raise ConfigError(
            "anosegd archive needs the package psycopg, which is not installed",
            hint="pip install -c constraints.txt --editable '.[archive]', or make install EXTRAS=archive",
        ) from error
    database = database_of(config, dict(os.environ))
    keys = {name: _key(config, name) for name in config.stations}
    if options.dry_run:
        return dry_run(config, database, keys)
    signals.block()
    logs.set_up(journal=os.environ.get("JOURNAL_STREAM"))
    return run_archive(config, database, keys, os.environ, os.getpid())


def _key(config: ArchiveConfig, name: str) -> Key | None:
    """Return the archive's key at a station: the configured file, or the credential NAME.key that systemd passes."""
    given = config.stations[name].key
    credential = Path(os.environ.get(CREDENTIALS, "/nonexistent"), f"{name}.key")
    path = Path(given) if given is not None else credential if credential.is_file() else None
    if path is None:
        return None
    keep_out_of_core_dumps()
    try:
        return Key.read(path)
    except KeyFileError as error:
        raise ConfigError(f"stations.{name}: {error}") from error
