"""The mirror at a real broker, mosquitto, read by mosquitto_sub."""

import json
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from support.anosegd_line import LIMIT_S, Line, wait_until
from support.bridge_process import Bridged, BridgeProcess, free_port

from anosegd.client import Client

pytestmark = pytest.mark.skipif(
    shutil.which("mosquitto") is None and not Path("/usr/sbin/mosquitto").exists(),
    reason="no mosquitto here (apt install mosquitto mosquitto-clients)",
)


class Broker:
    """mosquitto on a port of this machine."""

    def __init__(self, folder: Path, more: str = "") -> None:
        self.port = free_port()
        self._config = folder / "mosquitto.conf"
        self._config.write_text(f"listener {self.port} 127.0.0.1\nallow_anonymous true\n{more}\n")
        self._log = (folder / "mosquitto.log").open("ab")
        self.start()

    def start(self) -> None:
        program = shutil.which("mosquitto") or "/usr/sbin/mosquitto"
        self.process = subprocess.Popen([program, "-c", str(self._config)], stdout=self._log, stderr=self._log)

    def end(self) -> None:
        self.process.terminate()
        self.process.wait(LIMIT_S)

    def close(self) -> None:
        self.end()
        self._log.close()


class Subscriber:
    """mosquitto_sub, which prints one JSON object for each message."""

    def __init__(self, folder: Path, port: int, *arguments: str) -> None:
        self._file = folder / f"sub-{time.monotonic_ns()}"
        with self._file.open("wb") as file:
            command = ["mosquitto_sub", "-V", "5", "-p", str(port), "-t", "anoseg/#", "-F", "%j", *arguments]
            self.process = subprocess.Popen(command, stdout=file, stderr=file)

    @property
    def messages(self) -> list[dict[str, Any]]:
        lines = [line for line in self._file.read_text().splitlines() if line.endswith("}")]
        return [json.loads(line) for line in lines]

    def of(self, name: str) -> list[dict[str, Any]]:
        """The contents of the messages of a topic."""
        return [json.loads(message["payload"]) for message in self.messages if message["topic"] == f"anoseg/eye/{name}"]

    def close(self) -> None:
        self.process.terminate()
        self.process.wait()


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[Broker]:
    made = Broker(tmp_path)
    yield made
    made.close()


@pytest.fixture
def reader(tmp_path: Path, broker: Broker) -> Iterator[Subscriber]:
    wait_until(lambda: "mosquitto version" in (tmp_path / "mosquitto.log").read_text(), "the broker runs")
    made = Subscriber(tmp_path, broker.port)
    yield made
    made.close()


def start_mirror(bridged: Bridged, port: int, more: str = "") -> BridgeProcess:
    path = bridged.line.folder / "mirror.yaml"
    path.write_text(
        f"camera: eye\ntrigger: camera\nstation: {{publish: '{bridged.line.endpoint}', control: null}}\n"
        f"result_window_ms: 20000\nmqtt: {{broker: '127.0.0.1:{port}'{more}}}\n"
    )
    process = BridgeProcess(path, kind="mqtt")
    bridged.bridges.append(process)
    return process


def trigger(bridged: Bridged, part_id: str) -> None:
    with Client(bridged.line.endpoint, bridged.control, request_timeout_s=LIMIT_S) as client:
        client.trigger("eye", part_id=part_id)


def is_open(reader: Subscriber) -> bool:
    states = reader.of("state")
    return bool(states) and states[-1]["enabled"]


def test_results_and_state_are_mirrored(bridged: Bridged, broker: Broker, reader: Subscriber, tmp_path: Path) -> None:
    """Each part once, in order; the state is there for whoever comes later; an end and a kill are lost stations."""
    bridged.start_station()
    mirror = start_mirror(bridged, broker.port)
    wait_until(lambda: is_open(reader), "the handshake is open")
    for n in range(6):
        trigger(bridged, f"part {n}")
    wait_until(lambda: len(reader.of("result")) == 6, "six results")
    results = reader.of("result")
    assert [(result["part_id"], result["outcome"]) for result in results] == [
        (f"part {n}", "FAIL" if n % 2 else "PASS") for n in range(6)
    ]
    assert [result["number"] for result in results] == list(range(1, 7))
    late = Subscriber(tmp_path, broker.port)
    wait_until(lambda: bool(late.messages), "the retained state")
    assert [(message["topic"], message["retain"]) for message in late.messages] == [("anoseg/eye/state", 1)]
    late.close()
    mirror.process.send_signal(signal.SIGKILL)
    wait_until(lambda: reader.of("state")[-1]["online"] is False, "the last will")
    again = start_mirror(bridged, broker.port)
    wait_until(lambda: is_open(reader), "the next mirror")
    assert len(reader.of("result")) == 6
    assert again.terminate() == 0
    wait_until(lambda: reader.of("state")[-1]["online"] is False, "the mirror has said that it ended")


def test_a_station_that_is_lost_is_reported(bridged: Bridged, broker: Broker, reader: Subscriber) -> None:
    """And the next one's parts are mirrored."""
    bridged.start_station()
    start_mirror(bridged, broker.port)
    wait_until(lambda: is_open(reader), "open")
    bridged.line.daemons[-1].process.send_signal(signal.SIGKILL)
    wait_until(lambda: reader.of("state")[-1]["online"] is False, "lost")
    assert "station_silent" in [state["error"] for state in reader.of("state")]
    bridged.start_station()
    wait_until(lambda: is_open(reader), "open again")
    trigger(bridged, "after")
    wait_until(lambda: [result["part_id"] for result in reader.of("result")] == ["after"], "one result")


def test_what_a_lost_broker_missed_is_not_sent_later(
    bridged: Bridged, broker: Broker, reader: Subscriber, tmp_path: Path
) -> None:
    """It would be old. The mirror waits for the broker, says so, and goes on with the next part."""
    bridged.start_station()
    mirror = start_mirror(bridged, broker.port)
    wait_until(lambda: is_open(reader), "open")
    broker.end()
    mirror.wait_for("bridge.broker_lost")
    trigger(bridged, "missed")
    wait_until(lambda: "missed" in (bridged.line.folder / "verdicts.db-wal").read_bytes().decode("latin-1"), "judged")
    broker.start()
    wait_until(lambda: mirror.log.count("bridge.broker_connected") == 2, "connected again")
    late = Subscriber(tmp_path, broker.port)
    wait_until(lambda: is_open(late), "open again")
    trigger(bridged, "next")
    wait_until(lambda: bool(late.of("result")), "a result")
    assert [result["part_id"] for result in late.of("result")] == ["next"]
    late.close()


def test_the_broker_is_reached_with_tls_and_a_password(bridged: Bridged, tmp_path: Path) -> None:
    """Its certificate is checked; a wrong password is said to be one, and is in no log."""
    folder = tmp_path / "tls"
    folder.mkdir()
    subprocess.run(
        "openssl req -x509 -newkey rsa:2048 -nodes -keyout key.pem -out cert.pem -days 9 -subj /CN=broker "
        "-addext subjectAltName=IP:127.0.0.1",
        shell=True,
        cwd=folder,
        check=True,
        capture_output=True,
    )
    subprocess.run(["mosquitto_passwd", "-b", "-c", "users", "plc", "geheim"], cwd=folder, check=True, capture_output=True)
    for name in ("key.pem", "users"):
        (folder / name).chmod(0o644)  # mosquitto gives up its rights
    folder.chmod(0o755)
    files = f"certfile {folder}/cert.pem\nkeyfile {folder}/key.pem\n"
    broker = Broker(tmp_path, files + f"user root\npassword_file {folder}/users\nallow_anonymous false")
    try:
        (bridged.line.folder / "password").write_text("geheim\n")
        more = f", user: plc, password_file: password, tls: {{ca: '{folder}/cert.pem'}}"
        mirror = start_mirror(bridged, broker.port, more)
        mirror.wait_for("bridge.broker_connected")
        mirror.close()
        (bridged.line.folder / "password").write_text("falsch\n")
        mirror = start_mirror(bridged, broker.port, more)
        mirror.wait_for("the broker refuses the connection: Not authorized")
        mirror.close()
        mirror = start_mirror(bridged, broker.port, ", tls: {}")
        mirror.wait_for("certificate verify failed")
        assert "falsch" not in mirror.log
        assert "geheim" not in mirror.log
    finally:
        broker.close()


def test_configuration_that_a_mirror_cannot_use(line: Line) -> None:
    """A trigger by the PLC; a broker on another machine without TLS; files that are not there."""
    for text, words in (
        ("camera: eye", "the kind mqtt triggers nothing"),
        ("camera: eye\ntrigger: camera\nmqtt: {broker: 'broker.example:1883'}", "set tls"),
        ("camera: eye\ntrigger: camera\nmqtt: {user: x, password_file: none}", "mqtt.password_file"),
        ("camera: eye\ntrigger: camera\nmqtt: {tls: {ca: none.pem}}", "mqtt.tls.ca"),
        ("camera: eye\ntrigger: camera\nmqtt: {topic: 'a/#'}", "without # and +"),
        ("camera: eye\ntrigger: camera\nmqtt: {password_file: x}", "set user, too"),
    ):
        path = line.folder / "mirror.yaml"
        path.write_text(text)
        process = BridgeProcess(path, kind="mqtt")
        try:
            assert process.process.wait(LIMIT_S) == 2
            assert words in process.log
        finally:
            process.close()
        path.with_suffix(".log").unlink()
