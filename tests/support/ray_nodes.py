"""Runs nodes of a Ray cluster on this machine, each with a core, as `ray start` starts them on machines of their own."""

from __future__ import annotations

import contextlib
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from support.processors import processes_of

PATIENCE_S = 180.0
"""How long a node may take to start: half a minute was seen on a busy machine."""


class RayNodes:
    """The nodes; use it as a context. Who wants to connect needs `environment`, which has the cluster's token."""

    def __init__(self, folder: Path) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.address = f"127.0.0.1:{free.getsockname()[1]}"
        self.environment = {**os.environ, "RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN": secrets.token_hex(32)}
        self._folder = folder
        self._nodes: list[subprocess.Popen[bytes]] = []

    def start(self, environment: Mapping[str, str] | None = None) -> None:
        """Start a node, the head first, and return when it runs."""
        head = ["--head", "--node-ip-address", "127.0.0.1", "--port", self.address.partition(":")[2]]
        role = ["--address", self.address] if self._nodes else [*head, "--include-dashboard", "false"]
        common = ["--num-cpus", "1", "--object-store-memory", str(256 << 20), "--disable-usage-stats", "--block"]
        ray = str(Path(sys.executable).with_name("ray"))
        said = self._folder / f"node-{len(self._nodes)}.log"
        with said.open("wb") as log:
            unbuffered = {"PYTHONUNBUFFERED": "1"}  # otherwise its words stay in a buffer until it ends
            node = subprocess.Popen(
                [ray, "start", *role, *common],
                stdout=log,
                stderr=log,
                env={**self.environment, **unbuffered, **(environment or {})},
            )
        self._nodes.append(node)
        give_up_at = time.monotonic() + PATIENCE_S
        while "Ray runtime started" not in said.read_text():
            assert node.poll() is None, said.read_text()
            assert time.monotonic() < give_up_at, said.read_text()
            time.sleep(0.2)

    def kill(self, number: int) -> None:
        """Kill a node and everything below it, as if its machine was switched off."""
        for pid in processes_of(self._nodes[number].pid):
            with contextlib.suppress(OSError):
                os.kill(pid, signal.SIGKILL)
        self._nodes[number].wait()

    def __enter__(self) -> RayNodes:
        return self

    def __exit__(self, *_: object) -> None:
        for number in range(len(self._nodes)):
            self.kill(number)
