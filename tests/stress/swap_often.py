"""Swaps the engine under load many times. Every part has a verdict from one engine, and no resource leaks.

    python tests/stress/swap_often.py --swaps 200

The line inspects as fast as it can. The swaps alternate between two versions of a bundle that differ in their threshold.
"""

import argparse
import dataclasses
import json
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

import zmq

sys.path.insert(0, str(Path(__file__).parents[1]))
from stress.rubbish import resident_mb
from stress.torture import make_line, show, wait_for_state
from support.tiny_bundle import tiny_draft

from anoseg_engines.bundle_writer import write_bundle
from anosegd.client import Client

GROWTH_MB = 10.0
THRESHOLDS = {1: 0.5, 2: 0.4}


class Seen(threading.Thread):
    """Records every published verdict."""

    def __init__(self, endpoint: str) -> None:
        super().__init__(name="seen")
        self.verdicts: list[tuple[int, str, int, float | None]] = []
        self.done = threading.Event()
        self._endpoint = endpoint

    def run(self) -> None:
        with zmq.Context() as context, context.socket(zmq.SUB) as socket:
            socket.set(zmq.RCVHWM, 0)
            socket.set(zmq.RECONNECT_IVL, 10)
            socket.subscribe("verdict.")
            socket.connect(self._endpoint)
            while not self.done.is_set():
                while socket.poll(100):
                    v = json.loads(socket.recv_multipart()[1])
                    self.verdicts.append((v["seq"], v["outcome"], v["engine"]["version"], v["threshold"]))


def resources(pid: int) -> tuple[float, int, int]:
    """Resident memory in MB, number of descriptors, number of threads.

    The journal and the control socket open files for moments, so the least of several counts of descriptors is taken.
    """
    proc = Path(f"/proc/{pid}")
    descriptors = []
    for _ in range(20):
        descriptors.append(len(list((proc / "fd").iterdir())))
        time.sleep(0.05)
    return resident_mb(pid), min(descriptors), len(list((proc / "task").iterdir()))


def swap_often(swaps: int) -> list[str]:
    """Run the test. Returns what went wrong."""
    wrong = []
    with tempfile.TemporaryDirectory(prefix="anoseg-swaps-") as name:
        folder = Path(name)
        config = make_line(folder, None)
        store = folder / "store" / "tiny"
        write_bundle(store, dataclasses.replace(tiny_draft(), score_threshold=THRESHOLDS[2]))
        config.write_text(config.read_text().replace("bundle: store/tiny,", "bundle: store/tiny/1,"))
        publish, control = f"ipc://{folder}/pub", f"ipc://{folder}/ctl"
        seen = Seen(publish)
        seen.start()
        with (folder / "daemon.log").open("wb") as log:
            daemon = subprocess.Popen([sys.executable, "-m", "anosegd", "run", str(config)], stderr=log)
        try:
            wait_for_state(control)
            with Client(publish, control, request_timeout_s=60) as client:
                before = (0.0, 0, 0)
                while not seen.verdicts:
                    time.sleep(0.1)
                for i in range(swaps):
                    if i == swaps // 2:
                        before = resources(daemon.pid)  # the allocator's pools are full by now
                    if i % 2:
                        client.request("rollback")
                    else:
                        client.request("swap", bundle=str(store / "2"))
                    show(f"{i + 1} swaps, {len(seen.verdicts)} verdicts, {resident_mb(daemon.pid):.0f} MB")
                after = resources(daemon.pid)
                engine = client.status()["engine"]
            daemon.send_signal(signal.SIGTERM)
            if code := daemon.wait(60):
                wrong.append(f"the daemon ended with {code}")
        finally:
            daemon.kill()
            daemon.wait()
            seen.done.set()
            seen.join()
        show(f"{swaps} swaps, {len(seen.verdicts)} verdicts; second half: {after[0] - before[0]:+.1f} MB\n")
        changes = sum(a[2] != b[2] for a, b in zip(seen.verdicts, seen.verdicts[1:], strict=False))
        wrong += [f"verdict {v[0]} is UNKNOWN" for v in seen.verdicts if v[1] == "UNKNOWN"][:3]
        wrong += [f"verdict {v[0]} mixes two engines: {v[2:]}" for v in seen.verdicts if THRESHOLDS[v[2]] != v[3]][:3]
        seqs = [v[0] for v in seen.verdicts]
        if seqs != list(range(seqs[0], seqs[0] + len(seqs))):
            wrong.append("a number is missing")
        if changes < swaps - 1:
            wrong.append(f"the engine changed only {changes} times; its version is {engine['version']}")
        if after[0] - before[0] > GROWTH_MB or after[1] > before[1] + 1 or after[2] > before[2] + 1:
            wrong.append(f"leak: MB, descriptors, threads {before} → {after}")
        return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--swaps", type=int, default=200)
    wrong = swap_often(parser.parse_args().swaps)
    print("\n".join(wrong) or "every part has a verdict from one engine, nothing leaked")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
