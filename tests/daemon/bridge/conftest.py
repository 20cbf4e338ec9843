from collections.abc import Iterator

import pytest
from support.anosegd_line import Line
from support.bridge_process import Bridged


@pytest.fixture
def bridged(line: Line) -> Iterator[Bridged]:
    made = Bridged(line)
    try:
        yield made
    finally:
        for bridge in made.bridges:
            bridge.close()
