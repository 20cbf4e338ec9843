"""Runs at full rate for an hour with one fault a minute, and checks that nothing grows. `make soak`; needs a quiet machine.

    python tests/stress/soak.py [--minutes 60] [--leak BYTES]

The daemon inspects a folder as fast as it can, with journal and masks, and a live camera beside it. The faults: the camera is
unplugged, silent or frozen, or sends garbage; its capture process is killed; the engine fails; good and bad reloads; swaps; a
subscriber that does not read. Memory is measured after each fault, for the daemon and its capture processes. A line is fitted
to the last two thirds of the values. Descriptors, threads and processes must not increase. --leak leaks memory on purpose, to
show that the check finds it.
"""

import argparse
import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import zmq
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from stress.faults import FAULTY_DAEMON, LiveCamera
from support.paths import DEMO

from anosegd.client import Client, ClientError
from anosegd.demo.line import DemoLine

LIMIT_MB_PER_HOUR = 10.0
FAULT_S = 8.0
"""How long a fault lasts. The rest of the minute is quiet, and its end is measured."""


class Station:
    """The daemon, its live camera and a subscriber that counts verdicts."""

    def __init__(self, folder: Path, leak: int) -> None:
        self.folder = folder
        self.camera = LiveCamera()
        self.publish, self.control = f"ipc://{folder}/pub", f"ipc://{folder}/ctl"
        shutil.copytree(DEMO, folder / "store" / "demo")
        (folder / "images").mkdir()
        line = DemoLine(5, defect_share=0.3)
        for i in range(60):
            cv2.imwrite(str(folder / "images" / f"{i:03d}.png"), line.part(i).image)
        self.camera.image = line.part(0).image
        self.config = folder / "station.yaml"
        self.text = (
            f"engine: {{bundle: store/demo}}\npublish: {{endpoint: '{self.publish}'}}\n"
            f"control: {{endpoint: '{self.control}'}}\njournal: {{path: verdicts.db, keep_mb: 64}}\ncameras:\n"
            "  fast: {policy: wait, source: {kind: folder, path: images, preload: true, loop: true}}\n"
            f"  eye: {{policy: latest, source: {{kind: url, url: '{self.camera.url}'}}, recipe: one}}\n"
        )
        self.config.write_text(self.text)
        if leak:
            (folder / "leak").write_text(str(leak))
        command = [sys.executable, str(FAULTY_DAEMON), str(folder), "run", str(self.config)]
        with (folder / "daemon.log").open("ab") as log:
            self.daemon = subprocess.Popen(command, stderr=log, stdin=subprocess.DEVNULL)
        self.verdicts = 0
        self.over = threading.Event()
        self.listener = threading.Thread(target=self._listen)
        self.listener.start()

    def _listen(self) -> None:
        with zmq.Context() as context, context.socket(zmq.SUB) as socket:
            socket.subscribe("verdict.")
            socket.connect(self.publish)
            while not self.over.is_set():
                while socket.poll(100) and not self.over.is_set():
                    socket.recv_multipart()
                    self.verdicts += 1

    def ask(self, what: str, **more: object) -> None:
        with Client(self.publish, self.control, request_timeout_s=30) as client, contextlib.suppress(ClientError):
            client.request(what, **more)

    def pids(self) -> list[int]:
        """The process ids of the daemon and its capture processes."""
        found = [self.daemon.pid]
        for pid in found:
            with contextlib.suppress(OSError):
                for children in Path(f"/proc/{pid}/task").glob("*/children"):
                    found += [int(p) for p in children.read_text().split()]
        return found

    def measure(self) -> tuple[float, float, int, int, int]:
        """MB of the daemon, MB of all processes, the daemon's descriptors and threads, number of processes."""
        main = Path(f"/proc/{self.daemon.pid}")
        sizes = [resident_mb(pid) for pid in self.pids()]
        return sizes[0], sum(sizes), len(list((main / "fd").iterdir())), len(list((main / "task").iterdir())), len(sizes)

    def close(self) -> int:
        self.daemon.send_signal(signal.SIGTERM)
        code = self.daemon.wait(60)
        self.over.set()
        self.listener.join()
        self.camera.off()
        return code


def resident_mb(pid: int) -> float:
    """Memory that the process has written to, swapped out or not.

    Pages of libraries are left out: whether they count as private or shared depends on the other processes that run.
    """
    with contextlib.suppress(OSError):
        lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        return sum(int(line.split()[1]) for line in lines if line.startswith(("Private_Dirty", "Swap:"))) / 1024
    return 0.0


@contextmanager
def mode(station: Station, name: str) -> Iterator[None]:
    station.camera.mode = name
    yield
    station.camera.mode = "fine"


@contextmanager
def unplugged(station: Station) -> Iterator[None]:
    station.camera.off()
    yield
    station.camera.on()


@contextmanager
def captures_killed(station: Station) -> Iterator[None]:
    for pid in station.pids()[1:]:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    yield


@contextmanager
def engine_fails(station: Station) -> Iterator[None]:
    (station.folder / "engine-fails").touch()
    yield
    (station.folder / "engine-fails").unlink()


@contextmanager
def reloads(station: Station) -> Iterator[None]:
    for text in (station.text.replace("recipe: one", "recipe: two"), station.text + "nonsense: 1\n", station.text):
        station.config.write_text(text)
        station.ask("reload")
    yield


@contextmanager
def swaps(station: Station) -> Iterator[None]:
    for _ in range(3):
        station.ask("swap", bundle=str(station.folder / "store" / "demo"))
    yield


@contextmanager
def subscriber_stuck(station: Station) -> Iterator[None]:
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.linger = 0
        socket.subscribe(b"")
        socket.connect(station.publish)
        yield


FAULTS = {
    "unplugged": unplugged,
    "silent": lambda s: mode(s, "silent"),
    "capture killed": captures_killed,
    "frozen": lambda s: mode(s, "frozen"),
    "reloads": reloads,
    "engine fails": engine_fails,
    "garbage": lambda s: mode(s, "garbage"),
    "swaps": swaps,
    "subscriber stuck": subscriber_stuck,
}


def soak(minutes: int, leak: int, folder: Path) -> list[str]:
    """Run the test. Returns what went wrong."""
    console = Console()
    station = Station(folder, leak)
    rows: list[tuple[float, float, int, int, int]] = []
    try:
        time.sleep(10)
        before = 0
        for minute, (name, fault) in zip(range(minutes), itertools.cycle(FAULTS.items()), strict=False):
            began = time.monotonic()
            with fault(station):
                time.sleep(FAULT_S)
            time.sleep(max(0.0, began + 60 - time.monotonic()))
            rows.append(station.measure())
            done, before = station.verdicts - before, station.verdicts
            mb, total, descriptors, threads, processes = rows[-1]
            console.print(
                f"{minute + 1:3d} min  {name:<17} {mb:7.1f} MB, with captures {total:7.1f}  {descriptors} descriptors  "
                f"{threads} threads  {processes} processes  {done / 60:.0f} verdicts/s",
                soft_wrap=True,
            )
        return judged(rows, console) + ([f"the daemon ended with {code}"] if (code := station.close()) else [])
    finally:
        if station.daemon.poll() is None:
            station.daemon.kill()
        station.over.set()


def judged(rows: list[tuple[float, float, int, int, int]], console: Console) -> list[str]:
    """Judge the last two thirds: the slope of memory, and whether any count has increased."""
    last = np.array(rows[len(rows) // 3 :])
    hours = np.arange(len(last)) / 60
    table = Table("measured", "slope or range", "allowed", "")
    wrong = []
    for column, what in enumerate(("memory of the daemon", "memory with capture processes")):
        slope = float(np.polyfit(hours, last[:, column], 1)[0])
        table.add_row(what, f"{slope:+.1f} MB/h", f"{LIMIT_MB_PER_HOUR:g}", "grows" if slope > LIMIT_MB_PER_HOUR else "")
        wrong += [f"{what} grows by {slope:.1f} MB/h"] if slope > LIMIT_MB_PER_HOUR else []
    half = len(last) // 2
    for column, what in ((2, "descriptors"), (3, "threads"), (4, "processes")):
        first, then = last[:half, column].max(), last[half:, column].max()
        table.add_row(what, f"at most {first:.0f}, then {then:.0f}", "no increase", "grows" if then > first else "")
        wrong += [f"{what}: {first:.0f}, then {then:.0f}"] if then > first else []
    console.print(table)
    return wrong


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=int, default=60)
    parser.add_argument("--leak", type=int, default=0, metavar="BYTES", help="leak this many for every part, on purpose")
    options = parser.parse_args()
    if options.minutes < 6:
        parser.error("--minutes must be at least 6: a line is fitted to two thirds of them")
    with tempfile.TemporaryDirectory(prefix="anoseg-soak-") as folder:
        wrong = soak(options.minutes, options.leak, Path(folder))
    print("\n".join(wrong) or "nothing grows")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
