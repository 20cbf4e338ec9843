"""Control socket and client with the real daemon: replay, durable consumers, drain, reload, malformed requests."""

import contextlib
import csv
import json
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import pytest
import zmq
from stress.rubbish import rubbish
from stress.torture import torture
from support.anosegd_line import Daemon, Line, run_anosegd, wait_until

from anosegd.client import MAX_REQUEST_BYTES as CLIENT_LIMIT
from anosegd.client import Client, ClientError, Event, NoAnswerError, RefusedError, RequestError, Verdict
from anosegd.control.requests import MAX_PART_ID
from anosegd.control.server import MAX_REQUEST_BYTES, RATE, Control

FOLDER = "line: {policy: wait, source: {kind: folder, path: images}}"
LOOP = "line: {policy: wait, source: {kind: folder, path: images, loop: true, fps: 40}}"


class Station:
    """A line with journal and control socket, and a client of it."""

    def __init__(self, line: Line, sockets: Path) -> None:
        self.line = line
        self.control = f"ipc://{sockets}/ctl"
        self.more = f"control: {{endpoint: '{self.control}'}}\njournal: {{path: verdicts.db}}"
        self.events: list[Event] = []

    def start(self, cameras: str, n_images: int = 12) -> Daemon:
        images = self.line.folder / "images"
        images.mkdir(exist_ok=True)
        for i in range(n_images):
            cv2.imwrite(str(images / f"{i:03d}.png"), np.full((32, 32, 3), 120 if i % 4 else 250, np.uint8))
        self.config = self.line.config(cameras, more=self.more)
        daemon = self.line.run(self.config)
        self.line.listener.wait_for_state(lambda s: s["state"] != "Preoperational")
        return daemon

    def client(self) -> Client:
        return Client(self.line.endpoint, self.control, on_event=self.events.append, down_after_s=1.5)

    def wait_until_committed(self, n: int) -> None:
        with self.client() as client:
            wait_until(lambda: client.status()["journal"]["last_committed"] >= n, f"{n} verdicts committed")


@pytest.fixture
def station(line: Line, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    return Station(line, tmp_path_factory.mktemp("c"))


def test_a_late_client_gets_everything_in_order(station: Station) -> None:
    """Verdicts sent before the client connected are replayed and marked as such. The journal returns the published headers."""
    station.start(FOLDER)
    station.wait_until_committed(12)
    with station.client() as client:
        verdicts = list(islice(client.follow(first=1), 12))
        assert [v["seq"] for v in islice(client.follow(first=0), 12)] == list(range(1, 13))  # 0: from the beginning
        assert [v["seq"] for v in client.replay(0, 3)] == [1, 2, 3]
    assert [v["seq"] for v in verdicts] == list(range(1, 13))
    assert all(v.replayed and v["durable"] for v in verdicts)
    assert [dict(v) for v in verdicts] == station.line.listener.wait_for_verdicts(12)


def test_a_durable_consumer_goes_on_where_it_was(station: Station) -> None:
    """A named consumer does not receive again what it has finished, even after the daemon was killed and restarted."""
    daemon = station.start(LOOP)
    with station.client() as client:
        first = [v["seq"] for v in islice(client.follow(consumer="archive"), 30)]
    assert first == list(range(1, 31))
    wait_until(lambda: _cursor(station) > 0, "the consumer's cursor")
    time.sleep(1.5)  # cursors are written within a second
    daemon.process.kill()
    daemon.wait()
    station.line.run(station.config)
    with station.client() as client:
        again = [v["seq"] for v in islice(client.follow(consumer="archive"), 100)]
    assert again[0] <= 31  # the verdict in hand when the loop ended was not finished, so it may come again
    assert again[0] > 1
    assert again == sorted(set(again))


def _cursor(station: Station) -> int:
    with station.client() as client:
        return int(client.request("consumer", name="archive")["cursor"])


def test_a_station_that_is_down_is_reported(station: Station) -> None:
    """When the heartbeat stops, the client reports it. When the station is back, it goes on and reports skipped numbers."""
    daemon = station.start(LOOP)

    def on_event(event: Event) -> None:
        station.events.append(event)
        if event.kind == "down":
            station.line.run(station.config)

    with Client(station.line.endpoint, station.control, on_event=on_event, down_after_s=1.5) as client:
        stream = client.follow(first=1)
        before = [v["seq"] for v in islice(stream, 5)]
        daemon.process.kill()
        daemon.wait()
        after = []
        for verdict in stream:
            after.append(verdict["seq"])
            if station.events and station.events[-1].kind == "void" and len(after) > 20:
                break
    assert [e.kind for e in station.events][:2] == ["up", "down"]
    assert before + after == sorted(set(before + after))
    voids = [e for e in station.events if e.kind == "void"]
    assert voids
    assert voids[-1].last > voids[-1].first


def test_export_writes_a_shift_as_csv(station: Station) -> None:
    """One row for each verdict with its outcome and score. An existing file is not overwritten."""
    station.start(FOLDER)
    station.wait_until_committed(12)
    target = station.line.folder / "shift.csv"
    done = run_anosegd("export", str(station.config), "--csv", str(target), "--since", "1h")
    assert done.returncode == 0, done.stderr
    with target.open() as file:
        rows = list(csv.DictReader(file))
    assert [int(r["seq"]) for r in rows] == list(range(1, 13))
    assert [r["outcome"] for r in rows[:5]] == ["FAIL", "PASS", "PASS", "PASS", "FAIL"]
    again = run_anosegd("export", str(station.config), "--csv", str(target))
    assert again.returncode == 2
    assert "exists already" in again.stderr


def test_replay_prints_the_numbers_asked_for(station: Station) -> None:
    """`anosegd replay --from --to` prints these verdicts as JSON lines."""
    station.start(FOLDER)
    station.wait_until_committed(12)
    done = run_anosegd("replay", str(station.config), "--from", "4", "--to", "6")
    assert [json.loads(text)["seq"] for text in done.stdout.splitlines()] == [4, 5, 6]


def test_a_replay_waits_while_the_station_is_busy(station: Station, monkeypatch: pytest.MonkeyPatch) -> None:
    """The peer has sent more requests than it may: the pages that are refused are asked for again, and nothing is left out."""
    station.start(FOLDER)
    station.wait_until_committed(12)
    refused = []
    with station.client() as client:
        ask = client._connection.request

        def counted(op: str, **arguments: object) -> dict[str, object]:
            try:
                return ask(op, **arguments)
            except RefusedError as error:
                refused.append(error.code)
                raise

        monkeypatch.setattr(client._connection, "request", counted)
        client.status()
        socket = client._connection._socket
        assert socket is not None

        def send_some() -> None:
            for _ in range(4):  # the station drops answers beyond ten that a peer has not read
                socket.send(b'{"id": -1, "op": "status"}')

        error = None
        while error != "busy":
            send_some()
            error = [json.loads(socket.recv()).get("error") for _ in range(4)][-1]
        send_some()
        assert [v["seq"] for v in client.replay(1)] == list(range(1, 13))
    assert set(refused) == {"busy"}


def test_drain_ends_the_daemon_in_order(station: Station) -> None:
    """The request is answered, verdicts of captured parts are sent, and the exit code is 0."""
    daemon = station.start(LOOP)
    assert run_anosegd("drain", str(station.config)).returncode == 0
    assert daemon.wait() == 0


def reload(station: Station) -> subprocess.CompletedProcess[str]:
    return run_anosegd("reload", "--connect", station.line.endpoint, "--control", station.control)


def test_a_bad_reload_keeps_the_old_and_says_why(station: Station) -> None:
    """A refused configuration changes nothing; the command prints the reason and exits with code 1. A valid one takes over."""
    station.start(LOOP)
    good = station.config.read_text()
    station.config.write_text(good.replace("fps: 40", "fsp: 40"))
    done = reload(station)
    assert done.returncode == 1
    assert "fsp: unknown key" in done.stderr
    assert "is the station running" not in done.stderr  # it has answered
    before = len(station.line.listener.verdicts)
    station.line.listener.wait_for_verdicts(before + 5)
    station.config.write_text(good.replace("fps: 40", "fps: 20").replace("test-station", "renamed"))
    assert run_anosegd("reload", str(station.config)).returncode == 0
    station.line.listener.wait_for(lambda m: m.topic == "verdict.line" and m.header["station"] == "renamed")
    seqs = [v["seq"] for v in station.line.listener.verdicts]
    assert seqs == sorted(set(seqs))


def test_a_reload_that_fails_to_start_brings_the_old_back(station: Station, tmp_path: Path) -> None:
    """If a checked configuration fails (its folder is not writable), the one before runs again and the state says so."""
    daemon = station.start(LOOP)
    good = station.config.read_text()
    station.config.write_text(good.replace(f"'{station.line.endpoint}'", f"'ipc://{tmp_path}/none/pub'"))
    done = reload(station)
    assert done.returncode == 1
    assert "the configuration before it runs" in done.stderr
    assert f"{tmp_path}/none" in done.stderr
    running = "ContinuousExecution"  # a heartbeat may come before the first parts are inspected
    state = station.line.listener.wait_for_state(lambda s: s["state"] == running and "reload failed" in (s["detail"] or ""))
    assert state["reload_error"] == state["detail"]
    assert state["station"] == "test-station"
    assert f"{tmp_path}/none" in state["detail"]
    station.config.write_text(good.replace("test-station", "renamed"))
    assert reload(station).returncode == 0  # and it can be put right
    state = station.line.listener.wait_for_state(lambda s: s["station"] == "renamed" and s["state"] == "ContinuousExecution")
    assert state["detail"] is None
    assert daemon.terminate() == 0


def test_a_reload_is_checked_as_a_start_is(station: Station) -> None:
    """A missing image of the empty place is found before the old station ends, with and without a journal."""
    station.start(LOOP)
    station.config.write_text(station.config.read_text().replace("policy: wait,", "policy: wait, presence: {empty: none.png},"))
    done = reload(station)
    assert done.returncode == 1
    assert "cameras.line: presence.empty" in done.stderr
    station.line.listener.wait_for_verdicts(len(station.line.listener.verdicts) + 5)


def test_a_start_that_fails_ends_whatever_was_begun(station: Station) -> None:
    """Exit code 2 even with a journal: no thread is left that keeps the process alive."""
    done = run_anosegd(
        "run", str(station.line.config(LOOP.replace("wait,", "wait, presence: {empty: x.png},"), more=station.more))
    )
    assert done.returncode == 2


def test_stopped_and_continued(station: Station) -> None:
    """SIGSTOP and SIGCONT (a debugger, or Ctrl-Z and fg) do not end the daemon."""
    daemon = station.start(LOOP)
    for _ in range(3):
        daemon.process.send_signal(signal.SIGSTOP)
        time.sleep(0.5)
        daemon.process.send_signal(signal.SIGCONT)
        station.line.listener.wait_for_verdicts(len(station.line.listener.verdicts) + 5)
    assert daemon.terminate() == 0


def test_reloads_leave_nothing_behind(station: Station) -> None:
    """Ten reloads leave no more descriptors and threads than two."""
    daemon = station.start(LOOP)
    text = station.config.read_text()

    def after_reloads(first: int, last: int) -> tuple[int, int]:
        for i in range(first, last + 1):
            station.config.write_text(text.replace("test-station", f"station-{i}"))
            assert reload(station).returncode == 0
            station.line.listener.wait_for_state(
                lambda s, name=f"station-{i}": s["station"] == name and s["state"] == "ContinuousExecution"
            )
        proc = Path(f"/proc/{daemon.process.pid}")
        return len(list((proc / "fd").iterdir())), len(list((proc / "task").iterdir()))

    few, threads = after_reloads(1, 2)
    many, threads_now = after_reloads(3, 10)
    assert many <= few + 2  # a connection of the command before may still be closing
    assert threads_now <= threads


@pytest.mark.parametrize(
    ("request_json", "said"),
    [
        ({"op": "fly"}, "op 'fly' is unknown"),
        ({"op": "replay"}, "from is missing"),
        ({"op": "replay", "from": -1}, "from must be at least 0"),
        ({"op": "replay", "from": 1, "limit": 10**6}, "limit must be at most 1000"),
        ({"op": "ack", "name": "../x", "journal_id": "", "seq": 1}, "matching regex"),
        ({"op": "status", "more": 1}, "unknown field"),
        ({"op": "trigger", "camera": "top", "part_id": "a\0b"}, "part_id contains a NUL character"),
        ({"op": "trigger", "camera": "top", "part_id": "a", "request_id": "\0"}, "request_id contains a NUL character"),
        ({"op": "swap", "bundle": "/a\0"}, "bundle contains a NUL character"),
    ],
)
def test_a_malformed_request_is_answered_with_an_error(station: Station, request_json: dict[str, object], said: str) -> None:
    """The answer names the mistake, and the next request is served."""
    station.start(FOLDER)
    arguments = {k: v for k, v in request_json.items() if k != "op"}
    with station.client() as client:
        with pytest.raises(ClientError, match=f"bad_request.*{said}"):
            client.request(str(request_json["op"]), **arguments)
        assert client.status()["station"] == "test-station"


@pytest.mark.parametrize(
    ("part_id", "said"),
    [
        ("\udcff\udcfe", "trigger: the request was not sent: it holds bytes that are not UTF-8 text"),
        ("x" * 40_000, "trigger: the request was not sent: it has 40058 bytes, and a request may have 32768"),
    ],
)
def test_a_request_that_the_station_could_not_answer_is_not_sent(part_id: str, said: str) -> None:
    """The client says what is wrong with it at once, instead of that nobody answers."""
    with Client(control="tcp://127.0.0.1:9") as client, pytest.raises(RequestError) as caught:
        client.request("trigger", camera="top", part_id=part_id)
    assert str(caught.value) == said


def test_the_longest_part_id_fits_into_a_request() -> None:
    """4000 letters, whatever they are: the station does not answer, but the request is sent."""
    for letter in ("🙂", "\x01", '"'):
        with Client(control="tcp://127.0.0.1:9", request_timeout_s=0.01) as client, pytest.raises(NoAnswerError):
            client.request("trigger", camera="top", part_id=letter * MAX_PART_ID)


def test_client_and_station_agree_on_the_size_of_a_request() -> None:
    """The client is one file without the station's code, so it has the limit of its own."""
    assert CLIENT_LIMIT == MAX_REQUEST_BYTES


def test_rubbish_on_both_sockets_changes_nothing() -> None:
    """Malformed requests, subscriptions and raw bytes disturb nothing and use no memory (short tests/stress/rubbish.py)."""
    assert rubbish(messages=5000, seed=1) == []


def test_too_many_requests_are_answered_busy(station: Station) -> None:
    """One peer cannot keep the station busy: requests beyond its share are answered `busy`, and others are served."""
    station.start(FOLDER)
    with zmq.Context() as context, context.socket(zmq.DEALER) as socket:
        socket.linger = 0
        socket.connect(station.control)
        for i in range(int(RATE) * 2):
            socket.send(b'{"op": "status", "id": %d}' % i)
        answers = []
        while socket.poll(1000):
            answers.append(json.loads(socket.recv()))
        busy = [a for a in answers if a.get("error") == "busy"]
        assert busy
        assert all(isinstance(a["id"], int) for a in busy)  # so that the sender knows which request was refused
    with station.client() as client:
        assert client.status()["station"] == "test-station"


def test_what_is_asked_for_while_the_daemon_ends_is_answered(tmp_path: Path) -> None:
    """Reloads, swaps, self-tests and triggers requested while the daemon ends are answered at once, without a time-out."""
    never = {
        op: lambda *_: None
        for op in ("drain", "engine", "reload", "swap", "roll_back", "set_threshold", "pause", "prove", "trigger", "recipe")
    }
    control = Control(f"ipc://{tmp_path}/ctl", None, state=lambda: b"{}", **never)
    control.start()
    with zmq.Context() as context, context.socket(zmq.DEALER) as dealer:
        dealer.connect(f"ipc://{tmp_path}/ctl")
        for request in ({"op": "prove"}, {"op": "reload"}, {"op": "swap", "bundle": "/b"}, {"op": "trigger", "camera": "c"}):
            dealer.send_json({"id": request["op"], **request})
        assert not dealer.poll(400)
        control.stop()
        answers = []
        while dealer.poll(2000) and len(answers) < 4:
            answers.append(dealer.recv_json())
    control.join(2.0)
    assert [(a["id"], a["ok"], a["error"]) for a in answers] == [
        (op, False, "ending") for op in ("prove", "reload", "swap", "trigger")
    ]
    assert not control.alive


def test_a_station_without_a_journal_says_so(line: Line, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Replay is refused with a hint, and verdicts are marked as not durable."""
    station = Station(line, tmp_path_factory.mktemp("c"))
    station.more = f"control: {{endpoint: '{station.control}'}}"
    station.start(FOLDER)
    assert not line.listener.wait_for_verdicts(1)[0]["durable"]
    with station.client() as client, pytest.raises(ClientError, match="no_journal"):
        list(client.replay(1))


def test_nothing_is_lost_when_both_are_killed() -> None:
    """Daemon and archiving client are killed at random: every verdict is stored once, in order (short `make torture`)."""
    assert torture(verdicts=600, kills=4, rate=150, seed=3) == []


def test_a_late_verdict_is_unknown_live_and_in_the_journal(station: Station) -> None:
    """A part past its deadline is UNKNOWN: deadline, both live and in the journal; the two never differ."""
    station.start(LOOP.replace("{policy: wait,", "{policy: wait, deadline_ms: 0.001,"))
    live = station.line.listener.wait_for_verdicts(20)
    assert {(v["outcome"], v["reason"], v["score"]) for v in live} == {("UNKNOWN", "deadline", None)}
    station.wait_until_committed(20)
    with station.client() as client:
        kept = {v["seq"]: (v["part_id"], v["outcome"], v["reason"]) for v in client.replay(1, 20)}
        followed = list(islice(client.follow(first=1), 200))
    assert kept == {v["seq"]: (v["part_id"], v["outcome"], v["reason"]) for v in live if v["seq"] <= 20}
    durable = [v["seq"] for v in followed if v["durable"]]
    assert durable == list(range(1, len(durable) + 1))  # each once and in order, whatever was sent before
    assert {(v["outcome"], v.cursor) for v in followed if not v["durable"]} <= {("UNKNOWN", None)}


class Following(threading.Thread):
    """A thread that follows the station from the first number on."""

    def __init__(self, station: Station) -> None:
        super().__init__(name="following")
        self.verdicts: list[Verdict] = []
        self._station = station
        self._enough = threading.Event()

    def run(self) -> None:
        with self._station.client() as client:
            for verdict in client.follow(first=1):
                self.verdicts.append(verdict)
                if self._enough.is_set():
                    return

    def end(self) -> None:
        """While verdicts still come."""
        self._enough.set()
        self.join(30)


def test_a_full_disk_stops_no_inspection(station: Station, tmp_path: Path) -> None:
    """On a full disk parts are sent as UNKNOWN: journal, not durable. When there is space again, verdicts are normal again."""
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=2m", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("mounting a small file system needs root")
    try:
        station.more = station.more.replace("verdicts.db", str(small / "verdicts.db"))
        daemon = station.start(LOOP)
        listener = station.line.listener
        listener.wait_for(lambda m: m.topic == "verdict.line" and m.header["durable"])
        following = Following(station)
        following.start()
        wait_until(lambda: any(not v.replayed for v in following.verdicts), "the follower hears live verdicts")
        filler = small / "filler"
        with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        full = listener.wait_for(lambda m: m.topic == "verdict.line" and m.header["reason"] == "journal").header
        assert (full["outcome"], full["durable"], full["score"]) == ("UNKNOWN", False, None)
        listener.wait_for_state(lambda s: s["state"] == "Error" and not s["journal"]["working"])
        # The follower receives these at once, although the gap before them cannot be filled.
        wait_until(lambda: any(v["seq"] == full["seq"] for v in following.verdicts), "the follower has it")
        filler.unlink()
        again = listener.wait_for(lambda m: m.topic == "verdict.line" and m.header["durable"]).header
        wait_until(lambda: any(v["seq"] > again["seq"] for v in following.verdicts), "the follower goes on")
        following.end()
        with station.client() as client:
            kept = list(client.replay(1))
        assert "UNKNOWN" not in [v["outcome"] for v in kept]
        durable = [v["seq"] for v in following.verdicts if v["durable"]]
        assert durable == [v["seq"] for v in kept][: len(durable)]
        assert daemon.terminate() == 0
        seqs = [v["seq"] for v in listener.verdicts]
        assert seqs == sorted(set(seqs))
    finally:
        for running in station.line.daemons:
            running.close()
        subprocess.run(["umount", small], check=True)
