"""Measures the daemon's speed in relation to the engine alone. `make bench`.

    python tests/bench/line_bench.py [--bundle STORE/NAME] [--seconds 4] [--json FILE]

Without --bundle it measures two networks: the demo's, and one of about 3 GMAC, the largest that the trainer makes. The real
daemon runs with masks and journal, and a subscriber counts. Measured are: throughput of 1, 2, 4 and 8 cameras fed from memory,
against a loop with the engine alone; latency from capture to the subscriber at half of that load; time from start to READY; and
one video, inspected by the daemon and by a simple script (read, resize, infer and send in one loop).

The machine's speed varies from second to second. Each measurement of the daemon is therefore made between two of the engine
alone. This is done three times, and the median of the ratios is reported.
"""

import argparse
import json
import os
import platform
import signal
import socket
import subprocess
import sys
import tempfile
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import zmq
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
from support.paths import DEMO

from anoseg_engines.bundle import load_bundle
from anoseg_engines.judgement import judge
from anoseg_engines.loading import load_engine
from anoseg_engines.placement import Region

N_IMAGES = 32
ROUNDS = 3


def write_parts(folder: Path) -> None:
    """Write parts of the demo line as image files."""
    from anosegd.demo.line import DemoLine

    (folder / "images").mkdir()
    line = DemoLine(3)
    for i in range(N_IMAGES):
        cv2.imwrite(str(folder / "images" / f"{i:03}.png"), line.part(i).image)


def write_video(folder: Path, frames: int) -> None:
    """Write the same parts as a video."""
    parts = [cv2.imread(str(path)) for path in sorted((folder / "images").iterdir())]
    height, width = parts[0].shape[:2]
    writer = cv2.VideoWriter(str(folder / "line.avi"), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (width, height))
    for i in range(frames):
        writer.write(parts[i % N_IMAGES])
    writer.release()


def bare(bundle: str, folder: str) -> None:
    """The engine alone, in its own process: inspect and judge the same images in a loop.

    Each line on stdin is a number of seconds to run. The rate, the median latency and the runtime go to stdout as JSON.
    """
    images = [cv2.imread(str(p)) for p in sorted((Path(folder) / "images").iterdir())]
    engine = load_engine(load_bundle(Path(bundle)))
    placement = engine.place(Region(0, 0, images[0].shape[1], images[0].shape[0]))
    for line in sys.stdin:
        latencies: list[float] = []
        end = time.monotonic() + float(line)
        while time.monotonic() < end:
            for image in images:
                began = time.monotonic()
                judge(engine.inspect(image, placement), engine.thresholds, placement)
                latencies.append(1000 * (time.monotonic() - began))
        rate, p50 = 1000 * len(latencies) / sum(latencies), float(np.median(latencies))
        print(json.dumps({"rate": rate, "p50": p50, "runtime": engine.description}), flush=True)


class Bare:
    """The process that runs `bare`. It sleeps between measurements."""

    def __init__(self, bundle: Path, folder: Path) -> None:
        command = [sys.executable, __file__, "--bare", str(bundle.absolute()), str(folder)]
        self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self.measure(1.0)

    def measure(self, seconds: float) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(seconds, file=self._process.stdin, flush=True)
        return json.loads(self._process.stdout.readline())  # type: ignore[no-any-return]

    def close(self) -> None:
        self._process.communicate()


def plain_script(bundle: str, folder: str) -> dict[str, float]:
    """A simple script: one loop that reads the video, inspects, and sends the result as JSON and the map as PNG."""
    engine = load_engine(load_bundle(Path(bundle)))
    video = cv2.VideoCapture(str(Path(folder) / "line.avi"), cv2.CAP_FFMPEG)
    with zmq.Context() as context, context.socket(zmq.PUB) as publisher:
        publisher.bind(f"ipc://{folder}/script")
        n, placement = 0, None
        began = time.monotonic()
        while True:
            ok, image = video.read()
            if not ok:
                break
            placement = placement or engine.place(Region(0, 0, image.shape[1], image.shape[0]))
            inspection = engine.inspect(image, placement)
            judgement = judge(inspection, engine.thresholds, placement)
            head = json.dumps({"outcome": judgement.outcome, "score": judgement.score, "at": time.time()}).encode()
            publisher.send_multipart([b"verdict", head])
            png = cv2.imencode(".png", (inspection.anomaly_map * 255).astype(np.uint8))[1].tobytes()
            publisher.send_multipart([b"mask", png])
            n += 1
    return {"rate": n / (time.monotonic() - began)}


class Daemon:
    """One run of the daemon with `cameras` (lines of YAML), and a subscriber to its verdicts."""

    def __init__(self, folder: Path, bundle: Path, cameras: str, *arguments: str, python: str = sys.executable) -> None:
        stamp = str(time.monotonic_ns())
        config = folder / f"{stamp}.yaml"
        config.write_text(
            f"engine: {{bundle: {bundle.absolute()}}}\npublish: {{endpoint: 'ipc://{folder}/{stamp}'}}\n"
            f"journal: {{path: {stamp}.db}}\ncameras:\n{cameras}"
        )
        self._context = zmq.Context()
        self._subscriber = self._context.socket(zmq.SUB)
        self._subscriber.set(zmq.RCVHWM, 0)
        self._subscriber.set(zmq.RECONNECT_IVL, 5)
        self._subscriber.subscribe("verdict.")
        self._subscriber.connect(f"ipc://{folder}/{stamp}")
        notify = folder / f"{stamp}.notify"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
            systemd.bind(str(notify))
            systemd.settimeout(60)
            began = time.monotonic()
            self._process = subprocess.Popen(
                [python, "-m", "anosegd", "run", str(config), *arguments],
                stderr=subprocess.DEVNULL,
                env={**os.environ, "NOTIFY_SOCKET": str(notify)},
            )
            while b"READY=1" not in systemd.recv(4096):
                pass
            self.ready_s = time.monotonic() - began

    def warm_up(self, n: int) -> None:
        """Wait until each of n cameras has a verdict, and one more second. Their processes all start after READY."""
        seen = set()
        while len(seen) < n:
            seen.add(self._subscriber.recv_multipart()[0])
        self.listen(1)

    def listen(self, seconds: float) -> tuple[int, list[float]]:
        """Count verdicts for this long. Returns their number, and for each the milliseconds from capture to arrival."""
        latencies = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self._subscriber.poll(50):
                header = json.loads(self._subscriber.recv_multipart()[1])
                captured = datetime.fromisoformat(header["captured_at"].replace("Z", "+00:00")).timestamp()
                latencies.append(1000 * (time.time() - captured))
        return len(latencies), latencies

    def listen_to_the_end(self) -> float:
        """Verdicts a second, from the first to the last verdict."""
        n, first, last = 0, 0.0, time.monotonic()
        while self._process.poll() is None or self._subscriber.poll(200):
            if self._subscriber.poll(200):
                self._subscriber.recv_multipart()
                last = time.monotonic()
                first = first or last
                n += 1
        return (n - 1) / (last - first)

    def close(self) -> None:
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
        self._process.wait(60)
        self._context.destroy(linger=0)


def measure(bundle: Path, seconds: float) -> dict[str, object]:
    """Make all measurements of a bundle."""
    with tempfile.TemporaryDirectory(prefix="anoseg-bench-") as name:
        folder = Path(name)
        write_parts(folder)
        engine = Bare(bundle, folder)
        alone = engine.measure(seconds)
        result: dict[str, object] = {"bare engine": alone}
        write_video(folder, int(min(600, max(60, seconds * alone["rate"]))))
        for n in (1, 2, 4, 8):
            result[f"cameras {n}"] = _throughput(engine, bundle, folder, n, seconds)
        result["half load"] = _half_load(engine, bundle, folder, seconds)
        result["video"] = _video(bundle, folder)
        result["bare engine again"] = engine.measure(seconds)
        engine.close()
        return result


def cameras(n: int, fps: float | None = None) -> str:
    """The YAML of n cameras that are fed from memory."""
    pace = f", fps: {fps:.3f}" if fps else ""
    source = f"{{kind: folder, path: images, loop: true, preload: true{pace}}}"
    return "".join(f"  c{i}: {{policy: wait, source: {source}}}\n" for i in range(n))


def _throughput(engine: Bare, bundle: Path, folder: Path, n: int, seconds: float) -> dict[str, float]:
    rates, ratios, ready = [], [], []
    before = engine.measure(seconds / 2)["rate"]
    for _ in range(ROUNDS):
        daemon = Daemon(folder, bundle, cameras(n))
        daemon.warm_up(n)
        rates.append(daemon.listen(seconds)[0] / seconds)
        daemon.close()
        after = engine.measure(seconds / 2)["rate"]
        ratios.append(2 * rates[-1] / (before + after))
        ready.append(daemon.ready_s)
        before = after
    return {"rate": float(np.median(rates)), "of bare": float(np.median(ratios)), "ready s": float(np.median(ready))}


def _half_load(engine: Bare, bundle: Path, folder: Path, seconds: float) -> dict[str, float]:
    found = []
    for _ in range(ROUNDS):
        before = engine.measure(seconds / 2)
        daemon = Daemon(folder, bundle, cameras(1, before["rate"] / 2))
        daemon.listen(1)
        latencies = daemon.listen(seconds)[1]
        daemon.close()
        p50, p99 = (float(np.percentile(latencies, q)) for q in (50, 99))
        found.append((p50, p99, 2 * p50 / (before["p50"] + engine.measure(seconds / 2)["p50"])))
    p50, p99, ratio = (float(np.median(values)) for values in zip(*found, strict=True))
    return {"p50": p50, "p99": p99, "p50 of bare": ratio}


def _video(bundle: Path, folder: Path) -> dict[str, float]:
    rates = []
    for _ in range(ROUNDS):
        command = [sys.executable, __file__, "--script", str(bundle.absolute()), str(folder)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        film = Daemon(folder, bundle, "  film: {policy: wait, source: {kind: file, path: line.avi}}\n", "--once")
        rates.append((float(json.loads(done.stdout)["rate"]), film.listen_to_the_end()))
        film.close()
    script, daemon = (float(np.median(values)) for values in zip(*rates, strict=True))
    return {"script rate": script, "daemon rate": daemon, "ratio": float(np.median([d / s for s, d in rates]))}


def show(name: str, result: dict[str, object]) -> None:
    table = Table(title=f"Daemon against the bare engine, {name}; {platform.machine()}, {os.cpu_count()} cores")
    table.add_column("measurement")
    table.add_column("value", justify="right")
    for row, values in result.items():
        assert isinstance(values, dict)
        table.add_row(row, ", ".join(f"{k} {v:.2f}" if isinstance(v, float) else f"{v}" for k, v in values.items()))
    Console().print(table)


def main() -> None:
    if sys.argv[1:2] == ["--bare"]:
        bare(*sys.argv[2:4])
        return
    if sys.argv[1:2] == ["--script"]:
        print(json.dumps(plain_script(*sys.argv[2:4])))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, help="STORE/NAME (the demo's, then one of 3 GMAC)")
    parser.add_argument("--seconds", type=float, default=4.0, help="length of each measurement (4)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    results = {}
    with tempfile.TemporaryDirectory(prefix="anoseg-bench-") as folder:
        if options.bundle:
            bundles = {str(options.bundle): options.bundle}
        else:
            from bench.cpu_runtimes import large_bundle  # imports PyTorch, which the measured processes must not

            bundles = {"demo bundle": DEMO, "3 GMAC": large_bundle(Path(folder)).path.parent}
        for name, bundle in bundles.items():
            results[name] = measure(bundle, options.seconds)
            show(name, results[name])
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
