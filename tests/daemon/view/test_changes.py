"""The one way in which a page changes anything: who may, and what is refused."""

import asyncio
import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest
import zmq
from starlette.requests import HTTPConnection
from support.anosegd_line import Line, alive
from support.view_server import StartView

from anosegd.client import Client, ClientError, Key
from anosegd.view.app import build_app
from anosegd.view.board import Board
from anosegd.view.change import Change
from anosegd.view.changes import AT_ONCE, MAX_BODY_BYTES, Changes
from anosegd.view.event_log import EventLog
from anosegd.view.journal_search import TooManyRequestsError
from anosegd.view.people import Person, Role
from anosegd.view.rate_limit import RateLimit
from anosegd.view.station_requests import StationRequests

THRESHOLD = {"camera": "top", "value": 0.75, "why": "scratches of the new tool"}


def test_page_sets_a_threshold(line: Line, config: Path, start_view: StartView) -> None:
    """The change reaches the station, whose journal names the person; the screen's log names the person, too."""
    view = start_view()
    line.run(config)
    line.listener.wait_for_verdicts(1)
    answer = view.post("/changes/set_threshold", {"who": "Ada Łukasz", "values": THRESHOLD})
    assert (answer.status, answer.json()["answer"]["new"]["value"]) == (200, 0.75)
    assert answer.headers["cache-control"] == "no-store"
    with Client(line.endpoint, line.endpoint.replace("pub", "control")) as client:
        newest = client.changes()[-1]
    assert (newest["who"], newest["camera"], newest["why"]) == ("Ada Łukasz", "top", THRESHOLD["why"])
    made = [json.loads(text) for text in view.log.splitlines()]
    assert [(one["event"], one["change"], one["who"]) for one in made] == [("change.made", "set_threshold", "Ada Łukasz")]
    refused = view.post("/changes/set_threshold", {"who": "Ada", "values": {**THRESHOLD, "camera": "none"}})
    assert refused.status == 409
    assert "none" in refused.json()["message"]
    refused = view.post("/changes/set_threshold", {"who": "Ada", "values": {**THRESHOLD, "why": " "}})
    assert (refused.status, refused.json()["message"]) == (409, "why is empty: say it in words")


def test_station_that_is_down(start_view: StartView) -> None:
    """Nobody claims that a change failed which the station may still have made; the screen ends while one waits."""
    view = start_view()
    with ThreadPoolExecutor() as pool:
        waiting = pool.submit(view.post, "/changes/set_threshold", {"who": "Ada", "values": THRESHOLD})
        answer = waiting.result()
        assert (answer.status, answer.json()["error"]) == (503, "not_known")
        pool.submit(view.post, "/changes/set_threshold", {"who": "Ada", "values": THRESHOLD})
        time.sleep(1)
        began = time.monotonic()
        assert view.stop() == 0
        assert time.monotonic() - began < 8  # the request itself would wait for 10 s


FORGED: tuple[dict[str, str], ...] = (
    {"Origin": ""},
    {"Origin": "null"},
    {"Origin": "http://evil.example"},
    {"Origin": "http://127.0.0.1:1"},
    {"Origin": "https://127.0.0.1"},
    {"Sec_Fetch_Site": "cross-site"},
    {"Sec_Fetch_Site": "same-site"},
    {"Sec_Fetch_Site": "none"},
)


def test_other_sites_change_nothing(start_view: StartView) -> None:
    """Whatever a page of another site can send is refused before the body is read."""
    view = start_view()
    good = {"who": "Ada", "values": THRESHOLD}
    for headers in FORGED:
        answer = view.post("/changes/set_threshold", good, **headers)
        assert (answer.status, answer.json()["error"]) == (403, "other_site"), headers
    own = f"127.0.0.1:{view.port}"
    assert view.post("/changes/set_threshold", good, Host="evil.example", Origin="http://evil.example").status == 400
    assert view.post("/changes/set_threshold", good, Host="localhost", Origin=f"http://{own}").status == 403
    for kind in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""):
        answer = view.post("/changes/set_threshold", good, Content_Type=kind)
        assert (answer.status, answer.json()["error"]) == (415, "bad_type")
    assert "access-control-allow-origin" not in view.post("/changes/x", good, Origin="http://evil.example").headers
    assert view.get("/changes/set_threshold", "OPTIONS", Origin="http://evil.example").status == 405


BAD_BODIES = (
    b"",
    b"null",
    b"[]",
    b"{",
    b'{"who":"Ada"}',
    b'{"who":7,"values":{}}',
    b'{"who":"Ada","values":{},"role":"change"}',
    b'{"who":"Ada","values":{"camera":"top","value":0.5,"why":"x","who":"Eve"}}',
    b'{"who":"Ada","values":{"camera":"top","value":"0.5","why":"x"}}',
    b"[" * 20_000,
    b'{"who":"\xff","values":{}}',
    b'{"who":"Ada","values":{"camera":"\\ud800","value":0.5,"why":"x"}}',
)


def test_bad_requests_are_refused(start_view: StartView) -> None:
    """Broken bodies, unknown names and bad people get an answer in JSON that names no place of this machine."""
    view = start_view()
    for body in BAD_BODIES:
        answer = view.post("/changes/set_threshold", body)
        assert (answer.status, answer.json()["error"]) == (400, "bad_values"), body
        time.sleep(0.2)  # below the limit of rate
    for who, code in (
        ("", "no_name"),
        (" \t", "no_name"),
        ("a\nb", "bad_name"),
        ("\x1b[2J", "bad_name"),
        ("x" * 201, "bad_name"),
    ):
        answer = view.post("/changes/set_threshold", {"who": who, "values": THRESHOLD})
        assert (answer.status, answer.json()["error"]) == (400, code), who
        time.sleep(0.2)
    for name in ("nothing", "..", "%2e%2e", "set_threshold%00", "SET_THRESHOLD", "a" * 5000, "../settings", "..%2fsettings"):
        answer = view.post(f"/changes/{name}", {"who": "Ada", "values": THRESHOLD})
        assert answer.status == 404, name
        assert len(answer.body) < 200
        assert b"/" not in answer.body
        time.sleep(0.2)
    assert view.get("/changes/set_threshold").status == 405
    assert "Traceback" not in view.log


def test_large_body_is_refused(start_view: StartView) -> None:
    """More than 32 KiB gets 413 at once, also if the length is not announced."""
    view = start_view()
    large = {"who": "Ada", "values": {**THRESHOLD, "why": "x" * MAX_BODY_BYTES}}
    answer = view.post("/changes/set_threshold", large)
    assert (answer.status, answer.json()["error"]) == (413, "too_large")
    answer = view.post("/changes/set_threshold", iter([b"x" * 1000] * 100))
    assert answer.status == 413


def test_a_thousand_changes_a_second(line: Line, config: Path, start_view: StartView) -> None:
    """The rate is limited, the station gets only what passes, the stream of a page goes on, and the log does not grow."""
    view = start_view()
    daemon = line.run(config)
    stream = view.stream()
    stream.wait_for("verdict")
    began = time.monotonic()
    with ThreadPoolExecutor(64) as pool:  # the station takes its time for each change
        send = {"who": "Ada", "values": {**THRESHOLD, "camera": "none"}}
        statuses = list(pool.map(lambda _: view.post("/changes/set_threshold", send).status, range(1000)))
    took = time.monotonic() - began
    assert {409, 429} <= set(statuses) <= {409, 429, 503}  # 503: a slow station has too many waiting
    assert len(statuses) - statuses.count(429) <= AT_ONCE + 5 * took + 1
    stream.wait_for("verdict")
    stream.close()
    assert alive(daemon.process.pid)
    assert len(view.log.splitlines()) <= took + 2


def test_one_person_without_login_does_not_keep_others_from_changing(start_view: StartView) -> None:
    """Each name has its own limit, and all of an address have one together, whatever names they give."""
    view = start_view()

    def refused(who: str) -> int:
        return view.post("/changes/resume", {"who": who, "values": {"nothing": 1}}).status

    with ThreadPoolExecutor(16) as pool:
        statuses = list(pool.map(lambda _: refused("Eve"), range(40)))
        assert statuses.count(429) >= 5
        assert refused("Ada") == 400
        statuses = list(pool.map(lambda n: refused(f"Eve {n}"), range(500)))
    assert statuses.count(429) >= 50


# ---- in the process of the test


class Somebody:
    """Is the access of one person."""

    def __init__(self, person: Person | None) -> None:
        self._person = person

    def person(self, connection: HTTPConnection) -> Person | None:
        return self._person


class Values(msgspec.Struct, forbid_unknown_fields=True):
    n: int = 0


def ask(person: Person | None, role: Role, body: Any) -> tuple[int, Any]:
    """Ask for a change that answers with who asked."""

    async def make(_: StationRequests, who: str, values: Values) -> Any:
        return [who, values.n]

    changes = Changes(Somebody(person), StationRequests("tcp://127.0.0.1:9", None), (Change("one", role, Values, make),))
    app = build_app(Board(EventLog()), {}, {}, hosts=[], posts={"/changes/{name}": changes.make})
    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    async def receive() -> Any:
        return {"type": "http.request", "body": json.dumps(body).encode(), "more_body": False}

    headers = [(b"host", b"127.0.0.1"), (b"origin", b"http://127.0.0.1"), (b"content-type", b"application/json; charset=utf-8")]
    scope = {
        "type": "http",
        "method": "POST",
        "path": "/changes/one",
        "headers": headers,
        "query_string": b"",
        "scheme": "http",
    }
    asyncio.run(app(scope, receive, send))
    changes.stop()
    return sent[0]["status"], json.loads(b"".join(message.get("body", b"") for message in sent))


@pytest.mark.parametrize(
    ("has", "needs", "may"),
    [
        ("see", "see", True),
        ("see", "mark", False),
        ("see", "change", False),
        ("mark", "mark", True),
        ("mark", "change", False),
        ("change", "mark", True),
        ("change", "change", True),
    ],
)
def test_role_must_suffice(has: Role, needs: Role, may: bool) -> None:
    """A role includes the ones before it; too low a role gets 403 and a text that names both."""
    status, answer = ask(Person("ada", has), needs, {"values": {"n": 3}})
    if may:
        assert (status, answer) == (200, {"answer": ["ada", 3]})
    else:
        assert (status, answer["error"]) == (403, "not_allowed")
        assert has in answer["message"]
        assert needs in answer["message"]


def test_name_of_a_user_cannot_be_forged() -> None:
    """With login, the user's name counts, whatever the page says; without a login nothing is changed."""
    assert ask(Person("ada", "change"), "change", {"who": "eve", "values": {}}) == (200, {"answer": ["ada", 0]})
    assert ask(Person(None, "change"), "change", {"who": "eve", "values": {}}) == (200, {"answer": ["eve", 0]})
    status, answer = ask(None, "see", {"who": "eve", "values": {}})
    assert (status, answer["error"]) == (401, "no_login")


def test_rate_is_limited_for_each_name() -> None:
    """A burst passes, then the average; another name is not slowed down; names take bounded memory."""
    rate = RateLimit(2.0, 3)
    assert [rate.allows("a", 0.0) for _ in range(5)] == [True, True, True, False, False]
    assert rate.allows("b", 0.0)
    assert [rate.allows("a", 0.5), rate.allows("a", 0.6)] == [True, False]
    for n in range(5000):
        rate.allows(str(n), 1.0)
    assert len(rate._buckets) <= 1024


def test_a_pause_does_not_wait_for_swaps() -> None:
    """While the station loads bundles, other changes reach it at once. A third swap is refused, and does not wait."""
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.linger = 0
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        requests = StationRequests("tcp://127.0.0.1:9", f"tcp://127.0.0.1:{port}")

        def received() -> tuple[bytes, dict[str, Any]]:
            assert socket.poll(10_000)
            peer, request = socket.recv_multipart()
            return peer, json.loads(request)

        async def asked() -> None:
            swaps = [asyncio.ensure_future(requests.ask_to_load("swap", bundle=f"line/{n}")) for n in range(2)]
            assert {(await asyncio.to_thread(received))[1]["op"] for _ in swaps} == {"swap"}
            with pytest.raises(TooManyRequestsError):
                await requests.ask_to_load("rollback")
            pause = asyncio.ensure_future(requests.ask("pause", minutes=5))
            peer, request = await asyncio.to_thread(received)
            assert request["op"] == "pause"
            socket.send_multipart([peer, json.dumps({"id": request["id"], "ok": True}).encode()])
            assert (await pause)["ok"]
            assert not any(swap.done() for swap in swaps)
            requests.stop()
            assert all(isinstance(one, ClientError) for one in await asyncio.gather(*swaps, return_exceptions=True))

        asyncio.run(asked())


def test_change_reaches_a_station_with_keys() -> None:
    """A station that asks for a key gets the screen's."""
    (station, station_secret), (screen, screen_secret) = zmq.curve_keypair(), zmq.curve_keypair()
    with zmq.Context() as context, context.socket(zmq.ROUTER) as socket:
        socket.linger = 0
        socket.curve_server, socket.curve_secretkey = True, station_secret
        port = socket.bind_to_random_port("tcp://127.0.0.1")
        key = Key("screen", screen.decode(), screen_secret.decode(), station.decode())
        requests = StationRequests("tcp://127.0.0.1:9", f"tcp://127.0.0.1:{port}", key=key)

        async def asked() -> dict[str, Any]:
            answer = asyncio.ensure_future(requests.ask("resume"))
            assert await asyncio.to_thread(socket.poll, 10_000)
            peer, request = socket.recv_multipart()
            socket.send_multipart([peer, json.dumps({"id": json.loads(request)["id"], "ok": True}).encode()])
            return await answer

        assert asyncio.run(asked())["ok"]
        requests.stop()
