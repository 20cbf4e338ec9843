"""Runs `anosegd user`: adds, revokes and lists the users of a screen."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from anoseg_engines.errors import ConfigError
from anosegd.commands.shown import local_time, shown
from anosegd.view.users import User, add_user, load_users, revoke_user, users_beside
from anosegd.wire import utc

DAY_S = 86_400


def main(options: argparse.Namespace) -> int:
    """Change or show the file of users.

    Raises:
        ConfigError: The file cannot be used, or the name is taken, unknown, or not a name.
    """
    path = users_file(options)
    match options.action:
        case "add":
            expires_s = None if options.days is None else int(time.time()) + options.days * DAY_S
            token = add_user(path, options.name, options.role, expires_s=expires_s)
            sys.stderr.write(f"user {options.name} may {options.role}. The token is shown only now:\n")
            sys.stdout.write(f"{token}\n")
        case "revoke":
            revoke_user(path, options.name)
            sys.stdout.write(f"user {options.name} is removed; open pages end within seconds\n")
        case _:
            _list(load_users(path))
    return 0


def users_file(options: argparse.Namespace) -> Path:
    """Return the file that `--users` names, or the one beside CONFIG.

    Raises:
        ConfigError: Neither is given.
    """
    if options.users is not None:
        return Path(options.users)
    if options.config is None:
        raise ConfigError("which users?", hint="give the station's configuration, or --users FILE")
    return users_beside(options.config)


def _list(users: tuple[User, ...]) -> None:
    if not users:
        sys.stdout.write("there are no users\n")
        return
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("name", "role", "since", "until"):
        table.add_column(column, overflow="fold")
    for user in users:
        end = "" if user.expires_s is None else _time(user.expires_s)
        note = "" if user.is_valid(time.time()) else " (expired)"
        table.add_row(*(Text(shown(cell)) for cell in (user.name, user.role, _time(user.created_s), end + note)))
    Console().print(table)


def _time(at_s: int) -> str:
    return local_time(utc(at_s * 1_000_000_000))
