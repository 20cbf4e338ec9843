"""Measures how soon a PLC can read a result: from the verdict being sent, and from capture, with a Modbus master that polls.

    python tests/bench/plc_latency.py --parts 3000 [--kind opcua] [--poll-ms 10]

First, a publisher in this process stands for the station: the moment at which it sends a verdict is known exactly. Then the
whole line: a station with the demo's network, whose verdicts say when the part was captured. The master polls as fast as it
gets answers; a PLC that polls every 10 ms sees a result 5 ms later on average. With the whole line, a master that polls so fast
takes a core from the network where there are few; --poll-ms makes it pause after each answer there, as a PLC does. With the
other kinds, only the first is measured. With opcua, the master is asyncua's client; with s7 and logix, the result is read from
the PLC's memory, which is a stranger's server.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import zmq
from asyncua.sync import Client

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.bridge_process import BridgeProcess, free_port
from support.logix_plc import LogixPlc, fetch_server
from support.opcua_plc import PREFIX, OpcUaPlc
from support.paths import DEMO
from support.plc import ENABLED, HEARTBEAT, IDLE, ONLINE, VALID, Registers, text_of
from support.s7_plc import S7Plc, fetch_library

from anosegd import wire
from anosegd.bridge.encoding import CONTROL_BITS, STATUS_BITS, bits_of, word_of

NAME = wire.EngineName(name="none", version=1, digest="0", runtime="none")


class PolledMaster:
    """The program of a PLC that the bridge polls, in the calls of a Modbus master. Every read copies the heartbeat."""

    def __init__(self, plc: S7Plc | LogixPlc) -> None:
        self._plc, self._control, self._written = plc, 0, -1

    def read(self, address: int, count: int) -> list[int]:
        status = self._plc.status()
        control = self._control | (status >> HEARTBEAT & 1) << 4
        if control != self._written:
            self._plc.write(control)
            self._written = control
        return [status]

    def read_bits(self, address: int, count: int) -> list[bool]:
        return [bool(self.read(0, 1)[0] >> address & 1)]

    def write(self, address: int, values: list[int]) -> None:
        self._control = values[0]

    def close(self) -> None:
        self._plc.kill()


class OpcUaMaster:
    """An OPC UA client, in the calls of a Modbus master. One request reads all status bits."""

    def __init__(self, port: int) -> None:
        self._client = Client(f"opc.tcp://127.0.0.1:{port}", timeout=30, watchdog_intervall=60)
        self._client.connect()
        self._status = [self._client.get_node(f"{PREFIX}Outputs.{name}") for name in STATUS_BITS if name != "spare"]
        self._control = [self._client.get_node(f"{PREFIX}Inputs.{name}") for name in CONTROL_BITS[:3]]

    def read(self, address: int, count: int) -> list[int]:
        return [word_of([bit is True for bit in self._client.read_values(self._status)])]

    def read_bits(self, address: int, count: int) -> list[bool]:
        return [bool(self.read(0, 1)[0] >> address & 1)]

    def write(self, address: int, values: list[int]) -> None:
        self._client.write_values(self._control, list(bits_of(values[0])[:3]))

    def close(self) -> None:
        self._client.disconnect()


Master = Registers | PolledMaster | OpcUaMaster


def master_of(kind: str, port: int, folder: Path) -> Master:
    if kind == "opcua":
        return OpcUaMaster(port)
    if kind == "s7":
        library = fetch_library(folder)
        assert library is not None
        return PolledMaster(S7Plc(library, port))
    if kind == "logix":
        fetch_server(folder / "server")
        return PolledMaster(LogixPlc(folder / "server", port))
    return Registers(port)


@contextmanager
def bridge(folder: Path, publish: str, window_ms: int, kind: str = "modbus") -> Iterator[Master]:
    """A bridge to a camera with its own trigger, and a master with an open handshake."""
    port = free_port()
    config = folder / f"bridge-{port}.yaml"
    config.write_text(
        f"camera: top\ntrigger: camera\nstation: {{publish: '{publish}', control: null}}\n"
        f"result_window_ms: {window_ms}\nresults: 256\nmodbus: {{listen: '127.0.0.1:{port}'}}\n"
        f"{S7Plc.config(port)}\n{LogixPlc.config(port)}\n{OpcUaPlc.config(port)}"
    )
    process = BridgeProcess(config, kind=kind)
    try:
        process.wait_for("bridge.listening" if kind in ("modbus", "opcua") else "bridge.started")
        master = master_of(kind, port, folder)
        while not master.read_bits(ONLINE, 1)[0]:
            time.sleep(0.1)
        master.write(0, [0])
        while not master.read_bits(IDLE, 1)[0]:
            pass
        master.write(0, [1])
        while not master.read_bits(ENABLED, 1)[0]:
            pass
        yield master
        master.close()
    finally:
        process.close()


def acknowledge(master: Master) -> None:
    """Take the result away, so that the next one can come."""
    master.write(0, [5])
    while master.read(0, 1)[0] >> VALID & 1:
        pass
    master.write(0, [1])
    master.read(0, 1)


def from_sending(folder: Path, parts: int, kind: str) -> list[float]:
    """Milliseconds from the sending of a verdict until the master has read its result."""
    publish = f"ipc://{folder}/pub"
    taken: list[float] = []
    with zmq.Context() as context, context.socket(zmq.PUB) as socket:
        socket.bind(publish)
        lock, ended = threading.Lock(), threading.Event()
        seq = 0

        def send(topic: str, header: msgspec.Struct) -> None:
            with lock:
                socket.send_multipart([topic.encode(), wire.encode(header)])

        def beat() -> None:
            while not ended.is_set():
                health = {"top": wire.CameraHealth(state="running", source="none")}
                state: dict[str, Any] = {"state": "ContinuousExecution", "masks_dropped": 0, "cameras": health}
                state |= {"uptime_s": time.monotonic()}
                state |= {"station": "s", "journal_id": "j", "run_id": "r", "version": "1", "at": wire.utc(time.time_ns())}
                send("state", wire.State(last_seq=seq, counts=wire.Counts(), engine=NAME, **state))
                ended.wait(1.0)

        beats = threading.Thread(target=beat)
        beats.start()
        try:
            with bridge(folder, publish, 1000, kind) as master:
                for n in range(1, parts + 1):
                    now = wire.utc(time.time_ns())
                    names = {"station": "s", "journal_id": "j", "run_id": "r", "camera": "top", "part_id": f"{n}"}
                    times: dict[str, Any] = {"captured_at": now, "committed_at": now, "timings_ms": wire.Timings(total=1.0)}
                    verdict = wire.Verdict(
                        **names, **times, seq=n, sequence=n, outcome="PASS", recipe="r", engine=NAME, durable=True
                    )
                    begin = time.perf_counter()
                    send("verdict.top", verdict)
                    seq = n
                    while not master.read(0, 56)[0] >> VALID & 1:
                        pass
                    taken.append((time.perf_counter() - begin) * 1000)
                    acknowledge(master)
        finally:
            ended.set()
            beats.join()
    return taken


def from_capture(folder: Path, parts: int, fps: float, pause_s: float) -> list[float]:
    """Milliseconds from capture until the master, which pauses after each answer, has read the result, with a whole station."""
    publish = f"ipc://{folder}/station"
    config = folder / "line.yaml"
    config.write_text(
        f"engine: {{bundle: '{DEMO}'}}\npublish: {{endpoint: '{publish}'}}\njournal: {{path: verdicts.db}}\n"
        f"cameras:\n  top: {{source: {{kind: demo, fps: {fps}}}, policy: every}}\n"
    )
    captured: dict[str, float] = {}
    read: dict[str, float] = {}
    with zmq.Context() as context, context.socket(zmq.SUB) as socket, (folder / "line.log").open("wb") as log:
        daemon = subprocess.Popen([sys.executable, "-m", "anosegd", "run", str(config)], stderr=log)
        try:
            socket.subscribe("verdict.")
            socket.connect(publish)
            with bridge(folder, publish, 60_000) as master:
                while len(read) < parts:
                    registers = master.read(0, 56)
                    now = time.time()
                    while socket.poll(0):
                        header = json.loads(socket.recv_multipart()[1])
                        captured[header["part_id"]] = unix_s(header["captured_at"])
                    assert registers[0] >> ENABLED & 1, "the handshake has closed"
                    if registers[0] >> VALID & 1:
                        read[text_of(registers[40:56])] = now
                        acknowledge(master)
                    time.sleep(pause_s)
        finally:
            daemon.terminate()
            daemon.wait()
    return [(at - captured[part]) * 1000 for part, at in read.items() if part in captured]


def unix_s(moment: str) -> float:
    return datetime.fromisoformat(moment.replace("Z", "+00:00")).timestamp()


def main() -> None:
    """Print both."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", type=int, default=3000)
    parser.add_argument("--fps", type=float, default=15.0)
    parser.add_argument("--poll-ms", type=float, default=0.0, help="pause of the master after each answer, with the whole line")
    parser.add_argument("--kind", choices=("modbus", "opcua", "s7", "logix"), default="modbus")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="anoseg-plc-") as name:
        folder = Path(name)
        measured = {f"{options.kind}: verdict sent → read by the PLC": from_sending(folder, options.parts, options.kind)}
        if options.kind == "modbus":
            capture = from_capture(folder, options.parts, options.fps, options.poll_ms / 1000)
            measured[f"capture → read by the PLC, {options.fps:g} parts/s, pause {options.poll_ms:g} ms"] = capture
        for what, taken in measured.items():
            p50, p99 = np.percentile(taken, (50, 99))
            print(f"{what:50} {len(taken)} parts: p50 {p50:.2f} ms, p99 {p99:.2f} ms, max {max(taken):.2f} ms")


if __name__ == "__main__":
    main()
