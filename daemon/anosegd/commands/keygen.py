"""Runs `anosegd keygen`: makes the station's key, or a client's key and its authorisation."""

from __future__ import annotations

import argparse
import re
import sys
from datetime import datetime, timezone
from pathlib import Path

from anoseg_engines.errors import ConfigError
from anosegd.keys.files import (
    NAME,
    StationKey,
    keep_out_of_core_dumps,
    new_client_key,
    new_station_key,
    read_key,
    write_key,
)
from anosegd.keys.keyring import SUFFIX


def main(options: argparse.Namespace) -> int:
    """Write the files, and say what to do with them.

    Raises:
        ConfigError: A name or a file is not usable.
    """
    keep_out_of_core_dumps()
    if options.kind == "station":
        key = new_station_key()
        write_key(options.file, key)
        sys.stdout.write(f"{options.file}: the station's secret key; its public key is {key.public}\n")
        return 0
    _make_client(options)
    return 0


def _make_client(options: argparse.Namespace) -> None:
    if not re.match(NAME, options.name):
        what = f"{options.name!r}: a key's name has 1 to 64 letters, digits, points, - and _"
        raise ConfigError(what, hint="the first character is a letter or a digit")
    if options.expires is not None and options.expires < datetime.now(timezone.utc).date():
        raise ConfigError(f"--expires {options.expires}: this day has passed", hint="give a later day")
    station = read_key(options.station, StationKey)
    secret, authorised = new_client_key(options.name, station.public, control=options.control, expires=options.expires)
    place = _free_place(options.clients, options.name)
    write_key(options.out, secret)
    try:
        write_key(place, authorised)
    except ConfigError:
        options.out.unlink(missing_ok=True)  # a key that nobody accepts
        raise
    may = "listen, read and command" if options.control else "listen and read"
    until = "" if options.expires is None else f", until the end of {options.expires} (UTC)"
    sys.stdout.write(
        f"{place}: authorises {options.name} to {may}{until}; delete this file to revoke the key\n"
        f"{options.out}: the client's secret key: move it to the client's machine, and delete it here\n"
    )


def _free_place(folder: Path, name: str) -> Path:
    """Return a free file name. A second key of one name serves a change of keys: both are accepted until one is deleted."""
    place, number = folder / f"{name}{SUFFIX}", 1
    while place.exists():
        number += 1
        place = folder / f"{name}-{number}{SUFFIX}"
    return place
