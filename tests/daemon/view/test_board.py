"""The board and the event log: bounded, in order, and no old verdict in the place of a newer one."""

import asyncio
from typing import Any

import pytest

from anosegd.view import app
from anosegd.view.board import (
    FRESH_PICTURES,
    MAX_BYTES_OF_A_GROUP,
    MAX_PICTURE_BYTES,
    READY_PICTURES,
    REJECTS,
    Board,
    Pictures,
    event_id,
    key_of,
)
from anosegd.view.event_log import EventLog, FellBehindError

REGION = {"x": 0, "y": 0, "width": 8, "height": 8}


def shown(seq: int, outcome: str = "PASS", journal_id: str = "j") -> dict[str, Any]:
    return {"journal_id": journal_id, "seq": seq, "camera": "top", "outcome": outcome, "part_id": str(seq), "at": 0.0}


def mask(seq: int) -> dict[str, Any]:
    return {"journal_id": "j", "seq": seq, "camera": "top", "region": REGION, "encoding": "png"}


def state(journal_id: str) -> dict[str, Any]:
    return {"journal_id": journal_id, "cameras": {"top": {}}}


def test_everything_is_bounded() -> None:
    """Thousands of parts leave no more than the newest rejects, the newest pictures and the newest events."""
    board = Board(EventLog(100))
    for seq in range(1, 3000):
        board.add_verdict(shown(seq, "FAIL" if seq % 2 else "PASS"))
        board.add_picture(mask(seq), "map", b"png")
    hello = board.hello(None)
    assert [reject["seq"] for reject in hello["rejects"]] == list(range(2999 - 2 * (REJECTS - 1), 3000, 2))
    kept = [seq for seq in range(1, 3000) if board.pictures(("j", seq)) is not None]
    assert len(kept) == REJECTS + FRESH_PICTURES
    with pytest.raises(FellBehindError):
        board.events.read(0)


def test_pictures_take_bounded_memory() -> None:
    """Large pictures of good parts, of rejects and from the evidence: the oldest go when a group is full; the newest stay."""
    board = Board(EventLog(100))
    large = bytes(MAX_PICTURE_BYTES)
    most = MAX_BYTES_OF_A_GROUP // len(large)
    for seq in range(1, 41):
        board.add_verdict(shown(seq, "FAIL" if seq % 2 else "PASS"))
        board.add_picture(mask(seq), "map", large)
    assert [seq for seq in range(1, 41) if board.pictures(("j", seq)) is not None] == list(range(41 - 2 * most, 41))
    for seq in (1, *range(101, 101 + READY_PICTURES)):
        board.keep_ready(("j", seq), Pictures("top", REGION, {"image": ("image/jpeg", large)}))
    kept = [seq for seq in range(1, 200) if board.pictures(("j", seq)) is not None]
    assert len(kept) == 3 * most
    assert 1 in kept  # a page is about to fetch it
    huge = Pictures("top", REGION, {"image": ("image/jpeg", bytes(MAX_PICTURE_BYTES + 1)), "map": ("image/png", b"png")})
    board.keep_ready(("j", 300), huge)
    found = board.pictures(("j", 300))
    assert found is not None
    assert found.files.keys() == {"map"}


def test_picture_may_come_before_its_verdict() -> None:
    """The two arrive on two threads: a reject keeps its picture in either order."""
    board = Board(EventLog())
    board.add_picture(mask(1), "map", b"png")
    board.add_verdict(shown(1, "FAIL"))
    for seq in range(2, 300):
        board.add_picture(mask(seq), "map", b"png")
    assert board.pictures(("j", 1)) is not None
    assert board.pictures(("j", 2)) is None


def test_newer_verdict_stays() -> None:
    """A verdict that comes late from the journal does not replace a newer one; one of a new journal does."""
    board = Board(EventLog())
    board.add_state(state("j"))
    board.add_verdict(shown(5))
    board.add_verdict(shown(4, "FAIL"))
    assert [last["seq"] for last in board.hello(None)["last"]] == [5]
    board.add_state(state("new"))
    board.add_verdict(shown(1, journal_id="new"))
    assert [last["seq"] for last in board.hello(None)["last"]] == [1]


def test_page_resumes_in_the_same_journal_only() -> None:
    """A page that slept gets what it lacks; after a restart without a journal, where numbers begin again, it gets all."""
    board = Board(EventLog())
    board.add_state(state("j"))
    for seq in (1, 2, 3):
        board.add_verdict(shown(seq, "FAIL"))
    hello = board.hello(("j", 2))
    assert (hello["resumed"], [one["seq"] for one in hello["rejects"]]) == (True, [3])
    board.add_state(state("new"))
    for seq in range(1, 10):
        board.add_verdict(shown(seq, "FAIL", "new"))
    hello = board.hello(("j", 3))
    assert not hello["resumed"]
    assert len(hello["rejects"]) == 12


@pytest.mark.parametrize("journal_id", ["j\nevent: state", "j:1", "", "j" * 100])
def test_identity_of_an_event_fits_its_line(journal_id: str) -> None:
    """A journal's name cannot write lines into the stream, and what is no identity resumes nothing."""
    assert event_id((journal_id, 1)) is None
    assert key_of(f"{journal_id}:1") is None
    assert key_of(str(event_id(("a-b", 12)))) == ("a-b", 12)


def test_picture_of_another_kind_is_refused() -> None:
    """Only what a browser shows as a picture is kept and served."""
    board = Board(EventLog())
    board.add_picture({**mask(1), "encoding": "text/html"}, "map", b"<script>")
    assert board.pictures(("j", 1)) is None


def test_slow_page_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    """A browser that takes nothing loses its stream after the limit, and its place is free again."""
    monkeypatch.setattr(app, "SEND_LIMIT_S", 0.05)
    board = Board(EventLog())
    stream = app._Stream(board)
    sent = []

    async def send(message: Any) -> None:
        sent.append(message["type"])
        if message["type"] == "http.response.body":
            await asyncio.Event().wait()

    async def receive() -> Any:
        await asyncio.Event().wait()

    scope = {"type": "http", "method": "GET", "headers": [], "query_string": b""}
    asyncio.run(asyncio.wait_for(stream(scope, receive, send), 10))
    assert sent == ["http.response.start", "http.response.body"]
    assert board.pages == 0
