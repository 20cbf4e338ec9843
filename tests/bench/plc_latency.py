"""Measures how soon a PLC can read a result: from the verdict being sent, and from capture, with a Modbus master that polls.

    python tests/bench/plc_latency.py --parts 3000

First, a publisher in this process stands for the station: the moment at which it sends a verdict is known exactly. Then the
whole line: a station with the demo's network, whose verdicts say when the part was captured. The master polls as fast as it
gets answers; a PLC that polls every 10 ms sees a result 5 ms later on average.
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

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.bridge_process import BridgeProcess, free_port
from support.paths import DEMO
from support.plc import ENABLED, ONLINE, VALID, Registers, text_of

from anosegd import wire

NAME = wire.EngineName(name="none", version=1, digest="0", runtime="none")


@contextmanager
def bridge(folder: Path, publish: str, window_ms: int) -> Iterator[Registers]:
    """A bridge to a camera with its own trigger, and a master with an open handshake."""
    port = free_port()
    config = folder / f"bridge-{port}.yaml"
    config.write_text(
        f"camera: top\ntrigger: camera\nstation: {{publish: '{publish}', control: null}}\n"
        f"result_window_ms: {window_ms}\nresults: 256\nmodbus: {{listen: '127.0.0.1:{port}'}}\n"
    )
    process = BridgeProcess(config)
    try:
        process.wait_for("bridge.listening")
        master = Registers(port)
        while not master.read_bits(ONLINE, 1)[0]:
            time.sleep(0.1)
        master.write(0, [0])
        master.write(0, [1])
        assert master.read_bits(ENABLED, 1)[0]
        yield master
        master.close()
    finally:
        process.close()


def acknowledge(master: Registers) -> None:
    """Take the result away, so that the next one can come."""
    master.write(0, [5])
    while master.read(0, 1)[0] >> VALID & 1:
        pass
    master.write(0, [1])


def from_sending(folder: Path, parts: int) -> list[float]:
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
                state: dict[str, Any] = {"state": "ContinuousExecution", "uptime_s": 1.0, "masks_dropped": 0, "cameras": health}
                state |= {"station": "s", "journal_id": "j", "run_id": "r", "version": "1", "at": wire.utc(time.time_ns())}
                send("state", wire.State(last_seq=seq, counts=wire.Counts(), engine=NAME, **state))
                ended.wait(1.0)

        beats = threading.Thread(target=beat)
        beats.start()
        try:
            with bridge(folder, publish, 1000) as master:
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


def from_capture(folder: Path, parts: int, fps: float) -> list[float]:
    """Milliseconds from capture until the master has read the result, with a whole station."""
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
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="anoseg-plc-") as name:
        folder = Path(name)
        for what, taken in (
            ("verdict sent → read by the master", from_sending(folder, options.parts)),
            (f"capture → read by the master, {options.fps:g} parts/s", from_capture(folder, options.parts, options.fps)),
        ):
            p50, p99 = np.percentile(taken, (50, 99))
            print(f"{what:50} {len(taken)} parts: p50 {p50:.2f} ms, p99 {p99:.2f} ms, max {max(taken):.2f} ms")


if __name__ == "__main__":
    main()
