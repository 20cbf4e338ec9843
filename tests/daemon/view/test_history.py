"""The table of past verdicts follows the journal without a burden for the station."""

import asyncio
from typing import Any

import pytest

from anosegd.client import RefusedError
from anosegd.view import history as history_module
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


class AddedLater:
    """A station that has no journal at first; a reload adds one."""

    def __init__(self) -> None:
        self.has_journal = False

    async def ask(self, question: Any) -> Any:
        if not self.has_journal:
            raise RefusedError("replay", "no_journal", "this station keeps no journal")
        if question is history_module.beginning:
            return 1, True
        return {"journal_id": "j", "next": 1, "last": 0}, []


def test_a_journal_that_a_reload_adds_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The table says that there is no journal, and has its verdicts soon after there is one."""
    monkeypatch.setattr(history_module, "NO_JOURNAL_S", 0.01)
    journal = AddedLater()
    history = History(journal)  # type: ignore[arg-type]

    async def follow() -> None:
        task = asyncio.ensure_future(history.keep())
        while history.refusal is None:
            await asyncio.sleep(0.01)
        assert history.refusal.code == "no_journal"
        journal.has_journal = True
        while not history.table.complete:
            await asyncio.sleep(0.01)
        assert history.refusal is None
        task.cancel()

    asyncio.run(asyncio.wait_for(follow(), 60))
