"""Runs the real daemon on the simulated line, compares the verdicts with the truth, and draws the defects found."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import yaml
import zmq
from numpy.typing import NDArray
from rich.console import Console, Group
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table

import anosegd
from anoseg_engines.bundle import find_bundle
from anoseg_engines.errors import AnosegError, PublishError
from anoseg_engines.images import Image
from anoseg_engines.words import counted
from anosegd.demo.line import DemoLine, DemoPart, part_index

SILENCE_S = 30.0
"""A daemon that sends nothing for this long has failed."""
COLOURS = {"caught": "red", "good": "green", "missed": "bold yellow", "false reject": "bold magenta", "unknown": "bold cyan"}


def demo_bundle() -> Path:
    """Return the demo's bundle in the checkout from which this program runs."""
    return Path(anosegd.__file__).resolve().parents[2] / "engines" / "store" / "demo"


@dataclass
class _Tally:
    """Compares the verdicts received so far with the truth.

    Attributes:
        line: Renders the parts again, to know the truth.
        total: Number of parts.
        results: Result by part index.
        defects: Number of parts by (defect, result).
        latencies_ms: From capture to the finished verdict.
        rows: The newest parts, for the table.
    """

    line: DemoLine
    total: int
    results: dict[int, str] = field(default_factory=dict)
    defects: Counter[tuple[str, str]] = field(default_factory=Counter)
    latencies_ms: list[float] = field(default_factory=list)
    rows: list[tuple[str, ...]] = field(default_factory=list)

    def add(self, verdict: dict[str, Any], part: DemoPart) -> str:
        outcome = verdict["outcome"]
        if outcome == "UNKNOWN":
            result = "unknown"
        elif part.defect is None:
            result = "good" if outcome == "PASS" else "false reject"
        else:
            result = "caught" if outcome == "FAIL" else "missed"
        self.results[part_index(part.part_id)] = result
        self.defects[part.defect or "good", result] += 1
        self.latencies_ms.append(verdict["timings_ms"]["total"])
        score = "–" if verdict["score"] is None else f"{verdict['score']:.3f}"
        row = (part.part_id, part.defect or "good", outcome, score, f"{self.latencies_ms[-1]:.0f} ms", result)
        self.rows = [*self.rows[-9:], row]
        return result

    def count(self, result: str) -> int:
        return sum(r == result for r in self.results.values())


def run_demo(out: Path, *, parts: int, fps: float, seed: int, bundle: Path | None = None) -> int:
    """Run the demo and write its pictures, configuration and log to `out`.

    Args:
        out: Folder for the results.
        parts: Number of parts.
        fps: Parts per second.
        seed: Another seed gives other parts.
        bundle: The bundle that inspects; the demo's by default.

    Returns:
        0 if every part received a verdict, else 1.

    Raises:
        AnosegError: The daemon does not start, or stops early.
    """
    console = Console()
    (out / "overlays").mkdir(parents=True, exist_ok=True)
    for old in (out / "overlays").glob("*.png"):
        old.unlink()
    tally = _Tally(DemoLine(seed), parts)
    with tempfile.TemporaryDirectory(prefix="anoseg-demo-") as sockets:
        endpoint = f"ipc://{sockets}/verdicts"
        config = out / "demo.yaml"
        source = {"kind": "demo", "seed": seed, "fps": fps, "parts": parts}
        config.write_text(_config(sockets, endpoint, find_bundle(bundle or demo_bundle()), source))
        console.print(f"The daemon runs with {config}; its log is {out / 'daemon.log'}.", soft_wrap=True, markup=False)
        with _subscriber(endpoint) as socket, _daemon(config, out / "daemon.log") as daemon:
            _watch(_messages(socket, daemon, out / "daemon.log"), tally, out, console)
    return _report(tally, out, console)


def _config(sockets: str, endpoint: str, bundle: Path, source: dict[str, Any]) -> str:
    settings = {
        "station": "demo-line",
        "engine": {"bundle": str(bundle.resolve())},
        "publish": {"endpoint": endpoint},
        "control": {"endpoint": f"ipc://{sockets}/control"},
        "journal": {"path": f"{sockets}/verdicts.db"},
        "cameras": {"line": {"source": source, "policy": "every"}},
        "exit_when_finished": True,
    }
    return "# Written by `anosegd demo`.\n" + yaml.safe_dump(settings, sort_keys=False)


@contextmanager
def _subscriber(endpoint: str) -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.set(zmq.RECONNECT_IVL, 10)  # short: connected before the daemon's first verdict
        socket.set(zmq.LINGER, 0)
        for topic in (b"verdict.", b"mask.", b"state"):
            socket.subscribe(topic)
        socket.connect(endpoint)
        yield socket


@contextmanager
def _daemon(config: Path, log: Path) -> Iterator[subprocess.Popen[bytes]]:
    with log.open("wb") as log_file:
        process = subprocess.Popen(
            [sys.executable, "-m", "anosegd", "run", str(config)], stdin=subprocess.DEVNULL, stdout=log_file, stderr=log_file
        )
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _messages(socket: zmq.Socket[bytes], daemon: subprocess.Popen[bytes], log: Path) -> Iterator[tuple[bytes, Any, bytes]]:
    """Yield topic, header and payload of verdicts and anomaly maps until the daemon has ended."""
    received_at = time.monotonic()
    while True:
        if socket.poll(200):
            received_at = time.monotonic()
            topic, header, *payload = socket.recv_multipart()
            if topic != b"state":
                yield topic, msgspec.json.decode(header), payload[0] if payload else b""
        elif daemon.poll() is not None:  # and everything it sent has been received
            return
        elif time.monotonic() - received_at > SILENCE_S:
            raise PublishError(f"the daemon has sent nothing for {SILENCE_S:.0f} s", hint=f"see {log}")


def _watch(messages: Iterator[tuple[bytes, Any, bytes]], tally: _Tally, out: Path, console: Console) -> None:
    """Count verdicts and draw defects until every part has its verdict and its anomaly map, or the daemon has ended."""
    waiting_for_mask: dict[int, tuple[DemoPart, dict[str, Any], str]] = {}
    with Live(console=console, refresh_per_second=8, transient=True) as live:
        for topic, header, payload in messages:
            if topic.startswith(b"verdict."):
                part = tally.line.part(part_index(header["part_id"]))
                result = tally.add(header, part)
                if result != "good":
                    waiting_for_mask[header["seq"]] = (part, header, result)
                live.update(_screen(tally))
            elif header["seq"] in waiting_for_mask:
                part, verdict, result = waiting_for_mask.pop(header["seq"])
                anomaly_map = cv2.imdecode(np.frombuffer(payload, np.uint8), cv2.IMREAD_GRAYSCALE)
                if anomaly_map is not None:
                    name = f"{part.part_id}-{part.defect or 'good'}-{result.replace(' ', '_')}.png"
                    cv2.imwrite(str(out / "overlays" / name), overlay(part.image, anomaly_map.astype(np.uint8), verdict))
            if len(tally.results) >= tally.total and not waiting_for_mask:
                return
    if not tally.results:
        tail = (out / "daemon.log").read_text(errors="replace").strip().splitlines()[-5:]
        raise AnosegError(
            "the daemon stopped before the first verdict:\n  " + "\n  ".join(tail), hint=f"see {out / 'daemon.log'}"
        )


def overlay(image: Image, anomaly_map: NDArray[np.uint8], verdict: dict[str, Any]) -> Image:
    """Return the part, and beside it the part with anomaly map and boxes: uint8 [H, 2W, 3]."""
    height, width = image.shape[:2]
    enlarged = cv2.resize(anomaly_map, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.float32) / 255
    heat = cv2.applyColorMap((enlarged * 255).astype(np.uint8), cv2.COLORMAP_INFERNO)
    alpha = np.clip(enlarged * 1.5, 0, 0.75)[..., None]
    drawn = np.ascontiguousarray((image * (1 - alpha) + heat * alpha).astype(np.uint8))
    for d in verdict["defects"]:
        corner = (round(d["x"]) - 3, round(d["y"]) - 3)
        opposite = (round(d["x"] + d["width"]) + 3, round(d["y"] + d["height"]) + 3)
        cv2.rectangle(drawn, corner, opposite, (255, 255, 0), 1, cv2.LINE_AA)
    colour = (60, 200, 60) if verdict["outcome"] == "PASS" else (60, 60, 230)
    score = "" if verdict["score"] is None else f" {verdict['score']:.2f}"
    cv2.putText(drawn, verdict["outcome"] + score, (8, 22), cv2.FONT_HERSHEY_SIMPLEX, 0.6, colour, 2, cv2.LINE_AA)
    return np.asarray(np.hstack([image, drawn]), np.uint8)


def _screen(tally: _Tally) -> Group:
    table = Table(title="AnoSeg Edge: demo line", caption=_counts(tally))
    for column in ("part", "truth", "verdict", "score", "capture to sent", ""):
        table.add_column(column, justify="right" if column in ("score", "capture to sent") else "left")
    for row in tally.rows:
        table.add_row(*row, style=COLOURS[row[-1]])
    return Group(table, ProgressBar(total=tally.total, completed=len(tally.results), width=60))


def _counts(tally: _Tally) -> str:
    return ", ".join(f"{name} {tally.count(name)}" for name in COLOURS)


def _report(tally: _Tally, out: Path, console: Console) -> int:
    table = Table(title="The demo line against the truth")
    table.add_column("truth")
    for name in COLOURS:
        table.add_column(name, justify="right")
    for truth in sorted({t for t, _ in tally.defects}, key=lambda t: (t == "good", t)):
        table.add_row(truth, *(str(tally.defects[truth, name] or "") for name in COLOURS))
    table.add_section()
    table.add_row("all", *(str(tally.count(name)) for name in COLOURS), style="bold")
    console.print(table)
    missing = tally.total - len(tally.results)
    latency = np.percentile(tally.latencies_ms, [50, 99])
    console.print(
        f"{len(tally.results)} of {tally.total} parts have a verdict; capture to sent: median {latency[0]:.0f} ms, "
        f"99th percentile {latency[1]:.0f} ms."
    )
    console.print(
        f"Defective parts caught: {tally.count('caught')}, missed: {tally.count('missed')}. "
        f"Good parts rejected: {tally.count('false reject')}."
    )
    console.print(
        f"Pictures of every defect caught or missed and of every false reject: {out / 'overlays'}", soft_wrap=True, markup=False
    )
    if missing:
        console.print(
            f"{counted(missing, 'part has', 'parts have')} no verdict: see {out / 'daemon.log'}.",
            style="bold red",
            soft_wrap=True,
            markup=False,
        )
    return 1 if missing else 0
