"""The screen's server: a real process that is a client of a real station."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support.anosegd_line import Line, alive, run_anosegd
from support.view_server import StartView

from anosegd.client import Client

NO_ADDRESSES = ("example.org:8080", "127.0.0.1", "127.0.0.1:99999", "300.0.0.1:80", "")
OUTSIDE = ("0.0.0.0:8080", "192.168.1.5:8080", "[::]:8080")
SCRIPT = "<script>alert(1)</script>"


@pytest.mark.parametrize("address", NO_ADDRESSES)
def test_what_is_no_address_is_refused(address: str) -> None:
    """The command names the address and ends with exit code 2."""
    done = run_anosegd("view", "--listen", address)
    assert done.returncode == 2
    assert f"argument --listen: {address}:" in done.stderr


@pytest.mark.parametrize("address", OUTSIDE)
def test_other_addresses_than_loopback_are_refused_without_users(address: str) -> None:
    """The command names the address and ends with exit code 2. With users: test_tls.py."""
    done = run_anosegd("view", "--listen", address)
    assert done.returncode == 2
    assert address.replace("[", "").replace("]", "") in done.stderr


def test_inspection_comes_before_the_screen(start_view: StartView) -> None:
    """Where processors are scarce, the screen waits: it lowers its own priority."""
    assert os.getpriority(os.PRIO_PROCESS, start_view().process.pid) >= 5


def test_address_in_use_is_an_error(config: Path, start_view: StartView) -> None:
    """A second screen at the same address names it and says what to do."""
    view = start_view()
    done = run_anosegd("view", str(config), "--listen", f"127.0.0.1:{view.port}", process=True)
    assert done.returncode == 1
    assert f"127.0.0.1:{view.port} is in use" in done.stderr


def test_stream_shows_the_station(line: Line, config: Path, start_view: StartView) -> None:
    """A page gets state, verdicts numbered by seq and the map; with Last-Event-ID it gets only rejects that it lacks."""
    view = start_view()
    stream = view.stream()
    hello = stream.next()
    assert hello.kind == "hello"
    assert hello.data["heartbeat"]["state"] is None  # the station is not running yet, and nothing is made up
    line.run(config)
    assert stream.wait_for("state").data["state"]["station"] == "test-station"
    verdict = stream.wait_for("verdict", camera="top")
    assert verdict.id == f"{verdict.data['journal_id']}:{verdict.data['seq']}"
    assert verdict.data["at"] <= stream.wait_for("state").data["at"]  # both by the screen's own clock
    while not (with_map := [one.data for one in stream.received if one.kind == "picture" and "map" in one.data["kinds"]]):
        stream.next()
    picture = with_map[0]
    answer = view.get(f"/pictures/{picture['journal_id']}/{picture['seq']}/map")
    assert (answer.status, answer.headers["content-type"], answer.body[:4]) == (200, "image/png", b"\x89PNG")
    stream.wait_for("picture", kinds=["image", "map"])
    stream.close()
    with Client(line.endpoint, line.endpoint.replace("pub", "control")) as client:
        client.request("trigger", camera="hand", part_id=SCRIPT)
    again = view.stream(Last_Event_ID=verdict.id)
    hello = again.next()
    assert hello.data["resumed"]
    assert all(reject["seq"] > verdict.data["seq"] for reject in hello.data["rejects"])
    again.close()


def test_station_may_come_and_go(line: Line, config: Path, start_view: StartView) -> None:
    """A killed daemon leaves the stream alive; its successor's verdicts arrive in the same stream."""
    view = start_view()
    stream = view.stream()
    daemon = line.run(config)
    stream.wait_for("verdict")
    daemon.close()
    stream.wait_for("tick")
    line.run(config)
    before = stream.received[-1]
    verdict = stream.wait_for("verdict")
    assert verdict.data["seq"] > int(before.id or 0)
    stream.close()
    assert view.stop() == 0


def test_stops_while_pages_are_open(start_view: StartView) -> None:
    """SIGTERM ends the streams and then the command, with exit code 0 and nothing in the log."""
    view = start_view()
    streams = [view.stream() for _ in range(3)]
    assert view.stop() == 0
    assert view.log == ""
    for stream in streams:
        stream.close()


def test_screen_never_touches_the_inspection(line: Line, config: Path, start_view: StartView) -> None:
    """1,000 requests within seconds and then a killed screen: the station goes on, and no verdict is lost."""
    view = start_view()
    daemon = line.run(config)
    stream = view.stream()
    stream.wait_for("verdict")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: view.get("/live.js").status, range(1000)))
    assert set(answers) == {200}
    stream.wait_for("verdict")
    stream.close()
    view.close()
    sent = len(line.listener.wait_for_verdicts(5))
    seqs = [verdict["seq"] for verdict in line.listener.wait_for_verdicts(sent + 8)]
    assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))
    assert alive(daemon.process.pid)


PATHS = (
    "/../pyproject.toml",
    "/..%2f..%2fserver.py",
    "/%2e%2e/server.py",
    "/server.py",
    "/page/index.html",
    "//etc/passwd",
    "/etc%2fpasswd",
    "/pictures/../../etc/passwd",
    "/pictures/x/1/..%2fmap",
    "/pictures/%2e%2e/1/map",
    "/pictures/x/99999999999999999999999/map",
    "/pictures/x/-1/map",
    "/pictures/x/1/exe",
    "/" + "a" * 5000,
)


def test_paths_lead_nowhere_else(start_view: StartView) -> None:
    """No path leads to another file than the page's own, and no answer names a place of this machine."""
    view = start_view()
    for path in PATHS:
        answer = view.get(path)
        assert answer.status in (400, 404), path
        assert len(answer.body) < 200, path
        assert b"/" not in answer.body, path


def test_other_sites_have_no_access(start_view: StartView) -> None:
    """Only GET is answered, only under a name of this machine, and no other site may frame, read or script the page."""
    view = start_view()
    for method in ("POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
        for path in ("/", "/events", "/settings"):
            assert view.get(path, method).status == 405
    assert view.get("/", Host="evil.example").status == 400
    for path in ("/", "/live.js", "/settings", "/nothing"):
        headers = view.get(path).headers
        policy = headers["content-security-policy"]
        assert "default-src 'none'" in policy
        assert "unsafe" not in policy
        assert "frame-ancestors 'none'" in policy
        assert headers["x-content-type-options"] == "nosniff"
        assert "access-control-allow-origin" not in headers


def test_too_many_pages_are_refused(start_view: StartView) -> None:
    """The 41st stream gets 503; when one leaves, another may come."""
    view = start_view()
    streams = [view.stream() for _ in range(40)]
    assert {stream.answer.status for stream in streams} == {200}
    assert view.get("/events").status == 503
    head = view.get("/events", "HEAD")
    assert (head.status, head.headers["allow"]) == (405, "GET")
    streams.pop().close()
    give_up_at = time.monotonic() + 20
    while (stream := view.stream()).answer.status != 200:
        assert time.monotonic() < give_up_at
        stream.close()
        time.sleep(0.1)
    for left in (*streams, stream):
        left.close()
