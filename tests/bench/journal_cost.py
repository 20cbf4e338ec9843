"""The cost of the journal: the time from a part's judgement to its verdict at a subscriber, with and without the journal.

    python tests/bench/journal_cost.py --rate 1000 --seconds 10

It uses the real publisher, sockets and a file. Runs with and without the journal alternate, so that the machine's load affects
both; compare the differences. A verdict that is not durable was not stored in time: the disk was too slow for this rate.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import msgspec
import numpy as np
import zmq

from anoseg_engines.judgement import Inspection, Judgement
from anoseg_engines.placement import InputSpec, Placement, Region
from anosegd import wire
from anosegd.capture.config import DemoSource
from anosegd.config import CameraConfig, Config, EngineConfig, PublishConfig
from anosegd.journal import Journal, JournalConfig
from anosegd.outcome import Inspected
from anosegd.part import Part
from anosegd.publish import Identity, Publisher

ENGINE = wire.EngineName(name="none", version=1, digest="0" * 64, runtime="none")
PLACEMENT = Placement.of(InputSpec(8, 8), Region(0, 0, 8, 8))


def state(publisher: Publisher) -> wire.State:
    return wire.State(
        station="s", journal_id="j", run_id="r", version="0", at="", state="Ready", uptime_s=0, last_seq=publisher.last_seq,
        counts=wire.Counts(), masks_dropped=0, engine=ENGINE, cameras={},
    )  # fmt: skip


def run(folder: Path, sync: str | None, rate: float, seconds: float) -> np.ndarray:
    """The latency of each verdict in ms. With sync None there is no journal."""
    endpoint = f"ipc://{folder}/{time.monotonic_ns()}"
    config = Config(
        engine=EngineConfig(bundle="none"),
        cameras={"a": CameraConfig(source=DemoSource(), policy="every")},
        publish=PublishConfig(endpoint=endpoint, masks=False),
    )
    path = str(folder / f"{time.monotonic_ns()}.db")
    journal = Journal.open(JournalConfig(path=path, sync=sync)) if sync else None  # type: ignore[arg-type]
    publisher = Publisher(config, Identity("journal", "run"), state, journal)
    publisher.engine = ENGINE
    n = int(rate * seconds)
    finished = np.zeros(n + 1, np.int64)
    listener = subprocess.Popen([sys.executable, __file__, "--listen", endpoint, str(n)], stdout=subprocess.PIPE)
    publisher.start()
    time.sleep(1.5)
    begun = time.monotonic()
    for i in range(1, n + 1):
        while (left := begun + i / rate - time.monotonic()) > 0:
            time.sleep(left)
        now = time.monotonic_ns()
        part = Part(camera="a", sequence=i, part_id=f"a{i}", captured_ns=now, captured_wall_ns=time.time_ns())
        publisher.open_part(part)
        inspection = Inspection(0.1, np.empty((0, 0), np.float32), 1)
        finished[i] = time.monotonic_ns()
        publisher.report_outcome(part, Inspected(Judgement("PASS", 0.1, 0.5, ()), inspection, PLACEMENT, ENGINE, now, now))
    received = np.frombuffer(listener.communicate()[0], np.int64)
    took = time.monotonic() - begun
    publisher.stop()
    publisher.join(10)
    if journal is not None:
        journal.close()
    arrived = received[1:] > 0
    durable = f", {received[0]} of them durable" if sync else ""
    print(f"  journal {sync or 'none':7} {arrived.sum()} of {n} verdicts in {took:.1f} s{durable}")
    return (received[1:] - finished[1:])[arrived] / 1e6


def listen(endpoint: str, n: int) -> None:
    """A subscriber in its own process. Writes the number of durable verdicts, then when each arrived (monotonic ns, or 0)."""
    received = np.zeros(n + 1, np.int64)
    decode = msgspec.json.Decoder(wire.Verdict).decode
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.set(zmq.RECONNECT_IVL, 10)
        socket.set(zmq.RCVHWM, 0)
        socket.subscribe("verdict.")
        socket.connect(endpoint)
        last = 0
        while last < n and socket.poll(10_000):
            header = socket.recv_multipart()[1]
            now = time.monotonic_ns()
            verdict = decode(header)
            last = verdict.sequence
            received[last] = now
            received[0] += verdict.durable
    sys.stdout.buffer.write(received.tobytes())


def main() -> None:
    if sys.argv[1:2] == ["--listen"]:
        listen(sys.argv[2], int(sys.argv[3]))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rate", type=float, default=1000, help="verdicts a second")
    parser.add_argument("--seconds", type=float, default=10, help="seconds for each turn")
    parser.add_argument("--turns", type=int, default=3)
    options = parser.parse_args()
    latencies: dict[str | None, list[np.ndarray]] = {None: [], "normal": [], "full": []}
    with tempfile.TemporaryDirectory(prefix="anoseg-cost-") as name:
        for _ in range(options.turns):
            for sync, turns in latencies.items():
                turns.append(run(Path(name), sync, options.rate, options.seconds))
    bare = np.percentile(np.concatenate(latencies[None]), [50, 99])
    for sync, turns in latencies.items():
        p50, p99 = np.percentile(np.concatenate(turns), [50, 99])
        added = f"added: p50 {p50 - bare[0]:+.2f}, p99 {p99 - bare[1]:+.2f} ms"
        print(f"{sync or 'none':7} p50 {p50:.2f} ms, p99 {p99:.2f} ms; {added}")


if __name__ == "__main__":
    main()
