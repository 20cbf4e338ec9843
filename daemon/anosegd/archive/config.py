"""Reads the configuration file of an archive into strict structs with defaults. `configs/archive.yaml` documents every key."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Annotated

import msgspec
from msgspec import Meta

from anoseg_engines.strict_yaml import read_yaml
from anosegd.config import DEFAULT_CONTROL
from anosegd.endpoint import check_address

DEFAULT_CONSUMER = "anosegd-archive"
"""The name under which a station without keys notes how far the archive has come."""
NotEmpty = Annotated[str, Meta(min_length=1)]
StationName = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}\Z", description="a name such as press-4")]
_TIME = re.compile(r"([01]\d|2[0-3]):[0-5]\d")


class StationConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Says where a station answers.

    Attributes:
        control: Endpoint of its control socket.
        key: File of the archive's key at this station, where the station asks for one.
    """

    control: str = DEFAULT_CONTROL
    key: NotEmpty | None = None

    def __post_init__(self) -> None:
        try:
            check_address(self.control)
        except ValueError as error:
            raise ValueError(f"control: {error}") from error


class ArchiveConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Describes an archive.

    Attributes:
        stations: The stations by the names that they have in the database.
        database: How libpq finds the database: `host=… dbname=…`, or an address `postgresql://…`.
        password_file: A file whose first line is the password.
        schema: The schema that holds the tables; the archive makes it.
        poll_s: How often an idle station is asked for new verdicts.
        silent_after_s: A station without an answer for this long is reported.
        keep_days: Rows that were stored longer ago are deleted; None keeps all.
        keep_names_days: Names of persons are removed after this time.
        time_zone: Where the views' days and shifts begin.
        shifts: When shifts begin.
    """

    stations: Annotated[dict[StationName, StationConfig], Meta(min_length=1)]
    database: NotEmpty = "dbname=anoseg"
    password_file: NotEmpty | None = None
    schema: Annotated[str, Meta(pattern=r"^[a-z_][a-z0-9_]{0,62}\Z", description="a schema's name, such as anoseg")] = "anoseg"
    poll_s: Annotated[float, Meta(ge=0.1, le=60)] = 1.0
    silent_after_s: Annotated[float, Meta(ge=3, le=86_400)] = 30.0
    keep_days: Annotated[float, Meta(gt=0, le=36_500)] | None = None
    keep_names_days: Annotated[float, Meta(ge=0, le=36_500)] = 365.0
    time_zone: NotEmpty = "UTC"
    shifts: Annotated[tuple[str, ...], Meta(min_length=1)] = ("06:00", "14:00", "22:00")

    def __post_init__(self) -> None:
        for start in self.shifts:
            if not _TIME.fullmatch(start):
                raise ValueError(f"shifts: {start}: not a time of day; write '06:00', in quotes")
        places: dict[str, str] = {}
        for name, station in self.stations.items():
            if (other := places.setdefault(station.control, name)) != name:
                raise ValueError(f"stations: {name} and {other} have the same control: {station.control}")


def load_archive_config(path: Path) -> ArchiveConfig:
    """Read an archive's configuration file. A relative path in it starts at the file's folder.

    Raises:
        ConfigError: The file cannot be read, or a value is invalid. The message names file, line and key.
    """
    config = read_yaml(path, ArchiveConfig)
    base = path.absolute().parent

    def absolute(given: str | None) -> str | None:
        return None if given is None else str(base / os.path.expanduser(given))  # noqa: PTH111 - as in `load_config`

    stations = {name: msgspec.structs.replace(each, key=absolute(each.key)) for name, each in config.stations.items()}
    return msgspec.structs.replace(config, stations=stations, password_file=absolute(config.password_file))
