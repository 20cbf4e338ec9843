"""How fast the daemon is, as ratios of what the engine alone does, in one run. `make bench` runs it.

    python tests/line_bench.py [--bundle STORE/NAME] [--seconds 8] [--json FILE]

Measured with the real daemon in processes of its own, masks and journal on, a subscriber counting: throughput of 1, 2, 4, 8
cameras fed from memory against the bare engine loop; latency from capture to the subscriber at half of that load; start to
READY; and one video through the daemon and through the script that one would write (read, resize, infer, send in one loop).
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

import cv2
import numpy as np
import zmq
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent))

from anoseg_engines.bundle import load_bundle
from anoseg_engines.engine import Engine
from anoseg_engines.judge import judge
from anoseg_engines.placement import Region

DEMO = Path(__file__).parents[1] / "engines" / "store" / "demo"
N_IMAGES = 32


def write_images(folder: Path) -> None:
    """Parts of the demo line, as files and as a video."""
    from anosegd.demo_line import DemoLine

    (folder / "images").mkdir()
    line = DemoLine(3)
    parts = [line.part(i).image for i in range(N_IMAGES)]
    for i, image in enumerate(parts):
        cv2.imwrite(str(folder / "images" / f"{i:03}.png"), image)
    height, width = parts[0].shape[:2]
    writer = cv2.VideoWriter(str(folder / "line.avi"), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (width, height))
    for i in range(600):
        writer.write(parts[i % N_IMAGES])
    writer.release()


def bare(bundle: str, folder: str, seconds: float) -> dict[str, float]:
    """The engine alone: inspect and judge the same images in one loop, nothing sent. In a process of its own."""
    images = [cv2.imread(str(p)) for p in sorted((Path(folder) / "images").iterdir())]
    engine = Engine.load(load_bundle(Path(bundle)))
    placement = engine.place(Region(0, 0, images[0].shape[1], images[0].shape[0]))
    latencies = []
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        for image in images:
            began = time.monotonic()
            judge(engine.inspect(image, placement), engine.thresholds, placement)
            latencies.append(1000 * (time.monotonic() - began))
    return {"rate": 1000 * len(latencies) / sum(latencies), "p50": float(np.median(latencies)), "runtime": engine.description}


def plain_script(bundle: str, folder: str) -> dict[str, float]:
    """What one would write in an afternoon: one loop that reads the video, inspects and sends JSON and the map as PNG."""
    engine = Engine.load(load_bundle(Path(bundle)))
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
    """One run of the daemon with `cameras` (YAML lines), and a subscriber of its verdicts."""

    def __init__(self, folder: Path, bundle: Path, cameras: str, *arguments: str) -> None:
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
                [sys.executable, "-m", "anosegd", "run", str(config), *arguments],
                stderr=subprocess.DEVNULL,
                env={**os.environ, "NOTIFY_SOCKET": str(notify)},
            )
            while b"READY=1" not in systemd.recv(4096):
                pass
            self.ready_s = time.monotonic() - began

    def listen(self, seconds: float) -> tuple[int, list[float]]:
        """Verdicts in so many seconds, and for each the milliseconds from capture to here."""
        latencies = []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self._subscriber.poll(50):
                header = json.loads(self._subscriber.recv_multipart()[1])
                captured = datetime.fromisoformat(header["captured_at"].replace("Z", "+00:00")).timestamp()
                latencies.append(1000 * (time.time() - captured))
        return len(latencies), latencies

    def listen_to_the_end(self) -> float:
        """Verdicts a second, from the first to the last."""
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
    """Everything, in one run."""
    with tempfile.TemporaryDirectory(prefix="anoseg-bench-") as name:
        folder = Path(name)
        write_images(folder)

        def alone(what: str) -> dict[str, float]:
            command = [sys.executable, __file__, what, str(bundle.absolute()), str(folder), str(seconds)]
            done = subprocess.run(command, capture_output=True, text=True, check=True)
            return json.loads(done.stdout)  # type: ignore[no-any-return]

        def cameras(n: int, fps: float | None = None) -> str:
            pace = f", fps: {fps:.3f}" if fps else ""
            source = f"{{kind: folder, path: images, loop: true, preload: true{pace}}}"
            return "".join(f"  c{i}: {{policy: wait, source: {source}}}\n" for i in range(n))

        result: dict[str, object] = {"bare": alone("--bare")}
        rate, p50 = float(result["bare"]["rate"]), float(result["bare"]["p50"])  # type: ignore[index]
        for n in (1, 2, 4, 8):
            daemon = Daemon(folder, bundle, cameras(n))
            daemon.listen(2)
            count, _ = daemon.listen(seconds)
            daemon.close()
            result[f"cameras {n}"] = {"rate": count / seconds, "of bare": count / seconds / rate, "ready s": daemon.ready_s}
        half = Daemon(folder, bundle, cameras(1, rate / 2))
        half.listen(2)
        _, latencies = half.listen(seconds)
        half.close()
        at_half = {"p50": float(np.median(latencies)), "p99": float(np.percentile(latencies, 99))}
        result["half load"] = {**at_half, "p50 of bare": at_half["p50"] / p50}
        script = alone("--script")
        film = Daemon(folder, bundle, "  film: {policy: wait, source: {kind: file, path: line.avi}}\n", "--once")
        daemon_rate = film.listen_to_the_end()
        film.close()
        result["video"] = {"script rate": script["rate"], "daemon rate": daemon_rate, "ratio": daemon_rate / script["rate"]}
        again = alone("--bare")
        result["bare again"] = again
        return result


def show(result: dict[str, object]) -> None:
    table = Table(title=f"Daemon against the bare engine; {platform.machine()}, {os.cpu_count()} cores")
    table.add_column("")
    table.add_column("measured", justify="right")
    for name, values in result.items():
        assert isinstance(values, dict)
        table.add_row(name, ", ".join(f"{k} {v:.2f}" if isinstance(v, float) else f"{v}" for k, v in values.items()))
    Console().print(table)


def main() -> None:
    if sys.argv[1:2] in (["--bare"], ["--script"]):
        result = bare(sys.argv[2], sys.argv[3], float(sys.argv[4])) if sys.argv[1] == "--bare" else plain_script(*sys.argv[2:4])
        print(json.dumps(result))
        return
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=DEMO, help="STORE/NAME (the demo's)")
    parser.add_argument("--seconds", type=float, default=8.0, help="each measurement")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    result = measure(options.bundle, options.seconds)
    show(result)
    if options.json:
        options.json.write_text(json.dumps(result, indent=2))


if __name__ == "__main__":
    main()
