"""Start, stop, exit codes, and the notifications to systemd."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import cv2
import pytest
import zmq
from support.anosegd_line import Daemon, Line, Listener, run_anosegd
from support.tiny_bundle import good_part, write_tiny_bundle

from anoseg_engines.placement import InputSpec

LOOP = "top:\n  source: {kind: folder, path: images, loop: true, fps: 50}\n  policy: wait\n"


@pytest.fixture(autouse=True)
def images(line: Line) -> None:
    (line.folder / "images").mkdir()
    for i in range(3):
        cv2.imwrite(str(line.folder / "images" / f"{i}.png"), good_part())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signal_drains_and_exits_0(line: Line, number: signal.Signals) -> None:
    """On SIGTERM or Ctrl-C every captured part still receives its verdict, the last state is Halted, the exit code is 0."""
    daemon = line.run(line.config(LOOP))
    line.listener.wait_for_verdicts(5)
    daemon.process.send_signal(number)
    assert daemon.wait() == 0
    line.listener.drain()
    state = line.listener.last_state()
    assert state["state"] == "Halted"
    assert state["cameras"]["top"]["state"] == "stopped"
    verdicts = line.listener.verdicts
    assert state["last_seq"] == state["cameras"]["top"]["frames"] == len(verdicts)
    assert [v["seq"] for v in verdicts] == list(range(1, len(verdicts) + 1))
    assert {v["outcome"] for v in verdicts} <= {"PASS", "UNKNOWN"}
    assert daemon.capture_pids() == []


def test_states_on_the_way(line: Line) -> None:
    """State is published at every change, in the words of OPC UA Machine Vision."""
    # Slow, and without --once, because changes that follow one another at once may be published as one.
    daemon = line.run(line.config(LOOP.replace("loop: true, fps: 50", "fps: 5")))
    line.listener.wait_for_state(lambda s: s["state"] == "ContinuousExecution")
    line.listener.wait_for_state(lambda s: s["state"] == "Ready")
    assert daemon.terminate() == 0, daemon.log
    line.listener.drain()
    states = [m.header["state"] for m in line.listener.received if m.topic == "state"]
    changes = [s for i, s in enumerate(states) if i == 0 or states[i - 1] != s]
    if changes[0] == "Preoperational":  # sent when the socket is bound, often before a subscriber has connected
        changes.pop(0)
    assert changes == ["Initialized", "ContinuousExecution", "Ready", "Halted"]
    uptimes = [m.header["uptime_s"] for m in line.listener.received if m.topic == "state"]
    assert uptimes == sorted(uptimes)


def test_tcp_port_in_use_is_exit_1(line: Line) -> None:
    """A port that another program holds ends the start with exit code 1, because a restart may cure it."""
    with zmq.Context() as context, context.socket(zmq.PUB) as other:
        port = other.bind_to_random_port("tcp://127.0.0.1")
        config = line.config(LOOP)
        config.write_text(config.read_text().replace(line.endpoint, f"tcp://127.0.0.1:{port}"))
        daemon = line.run(config)
        assert daemon.wait() == 1
    assert "in use" in daemon.log
    assert "Traceback" not in daemon.log


def test_ipc_endpoint_in_use_is_exit_1(line: Line) -> None:
    """A second daemon does not take the ipc path of a running one. It takes over the path of a dead one."""
    first = line.run(line.config(LOOP))
    line.listener.wait_for_verdicts(1)
    second = line.run(line.config(LOOP, name="second.yaml"))
    assert second.wait() == 1
    assert "in use" in second.log
    before = len(line.listener.verdicts)
    line.listener.wait_for_verdicts(before + 5)
    first.process.kill()
    first.wait()
    third = line.run(line.config(LOOP, name="third.yaml"))
    line.listener.wait_for(lambda m: m.topic.startswith("verdict.") and m.header["seq"] == 1)
    assert third.terminate() == 0


@pytest.mark.parametrize("command", ["run", "check"])
def test_exit_codes_of_bad_input(line: Line, command: str) -> None:
    """2 for an invalid configuration or a missing file, 3 for a refused engine; one message, no traceback."""
    good = line.config(LOOP).read_text()
    broken = line.folder / "broken"
    shutil.copytree(line.store, broken)
    model = broken / "1" / "model.onnx"
    data = bytearray(model.read_bytes())
    data[len(data) // 2] ^= 1
    model.write_bytes(bytes(data))
    (line.folder / "empty").mkdir()
    cases = {
        2: [
            good.replace("station:", "sation:"),
            good.replace(str(line.store), str(line.folder / "no-store")),
            good.replace(str(line.store), str(line.folder / "empty")),
            good.replace("path: images", "path: nowhere"),
            good.replace("path: images", "path: empty"),
            good.replace("path: images", "path: empty, recursive: true"),
            good.replace("{kind: folder, path: images, loop: true, fps: 50}", "{kind: file, path: none.mp4}"),
            good.replace("{kind: folder, path: images, loop: true, fps: 50}", "{kind: file, path: x, backend: gstreamer}"),
            good.replace("threads: 1", "runtime: abacus"),
            good.replace(line.endpoint, "tcp://192.0.2.7:5570"),
        ],
        3: [good.replace(str(line.store), str(broken))],
    }
    for code, texts in cases.items():
        for text in texts:
            path = line.folder / "bad.yaml"
            path.write_text(text)
            done = run_anosegd(command, str(path))
            assert done.returncode == code, (text, done.stderr)
            assert done.stderr.count("anosegd: ") == 1
            assert "Traceback" not in done.stderr


def test_check_opens_nothing_and_names_what_it_found(line: Line) -> None:
    """`check` accepts a valid configuration whose camera is missing, and proves its bundle."""
    config = line.config("eye:\n  source: {kind: device, device: 97}\n")
    done = run_anosegd("check", str(config))
    assert done.returncode == 0, done.stderr
    assert "tiny/1" in done.stdout
    assert "camera eye: device" in done.stdout


def slow_line(line: Line, drain_timeout_s: float) -> Daemon:
    """A daemon whose parts take much longer to inspect than to capture: each is enlarged and cut into thousands of tiles."""
    write_tiny_bundle(line.folder / "store" / "slow", InputSpec(64, 64, "tile", 3.0, 0))
    for i in range(3):
        cv2.imwrite(str(line.folder / "images" / f"{i}.png"), good_part(1000, 1000))
    config = line.config(LOOP, more=f"drain_timeout_s: {drain_timeout_s}", store=line.folder / "store" / "slow")
    return line.run(config)


def test_drain_is_bounded(line: Line) -> None:
    """Parts that cannot be inspected within drain_timeout_s are UNKNOWN: shutdown; each has a verdict. Exit code 0."""
    daemon = slow_line(line, 0.01)
    line.listener.wait_for_verdicts(2)
    assert daemon.terminate() == 0
    line.listener.drain()
    assert line.listener.verdicts[-1]["reason"] == "shutdown"
    state = line.listener.last_state()
    assert state["last_seq"] == state["cameras"]["top"]["frames"] == len(line.listener.verdicts)


def test_second_signal_ends_the_drain(line: Line) -> None:
    """A second signal ends the drain early; the exit code is 0."""
    daemon = slow_line(line, 60)
    line.listener.wait_for_verdicts(2)
    daemon.process.send_signal(signal.SIGTERM)
    while daemon.process.poll() is None:
        time.sleep(0.1)
        daemon.process.send_signal(signal.SIGINT)
    assert daemon.wait() == 0
    line.listener.drain()
    state = line.listener.last_state()
    assert state["last_seq"] == state["cameras"]["top"]["frames"] == len(line.listener.verdicts)


class Systemd:
    """systemd's end of the notification socket."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind(str(path))
        self.socket.settimeout(30)

    def wait_for(self, line: str) -> list[str]:
        """Every line received, up to the first one with this beginning."""
        told: list[str] = []
        while not any(x.startswith(line) for x in told):
            told += self.socket.recv(4096).decode().splitlines()
        return told


def test_systemd_is_notified(line: Line, monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """READY when bundle and socket are ready, even if the camera is down; the watchdog is fed; STOPPING at the end."""
    path = tmp_path_factory.mktemp("n") / "notify"
    systemd = Systemd(path)
    monkeypatch.setenv("NOTIFY_SOCKET", str(path))
    monkeypatch.setenv("WATCHDOG_USEC", "1000000")
    daemon = line.run(line.config("eye:\n  source: {kind: device, device: /dev/no-such-camera}\n"))
    with systemd.socket:
        told = systemd.wait_for("READY=1")
        # Until then it only sends its status: the start may take minutes if a plan is built.
        before = told[: told.index("READY=1")]
        assert all(t == "WATCHDOG=1" or t.startswith("STATUS=Preoperational (the engine is being") for t in before)
        systemd.wait_for("WATCHDOG=1")
        systemd.wait_for("STATUS=Error (no camera gives images), 0 verdicts sent, 0/1 cameras")
        systemd.wait_for("WATCHDOG=1")
        daemon.process.send_signal(signal.SIGTERM)
        systemd.wait_for("STOPPING=1")
        assert daemon.wait() == 0


def test_tail_lines_into_head(line: Line) -> None:
    """`tail --json | head -2` prints two verdicts, and closing the pipe is no error."""
    config = line.config(LOOP)
    daemon = line.run(config)
    tail = subprocess.Popen(
        [sys.executable, "-m", "anosegd", "tail", str(config), "--json"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert tail.stdout is not None
    assert tail.stderr is not None
    lines = [tail.stdout.readline() for _ in range(2)]
    tail.stdout.close()
    assert tail.wait(30) == 0
    assert tail.stderr.read() == ""
    tail.stderr.close()
    assert all('"anoseg.verdict/1"' in text for text in lines)
    assert daemon.terminate() == 0


def test_tail_counts(line: Line) -> None:
    """`tail --json --count N` ends after N; the table shows the same verdicts with counts, rate, reject share, latency."""
    config = line.config(LOOP)
    daemon = line.run(config)
    done = run_anosegd("tail", "--connect", line.endpoint, "--json", "--count", "3")
    assert (done.returncode, len(done.stdout.splitlines()), done.stderr) == (0, 3, "")
    done = run_anosegd("tail", str(config), "--count", "3")
    assert done.returncode == 0, done.stderr
    for words in ("3 verdicts", "3 PASS", "reject share 0.0%", "latency median", "top", "PASS"):
        assert words in done.stdout
    assert daemon.terminate() == 0


def test_status(line: Line) -> None:
    """`status` shows the heartbeat as a table or as JSON. Without a station it reports that and exits with code 1."""
    config = line.config(LOOP)
    done = run_anosegd("status", str(config), "--timeout", "0.5")
    assert done.returncode == 1
    assert "no heartbeat" in done.stderr
    assert "Traceback" not in done.stderr
    daemon = line.run(config)
    line.listener.wait_for_verdicts(1)
    done = run_anosegd("status", str(config))
    assert done.returncode == 0, done.stderr
    assert "ContinuousExecution" in done.stdout
    done = run_anosegd("status", "--connect", line.endpoint, "--json")
    assert '"anoseg.state/1"' in done.stdout
    assert daemon.terminate() == 0


def test_log_is_json_when_nobody_watches(line: Line) -> None:
    """Every line on stderr is one JSON object with time, level and event."""
    daemon = line.run(line.config(LOOP.replace(", loop: true", "")), "--once")
    assert daemon.wait() == 0
    lines = [text for text in daemon.log.splitlines() if text]
    assert len(daemon.events) == len(lines)
    assert all({"at", "level", "event"} <= set(event) for event in daemon.events)
    names = [event["event"] for event in daemon.events]
    assert names == [
        "daemon.starting", "engine.loaded",
        "daemon.ready", "camera.running", "camera.finished", "daemon.stopping", "daemon.stopped",
    ]  # fmt: skip


def test_subscriber_that_comes_later_sees_what_follows(line: Line) -> None:
    """A subscriber that joins later receives the verdicts from then on, numbered without a gap."""
    daemon = line.run(line.config(LOOP))
    line.listener.wait_for_verdicts(5)
    late = Listener(line.endpoint)
    verdicts = late.wait_for_verdicts(5)
    late.close()
    seqs = [v["seq"] for v in verdicts]
    assert seqs[0] > 1
    assert seqs == list(range(seqs[0], seqs[0] + len(seqs)))
    assert daemon.terminate() == 0


def test_commands_run_from_anywhere(line: Line) -> None:
    """Paths in the configuration do not depend on the folder in which a command is started."""
    done = run_anosegd("check", str(line.config(LOOP)), cwd=Path(os.sep))
    assert done.returncode == 0, done.stderr
