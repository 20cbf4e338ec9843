"""A station, a bridge and a PLC are killed 20 times each while 2,000 parts pass; each is acted on rightly, or rejected.

    python tests/stress/plc_kills.py --parts 2000 --kills 20 --kind modbus

All three are processes and are killed with SIGKILL at random moments. The PLC runs the program of docs/plc.md and writes down
what it does. At the end, its notes are compared with the station's journal. With the kinds s7 and logix, a stranger's server is
the PLC's memory, and dies with the PLC.
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import Any

import cv2

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.bridge_process import BridgeProcess, free_port
from support.logix_plc import LogixPlc, fetch_server
from support.opcua_plc import OpcUaPlc
from support.plc import Plc, PolledPlc, Seen
from support.s7_plc import S7Plc, fetch_library
from support.tiny_bundle import bad_part, good_part, write_tiny_bundle

from anosegd.client import Client

STILL_S = 90.0
"""Without a new part for this long, something hangs."""
SCAN_S = 0.02
"""The pause between two cycles of a PLC that is polled: reading its memory takes time that the bridge needs, too."""
POLLED: dict[str, type[S7Plc] | type[LogixPlc]] = {"s7": S7Plc, "logix": LogixPlc}
CONFIGS = {"opcua": OpcUaPlc.config, **{kind: memory.config for kind, memory in POLLED.items()}}


def be_the_plc(kind: str, server: Path, port: int, notes: Path, first: int) -> None:
    """Run the PLC until killed."""
    file = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def note(*words: object) -> None:
        os.write(file, (" ".join(map(str, words)) + "\n").encode())

    def act(part: str, action: str, seen: Seen | None) -> None:
        note(action, part, "nothing" if seen is None else seen.part_id, 0 if seen is None else seen.reason)

    if kind in POLLED:
        plc: Plc = PolledPlc(POLLED[kind](server, port), act, gate_s=5.0)
    else:
        plc = (OpcUaPlc if kind == "opcua" else Plc)(port, act, gate_s=5.0)
    pause_s = SCAN_S if kind in POLLED else 0.002
    n = first
    while True:
        if plc.free:
            note("offered", f"p{n}")
            plc.offer(f"p{n}")
            n += 1
        plc.cycle()
        time.sleep(pause_s)


class Rig:
    """The three processes and the PLC's notes."""

    def __init__(self, folder: Path, kind: str) -> None:
        self.folder, self.kind, self.port = folder, kind, free_port()
        self.server = folder / "server"  # of a PLC that the bridge polls
        if kind in POLLED:
            self.server.mkdir()
        if kind == "s7":
            self.server = fetch_library(self.server) or self.server
        elif kind == "logix":
            fetch_server(self.server)
        self.notes = folder / "notes"
        self.notes.touch()
        self.publish, self.control = f"ipc://{folder}/pub", f"ipc://{folder}/control"
        write_tiny_bundle(folder / "store")
        (folder / "parts").mkdir()
        cv2.imwrite(str(folder / "parts" / "0.png"), good_part())
        cv2.imwrite(str(folder / "parts" / "1.png"), bad_part())
        (folder / "line.yaml").write_text(
            f"engine: {{bundle: store, threads: 1}}\npublish: {{endpoint: '{self.publish}'}}\n"
            f"control: {{endpoint: '{self.control}'}}\njournal: {{path: verdicts.db}}\ncameras:\n  eye:\n"
            "    source: {kind: folder, path: parts, loop: true, preload: true}\n    policy: every\n    queue: 8\n"
            "    trigger: {kind: software, within_ms: 2000}\n"
        )
        (folder / "bridge.yaml").write_text(
            f"camera: eye\nstation: {{publish: '{self.publish}', control: '{self.control}'}}\nresult_window_ms: 1000\n"
            + CONFIGS.get(kind, lambda port: f"modbus: {{listen: '127.0.0.1:{port}'}}\n")(self.port)
        )
        self.processes: dict[str, subprocess.Popen[Any]] = {}

    def start(self, what: str) -> None:
        """Start one of the three."""
        if what == "bridge":
            self.processes[what] = BridgeProcess(self.folder / "bridge.yaml", kind=self.kind).process
            return
        command = ["-m", "anosegd", "run", str(self.folder / "line.yaml")]
        if what == "plc":
            first = sum(1 for line in self.lines if line[0] == "offered") + 1
            command = [__file__, "--plc", self.kind, str(self.server), str(self.port), str(self.notes), str(first)]
        with (self.folder / f"{what}.out").open("ab") as log:
            self.processes[what] = subprocess.Popen(
                [sys.executable, *command], stdout=log, stderr=log, start_new_session=what == "plc"
            )

    def kill(self, what: str) -> None:
        """Kill one of the three; a PLC with its memory."""
        process = self.processes[what]
        if what == "plc" and process.returncode is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.kill()
        process.wait()

    @property
    def lines(self) -> list[list[str]]:
        """The PLC's notes."""
        return [line.split() for line in self.notes.read_text().splitlines()]

    @property
    def judged(self) -> int:
        """Parts with a result."""
        return sum(line[0] in ("pass", "reject") and line[2] != "nothing" for line in self.lines)

    def verdicts(self) -> dict[str, list[dict[str, Any]]]:
        """The journal's verdicts by part id."""
        found: dict[str, list[dict[str, Any]]] = {}
        with Client(self.publish, self.control, request_timeout_s=10) as client:
            for verdict in client.replay(1):
                found.setdefault(verdict["part_id"], []).append(dict(verdict))
        return found


def run(folder: Path, parts: int, kills: int, *, seed: int, kind: str = "modbus") -> list[str]:
    """Run the test. Returns what went wrong."""
    chance, rig, wrong = random.Random(seed), Rig(folder, kind), []
    names = ["station", "bridge", "plc"]
    victims = names * kills
    chance.shuffle(victims)
    each = parts // (len(victims) + 1) + 1
    try:
        for name in names:
            rig.start(name)
        for victim in [*victims, None]:
            goal, still, before = rig.judged + each, time.monotonic(), rig.judged
            while (now := rig.judged) < goal and time.monotonic() - still < STILL_S:
                if now != before:
                    before, still = now, time.monotonic()
                time.sleep(0.02)
            if now < goal:
                return [
                    *wrong,
                    f"no part for {STILL_S:g} s before the kill of {victim}: {(folder / 'bridge.log').read_text()[-2000:]}",
                ]
            if victim is not None:
                time.sleep(chance.uniform(0, 0.05))
                rig.kill(victim)
                time.sleep(chance.choice((0, 0.1, 3)))
                rig.start(victim)
        rig.kill("plc")
        wrong += compared(rig.lines, rig.verdicts())
    finally:
        for name in rig.processes:
            rig.kill(name)
    return wrong


def compared(lines: list[list[str]], verdicts: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Return what the PLC did wrong."""
    wrong: list[str] = []
    acted: dict[str, str] = {}
    counts: Counter[str] = Counter()
    for action, part, *more in lines:
        if action == "offered":
            counts["offered"] += 1
            continue
        seen = more[0]
        counts[f"{action}, {'without a result' if seen == 'nothing' else 'by a result'}"] += 1
        if part in acted:
            wrong.append(f"{part} was acted on twice")
        acted[part] = action
        if seen not in ("nothing", part):
            wrong.append(f"{part} was acted on by the result of {seen}")
        if action == "pass":
            judged = verdicts.get(part, [])
            if [verdict["outcome"] for verdict in judged] != ["PASS"] or not judged[0]["source"].endswith("0.png"):
                wrong.append(f"{part} passed, and the journal says {judged}")
    counts["left by a killed PLC, rejected at the gate"] = counts["offered"] - len(acted)
    print("\n".join(f"  {what:48} {n}" for what, n in sorted(counts.items())))
    return wrong


def main() -> int:
    """Run and report."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", type=int, default=2000)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--kind", choices=("modbus", "opcua", *POLLED), default="modbus")
    parser.add_argument("--plc", nargs=5, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.plc is not None:
        kind, server, port, notes, first = options.plc
        be_the_plc(kind, Path(server), int(port), Path(notes), int(first))
    begin = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="anoseg-kills-") as name:
        wrong = run(Path(name), options.parts, options.kills, seed=options.seed, kind=options.kind)
    print(f"{options.kills} kills each of station, bridge and PLC in {time.monotonic() - begin:.0f} s")
    print("\n".join(wrong) or "nothing wrong")
    return int(bool(wrong))


if __name__ == "__main__":
    raise SystemExit(main())
