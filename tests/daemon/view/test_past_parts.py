"""Past parts: search from the newest, one part, CSV, all of a real station's journal and evidence."""

import asyncio
import contextlib
import csv
import io
import json
import shutil
from datetime import datetime, timezone
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import cv2
import numpy as np
import pytest
from starlette.requests import ClientDisconnect, Request
from support.anosegd_line import Line, run_anosegd, wait_until
from support.view_server import StartView, ViewServer

from anosegd import wire
from anosegd.client import Client, NoAnswerError, RefusedError, Verdict
from anosegd.view import past_parts
from anosegd.view.board import Board
from anosegd.view.event_log import EventLog
from anosegd.view.history import History
from anosegd.view.journal_search import WINDOW, JournalSearch, TooManyRequestsError, search
from anosegd.view.kept_pictures import THUMBNAIL_SIDE
from anosegd.view.part_filter import PartFilter, part_filter
from anosegd.view.past_parts import CsvForm, PastParts
from anosegd.view.verdict_table import PASS, Row

STATION = """
top: {source: {kind: demo, parts: 40, fps: 40}, policy: wait}
hand: {source: {kind: demo}, trigger: {kind: software}, policy: every}
"""
BAD_FILTERS = (
    "since=soon",
    "until=2026-13-01",
    "since=9999-01-01T00:00:00Z",
    "outcome=MAYBE",
    f"part={'x' * 5000}",
    "before=-1",
    "before=1e9",
)


@pytest.fixture
def config(line: Line) -> Path:
    control = line.endpoint.replace("pub", "control")
    kept = "evidence: {folder: evidence, good_share: 1, min_free: 0}"
    return line.config(STATION, more=f"control: {{endpoint: '{control}'}}\njournal: {{path: verdicts.db}}\n{kept}")


@pytest.fixture
def past(line: Line, config: Path, start_view: StartView) -> ViewServer:
    """A screen of a station that has inspected 40 parts."""
    line.run(config)
    assert len(line.listener.wait_for_verdicts(40)) == 40
    view = start_view()
    with Client(line.endpoint, line.endpoint.replace("pub", "control")) as client:
        client.request("trigger", camera="hand", part_id='=<script>"A&B"')
    line.listener.wait_for_verdicts(41)
    return view


def asked(view: ViewServer, path: str, **query: str) -> Any:
    answer = view.get(f"/{path}?{urlencode(query)}")
    assert answer.status == 200, answer.body
    return answer.json()


def test_parts_are_found_and_exported(past: ViewServer, config: Path) -> None:
    """Filters choose as a program over the journal would; CSV equals `anosegd export`; pictures come from the evidence."""
    out = run_anosegd("replay", str(config)).stdout
    verdicts = [json.loads(line) for line in out.splitlines()]
    newest = [verdict["seq"] for verdict in reversed(verdicts)]
    assert [part["seq"] for part in asked(past, "journal")["parts"]] == newest
    some = verdicts[10:20]
    filters: list[dict[str, str]] = [
        {"camera": "hand"},
        {"part": "SCRIPT"},
        {"outcome": "REJECT"},
        {"outcome": "PASS", "camera": "top"},
        {"since": some[0]["captured_at"], "until": some[-1]["captured_at"]},
    ]
    for query in filters:
        chosen = part_filter(query)
        expected = [verdict["seq"] for verdict in reversed(verdicts) if chosen.has(verdict)]
        assert [part["seq"] for part in asked(past, "journal", **query)["parts"]] == expected, query
    below = asked(past, "journal", before=str(newest[4]))["parts"]
    assert [part["seq"] for part in below] == newest[5:]

    exported = past.get("/parts.csv").body.decode("utf-8-sig")
    assert exported == run_anosegd("export", str(config), "--csv", "-").stdout
    rows = list(csv.DictReader(io.StringIO(past.get("/parts.csv?camera=hand").body.decode("utf-8-sig"))))
    assert [row["part_id"] for row in rows] == ['\'=<script>"A&B"']

    first = verdicts[0]  # kept for sure: the next ones come so fast that not every picture is
    known = {"journal": first["journal_id"], "seq": str(first["seq"])}
    wait_until(lambda: asked(past, "part", **known)["pictures"] is not None, "the part is kept")
    part = asked(past, "part", **known)
    assert part["verdict"]["part_id"] == first["part_id"]
    assert part["pictures"]["kinds"] == ["image", "map"]
    for kind, start in (("image", b"\xff\xd8\xff"), ("map", b"\x89PNG")):
        assert past.get(f"/pictures/{first['journal_id']}/{first['seq']}/{kind}").body.startswith(start)


def test_evidence_is_deleted_while_the_screen_runs(line: Line, past: ViewServer) -> None:
    """Past parts are still found, without pictures; the screen goes on and says nothing of this machine."""
    first, second = line.listener.verdicts[:2]
    known = {"journal": first["journal_id"], "seq": str(first["seq"])}
    wait_until(lambda: asked(past, "part", **known)["pictures"] is not None, "the evidence is written")
    # rmtree fails if the daemon renames a file meanwhile
    line.listener.wait_for_state(lambda state: state["evidence"]["kept"] + state["evidence"]["dropped"] == 41)
    shutil.rmtree(line.folder / "evidence")
    part = asked(past, "part", journal=second["journal_id"], seq=str(second["seq"]))
    assert (part["verdict"]["part_id"], part["pictures"]) == (second["part_id"], None)
    assert len(asked(past, "journal")["parts"]) == 41
    assert str(line.folder) not in json.dumps(part)
    assert "Traceback" not in past.log


def test_bad_questions_are_refused(past: ViewServer) -> None:
    """A filter that is not valid gives 400 and a reason; an unknown part gives 404."""
    for query in BAD_FILTERS:
        answer = past.get(f"/journal?{query}")
        assert answer.status == 400, query
        assert answer.json()["error"] == "bad_filter"
    assert past.get("/part?journal=x&seq=1").status == 404
    assert past.get("/part?journal=x&seq=../1").status == 400


def test_screen_starts_with_the_last_rejects(line: Line, past: ViewServer, start_view: StartView) -> None:
    """A screen that was restarted shows the rejects of before, from the journal."""
    rejects = [verdict["seq"] for verdict in line.listener.verdicts if verdict["outcome"] != "PASS"]
    stream = start_view().stream()
    hello = stream.next().data["rejects"]
    found = hello or stream.wait_for_list("rejects")
    assert {reject["seq"] for reject in found} == set(rejects)
    stream.close()


class Journal(Client):
    """Answers as a station does whose journal has these numbers, with holes between them."""

    def __init__(self, seqs: list[int], page_limit: int = 1000) -> None:
        super().__init__("ipc://nowhere", "ipc://nowhere")
        self.seqs, self.page_limit, self.questions = seqs, page_limit, 0

    def request(self, op: str, **arguments: Any) -> dict[str, Any]:
        if op == "status":
            return {"state": {"journal": {"first_kept": self.seqs[0], "last_committed": self.seqs[-1]}}}
        self.questions += 1
        first, last = arguments["from"], arguments["to"] or self.seqs[-1]
        inside = [seq for seq in self.seqs if first <= seq <= last]
        page = inside[: min(self.page_limit, arguments["limit"])]
        following = page[-1] + 1 if len(inside) > len(page) else last + 1
        return {"verdicts": [verdict(seq) for seq in page], "void": [], "gone": None, "next": following, "last": self.seqs[-1]}


def verdict(seq: int) -> Verdict:
    fields = {"seq": seq, "camera": "top", "part_id": str(seq), "outcome": "PASS", "captured_at": "2026-11-27T06:00:00.000000Z"}
    return Verdict(fields, replayed=True)


@pytest.mark.parametrize("page_limit", [1000, 50, 1])
def test_search_over_holes(page_limit: int) -> None:
    """Pages that go on where the last one stopped give every part once, over a hole of a million numbers, in few questions."""
    seqs = [*range(1, 40), *range(1_000_500, 1_000_500 + 2 * WINDOW)]
    journal = Journal(seqs, page_limit)
    found: list[int] = []
    before: int | None = None
    while True:
        part = search(journal, PartFilter(), before=before, wanted=100)
        found += [one["seq"] for one in part.verdicts]
        before = part.before
        if before is None:
            break
    assert found == seqs[::-1]
    assert journal.questions < 60 + 8 * len(seqs) / page_limit
    journal.close()


def test_search_is_bounded() -> None:
    """A search that finds nothing stops after its time and says where to go on."""
    journal = Journal(list(range(1, 100_000)))
    part = search(journal, PartFilter(camera="none"), before=None, wanted=10, limit_s=0.0)
    assert part.verdicts == []
    assert journal.questions == 2  # which is the newest, and one page
    assert part.before == 100_000 - WINDOW
    journal.close()


def minute(seq: int) -> datetime:
    """When a part was captured: one a minute from 10:00 on, and before number 61 the clock was set back from 11:00 to 10:00."""
    return datetime(2026, 11, 27, 10, (seq - 1) % 60, tzinfo=timezone.utc)


class SetBackJournal(Journal):
    """Has the numbers 1 to 120 with the times of `minute`, and finds numbers by time as a station does."""

    def __init__(self) -> None:
        super().__init__(list(range(1, 121)))

    def request(self, op: str, **arguments: Any) -> dict[str, Any]:
        if op == "since":
            return {
                "seq": min((seq for seq in self.seqs if minute(seq).timestamp() * 1e9 >= arguments["time_ns"]), default=121)
            }
        answer = super().request(op, **arguments)
        for one in answer.get("verdicts", ()):
            engine = {"name": "tiny", "version": 1}
            one.update(captured_at=wire.utc(int(minute(one["seq"]).timestamp()) * 10**9), journal_id="j", engine=engine)
            one.update(timings_ms={"total": 1.0}, defects=[])
        return answer


class Direct(JournalSearch):
    """Asks a client at once."""

    def __init__(self, client: Client) -> None:
        super().__init__("ipc://nowhere", "ipc://nowhere")
        self.client = client

    async def ask(self, question: Any) -> Any:
        return question(self.client)


def test_a_period_has_its_parts_after_the_clock_was_set_back() -> None:
    """The parts of both passes through the period are found, as in the CSV file."""
    client = SetBackJournal()
    journal = Direct(client)
    history = History(journal)
    history.table.add([Row(seq, minute(seq).timestamp(), 0.1, 0.5, PASS, "top", "tiny/1 abc", "") for seq in client.seqs])
    past = PastParts(Board(EventLog()), journal, None, CsvForm([], lambda _: []), history=history)
    query = urlencode({"since": minute(11).isoformat(), "until": minute(21).isoformat()}).encode()
    scope = {"type": "http", "method": "GET", "headers": [], "query_string": query, "path": "/journal"}
    try:
        found = json.loads(bytes(asyncio.run(past.routes["/journal"](Request(scope))).body))
    finally:
        past.stop()
        client.close()
    assert [part["seq"] for part in found["parts"]] == [*range(80, 70, -1), *range(20, 10, -1)]
    assert found["before"] is None


class SlowJournal(JournalSearch):
    """Gives one verdict a page, after a moment; the second question of every export finds the queue full once."""

    def __init__(self) -> None:
        super().__init__("ipc://nowhere", "ipc://nowhere")
        self.questions = 0

    async def ask(self, question: Any) -> Any:
        self.questions += 1
        await asyncio.sleep(0.02)
        if self.questions in (3, 4):
            raise TooManyRequestsError
        return ([verdict(self.questions)], None if self.questions > 4 else 2)


def test_exports_at_once_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of ten exports at once two run, to their end though the journal is busy; then the next may run, even if one left."""
    monkeypatch.setattr(past_parts, "BUSY_PAUSE_S", 0.01)
    journal = SlowJournal()
    past = PastParts(Board(EventLog()), journal, None, CsvForm(["seq"], lambda one: [one["seq"]]))
    scope = {"type": "http", "method": "GET", "headers": [], "query_string": b"", "path": "/parts.csv"}
    bodies: list[bytes] = []

    async def send(message: Any) -> None:
        bodies.append(message.get("body", b""))

    async def leave(message: Any) -> None:
        raise OSError("the browser left")

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def export(send: Any) -> int:
        response = await past.routes["/parts.csv"](Request(scope))
        if response.status_code == 200:
            with contextlib.suppress(OSError, ClientDisconnect):
                await response(scope, receive, send)
        return response.status_code

    async def run() -> None:
        assert sorted(await asyncio.gather(*(export(send) for _ in range(10)))) == [200] * 2 + [503] * 8
        assert b"".join(bodies).count(b"seq") == 2
        assert b"".join(bodies).splitlines()[-1].isdigit()
        for _ in range(5):
            assert await export(leave) == 200
        assert await export(send) == 200

    try:
        asyncio.run(run())
    finally:
        past.stop()


class Restarting(Journal):
    """Gives one verdict a page. Each page after the first comes only after `silent` questions without an answer."""

    def __init__(self, silent: int, journal_ids: tuple[str, ...] = ("j",) * 9) -> None:
        super().__init__([1, 2, 3], page_limit=1)
        self.silent, self.failures, self.journal_ids = silent, 0, iter(journal_ids)

    def request(self, op: str, **arguments: Any) -> dict[str, Any]:
        if arguments["from"] > 1 and self.failures < self.silent:
            self.failures += 1
            raise NoAnswerError("no answer")
        self.failures = 0
        return {**super().request(op, **arguments), "journal_id": next(self.journal_ids)}


def exported(client: Client) -> tuple[list[str], bool]:
    """The lines of a CSV file, and whether the answer was sent to its end."""
    past = PastParts(Board(EventLog()), Direct(client), None, CsvForm(["seq"], lambda one: [one["seq"]]))
    scope = {"type": "http", "method": "GET", "headers": [], "query_string": b"", "path": "/parts.csv"}
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        await asyncio.Event().wait()

    async def export() -> None:
        response = await past.routes["/parts.csv"](Request(scope))
        await response(scope, receive, send)

    try:
        asyncio.run(asyncio.wait_for(export(), 60))
    finally:
        past.stop()
        client.close()
    text = b"".join(message.get("body", b"") for message in sent).decode("utf-8-sig")
    return text.splitlines(), not sent[-1].get("more_body", False)


def test_an_export_goes_on_after_a_restart_of_the_station(monkeypatch: pytest.MonkeyPatch) -> None:
    """A station that is away for a moment, again and again, leaves no gap in the file."""
    monkeypatch.setattr(past_parts, "NO_ANSWER_PAUSE_S", 0.01)
    assert exported(Restarting(silent=3)) == (["seq", "1", "2", "3"], True)


@pytest.mark.parametrize(
    ("silent", "journal_ids", "rows", "why"),
    [(10**9, ("j",) * 9, 1, "no answer"), (0, ("j", "j", "new"), 2, "new journal")],
)
def test_half_a_file_is_no_whole_one(
    silent: int,
    journal_ids: tuple[str, ...],
    rows: int,
    why: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """If the rest cannot be had, the answer stays without an end, and the log says why in one line, without a traceback."""
    monkeypatch.setattr(past_parts, "NO_ANSWER_PAUSE_S", 0.01)
    monkeypatch.setattr(past_parts, "NO_ANSWER_LIMIT_S", 0.1)
    lines, whole = exported(Restarting(silent, journal_ids))
    assert (len(lines), whole) == (1 + rows, False)
    (record,) = caplog.records
    assert record.getMessage() == "export.failed"
    assert why in record.fields["error"]  # type: ignore[attr-defined]
    assert record.exc_info is None


def test_station_without_a_journal_says_so(line: Line, start_view: StartView, config: Path) -> None:
    """The page gets the reason as a word that its catalogue knows."""
    control = line.endpoint.replace("pub", "control")
    line.run(line.config("top: {source: {kind: demo, fps: 4}}", more=f"control: {{endpoint: '{control}'}}"))
    line.listener.wait_for_verdicts(1)
    view = start_view()
    answer = view.get("/journal")
    assert (answer.status, answer.json()["error"]) == (409, "no_journal")
    for path in ("trend.json", "report.json", "what-if.json?threshold=0.5"):
        # Until the screen has asked the station, it cannot know.
        wait_until(lambda path=path: view.get(f"/{path}").status == 409, f"{path} says that there is no journal")
        assert view.get(f"/{path}").json()["error"] == "no_journal"
    with pytest.raises(RefusedError), Client(line.endpoint, control) as client:
        search(client, PartFilter(), before=None, wanted=1)


def test_small_pictures_of_a_page_of_parts(past: ViewServer) -> None:
    """A kept part has a small JPEG; one that is not kept, another journal's and a nonsense time have none."""
    (part,) = asked(past, "journal", camera="hand")["parts"]  # those of "top" come so fast that not every picture is kept
    wanted = {"journal": part["journal_id"], "seq": str(part["seq"]), "at": part["part_time"]}
    wait_until(lambda: past.get(f"/thumbnail?{urlencode(wanted)}").status == 200, "the part is kept")
    answer = past.get(f"/thumbnail?{urlencode(wanted)}")
    picture = cv2.imdecode(np.frombuffer(answer.body, np.uint8), cv2.IMREAD_COLOR)
    assert picture is not None
    assert max(picture.shape) == THUMBNAIL_SIDE
    for other in ({"journal": "0" * 32}, {"seq": "999999"}, {"at": "never"}, {"at": "../../etc"}):
        assert past.get(f"/thumbnail?{urlencode({**wanted, **other})}").status == 404
    assert past.get(f"/thumbnail?{urlencode({**wanted, 'seq': '1e9'})}").status == 400
