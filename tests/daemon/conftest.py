from collections.abc import Iterator
from pathlib import Path

import pytest
from support.anosegd_line import Line, Listener
from support.tiny_bundle import write_tiny_bundle


@pytest.fixture(scope="session")
def tiny_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """STORE/NAME of the tiny bundle."""
    store = tmp_path_factory.mktemp("store") / "tiny"
    write_tiny_bundle(store)
    return store


@pytest.fixture
def line(tmp_path: Path, tiny_store: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    """A folder, a bundle, an endpoint with a listener; whatever is started is ended."""
    endpoint = f"ipc://{tmp_path_factory.mktemp('s')}/pub"
    station = Line(tmp_path, tiny_store, endpoint, Listener(endpoint), [])
    try:
        yield station
    finally:
        for daemon in station.daemons:
            daemon.close()
        station.listener.close()
