"""Kills `anoseg-engine reinspect` in the middle, again and again. `python tests/stress/reinspect.py [--images N]`; needs Ray.

An archive of 20,000 images of demo parts is inspected three times. Each time, the rows must equal those of a plain loop, one
for one, with every score and defect. The network is that of `support/tiny_bundle.py`: the demo's (`--network demo`) needs 25
times as long for an image, so it is for fewer images.

- in one process, which is killed five times;
- with Ray: an actor is killed, then another one, then the command; started again, and an actor is killed;
- on two Ray nodes of this machine: the second node is killed, then the command; started again.

Nothing that was written before a kill may change after it. What Ray leaves of a killed command must end by itself.
"""

import argparse
import contextlib
import dataclasses
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.anosegd_line import alive
from support.archive import Result, make_archive, plain_loop, results_of
from support.paths import DEMO
from support.processors import processes_of
from support.ray_nodes import RayNodes
from support.tiny_bundle import tiny_draft

from anoseg_engines.bundle import load_bundle
from anoseg_engines.bundle_writer import write_bundle
from anoseg_engines.loading import load_engine

SHARD_SIZE = 50
TINY_THRESHOLD = 0.755
"""Half of the demo's parts reach this score of the tiny network."""
PATIENCE_S = 300.0
"""How long the processes of a killed command may take to end: on a busy machine, some of Ray's need more than a minute."""
Kill = tuple[float, str]
"""At which share of the shards, and what: `command`, `actor` or `node`."""


class Rig:
    """The archive, what a plain loop says of it, and what went wrong."""

    def __init__(self, folder: Path, n: int, network: str) -> None:
        self.folder, self.n = folder, n
        self.bundle = DEMO
        if network == "tiny":
            draft = dataclasses.replace(tiny_draft(), score_threshold=TINY_THRESHOLD)
            self.bundle = write_bundle(folder / "tiny", draft).path
        self.shards = -(-n // SHARD_SIZE)
        self.problems: list[str] = []
        self.nodes = RayNodes(folder)
        began = time.monotonic()
        paths = make_archive(folder / "images", n)
        print(f"{n} images written in {time.monotonic() - began:.0f} s", flush=True)
        self.expected = self._loop(paths)

    def _loop(self, paths: list[Path]) -> list[Result]:
        engine = load_engine(load_bundle(self.bundle))
        began = time.monotonic()
        try:
            found = list(plain_loop(engine, paths))
        finally:
            engine.close()
        outcomes = [outcome for _, outcome, _, _ in found]
        counts = ", ".join(f"{outcomes.count(each)} {each}" for each in ("PASS", "FAIL", "UNKNOWN"))
        print(f"plain loop: {counts} in {time.monotonic() - began:.0f} s", flush=True)
        return found

    def run(self, name: str, more: list[str], kills: list[Kill]) -> None:
        """Inspect with kills, and compare the rows."""
        out, began, written = self.folder / name, time.monotonic(), dict[Path, int]()
        process = self._start(out, more)
        for share, what in kills:
            while process.poll() is None and len(list(out.glob("*.parquet"))) < share * self.shards:
                time.sleep(0.05)
            if process.poll() is not None:
                self.problems.append(f"{name}: ended before the kill at {share:.0%}, exit code {process.returncode}")
                break
            below = processes_of(process.pid)
            if what == "actor":
                self._kill_actor(name)
            else:
                self.nodes.kill(1) if what == "node" else process.kill()
            print(f"{name}: {what} killed after {len(list(out.glob('*.parquet')))} of {self.shards} shards", flush=True)
            if what == "command":
                process.wait()
                self._expect_to_end(name, below)
                self._compare_times(name, written)
                written.update((path, path.stat().st_mtime_ns) for path in out.glob("*.parquet"))
                process = self._start(out, more)
        if (code := process.wait()) != 0:
            self.problems.append(f"{name}: exit code {code}")
        self._compare_times(name, written)
        rows = results_of(out)
        differing = sum(a != b for a, b in zip(rows, self.expected, strict=False))
        if differing or len(rows) != len(self.expected):
            self.problems.append(f"{name}: {len(rows)} rows, {differing} of them differ from the plain loop's")
        equal = len(rows) - differing
        print(f"{name}: {equal} of {self.n} rows equal the plain loop's; {time.monotonic() - began:.0f} s", flush=True)

    def _start(self, out: Path, more: list[str]) -> subprocess.Popen[bytes]:
        program = "from anoseg_engines.cli import main; main()"
        options = ["--bundle", str(self.bundle), "--images", str(self.folder / "images"), "--out", str(out)]
        command = [sys.executable, "-c", program, "reinspect", *options, "--shard-size", str(SHARD_SIZE), *more]
        return subprocess.Popen(command, stdout=subprocess.DEVNULL, env=self.nodes.environment)

    def _kill_actor(self, name: str) -> None:
        """Kill one of the actors below this process."""
        actors = []
        for pid in processes_of(os.getpid()):
            with contextlib.suppress(OSError):
                if Path(f"/proc/{pid}/cmdline").read_bytes().startswith(b"ray::MapWorker"):
                    actors.append(pid)
        if not actors:
            self.problems.append(f"{name}: no actor was found")
            return
        os.kill(random.choice(actors), signal.SIGKILL)

    def _expect_to_end(self, name: str, pids: list[int]) -> None:
        """Wait until the processes of a killed command have ended."""
        began = time.monotonic()
        while left := [pid for pid in pids if alive(pid)]:
            if time.monotonic() > began + PATIENCE_S:
                said = ", ".join(map(_command_line, left))
                self.problems.append(f"{name}: {len(left)} processes of the killed command still run: {said}")
                _kill_all(left)
                return
            time.sleep(0.1)
        print(f"{name}: the last process of the killed command ended after {time.monotonic() - began:.0f} s", flush=True)

    def _compare_times(self, name: str, written: dict[Path, int]) -> None:
        changed = sum(path.stat().st_mtime_ns != then for path, then in written.items())
        if changed:
            self.problems.append(f"{name}: {changed} finished shards were written again")


def _command_line(pid: int) -> str:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:100]
    return str(pid)


def _kill_all(pids: list[int]) -> None:
    for pid in pids:
        with contextlib.suppress(OSError):
            os.kill(pid, signal.SIGKILL)


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--images", type=int, default=20_000)
    options.add_argument("--network", choices=("tiny", "demo"), default="tiny")
    options.add_argument("--ways", default="process,ray,nodes", help="which of the three, separated by commas")
    given = options.parse_args()
    ways = given.ways.split(",")
    with tempfile.TemporaryDirectory() as folder:
        rig = Rig(Path(folder), given.images, given.network)
        if "process" in ways:
            rig.run("one process", [], [(share, "command") for share in (0.1, 0.25, 0.4, 0.6, 0.8)])
        if "ray" in ways:
            rig.run("ray", ["--ray", "--engines", "2"], [(0.1, "actor"), (0.3, "actor"), (0.5, "command"), (0.7, "actor")])
        if "nodes" in ways:
            with rig.nodes as nodes:
                nodes.start()
                nodes.start()
                rig.run("two nodes", ["--ray", nodes.address], [(0.2, "node"), (0.5, "command")])
    for problem in rig.problems:
        print(f"PROBLEM {problem}")
    sys.exit(1 if rig.problems else 0)


if __name__ == "__main__":
    main()
