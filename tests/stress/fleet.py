"""Kills `anoseg-train fleet` in the middle. `python tests/stress/fleet.py [--data FOLDER ...] [--keep FOLDER]`; needs Ray.

Six products are trained for some steps on a Ray cluster of this machine, one core each:

- a worker of Ray is killed while it trains, then the process of another training: both start again;
- when two products are finished and others are in training, the driver is killed: all that it started must end by itself;
- the command is given again: finished products stay as they are, the others go on. Then each product must have exactly one
  trained version, and at most one without training. Given a third time, the command has nothing to do.

`--data` takes folders in the MVTec AD layout; each gives two products, with every second good image. Without it, demo parts are
rendered.
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
import time
from collections.abc import Callable
from pathlib import Path

import cv2

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.anosegd_line import alive
from support.processors import processes_of

from anoseg_engines.bundle import load_bundle, versions
from anoseg_trainer.fit_status import FitStatus, read_status
from anosegd.demo.line import DemoLine

PRODUCTS = 6
TRAINING = """
input: {mode: resize, height: 128, width: 128}
network: {encoder: scratch, widths: [16, 16, 32, 32, 32]}
memory: {vectors: 400}
training: {batch: 8, threads: 1, validate_every: 1000, checkpoint_every: 5}
"""
GIVE_UP_S = 1200


class Rig:
    """The products, the driver, and what went wrong."""

    def __init__(self, folder: Path, data: list[Path], images: int, steps: int) -> None:
        self.folder, self.problems = folder, list[str]()
        folders = dict(_linked(folder, data, images) if data else _rendered(folder, images))
        self.names = list(folders)
        (folder / "train.yaml").write_text(TRAINING)
        lines = ["store: store", "work: work", "config: train.yaml", "cores: 1", f"steps: {steps}", "products:"]
        lines += [f"  {name}: {{data: {path}}}" for name, path in folders.items()]
        (folder / "products.yaml").write_text("\n".join(lines) + "\n")

    def start(self) -> subprocess.Popen[str]:
        """Start the fleet on Ray."""
        program = "from anoseg_trainer.cli import main; main()"
        command = [sys.executable, "-c", program, "fleet", str(self.folder / "products.yaml"), "--ray"]
        return subprocess.Popen(command, text=True, stderr=subprocess.STDOUT)

    def status(self, name: str) -> FitStatus | None:
        """What a product's status says."""
        return read_status(self.folder / "work" / name)

    def finished(self) -> list[str]:
        """The products that are finished."""
        return [name for name in self.names if (status := self.status(name)) is not None and status.state == "finished"]

    def in_training(self, driver: subprocess.Popen[str]) -> dict[str, int]:
        """The products that have a checkpoint and are not at their end, each with the process that trains it."""
        found = {}
        for pid in processes_of(driver.pid):
            with contextlib.suppress(OSError):
                words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
                if "anoseg_trainer.training_child" in words:
                    name = Path(words[words.index("--work") + 1]).name
                    status = self.status(name)
                    if status is not None and status.state == "training" and (status.step or 0) >= 5 and status.pid == pid:
                        found[name] = pid
        return found

    def wait(self, what: str, condition: Callable[[], object], driver: subprocess.Popen[str] | None = None) -> bool:
        """Wait until something is so; note it as a problem if it never is."""
        give_up_at = time.monotonic() + GIVE_UP_S
        while not condition():
            if time.monotonic() > give_up_at or (driver is not None and driver.poll() is not None):
                self.problems.append(f"{what}: never happened")
                return False
            time.sleep(0.05)
        return True

    def kills(self) -> None:
        """Kill a worker, a training, and the driver."""
        driver = self.start()
        if not self.wait("a product in training", lambda: self.in_training(driver), driver):
            driver.kill()
            return
        name, pid = next(iter(self.in_training(driver).items()))
        worker = int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
        os.kill(worker, signal.SIGKILL)
        print(f"RIG: the worker of {name} was killed", flush=True)
        killed = {name}
        if self.wait("another product in training", lambda: self.in_training(driver).keys() - killed, driver):
            other, pid = next((other, pid) for other, pid in self.in_training(driver).items() if other not in killed)
            os.kill(pid, signal.SIGKILL)
            print(f"RIG: the training of {other} was killed", flush=True)
        self.wait("two finished, one in training", lambda: len(self.finished()) > 1 and self.in_training(driver), driver)
        below = processes_of(driver.pid)
        driver.kill()
        driver.wait()
        print(f"RIG: the driver was killed; finished are {', '.join(self.finished())}", flush=True)
        began = time.monotonic()
        self.wait("the end of what the driver had started", lambda: not any(alive(pid) for pid in below))
        print(f"RIG: all {len(below)} processes ended within {time.monotonic() - began:.0f} s", flush=True)

    def run(self) -> None:
        """Train with kills, give the command again, and look at the result."""
        began = time.monotonic()
        self.kills()
        before = {name: self._manifests(name) for name in self.finished()}
        for start in ("second", "third"):
            code = self.start().wait()
            print(f"RIG: the {start} start ended after {time.monotonic() - began:.0f} s in all, exit code {code}", flush=True)
            if code:
                self.problems.append(f"the {start} start: exit code {code}")
            before = before if start == "second" else {name: self._manifests(name) for name in self.names}
            for name in self.names:
                self._check(name)
            for name, times in before.items():
                if self._manifests(name) != times:
                    self.problems.append(f"{name}: was finished, and was trained again")

    def _check(self, name: str) -> None:
        store = self.folder / "store" / name
        steps = [load_bundle(store / str(version)).manifest.training["steps"] for version in versions(store)]
        trained = [number for number in steps if number]
        if len(trained) != 1 or len(steps) > 2 or name not in self.finished():
            self.problems.append(f"{name}: versions with {steps} steps")

    def _manifests(self, name: str) -> dict[Path, int]:
        return {path: path.stat().st_mtime_ns for path in (self.folder / "store" / name).glob("*/manifest.json")}


def _linked(folder: Path, data: list[Path], images: int) -> dict[str, Path]:
    """Link some good images and some with defects of each data folder, for two products."""
    found = {}
    for source in data:
        for half in range(2):
            name = f"{source.name}-{half}"
            for kind in (source / "train" / "good", *sorted((source / "test").iterdir())):
                target = folder / "images" / name / kind.relative_to(source)
                target.mkdir(parents=True)
                taken = sorted(kind.iterdir())[half::2][: images if kind.parent.name == "train" else 8]
                for path in taken:
                    (target / path.name).symlink_to(path.resolve())
            found[name] = folder / "images" / name
    return found


def _rendered(folder: Path, images: int) -> dict[str, Path]:
    """Render demo parts for six products."""
    found = {}
    for number in range(PRODUCTS):
        found[f"demo-{number}"] = target = folder / "images" / f"demo-{number}"
        target.mkdir(parents=True)
        line = DemoLine(number)
        good = (part for part in map(line.part, itertools.count()) if part.defect is None)
        for n, part in enumerate(itertools.islice(good, images)):
            cv2.imwrite(str(target / f"{n:03}.png"), part.image)
    return found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--data", type=Path, nargs="*", default=[])
    options.add_argument("--images", type=int, default=60, help="good images of a product")
    options.add_argument("--steps", type=int, default=80)
    options.add_argument("--keep", type=Path, help="where to copy the work folder with the reports")
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        rig = Rig(Path(folder), given.data, given.images, given.steps)
        try:
            rig.run()
        finally:
            if given.keep:
                shutil.copytree(Path(folder) / "work", given.keep, dirs_exist_ok=True)
    for problem in rig.problems:
        print(f"PROBLEM {problem}")
    print("all products finished once" if not rig.problems else f"{len(rig.problems)} problems")
    sys.exit(1 if rig.problems else 0)


if __name__ == "__main__":
    main()
