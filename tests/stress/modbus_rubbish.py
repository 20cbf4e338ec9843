"""Sends 100,000 malformed frames to a Modbus bridge, beside slow and idle connections and 100 clients: a good master is served.

python tests/stress/modbus_rubbish.py --frames 100000
"""

from __future__ import annotations

import contextlib
import random
import select
import socket
import struct
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))
from stress.rubbish import flood_command, resident_mb
from support.bridge_process import BridgeProcess, free_port
from support.plc import Registers

CLIENTS, SLOW = 100, 20
GROWTH_MB = 20
WAIT_S = 0.005
LINES = 2000
"""The log may have this many lines: what anybody may send must not fill a disk."""


def frame(chance: random.Random) -> bytes:
    """Return something that is hardly ever a valid request, and often nearly one."""
    kind = chance.randrange(5)
    if kind == 0:
        return chance.randbytes(chance.randrange(1, 300))
    pdu = bytes([chance.choice((1, 2, 3, 4, 5, 6, 15, 16, 22, 23, chance.randrange(256)))]) + chance.randbytes(
        chance.randrange(0, 20)
    )
    if kind == 1:  # values that no address has
        pdu = struct.pack(">BHH", chance.choice((1, 2, 3, 4, 6)), chance.randrange(65536), chance.randrange(65536))
    elif kind == 2:  # counts that contradict each other
        pdu = struct.pack(">BHHB", chance.choice((15, 16)), 0, chance.randrange(200), chance.randrange(256)) + b"\0" * 8
    length = len(pdu) + 1 if kind < 4 else chance.randrange(65536)
    return struct.pack(">HHHB", chance.randrange(65536), chance.choice((0, 0, 0, 0, 7)), length, 1) + pdu


class Sender:
    """Sends frames over one connection until the bridge closes it, and then over another."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._socket: socket.socket | None = None
        self.connections = self.answers = 0

    def send(self, data: bytes) -> None:
        """Send a frame, and wait a moment for an answer or the end of the connection. It may be a part of a frame."""
        with contextlib.suppress(OSError):
            if self._socket is None:
                self.connections += 1
                self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=5)
            self._socket.sendall(data)
            if select.select([self._socket], [], [], WAIT_S)[0] and self._socket.recv(65536):
                self.answers += 1
                return
        self.close()

    def close(self) -> None:
        """Close the connection."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None


def flood(frames: int, seed: int = 1) -> list[str]:
    """Run the test. Returns what went wrong."""
    chance = random.Random(seed)
    wrong: list[str] = []
    with tempfile.TemporaryDirectory(prefix="anoseg-modbus-") as name, contextlib.ExitStack() as opened:
        port = free_port()
        config = Path(name) / "bridge.yaml"
        config.write_text(
            f"camera: top\nstation: {{publish: 'ipc://{name}/none', control: 'ipc://{name}/no'}}\n"
            f"modbus: {{listen: '127.0.0.1:{port}'}}\n"
        )
        bridge = BridgeProcess(config)
        opened.callback(bridge.close)
        bridge.wait_for("bridge.listening")
        crowd = [Registers(port) for _ in range(CLIENTS)]
        slow = [socket.create_connection(("127.0.0.1", port)) for _ in range(SLOW)]
        for connection in (*crowd, *slow):
            opened.callback(connection.close)
        good, sender = Registers(port), Sender(port)
        opened.callback(good.close)
        opened.callback(sender.close)
        for client in crowd:
            client.read(0, 88)
        before = resident_mb(bridge.process.pid)
        slowest, begin = 0.0, time.monotonic()
        for n in range(frames):
            sender.send(frame(chance))
            if n % 50 == 0:
                asked = time.monotonic()
                try:
                    good.read(0, 88)
                    crowd[n // 50 % CLIENTS].read(0, 88)
                except (OSError, AssertionError) as error:
                    wrong.append(f"after {n} frames: a good master is not served: {error!r}")
                    break
                slowest = max(slowest, time.monotonic() - asked)
            if n % 1000 == 0:  # a byte at a time, of a frame that never ends
                for connection in slow:
                    with contextlib.suppress(OSError):
                        connection.send(b"\0")
        grown = resident_mb(bridge.process.pid) - before
        lines = len(bridge.log.splitlines())
        print(f"{frames} frames, {sender.answers} answered, {sender.connections} connections, {time.monotonic() - begin:.0f} s")
        print(
            f"beside {CLIENTS} clients and {SLOW} slow ones: memory {before:.0f} → {before + grown:.0f} MB, {lines} log lines"
        )
        print(f"slowest pair of answers to good masters: {slowest * 1000:.0f} ms")
        if grown > GROWTH_MB:
            wrong.append(f"memory grew by {grown:.0f} MB")
        if lines > LINES or "Traceback" in bridge.log:
            wrong.append(f"the log has {lines} lines: {bridge.log[-1000:]}")
        if bridge.process.poll() is not None:
            wrong.append("the bridge has ended")
        elif bridge.terminate() != 0:
            wrong.append("the bridge does not end in order")
    return wrong


if __name__ == "__main__":
    raise SystemExit(flood_command(__doc__, flood))
