"""Feedback through the screen's guarded address: who may, two browsers, filter, hostile texts."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from support.anosegd_line import Line, wait_until
from support.view_server import StartView, ViewServer

from anosegd.client import Client
from anosegd.view.users import add_user

HOSTILE = '<script>alert(1)</script><img src=x onerror="alert(1)">'


@pytest.fixture
def station(line: Line, config: Path) -> Iterator[Client]:
    """A running station that has stored a few verdicts."""
    line.run(config)
    line.listener.wait_for_verdicts(4)
    with Client(line.endpoint, line.endpoint.replace("pub", "control")) as client:
        wait_until(lambda: client.status()["journal"]["last_committed"] >= 4, "four verdicts are stored")
        yield client


def mark(view: ViewServer, who: str, **values: object) -> tuple[int, str]:
    answer = view.post("/changes/feedback", {"who": who, "values": values})
    return answer.status, answer.json().get("error", "")


def test_two_browsers_mark_the_same_part(station: Client, start_view: StartView) -> None:
    """The last one counts, both may repeat it, each takes back its own; the filter finds the part, and its texts stay texts."""
    view = start_view()
    verdict = next(v for v in station.replay(1) if v["outcome"] in ("PASS", "FAIL"))
    journal, seq = verdict["journal_id"], verdict["seq"]
    for who, said in (("Ada", "right"), (HOSTILE, "unsure"), (HOSTILE, "unsure")):
        assert mark(view, who, journal_id=journal, seqs=[seq], mark=said, comment=HOSTILE) == (200, "")
    for value, expected in (("marked", [seq]), ("unsure", [seq]), ("right", []), ("missed_defect", [])):
        found = view.get(f"/journal?feedback={value}").json()
        assert ([part["seq"] for part in found["parts"]], found["before"]) == (expected, None)
    (part,) = view.get("/journal?feedback=marked").json()["parts"]
    assert (part["mark"]["who"], part["mark"]["comment"]) == (HOSTILE, HOSTILE)
    assert seq not in [part["seq"] for part in view.get("/journal?feedback=unmarked").json()["parts"]]
    assert view.get("/journal?feedback=perhaps").status == 400
    assert HOSTILE.replace('"', '""') in view.get("/parts.csv?feedback=marked").body.decode()
    for who, left in ((HOSTILE, "right"), ("Ada", None)):
        assert view.post("/changes/undo_feedback", {"who": who, "values": {"journal_id": journal}}).status == 200
        assert [m["mark"] for m in station.marks()] == ([left] if left else [])


def test_what_a_page_may_not_send(station: Client, start_view: StartView) -> None:
    """Too long, unknown, of another journal: refused with a code for the page's texts, and nothing is noted."""
    view = start_view()
    journal = str(station.status()["journal_id"])
    good = {"journal_id": journal, "seqs": [1], "mark": "unsure"}
    for more, expected in (
        ({"comment": "x" * 100_000}, (413, "too_large")),
        ({"comment": "x" * 1000}, (409, "bad_request")),
        ({"comment": "\x07"}, (409, "bad_request")),
        ({"seqs": [10**9]}, (409, "no_such_part")),
        ({"seqs": ["1"]}, (400, "bad_values")),
        ({"seqs": [-1]}, (409, "bad_request")),
        ({"journal_id": "x"}, (409, "other_journal")),
        ({"by": "Eve"}, (400, "bad_values")),
    ):
        assert mark(view, "Ada", **{**good, **more}) == expected, more
    assert list(station.marks()) == []


def test_the_role_mark_is_enough(station: Client, config: Path, tmp_path: Path) -> None:
    """Who may only look marks nothing; the station gets the user's name, whatever the page says."""
    users = tmp_path / "users.json"
    tokens = {"see": add_user(users, "hall", "see"), "mark": add_user(users, "quality", "mark")}
    view = ViewServer(tmp_path, str(config), "--users", str(users))
    try:
        verdict = next(v for v in station.replay(1) if v["outcome"] in ("PASS", "FAIL"))
        body = {"who": "boss", "values": {"journal_id": verdict["journal_id"], "seqs": [verdict["seq"]], "mark": "unsure"}}
        for role, status in (("see", 403), ("mark", 200)):
            cookie = log_in(view, tokens[role])
            assert view.post("/changes/feedback", body, Cookie=cookie).status == status
        assert [m["who"] for m in station.marks()] == ["quality"]
    finally:
        view.close()


def log_in(view: ViewServer, token: str) -> str:
    return view.post("/login", {"token": token}).headers["set-cookie"].partition(";")[0]
