from collections.abc import Iterator

import pytest
from support.journal_tools import close_journals


@pytest.fixture(autouse=True)
def closed() -> Iterator[None]:
    """Journals that a failed test left open are closed."""
    yield
    close_journals()
