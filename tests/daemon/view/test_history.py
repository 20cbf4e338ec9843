"""The table of past verdicts follows the journal without a burden for the station."""

import asyncio
from typing import Any

import pytest

from anosegd.client import RefusedError
from anosegd.view.history import History


class Refusing:
    """A journal that refuses every question at once, as one does whose file is damaged."""

    def __init__(self) -> None:
        self.asked = 0

    async def ask(self, _: Any) -> Any:
        self.asked += 1
        raise RefusedError("replay", "failed", "the journal cannot be read")


def test_a_journal_that_refuses_is_asked_once_a_second() -> None:
    """A refusal between two pages does not lead to fifty questions a second."""
    journal = Refusing()
    history = History(journal)  # type: ignore[arg-type]
    history.table.next = 1000

    async def follow() -> None:
        await asyncio.wait_for(history.keep(), 0.5)

    with pytest.raises(asyncio.TimeoutError):
        asyncio.run(follow())
    assert journal.asked == 1
