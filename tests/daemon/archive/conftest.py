import itertools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from support.postgres import FAST, Postgres, running
from support.verdict_archive import Archive, Database, JournalStation

_numbers = itertools.count()


@pytest.fixture(scope="session")
def server() -> Iterator[Postgres]:
    """A PostgreSQL that all tests share, each with a database of its own."""
    with running(*FAST) as server:
        yield server


@pytest.fixture
def database(server: Postgres) -> Database:
    return Database(server, f"test_{next(_numbers)}")


@pytest.fixture
def make_station() -> Iterator[Callable[..., JournalStation]]:
    """Starts stations; they end with the test."""
    made: list[JournalStation] = []

    def make(name: str, verdicts: int, **settings: Any) -> JournalStation:
        station = JournalStation(name, verdicts, **settings)
        made.append(station)
        station.start()
        return station

    yield make
    for station in made:
        station.close()
        shutil.rmtree(station.folder, ignore_errors=True)


@pytest.fixture
def make_archive(tmp_path: Path, database: Database) -> Iterator[Callable[..., Archive]]:
    """Starts archives into the test's database; they end with the test."""
    made: list[Archive] = []

    def make(*stations: JournalStation, more: str = "", conninfo: str | None = None, **named: str) -> Archive:
        folder = tmp_path / f"archive-{len(made)}"
        folder.mkdir()
        places = {station.name: station.control for station in stations} | named
        archive = Archive(folder, conninfo or database.conninfo, places, f"poll_s: 0.1\n{more}")
        made.append(archive)
        archive.start()
        return archive

    yield make
    for archive in made:
        archive.close()
