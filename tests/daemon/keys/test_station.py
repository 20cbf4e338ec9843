"""A whole station with keys, and the commands that talk to it."""

import select
import shutil
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import cv2
import pytest
from support.anosegd_line import LIMIT_S, Daemon, Line, run_anosegd, wait_until
from support.documentation import DOCS, blocks
from support.tiny_bundle import good_part

from anosegd.client import Client, Key, NoAnswerError, RefusedError


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _write_part(folder: Path) -> None:
    (folder / "parts").mkdir()
    cv2.imwrite(str(folder / "parts" / "0.png"), good_part())


def _printed(program: str, folder: Path, station: tuple[str, str, Key]) -> str:
    """The first line of a program that waits for verdicts; triggers until it comes."""
    publish, control, key = station
    process = subprocess.Popen(
        [sys.executable, "-W", "ignore", "-u", "-c", program], cwd=folder, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    try:
        assert process.stdout is not None
        with Client(publish, control, key=key, request_timeout_s=20) as client:
            give_up_at = time.monotonic() + LIMIT_S
            while not select.select([process.stdout], [], [], 0.5)[0] and time.monotonic() < give_up_at:
                client.trigger("eye")
        return process.stdout.readline().decode()
    finally:
        process.kill()
        process.communicate()


def _start(line: Line) -> tuple[Daemon, Path, str, str]:
    """Start a station with the clients "screen", which may listen, and "plc". Returns its configuration and endpoints, too."""
    folder = line.folder
    (folder / "clients").mkdir(mode=0o755)
    assert run_anosegd("keygen", "station", str(folder / "station.key")).returncode == 0
    for name, more in (("screen", ()), ("plc", ("--control",))):
        where = ("--station", folder / "station.key", "--clients", folder / "clients", "--out", folder / f"{name}.key")
        assert run_anosegd("keygen", "client", name, *map(str, where), *more).returncode == 0
    _write_part(folder)
    line.endpoint = f"tcp://0.0.0.0:{free_port()}"
    control = f"tcp://127.0.0.1:{free_port()}"
    source = "{kind: folder, path: parts, loop: true}"
    config = line.config(
        f"eye: {{source: {source}, policy: every, trigger: {{kind: software, within_ms: 20000}}}}",
        more=f"control: {{endpoint: '{control}'}}\njournal: {{path: verdicts.db}}\n"
        "keys: {station: station.key, clients: clients}",
    )
    daemon = line.run(config)
    publish = line.endpoint.replace("0.0.0.0", "127.0.0.1")
    wait_until(lambda: "camera.running" in daemon.log, "the camera runs")
    return daemon, config, publish, control


def test_a_station_with_keys_serves_and_obeys_the_right_clients(line: Line) -> None:
    """Another machine's address is allowed with keys. Reading, commanding, revoking, and what the log says of each."""
    daemon, config, publish, control = _start(line)
    folder = line.folder
    screen, plc = (Key.read(folder / f"{name}.key") for name in ("screen", "plc"))

    with Client(publish, control, key=plc, request_timeout_s=20) as client:
        assert client.trigger("eye", part_id="first")["part_id"] == "first"
        assert client.recipe("default")["before"] == "default"
    with Client(publish, control, key=screen, request_timeout_s=20) as client:
        assert [verdict["part_id"] for verdict in client.replay(1)] in ([], ["first"])
        with pytest.raises(RefusedError, match="the key screen may listen and read; trigger needs a key"):
            client.trigger("eye")
        with pytest.raises(RefusedError, match="set_threshold needs a key"):
            client.set_threshold("eye", 0.5, who="somebody", why="none")
        with pytest.raises(RefusedError, match="recipe needs a key"):
            client.recipe("default")
        assert next(client.follow(first=1))["part_id"] == "first"
        with pytest.raises(RefusedError, match="acknowledge as the consumer screen only"):
            client.request("ack", name="archive", journal_id="x", seq=1)
        assert client.request("consumer", name="screen")["ok"]
        assert list(client.marks()) == []
        for program in blocks("python", page=DOCS / "keys.md"):
            text = program.text.replace("tcp://192.168.7.20:5570", publish).replace("tcp://192.168.7.20:5571", control)
            assert "PASS" in _printed(text, folder, (publish, control, plc)), program.place
        (folder / "clients" / "screen.pub").unlink()
        wait_until(lambda: "keys.revoked" in daemon.log, "the key is revoked")
        with pytest.raises((NoAnswerError, RefusedError)):
            client.status()
    with Client(publish, control, request_timeout_s=2) as client:
        for request in (client.status, lambda: client.recipe("default")):
            with pytest.raises(NoAnswerError):
                request()

    without = run_anosegd("status", str(config))
    assert (without.returncode, "this station asks for a key" in without.stderr) == (2, True)
    done = run_anosegd("trigger", str(config), "--camera", "eye", "--key", str(folder / "plc.key"), "--wait", process=True)
    assert (done.returncode, "PASS" in done.stdout) == (0, True), done.stderr
    assert daemon.terminate() == 0
    said = [(event["event"], event.get("key"), event.get("op"), event.get("why")) for event in daemon.events]
    assert {("request.command", "plc", op, None) for op in ("trigger", "recipe")} <= set(said)
    assert ("keys.revoked", "screen", None, None) in said
    assert {("key.refused", None, None, "the client uses no key"), ("key.unfinished", None, None, None)} & set(said)
    secrets = [
        line.split('"')[3] for path in folder.glob("*.key") for line in path.read_text().splitlines() if '"secret"' in line
    ]
    assert len(secrets) == 3
    assert not any(secret in daemon.log + done.stdout + done.stderr + without.stderr for secret in secrets)


def test_systemd_reloads_a_station_with_keys_by_signal(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemd 252 does not show the credentials to ExecReload. A file that is refused still fails the command."""
    daemon, config, _, _ = _start(line)
    good = config.read_text()
    monkeypatch.setenv("MAINPID", str(daemon.process.pid))
    config.write_text(good + "nonsense: 1\n")
    refused = run_anosegd("reload", "--wait", str(config))
    assert (refused.returncode, "nonsense" in refused.stderr) == (2, True)
    config.write_text(good.replace("within_ms: 20000", "within_ms: 19000"))
    assert run_anosegd("reload", "--wait", str(config)).returncode == 0
    wait_until(lambda: "reload.cameras" in daemon.log, "the camera is changed")
    assert daemon.log.count("reload.accepted") == 1


@pytest.fixture(scope="session")
def zeromq(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with npm's zeromq. Skips the test where it cannot be installed."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("no Node here")
    folder = tmp_path_factory.mktemp("zeromq")
    install = ["npm", "install", "--prefix", ".", "--no-audit", "--no-fund", "--ignore-scripts", "zeromq@6"]
    with suppress(subprocess.TimeoutExpired):
        subprocess.run(install, cwd=folder, capture_output=True, timeout=200, check=False)
    if subprocess.run(["node", "-e", "require('zeromq')"], cwd=folder, capture_output=True, check=False).returncode:
        pytest.skip("zeromq cannot be installed here")
    return folder


def test_a_client_in_another_language_follows_the_page_alone(line: Line, zeromq: Path) -> None:
    """The program in docs/wire.md triggers and gets its verdict; with a key that may only listen, it is refused."""
    _, _, publish, control = _start(line)
    (block,) = blocks("js", page=DOCS / "wire.md")
    text = block.text.replace("tcp://192.168.7.20:5570", publish).replace("tcp://192.168.7.20:5571", control)
    (zeromq / "program.js").write_text(text.replace("receiveTimeout: 2000", "receiveTimeout: 20000"))
    for key, code, said in (("plc", 0, "verdict 1 PASS"), ("screen", 1, "forbidden: the key screen may listen and read")):
        shutil.copy(line.folder / f"{key}.key", zeromq / "bridge.key")
        done = subprocess.run(["node", "program.js"], cwd=zeromq, capture_output=True, text=True, timeout=LIMIT_S, check=False)
        assert (done.returncode, said in done.stdout + done.stderr) == (code, True), done.stdout + done.stderr


def test_without_keys_other_machines_are_refused_and_with_a_missing_key_nothing_starts(line: Line) -> None:
    _write_part(line.folder)
    cameras = f"eye: {{source: {{kind: folder, path: {line.folder}/parts}}, policy: wait}}"
    line.endpoint = "tcp://0.0.0.0:5570"
    done = run_anosegd("check", str(line.config(cameras)))
    assert (done.returncode, "are allowed without keys" in done.stderr, "Set `keys`" in done.stderr) == (2, True, True)
    config = line.config(cameras, more="keys: {station: station.key, clients: clients}")
    for command in ("check", "run"):
        done = run_anosegd(command, str(config))
        assert done.returncode == 2
        assert f"{line.folder / 'station.key'}: cannot be read (No such file or directory)" in done.stderr
        assert "anosegd keygen" in done.stderr
    config = line.config(cameras, more="keys: {clients: clients}")
    done = run_anosegd("run", str(config))
    assert (done.returncode, "LoadCredential=" in done.stderr) == (2, True)


def test_a_clients_own_key_comes_from_systemd(line: Line, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A service finds its key among the credentials that systemd passes to it."""
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "client.key").write_text("no key")
    (tmp_path / "client.key").chmod(0o400)
    done = run_anosegd("status", "--connect", "tcp://127.0.0.1:1", process=True)
    assert (done.returncode, "client.key: is not the key of a client" in done.stderr) == (2, True)
