"""Measures what nine clients, one browser and the evidence cost a part. `make clients-bench`; about five minutes.

    python tests/bench/clients_cost.py [--seconds 15] [--rounds 3] [--places apart,shared] [--json FILE]

The real daemon inspects parts of the demo line (640 x 640 pixels, one camera) at half of the engine's own rate. Turns "with",
"busy" and "without" alternate in one run. In all, one plain subscriber counts. A turn "with" has in addition:

- evidence: rejected parts and one of ten good ones, as PNG;
- nine clients, each a process of its own: three durable consumers that acknowledge, two plain subscribers of verdicts, one each
  of maps, of pictures and of heartbeats, and one that subscribes to everything;
- `anosegd view` with the page "Live" open in a headless Chromium.

A turn "busy" has neither clients nor evidence, but a program that computes as much as the clients, the screen and the browser
do together, on the same cores. Its p99 shows what the neighbours of a core cost by themselves: shared caches and memory, and
the host of a virtual machine, which may give two busy processors less time than one ("stolen" in the table).

Measured is the time from capture to the end of the sending, in the daemon's process (`stages.py`), and its stages. Three things
must hold: no part is lost or late, each durable consumer gets every verdict, and the p99 with clients is at most 1.1 times the
p99 without.

On two cores the result depends on what runs where: the engine's two threads use both cores, and Chromium needs up to one more,
because it draws without a GPU. Two cases are therefore measured:

apart   Daemon and capture have the first core; clients, `anosegd view` and Chromium have the others. This is a station with
        cores to spare, or a browser on another machine. What the daemon itself does for its clients (encoding pictures, writing
        evidence) competes with the engine for the one core. A process that the daemon started for this would have the same
        core: it would inherit it. The limit of 1.1 holds for this case.
shared  Everything may use all cores. Chromium runs at a lower priority (`nice -n 10`). That counts here because all programs
        belong to one session; docs/screen.md says how to set it for a kiosk.

`anosegd view` lowers its own priority in both cases. The exit code is 1 if something does not hold; `--limit` names the cases
for which the 1.1 counts.
"""

import argparse
import contextlib
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import zmq
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.evidence_cost import engine_ms
from bench.stages import STAGES
from support.anosegd_line import Daemon
from support.browser import Browser
from support.paths import DEMO
from support.processors import on_cores, processor_s
from support.view_server import ViewServer

from anosegd.client import Client
from anosegd.demo.line import DemoLine

N_IMAGES = 40
SIZE = 640
CLIENTS = ("consumer",) * 3 + ("verdict.",) * 2 + ("mask.", "image.", "state", "")
"""Kinds of clients: a durable consumer, or the topic of a plain subscriber."""
NICE_BROWSER = ("nice", "-n", "10")
STAGES_PY = Path(__file__).with_name("stages.py")
KINDS = ("without", "busy", "with")
PIECE_S = 0.01
LIMIT = 1.1
WARM_UP_S = 2.0


@dataclass
class Turn:
    """What one turn, or several of a kind, found.

    Attributes:
        stages: Milliseconds of each part, see `bench.stages.STAGES`; the last one is from capture to sending.
        p99s: The p99 from capture to sending, of each turn.
        lost: Parts that are UNKNOWN, found no room, or whose number is missing.
        late: Results that came after their part was closed.
        missing: Verdicts that a durable consumer did not get.
        kept, dropped: Parts of the evidence.
        drawn: Verdicts that the page has drawn.
        cores: Mean number of cores in use, by program.
    """

    stages: list[list[float]] = field(default_factory=list)
    p99s: list[float] = field(default_factory=list)
    failed: int = 0
    lost: int = 0
    late: int = 0
    missing: int = 0
    kept: int = 0
    dropped: int = 0
    drawn: int = 0
    cores: dict[str, list[float]] = field(default_factory=dict)

    def add(self, other: "Turn") -> None:
        """Add another turn."""
        self.stages += other.stages
        self.p99s.append(float(np.percentile([one[-1] for one in other.stages], 99)))
        for name in ("failed", "lost", "late", "missing", "kept", "dropped", "drawn"):
            setattr(self, name, getattr(self, name) + getattr(other, name))
        for name, used in other.cores.items():
            self.cores.setdefault(name, []).extend(used)


# ---- a client, in a process of its own


def follow(kind: str, name: str, publish: str, control: str) -> None:
    """Receive until SIGTERM, then print the numbers of the verdicts as JSON: the first, the last, and how many."""
    seqs: list[int] = []
    over = False

    def end(*_: object) -> None:
        nonlocal over
        over = True

    signal.signal(signal.SIGTERM, end)
    if kind == "consumer":
        with Client(publish, control) as client:
            for verdict in client.follow(consumer=name, idle_s=2.0):
                seqs.append(verdict["seq"])
    else:
        with zmq.Context() as context, context.socket(zmq.SUB) as socket:
            socket.linger = 0
            socket.subscribe(kind)
            socket.connect(publish)
            while not over:
                if socket.poll(200):
                    json.loads(socket.recv_multipart()[1])
    print(json.dumps({"first": min(seqs, default=0), "last": max(seqs, default=0), "n": len(set(seqs))}))


# ---- the station


def write_parts(folder: Path) -> None:
    """Write parts of the demo line, enlarged."""
    folder.mkdir()
    line = DemoLine(3)
    for i in range(N_IMAGES):
        image = cv2.resize(line.part(i).image, (SIZE, SIZE), interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{i:03}.bmp"), image)


@dataclass(frozen=True)
class Place:
    """Says which cores the line has, and which the others."""

    line: set[int]
    others: set[int]


def places() -> dict[str, Place]:
    """Return the places that this machine has."""
    cores = os.sched_getaffinity(0)
    found = {"shared": Place(cores, cores)}
    if len(cores) > 1:
        first = min(cores)
        found["apart"] = Place({first}, cores - {first})
    return found


def rate_of(images: Path, place: Place) -> float:
    """Return half of the engine's own rate, measured in a process of its own."""
    with on_cores(place.line):
        found = subprocess.run([sys.executable, __file__, "--engine", str(images)], check=True, capture_output=True, text=True)
    return 500 / float(found.stdout)


def run(folder: Path, images: Path, *, fps: float, seconds: float, place: Place, kind: str, busy: float = 0.0) -> Turn:
    """Run the station for one turn.

    Args:
        folder: For the turn's files.
        images: The parts.
        fps: Parts a second.
        seconds: How long to measure.
        place: Who has which cores.
        kind: One of `KINDS`.
        busy: For the kind "busy": how many cores another program uses.
    """
    crowd = kind == "with"
    publish, control = f"ipc://{folder}/pub", f"ipc://{folder}/control"
    config = folder / "station.yaml"
    config.write_text(
        f"engine: {{bundle: {DEMO}}}\npublish: {{endpoint: '{publish}'}}\ncontrol: {{endpoint: '{control}'}}\n"
        "journal: {path: verdicts.db}\n"
        + ("evidence: {folder: kept, good_share: 0.1}\n" if crowd else "")
        + f"cameras:\n  c:\n    source: {{kind: folder, path: {images}, preload: true, loop: true, fps: {fps:.2f}}}\n"
        "    policy: every\n"
    )
    with contextlib.ExitStack() as stack:
        stack.enter_context(on_cores(place.others))
        with on_cores(place.line):
            daemon = Daemon(config, program=(str(STAGES_PY), str(folder / "stages.json")))
        stack.callback(daemon.close)
        programs = {"daemon": [daemon.process.pid]}
        socket = stack.enter_context(zmq.Context()).socket(zmq.SUB)
        socket.set(zmq.RCVHWM, 0)
        socket.linger = 0
        stack.callback(socket.close)
        for topic in ("verdict.", "state"):
            socket.subscribe(topic)
        socket.connect(publish)
        measured = _Measured(socket)
        measured.wait()
        clients, browser = [], None
        low = NICE_BROWSER if place.others == place.line else ()
        if kind == "busy":
            processes = [
                subprocess.Popen([*low, sys.executable, __file__, "--busy", f"{busy / math.ceil(busy):.3f}"])
                for _ in range(math.ceil(busy))
            ]
            for process in processes:
                stack.callback(process.wait)
                stack.callback(process.kill)
            programs["other"] = [process.pid for process in processes]
        if crowd:
            view = ViewServer(folder, str(config))
            stack.callback(view.close)
            for number, kind in enumerate(CLIENTS):
                command = [sys.executable, __file__, "--client", kind, f"client-{number}", publish, control]
                clients.append(subprocess.Popen(command, stdout=subprocess.PIPE, text=True))
                stack.callback(clients[-1].kill)
            browser = Browser(folder, before=low)
            stack.callback(browser.close)
            programs |= {"view": [view.process.pid], "browser": [browser.process.pid], "clients": [c.pid for c in clients]}
            browser.open(view.url)
            browser.wait_for("document.querySelector('.camera[data-picture=current]') !== null")
            browser.evaluate(COUNT_DRAWN)
        measured.listen(WARM_UP_S)
        turn = measured.begin()
        before = {name: sum(map(processor_s, pids)) for name, pids in programs.items()}
        began, stolen_before = time.monotonic(), stolen_s()
        measured.listen(seconds)
        spent = time.monotonic() - began
        turn.cores = {name: [(sum(map(processor_s, pids)) - before[name]) / spent] for name, pids in programs.items()}
        turn.cores["stolen"] = [(stolen_s() - stolen_before) / spent]
        measured.end()
        if browser is not None:
            turn.drawn = int(browser.evaluate("window.drawn"))
            assert browser.messages == [], browser.messages
        assert daemon.terminate() == 0, daemon.log
        last = measured.drain()
        stages = json.loads((folder / "stages.json").read_text())
        turn.stages = [stages[str(seq)] for seq in measured.seqs if str(seq) in stages]
        for client in clients:
            client.terminate()
        for client, kind in zip(clients, CLIENTS, strict=True) if crowd else ():
            found = json.loads(client.communicate(timeout=30)[0])
            if kind == "consumer":
                turn.missing += last - found["n"]
        return turn


def stolen_s() -> float:
    """Return how many seconds the host of a virtual machine has taken from its processors."""
    fields = Path("/proc/stat").read_text().split(maxsplit=9)
    return int(fields[8]) / os.sysconf("SC_CLK_TCK")


def compute(share: float) -> None:
    """Use this share of a core until killed, as clients and browser do: in pieces of some milliseconds."""
    while True:
        began = time.monotonic()
        while time.monotonic() - began < share * PIECE_S:
            pass
        time.sleep((1 - share) * PIECE_S)


COUNT_DRAWN = """(() => {
  window.drawn = 0;
  const part = document.querySelector(".camera .facts");
  new MutationObserver(() => { window.drawn += 1; }).observe(part, { childList: true, subtree: true, characterData: true });
})()"""


class _Measured:
    """Takes what the measuring subscriber receives."""

    def __init__(self, socket: "zmq.Socket[bytes]") -> None:
        self._socket = socket
        self._turn: Turn | None = None
        self._state: dict[str, Any] = {}
        self._counted: dict[str, int] = {}
        self._seq = 0
        self.seqs: list[int] = []
        """Numbers of the verdicts that came between `begin` and `end`."""

    def wait(self) -> None:
        """Wait for the first verdict."""
        end = time.monotonic() + 60
        while not self._seq:
            assert time.monotonic() < end, "no verdict"
            self._take(200)

    def listen(self, seconds: float) -> None:
        """Take what comes for so long."""
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            self._take(min(200, 1000 * left))

    def begin(self) -> Turn:
        """Count from now on."""
        self._counted = self._counts()
        self._turn = Turn()
        return self._turn

    def end(self) -> None:
        """Count no more. Waits for the next heartbeat, which has the counts."""
        turn, self._state = self._turn, {}
        assert turn is not None
        self._turn = None
        end = time.monotonic() + 10
        while not self._state:
            assert time.monotonic() < end, "no heartbeat"
            self._take(200)
        for name, n in self._counts().items():
            setattr(turn, name, getattr(turn, name) + n - self._counted.get(name, 0))

    def drain(self) -> int:
        """Take the rest after the daemon's end. Return the number of the last verdict."""
        while self._take(300):
            pass
        return self._seq

    def _counts(self) -> dict[str, int]:
        if not self._state:
            return {}
        cameras, evidence = self._state["cameras"].values(), self._state["evidence"] or {}
        lost = sum(camera["dropped"] for camera in cameras)  # an overrun has a verdict, which is counted as UNKNOWN
        return {
            "late": self._state["counts"]["late"],
            "lost": lost,
            "kept": evidence.get("kept", 0),
            "dropped": evidence.get("dropped", 0),
        }

    def _take(self, timeout_ms: float) -> bool:
        if not self._socket.poll(timeout_ms):
            return False
        topic, header, *_ = self._socket.recv_multipart()
        message = json.loads(header)
        if topic == b"state":
            self._state = message
            return True
        turn = self._turn
        if turn is not None:
            self.seqs.append(message["seq"])
            turn.failed += message["outcome"] == "FAIL"
            turn.lost += message["outcome"] == "UNKNOWN"
            turn.lost += message["seq"] - self._seq - 1
        self._seq = message["seq"]
        return True


# ---- the whole


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Make all measurements."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="clients-") as made:
        images = Path(made) / "images"
        write_parts(images)
        known = places()
        for name in options.places.split(","):
            if name not in known:
                print(f"{name}: this machine has one core only", file=sys.stderr)
                continue
            fps = rate_of(images, known[name])
            turns = {kind: Turn() for kind in KINDS}
            busy = 0.0
            for number in range(options.rounds):
                for kind in KINDS if number % 2 else KINDS[::-1]:
                    folder = Path(made) / f"{name}-{kind}-{number}"
                    folder.mkdir()
                    turn = run(folder, images, fps=fps, seconds=options.seconds, place=known[name], kind=kind, busy=busy)
                    turns[kind].add(turn)
                    if kind == "with":
                        busy = sum(turn.cores[program][0] for program in ("view", "browser", "clients"))
            found[name] = {"fps": fps, **{kind: _figures(turn) for kind, turn in turns.items()}}
            p99s = {kind: found[name][kind]["p99"] for kind in KINDS}
            found[name] |= {"ratio": p99s["with"] / p99s["without"], "ratio to busy": p99s["with"] / p99s["busy"]}
    return found


def _figures(turn: Turn) -> dict[str, Any]:
    stages = np.array(turn.stages)
    p50, p99 = np.percentile(stages, [50, 99], axis=0)
    slowest = stages[stages[:, -1] >= p99[-1]].mean(axis=0)
    names = ("failed", "lost", "late", "missing", "kept", "dropped", "drawn")
    return {
        "parts": len(stages),
        "p50": float(p50[-1]),
        "p99": float(p99[-1]),
        "stages": {
            name: {"p50": float(a), "p99": float(b), "slowest": float(c)}
            for name, a, b, c in zip(STAGES, p50, p99, slowest, strict=True)
        },
        "p99 of rounds": turn.p99s,
        **{name: getattr(turn, name) for name in names},
        "cores": {name: float(np.mean(used)) for name, used in turn.cores.items()},
    }


def table_of(found: dict[str, Any]) -> Table:
    """Return the table for people."""
    columns = ("case", "clients", "parts", "p50 ms", "p99 ms", "p99 of rounds", "lost", "late", "missing")
    table = Table(*columns, "failed", "kept", "dropped", "drawn", "cores in use")
    for case, one in found.items():
        for kind in KINDS:
            row = one[kind]
            rounds = " ".join(f"{p99:.1f}" for p99 in row["p99 of rounds"])
            numbers = [f"{row['p50']:.1f}", f"{row['p99']:.1f}", rounds, *(str(row[n]) for n in ("lost", "late", "missing"))]
            rest = [str(row[n]) for n in ("failed", "kept", "dropped", "drawn")]
            cores = ", ".join(f"{name} {used:.2f}" for name, used in row["cores"].items())
            table.add_row(f"{case}, {one['fps']:.0f}/s", kind, str(row["parts"]), *numbers, *rest, cores)
        for name, other in (("ratio", "without"), ("ratio to busy", "busy")):
            rounds = zip(one["with"]["p99 of rounds"], one[other]["p99 of rounds"], strict=True)
            table.add_row(case, name, "", "", f"{one[name]:.2f}", " ".join(f"{a / b:.2f}" for a, b in rounds))
        table.add_section()
    return table


def stages_of(found: dict[str, Any]) -> Table:
    """Return the table of the stages: p50 and p99 of each stage, and its mean in the slowest parts."""
    table = Table("case", "clients", *STAGES, title="ms: p50 / p99 / mean in the slowest 1 % of the parts")
    for case, one in found.items():
        for kind in KINDS:
            stages = one[kind]["stages"].values()
            table.add_row(case, kind, *(f"{s['p50']:.1f} / {s['p99']:.1f} / {s['slowest']:.1f}" for s in stages))
        table.add_section()
    return table


def problems(found: dict[str, Any], limited: list[str]) -> Iterator[str]:
    """Say what must hold and does not."""
    for case, one in found.items():
        for name in ("lost", "late", "missing"):
            if one["with"][name] > one["without"][name]:
                yield f"{case}: {one['with'][name]} {name}, {one['without'][name]} without clients"
        if case in limited and one["ratio"] > LIMIT:
            yield f"{case}: the p99 is {one['ratio']:.2f} times that without clients, more than {LIMIT}"
        if not (one["with"]["kept"] and one["with"]["drawn"]):
            yield f"{case}: no evidence was kept, or the page has drawn nothing: this run shows nothing"


def main() -> int:
    """Measure, print the table, and say what does not hold."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=15.0, help="of a turn (15)")
    parser.add_argument("--rounds", type=int, default=3, help="turns of each kind (3)")
    parser.add_argument("--places", default="apart,shared", help="cases to measure (apart,shared)")
    parser.add_argument("--limit", default="apart", help="cases for which the limit of 1.1 holds (apart)")
    parser.add_argument("--json", type=Path, help="write the figures to this file")
    parser.add_argument("--client", nargs=4, help=argparse.SUPPRESS)
    parser.add_argument("--engine", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--busy", type=float, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.client:
        follow(*options.client)
        return 0
    if options.busy:
        compute(options.busy)
    if options.engine:
        print(engine_ms(options.engine))
        return 0
    found = measure(options)
    console = Console(width=200)
    console.print(table_of(found))
    console.print(stages_of(found))
    if options.json:
        options.json.write_text(json.dumps(found, indent=1))
    wrong = list(problems(found, options.limit.split(",")))
    for what in wrong:
        print(f"WRONG, {what}")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
