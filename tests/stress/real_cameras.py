"""Cameras with real protocols disappear and come back many times. `make real-cameras`.

    python tests/stress/real_cameras.py [--camera rtsp|gige] [--fault NAME] [--cycles 10] [--no-long]

One daemon has an RTSP server (GStreamer) and a GigE Vision camera (Aravis' fake camera), each in its own process. They are
killed, restarted, frozen (SIGSTOP) and slowed while parts are triggered seven times a second. Requirements: the stall is
noticed within 2 s; no part that is triggered meanwhile is PASS; parts are PASS again within 2 s of the camera's return; every
trigger is answered. At the end the daemon has no more processes, threads or descriptors than at the start.
"""

import argparse
import contextlib
import itertools
import json
import random
import re
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import warnings
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import zmq
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.anosegd_line import alive, children_of
from support.paths import SUPPORT
from support.tiny_bundle import tiny_draft

from anoseg_engines.bundle_writer import write_bundle
from anoseg_engines.errors import ConfigError
from anosegd.capture.sources.aravis import load_aravis
from anosegd.client import Client, ClientError

RTSP_CAMERA = SUPPORT / "rtsp_camera.py"
SYSTEM_PYTHON = "/usr/bin/python3"
FAKE_CAMERA = "arv-fake-gv-camera-0.8"
SERIAL = "FAKE01"
DISCOVERY_SOCKET = "FFFFFFFF:0F74"
"""Where a GigE Vision camera receives searches, 255.255.255.255:3956, as /proc/net/udp shows it."""
LIMIT_S = 2.0
WITHIN_S = 0.3
"""How long a part stays in front of the camera. Triggered this short before the return, it may still be seen."""
LONG_S = 12.0
"""Length of the first absence of each kind: longer than any pause between two attempts to connect."""
PATIENCE_S = 30.0
TRIGGER_EVERY_S = 0.15
"""Each part takes two frames: the one in progress and its own. The cameras give 20 or 25 frames a second."""


class RealCamera(ABC):
    """A camera in a process of its own. `source` is its YAML for the configuration."""

    name: str
    source: str
    more = ""

    def __init__(self) -> None:
        self._process: subprocess.Popen[str] | None = None

    @abstractmethod
    def command(self) -> list[str]:
        """The command that starts it."""

    def start(self) -> None:
        self._process = subprocess.Popen(self.command(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)

    def send(self, what: signal.Signals) -> None:
        assert self._process is not None
        self._process.send_signal(what)

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None


class Rtsp(RealCamera):
    name = "rtsp"

    def __init__(self) -> None:
        super().__init__()
        with socket.create_server(("127.0.0.1", 0)) as probe:
            self._port = probe.getsockname()[1]
        self.source = f"{{kind: url, url: 'rtsp://127.0.0.1:{self._port}/live'}}"

    def command(self) -> list[str]:
        return [SYSTEM_PYTHON, str(RTSP_CAMERA), str(self._port)]

    def start(self) -> None:
        super().start()
        assert self._process is not None
        assert self._process.stdout is not None
        if self._process.stdout.readline() != "ready\n":  # only now the camera exists
            raise SystemExit("the RTSP server did not start")

    @staticmethod
    def missing() -> str:
        if not Path(SYSTEM_PYTHON).exists():
            return f"there is no {SYSTEM_PYTHON}"
        done = subprocess.run(
            [SYSTEM_PYTHON, RTSP_CAMERA],
            capture_output=True,
            text=True,
            check=False,
        )
        return "" if done.returncode == 0 else (done.stdout or done.stderr).strip().splitlines()[-1]


class GigE(RealCamera):
    name = "gige"
    # Its colours change with every frame, but their mean stays in the range that the tests' bundle passes.
    source = f"{{kind: genicam, camera: Aravis-Fake-{SERIAL}, pixel_format: RGB8, fps: 20}}"

    def command(self) -> list[str]:
        return [FAKE_CAMERA, "-i", "127.0.0.1", "-s", SERIAL]

    def start(self) -> None:
        super().start()
        give_up_at = time.monotonic() + PATIENCE_S
        while DISCOVERY_SOCKET not in Path("/proc/net/udp").read_text():  # from then on it can be found
            if time.monotonic() > give_up_at:
                raise SystemExit("the GigE Vision camera did not start")
            time.sleep(0.01)

    @staticmethod
    def missing() -> str:
        if shutil.which(FAKE_CAMERA) is None:
            return f"there is no {FAKE_CAMERA} (Debian: aravis-tools)"
        try:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", ImportWarning)  # gi's own imports cause it
                load_aravis()
        except ConfigError as error:
            return error.what
        return ""


CAMERAS: dict[str, type[Rtsp] | type[GigE]] = {"rtsp": Rtsp, "gige": GigE}


@dataclass
class Cycle:
    """One fault.

    Attributes:
        fault: Its name.
        began: When it began, in monotonic seconds.
        returned: When the camera was back, in monotonic seconds.
        stall_s: How long it took to notice the stall.
        back_s: How long it took from the return to the first PASS.
        passed: Parts that were PASS without a camera.
    """

    fault: str
    began: float
    returned: float
    stall_s: float | None = None
    back_s: float | None = None
    passed: int = 0


@dataclass
class Rig:
    """A daemon with its cameras, the triggers sent and the messages received, each with its monotonic second."""

    folder: Path
    cameras: list[RealCamera]
    triggered: dict[str, float] = field(default_factory=dict)
    verdicts: dict[str, tuple[float, dict[str, Any]]] = field(default_factory=dict)
    states: dict[str, list[tuple[float, str]]] = field(default_factory=dict)
    refused: dict[str, list[tuple[float, str]]] = field(default_factory=dict)
    twice: int = 0

    def __post_init__(self) -> None:
        self.publish, self.control = f"ipc://{self.folder}/pub", f"ipc://{self.folder}/ctl"
        write_bundle(self.folder / "store" / "tiny", replace(tiny_draft(), score_threshold=0.9))
        text = (
            f"engine: {{bundle: store/tiny, threads: 1}}\npublish: {{endpoint: '{self.publish}', masks: false}}\n"
            f"control: {{endpoint: '{self.control}'}}\njournal: {{path: verdicts.db}}\ncameras:\n"
        )
        for camera in self.cameras:
            self.states[camera.name], self.refused[camera.name] = [], []
            text += (
                f"  {camera.name}:\n    source: {camera.source}\n    policy: every\n    queue: 8\n"
                f"    trigger: {{kind: software, within_ms: {WITHIN_S * 1000:g}}}\n"
            )
        config = self.folder / "station.yaml"
        config.write_text(text)
        self.log = self.folder / "daemon.log"
        with self.log.open("wb") as log:
            self.daemon = subprocess.Popen([sys.executable, "-m", "anosegd", "run", str(config)], stdout=log, stderr=log)
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._listen)]
        self._threads += [threading.Thread(target=self._trigger, args=(camera.name,)) for camera in self.cameras]
        for thread in self._threads:
            thread.start()

    def _listen(self) -> None:
        with zmq.Context() as context, context.socket(zmq.SUB) as sub:
            sub.set(zmq.RCVHWM, 0)
            sub.set(zmq.RECONNECT_IVL, 10)
            sub.subscribe("")
            sub.connect(self.publish)
            while self.daemon.poll() is None:
                while sub.poll(300):
                    topic, data = sub.recv_multipart()[:2]
                    header, now = json.loads(data), time.monotonic()
                    if topic == b"state":
                        for name, health in header["cameras"].items():
                            self.states[name].append((now, health["state"]))
                    else:
                        self.twice += header["part_id"] in self.verdicts
                        self.verdicts[header["part_id"]] = now, header

    def _trigger(self, name: str) -> None:
        with Client(self.publish, self.control, request_timeout_s=5) as client:
            n = 0
            while not self._over.wait(TRIGGER_EVERY_S):
                n += 1
                asked = time.monotonic()
                try:
                    client.request("trigger", camera=name, part_id=f"{name}-{n}")
                    self.triggered[f"{name}-{n}"] = asked
                except ClientError as error:
                    self.refused[name].append((asked, str(error)))

    def passes(self, name: str, since: float) -> list[tuple[float, float]]:
        """Trigger time and verdict time of each PASS of this camera that was triggered after `since`."""
        known = [(self.triggered.get(part), v) for part, v in list(self.verdicts.items()) if part.startswith(name)]
        return sorted(
            (asked, at) for asked, (at, v) in known if asked is not None and asked >= since and v["outcome"] == "PASS"
        )

    def wait_for(self, found: Callable[[], float | None], what: str, patience_s: float = PATIENCE_S) -> float | None:
        give_up_at = time.monotonic() + patience_s
        while time.monotonic() < give_up_at:
            if (value := found()) is not None:
                return value
            if self.daemon.poll() is not None:
                raise SystemExit(f"the daemon has ended ({what}):\n{self.log.read_text()[-2000:]}")
            time.sleep(0.02)
        return None

    def first_pass(self, name: str, since: float) -> float | None:
        return self.wait_for(lambda: next((at for _, at in self.passes(name, since)), None), f"{name} is inspected")

    def account(self, name: str, cycle: Cycle) -> str:
        """The outcomes of the cycle's parts, by seconds from the camera's return. Equal outcomes in a row share a line."""
        outcomes = [(asked, f"trigger refused: {error}") for asked, error in list(self.refused[name])]
        for part, (at, verdict) in list(self.verdicts.items()):
            if part.startswith(name):
                what = " ".join(str(verdict[key]) for key in ("outcome", "reason", "detail") if verdict.get(key))
                outcomes.append((self.triggered.get(part, at), re.sub(r"\d+", "#", what)))
        runs = itertools.groupby(sorted(t for t in outcomes if t[0] >= cycle.began), key=lambda t: t[1])
        lines = []
        for what, group in runs:
            times = [at - cycle.returned for at, _ in group]
            lines.append(f"    {times[0]:+.2f} to {times[-1]:+.2f} s, {len(times)}: {what}")
        return "\n".join(lines)

    def lost_at(self, name: str, since: float, patience_s: float) -> float | None:
        def found() -> float | None:
            return next((at for at, state in self.states[name] if at > since and state == "lost"), None)

        return self.wait_for(found, f"{name} is lost", patience_s)

    def counts(self) -> dict[str, int]:
        """Number of the daemon's processes, threads and descriptors.

        SQLite keeps the descriptor of a closed connection for the next one. The journal's file therefore counts three times,
        the most it can be open, whether or not all three connections were used yet.
        """
        kinds = self.descriptors()
        return {
            "processes": len(children_of(self.daemon.pid)),
            "threads": len(list(Path(f"/proc/{self.daemon.pid}/task").iterdir())),
            "descriptors": len(kinds) + max(0, 3 - sum(kind.endswith("verdicts.db") for kind in kinds)),
        }

    def descriptors(self) -> list[str]:
        """The kinds of the daemon's descriptors."""
        links = []
        for fd in Path(f"/proc/{self.daemon.pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                links.append(str(fd.readlink()).split("[")[0].split(":[")[0])
        return sorted(links)

    def settled(self, wanted: dict[str, int] | None = None) -> dict[str, int]:
        """The counts, when they are stable for a second or equal to `wanted`."""
        counts = self.counts()
        for _ in range(20):
            time.sleep(1)
            before, counts = counts, self.counts()
            if counts == (wanted or before):
                break
        return counts

    def finish(self) -> list[str]:
        """Stop the daemon with SIGTERM. Returns what went wrong."""
        self._over.set()
        for thread in self._threads[1:]:
            thread.join()
        children = children_of(self.daemon.pid)
        self.daemon.send_signal(signal.SIGTERM)
        code = self.daemon.wait(PATIENCE_S)
        self._threads[0].join()
        wrong = [f"the daemon ended with {code}"] if code else []
        wrong += [f"process {pid} is still alive after the daemon" for pid in children if alive(pid)]
        unanswered = [part for part in self.triggered if part not in self.verdicts]
        if unanswered:
            wrong.append(f"{len(unanswered)} accepted triggers have no verdict: {unanswered[:3]}")
        if self.twice:
            wrong.append(f"{self.twice} parts have a second verdict")
        if "Traceback" in self.log.read_text():
            wrong.append("a traceback in the log")
        return wrong

    def close(self) -> None:
        self._over.set()
        if self.daemon.poll() is None:
            self.daemon.kill()
            self.daemon.wait()
        for thread in self._threads:
            thread.join()
        for camera in self.cameras:
            camera.stop()


@contextmanager
def killed(camera: RealCamera) -> Iterator[None]:
    camera.stop()
    yield
    camera.start()


@contextmanager
def frozen(camera: RealCamera) -> Iterator[None]:
    camera.send(signal.SIGSTOP)
    yield
    camera.send(signal.SIGCONT)


@contextmanager
def slowed(camera: RealCamera) -> Iterator[None]:
    """The camera runs only half of the time: it pauses every other quarter of a second."""
    over = threading.Event()

    def slow() -> None:
        while not over.is_set():
            camera.send(signal.SIGSTOP)
            over.wait(0.25)
            camera.send(signal.SIGCONT)
            over.wait(0.25)

    thread = threading.Thread(target=slow)
    thread.start()
    yield
    over.set()
    thread.join()


FAULTS = {"killed": killed, "restarted": killed, "frozen": frozen, "slowed": slowed}


def one_cycle(rig: Rig, camera: RealCamera, fault: str, away_s: float) -> Cycle:
    """Cause a fault, and wait until parts are PASS again. `away_s` counts from when the stall was noticed."""
    began = time.monotonic()
    lost_at = None
    with FAULTS[fault](camera):
        if fault in ("killed", "frozen"):
            lost_at = rig.lost_at(camera.name, began, LIMIT_S + 1)
        time.sleep(away_s)
    returned = time.monotonic()
    back_at = rig.first_pass(camera.name, returned)
    cycle = Cycle(fault, began, returned, lost_at and lost_at - began, back_at and back_at - returned)
    if fault in ("killed", "frozen"):
        cycle.passed = sum(asked < returned - WITHIN_S for asked, _ in rig.passes(camera.name, began))
    time.sleep(random.uniform(2.0, 3.0))
    return cycle


def judge(camera: str, cycle: Cycle) -> list[str]:
    """Return the requirements that the cycle missed."""
    wrong = []
    must_stall = cycle.fault in ("killed", "frozen")
    if must_stall and (cycle.stall_s is None or cycle.stall_s >= LIMIT_S):
        wrong.append("stall not noticed" if cycle.stall_s is None else f"stall noticed after {cycle.stall_s:.2f} s")
    if cycle.back_s is None or cycle.back_s > LIMIT_S:
        wrong.append("did not come back" if cycle.back_s is None else f"back after {cycle.back_s:.2f} s")
    if cycle.passed:
        wrong.append(f"{cycle.passed} parts PASS without a camera")
    return [f"{camera} {cycle.fault}: {what}" for what in wrong]


def real_cameras(names: list[str], faults: list[str], cycles: int, *, long: bool = True, log: Path | None = None) -> list[str]:
    """Run this many cycles for each camera, with the faults in turn, and print a table. Returns what went wrong."""
    with tempfile.TemporaryDirectory(prefix="anoseg-real-") as folder:
        cameras: list[RealCamera] = [CAMERAS[name]() for name in names]
        for camera in cameras:
            camera.start()
        rig = Rig(Path(folder), cameras)
        done: dict[str, list[Cycle]] = {name: [] for name in names}
        try:
            for name in names:
                if rig.first_pass(name, 0.0) is None:
                    raise SystemExit(f"{name} has no PASS: {list(rig.verdicts.values())[-3:]}\n{rig.log.read_text()[-2000:]}")
            before, kinds_before = rig.settled(), rig.descriptors()

            def work(camera: RealCamera) -> None:
                for i in range(cycles):
                    fault = faults[i % len(faults)]
                    away_s = LONG_S if long and i < len(faults) and fault in ("killed", "frozen") else random.uniform(0.0, 2.0)
                    cycle = one_cycle(rig, camera, fault, 0.0 if fault == "restarted" else away_s)
                    done[camera.name].append(cycle)
                    for line in judge(camera.name, cycle):
                        print(f"cycle {i + 1}, {line}\n{rig.account(camera.name, cycle)}", flush=True)

            threads = [threading.Thread(target=work, args=(camera,)) for camera in cameras]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            after, kinds = rig.settled(before), rig.descriptors()
            new = [kind for kind in set(kinds) for _ in range(kinds.count(kind) - kinds_before.count(kind))]
            wrong = [line for name, cycles in done.items() for cycle in cycles for line in judge(name, cycle)]
            wrong += [f"{what}: {n} before, {after[what]} after {new}" for what, n in before.items() if after[what] > n]
            wrong += rig.finish()
            show(done, before, after, len(rig.triggered))
            return wrong
        finally:
            rig.close()
            if log is not None:
                shutil.copy(rig.log, log)


def show(done: dict[str, list[Cycle]], before: dict[str, int], after: dict[str, int], parts: int) -> None:
    """Print the table."""
    table = Table(title=f"Real protocols; {parts} parts triggered. Seconds: median, maximum")
    for column in ("camera", "fault", "cycles", "stall noticed after", "PASS without camera", "PASS again after", "within 2 s"):
        table.add_column(column)
    for name, cycles in done.items():
        for fault in dict.fromkeys(c.fault for c in cycles):
            of_fault = [c for c in cycles if c.fault == fault]
            stalls, backs = [c.stall_s for c in of_fault if c.stall_s], [c.back_s for c in of_fault if c.back_s]
            must_stall = fault in ("killed", "frozen")
            quick = sum(s <= LIMIT_S for s in backs)
            table.add_row(
                name, fault, str(len(of_fault)), _seconds(stalls) if must_stall else "–",
                str(sum(c.passed for c in of_fault)) if must_stall else "–", _seconds(backs), f"{quick} of {len(of_fault)}",
            )  # fmt: skip
    Console(width=120).print(table)
    print("the daemon's " + ", ".join(f"{what}: {n} before, {after[what]} after" for what, n in before.items()))


def _seconds(values: list[float]) -> str:
    return f"{statistics.median(values):.2f}, {max(values):.2f}" if values else "never"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--camera", action="append", choices=CAMERAS)
    parser.add_argument("--fault", action="append", choices=FAULTS)
    parser.add_argument("--cycles", type=int, default=12, help="cycles for each camera, with the faults in turn (12)")
    parser.add_argument("--no-long", action="store_true", help=f"no absences of {LONG_S:g} s in the first round")
    parser.add_argument("--log", type=Path, help="copy the daemon's log to this file")
    options = parser.parse_args()
    names = options.camera or list(CAMERAS)
    for name in list(names):
        if reason := CAMERAS[name].missing():
            print(f"skipping {name}: {reason}")
            names.remove(name)
    if not names:
        return 1
    wrong = real_cameras(names, options.fault or list(FAULTS), options.cycles, long=not options.no_long, log=options.log)
    print("\n".join(["FAILED:", *wrong]) if wrong else "all requirements met")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
