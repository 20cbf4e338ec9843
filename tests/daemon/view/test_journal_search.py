"""Questions to the journal, to a station that answers as the real one does."""

import asyncio
from typing import Any, cast

import pytest

from anosegd.client import Client, RefusedError
from anosegd.view.journal_search import MARKS_A_PAGE, NEAR, JournalSearch, marks_between, verdicts_of


class Station:
    """Has a verdict for each number but 40, and a mark for each third one. Its pages are short."""

    def __init__(self, newest: int = 10_000) -> None:
        self.newest = newest
        self.asked: list[str] = []

    def request(self, op: str, **fields: Any) -> dict[str, Any]:
        self.asked.append(op)
        if op == "marks":
            marked = range((fields["before"] - 1) // 3 * 3, 0, -3)[: fields["limit"]]
            return {"marks": [{"seq": seq, "mark": "right"} for seq in marked]}
        first, last = fields["from"], fields["to"]
        end = min(last, first + 9)
        verdicts = [{"seq": seq} for seq in range(first, end + 1) if seq != 40]
        return {"verdicts": verdicts, "marks": [], "next": end + 1, "journal_id": "j", "last": self.newest}


def test_all_marks_of_a_period() -> None:
    """However many there are, each mark of the period is there, and none from before it."""
    station = Station()
    found = marks_between(cast("Client", station), 100, 3 * MARKS_A_PAGE * 3)
    assert sorted(found) == list(range(102, 3 * MARKS_A_PAGE * 3 + 1, 3))
    assert marks_between(cast("Client", station), 1, 2) == {}


def test_neighbours_are_read_together() -> None:
    """The order stays, missing numbers are left out, short pages are gone on with, and a far number is asked for alone."""
    station = Station()
    far = 61 + NEAR + 1
    assert [one["seq"] for one in verdicts_of(cast("Client", station), [far, 61, 40, 39, 35])] == [far, 61, 39, 35]
    assert station.asked == ["replay"] * 3  # 35 to 44, 61, far
    assert verdicts_of(cast("Client", station), []) == []


def test_a_busy_station_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """The station takes 200 requests a second from one client. A question with more waits; it does not fail."""
    refusals = iter([True, True])

    def request(self: Client, op: str, **_: Any) -> dict[str, Any]:
        if next(refusals, False):
            raise RefusedError(op, "busy", "more than 200 requests a second")
        return {"state": {"op": op}}

    monkeypatch.setattr(Client, "request", request)
    journal = JournalSearch("ipc:///unused", "ipc:///unused")
    try:
        assert asyncio.run(journal.ask(lambda client: client.status())) == {"op": "status"}
    finally:
        journal.stop()
