"""Runs the real daemon for tests: a process with its own sockets and signals, and a listener that uses nothing but pyzmq."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq
from support.commands import COLUMNS, run_here
from zmq.utils.monitor import recv_monitor_message

from anosegd.cli import main

LIMIT_S = 60.0
"""Far longer than anything in these tests takes, because the machine may be under load."""


@dataclass(frozen=True)
class Received:
    topic: str
    header: dict[str, Any]
    payload: list[bytes]


class Listener:
    """A plain subscriber, as a user would write it."""

    def __init__(self, endpoint: str) -> None:
        self.endpoint = endpoint
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.SUB)
        self._socket.linger = 0
        self._socket.reconnect_ivl = 10  # connected before the daemon's first verdict
        self._socket.rcvhwm = 0
        self._socket.subscribe(b"")
        self._events = self._socket.get_monitor_socket(zmq.EVENT_CONNECTED | zmq.EVENT_DISCONNECTED)
        self._connected: bool | None = None
        self._socket.connect(endpoint)
        self.received: list[Received] = []

    def take(self, timeout_s: float = 0.1) -> Received | None:
        if not self._socket.poll(timeout_s * 1000):
            return None
        topic, header, *payload = self._socket.recv_multipart()
        message = Received(topic.decode(), json.loads(header), payload)
        self.received.append(message)
        return message

    def wait_for(self, found: Callable[[Received], bool]) -> Received:
        """Return the next message for which `found` is true. Earlier ones are kept in `received`."""
        give_up_at = time.monotonic() + LIMIT_S
        while time.monotonic() < give_up_at:
            message = self.take()
            if message is not None and found(message):
                return message
        raise AssertionError(f"not received; last: {self.received[-3:]}")

    def wait_for_state(self, found: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        return self.wait_for(lambda m: m.topic == "state" and found(m.header)).header

    def wait_for_verdicts(self, n: int) -> list[dict[str, Any]]:
        give_up_at = time.monotonic() + LIMIT_S
        while len(self.verdicts) < n and time.monotonic() < give_up_at:
            self.take()
        return self.verdicts

    def drain(self) -> None:
        """Take everything that the daemon sent before it ended. Call it when the daemon's process has ended."""
        quiet_until = time.monotonic() + 0.5
        while time.monotonic() < quiet_until:
            if self.take(0.02):
                quiet_until = time.monotonic() + 0.5
            elif self._has_disconnected():
                break  # libzmq reports this after the last message
        while self.take(0):
            pass

    def _has_disconnected(self) -> bool:
        """Whether there was a connection, and its other end has closed it."""
        while self._events.poll(0):
            self._connected = recv_monitor_message(self._events)["event"] == zmq.EVENT_CONNECTED
        return self._connected is False

    def last_state(self) -> dict[str, Any]:
        return [m.header for m in self.received if m.topic == "state"][-1]

    @property
    def verdicts(self) -> list[dict[str, Any]]:
        return [m.header for m in self.received if m.topic.startswith("verdict.")]

    def close(self) -> None:
        self._socket.disable_monitor()
        self._events.close()
        self._socket.close()
        self._context.term()


class Daemon:
    """`anosegd run` in a process of its own.

    Args:
        config: The configuration file; the log goes beside it.
        arguments: Further arguments of `anosegd run`.
        program: What Python runs instead of `-m anosegd`.
    """

    def __init__(self, config: Path, *arguments: str, program: tuple[str, ...] = ("-m", "anosegd")) -> None:
        self._stderr = config.with_suffix(".log")
        with self._stderr.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, *program, "run", str(config), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )

    @property
    def log(self) -> str:
        return self._stderr.read_text()

    @property
    def events(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self.log.splitlines() if line.startswith("{")]

    def wait(self) -> int:
        return self.process.wait(LIMIT_S)

    def terminate(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.wait()

    def capture_pids(self) -> list[int]:
        """Its capture processes."""
        return children_of(self.process.pid)

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()


def children_of(pid: int) -> list[int]:
    pids: list[int] = []
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            pids += [int(p) for p in children.read_text().split()]
    return pids


def alive(pid: int) -> bool:
    """Whether the process still runs. A zombie does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


def wait_until(condition: Callable[[], bool], what: str) -> None:
    give_up_at = time.monotonic() + LIMIT_S
    while not condition():
        assert time.monotonic() < give_up_at, f"timed out: {what}"
        time.sleep(0.02)


@dataclass
class Line:
    """One test's station: its files, its sockets and the daemons that were started."""

    folder: Path
    store: Path
    endpoint: str
    listener: Listener
    daemons: list[Daemon]

    def config(self, cameras: str, *, more: str = "", store: Path | None = None, name: str = "station.yaml") -> Path:
        """Write a configuration file. `cameras` is the YAML mapping of cameras."""
        indented = "\n".join("  " + line for line in cameras.strip("\n").splitlines())
        path = self.folder / name
        path.write_text(
            f"station: test-station\nengine: {{bundle: {store or self.store}, threads: 1}}\n"
            f"publish: {{endpoint: '{self.endpoint}'}}\n{more}\ncameras:\n{indented}\n"
        )
        return path

    def run(self, config: Path, *arguments: str, program: tuple[str, ...] = ("-m", "anosegd")) -> Daemon:
        daemon = Daemon(config, *arguments, program=program)
        self.daemons.append(daemon)
        return daemon


def run_anosegd(*arguments: str, cwd: Path | None = None, process: bool = False) -> subprocess.CompletedProcess[str]:
    """Run one command to its end.

    Args:
        arguments: What follows `anosegd`.
        cwd: The folder to run in; the present one if None.
        process: In a process of its own. `run` always is: it blocks signals and starts threads.
    """
    if not process and arguments[0] != "run":
        return run_here(main, "anosegd", *arguments, cwd=cwd)
    return subprocess.run(
        [sys.executable, "-m", "anosegd", *arguments],
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
        cwd=cwd,
        env={**os.environ, "COLUMNS": COLUMNS},
    )
