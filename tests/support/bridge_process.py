"""Runs the real bridge for tests: a process with its own sockets and signals."""

import json
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import cv2
from support.anosegd_line import LIMIT_S, Line, wait_until
from support.tiny_bundle import bad_part, good_part


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


class BridgeProcess:
    """`anosegd bridge` in a process of its own."""

    def __init__(self, config: Path, *arguments: str, kind: str = "modbus") -> None:
        self._log = config.with_suffix(".log")
        self._from = self._log.stat().st_size if self._log.exists() else 0  # of an earlier process with this configuration
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "anosegd", "bridge", kind, str(config), *arguments], stdout=log, stderr=log
            )

    @property
    def log(self) -> str:
        return self._log.read_text()

    @property
    def _own_log(self) -> str:
        return self._log.read_bytes()[self._from :].decode()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]

    def wait_for(self, event: str) -> None:
        wait_until(lambda: event in self._own_log or self.process.poll() is not None, event)
        assert event in self._own_log, self.log

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(LIMIT_S)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


class Bridged:
    """A station with a triggered camera, and a bridge; the camera's parts are good and bad in turn."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.port = free_port()
        self.bridges: list[BridgeProcess] = []
        parts = line.folder / "parts"
        parts.mkdir()
        cv2.imwrite(str(parts / "0.png"), good_part())
        cv2.imwrite(str(parts / "1.png"), bad_part())
        self.control = line.endpoint.replace("/pub", "/control")

    def start_station(self, more: str = "") -> None:
        source = "{kind: folder, path: parts, loop: true, preload: true}"
        config = self.line.config(
            f"eye: {{source: {source}, policy: every, trigger: {{kind: software, within_ms: 20000}}, queue: 8}}",
            more=f"control: {{endpoint: '{self.control}'}}\njournal: {{path: verdicts.db}}\n{more}",
        )
        self.line.run(config)

    def write_config(self, more: str = "", *, window_ms: int = 20_000, modbus: str = "") -> Path:
        path = self.line.folder / "bridge.yaml"
        path.write_text(
            f"camera: eye\nstation: {{publish: '{self.line.endpoint}', control: '{self.control}'}}\n"
            f"result_window_ms: {window_ms}\nmodbus: {{listen: '127.0.0.1:{self.port}'{modbus}}}\n{more}\n"
        )
        return path

    def start_bridge(self, *arguments: str, **config: Any) -> BridgeProcess:
        bridge = BridgeProcess(self.write_config(**config), *arguments)
        self.bridges.append(bridge)
        bridge.wait_for("bridge.listening")
        return bridge
