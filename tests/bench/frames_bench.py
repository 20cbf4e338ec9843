"""Measures the way of a frame from capture to sent verdict, for frames of 0.3, 1.3 and 5 megapixels. `make bench`.

    python tests/bench/frames_bench.py [--before FOLDER] [--sizes 256,448] [--seconds 3] [--json FILE]

The network is the trainer's default one, trained for a few steps only, at each of the sizes. Measured in milliseconds a part,
median: preparing the input; the engine alone (prepare and infer); a simple script (read a file, resize, infer and send in one
loop); and the daemon at half of the engine's rate, from capture to the subscriber.

With --before, the folder of another version of this project with an environment of its own in .venv, that version's daemon is
measured too. It reads the same network from a bundle in its own format, which says nothing of how the input is prepared:

    git worktree add ../before fa17ad2 && make -C ../before test

The machine's speed varies from second to second. So everything takes turns, three times, and the medians are shown.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import msgspec
import numpy as np
import zmq
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))
from bench.line_bench import Daemon

from anoseg_engines.bundle import load_bundle
from anoseg_engines.bundle_writer import BundleDraft, write_bundle
from anoseg_engines.loading import load_engine
from anoseg_engines.placement import Region

FRAMES = {"0.3": (640, 480), "1.3": (1280, 1024), "5": (2448, 2048)}
"""Width and height by megapixels."""
N_IMAGES = 8
ROUNDS = 3


def default_bundles(folder: Path, size: int) -> tuple[Path, Path]:
    """Train the default network a few steps; write it as a bundle of today and as one of the first format."""
    images = folder / "demo-images"
    if not images.exists():
        subprocess.run([sys.executable, "-m", "anosegd", "demo-images", "--out", str(images)], check=True, capture_output=True)
    config = folder / f"{size}.yaml"
    config.write_text(f"input: {{mode: resize, height: {size}, width: {size}}}\ntraining: {{steps: 20}}\n")
    command = [
        "fit",
        "--data",
        images,
        "--out",
        folder / f"fitted-{size}",
        "--work",
        folder / f"work-{size}",
        "--config",
        config,
    ]
    subprocess.run([Path(sys.executable).with_name("anoseg-train"), *map(str, command)], check=True, capture_output=True)
    newest = max((folder / f"fitted-{size}").iterdir(), key=lambda path: int(path.name) if path.name.isdigit() else 0)
    bundle = load_bundle(newest)
    manifest = bundle.manifest
    draft = BundleDraft(
        product="frames",
        input=msgspec.structs.replace(manifest.input, shrink="blocks"),
        score=manifest.score,
        score_threshold=manifest.score_threshold,
        pixel_threshold=manifest.pixel_threshold,
        calibration=manifest.calibration,
        model_onnx=bundle.model_onnx,
        golden=bundle.golden_samples(),
    )
    today = write_bundle(folder / f"today-{size}" / "frames", draft).path
    input_before = msgspec.structs.replace(manifest.input, shrink=msgspec.UNSET)
    before = write_bundle(folder / f"before-{size}" / "frames", replace(draft, input=input_before)).path
    return today, before


def write_frames(folder: Path, width: int, height: int, *, grey: bool) -> None:
    """Write parts as image files: detail of every size, and noise."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng(0)
    for i in range(N_IMAGES):
        detail = sum(cv2.resize(rng.normal(0, 25, (n, n)), (width, height), interpolation=cv2.INTER_CUBIC) for n in (3, 12, 50))
        image = np.clip(128 + detail + rng.normal(0, 3, (height, width)), 0, 255).astype(np.uint8)
        cv2.imwrite(str(folder / f"{i}.bmp"), image if grey else cv2.cvtColor(image, cv2.COLOR_GRAY2BGR))


class Alone:
    """The engine alone, in this process."""

    def __init__(self, bundle: Path, images: list[np.ndarray[Any, np.dtype[np.uint8]]]) -> None:
        self._images = images
        self._engine = load_engine(load_bundle(bundle))
        self._placement = self._engine.place(Region(0, 0, images[0].shape[1], images[0].shape[0]))

    def measure(self, seconds: float) -> dict[str, float]:
        """Median milliseconds to prepare the input, and for prepare and infer together."""
        prepared, whole = [], []
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for image in self._images:
                began = time.perf_counter()
                inference = self._engine.prepare(image, self._placement)
                ready = time.perf_counter()
                self._engine.finish(inference)
                prepared.append(ready - began)
                whole.append(time.perf_counter() - began)
        return {"prepare": 1e3 * float(np.median(prepared)), "engine": 1e3 * float(np.median(whole))}

    def script(self, folder: Path, address: str, seconds: float) -> dict[str, float]:
        """Median milliseconds of a loop that reads a file, inspects it and sends score and map."""
        paths = sorted(folder.iterdir())
        spent = []
        with zmq.Context() as context, context.socket(zmq.PUB) as publisher:
            publisher.bind(address)
            end = time.monotonic() + seconds
            while time.monotonic() < end:
                for path in paths:
                    began = time.perf_counter()
                    found = self._engine.inspect(cv2.imread(str(path)), self._placement)
                    png = cv2.imencode(".png", (found.anomaly_map * 255).astype(np.uint8))[1].tobytes()
                    publisher.send_multipart([b"verdict", json.dumps({"score": found.score}).encode(), png])
                    spent.append(time.perf_counter() - began)
        return {"script": 1e3 * float(np.median(spent))}

    def close(self) -> None:
        self._engine.close()


def daemon(folder: Path, bundle: Path, images: Path, fps: float, seconds: float, python: str) -> float:
    """Median milliseconds from capture to the subscriber, of one camera that is fed from memory."""
    source = f"{{kind: folder, path: {images}, loop: true, preload: true, fps: {fps:.3f}}}"
    running = Daemon(folder, bundle.parent, f"  c: {{policy: wait, source: {source}}}\n", python=python)
    try:
        running.listen(1)
        return float(np.median(running.listen(seconds)[1]))
    finally:
        running.close()


def measure(folder: Path, size: int, frame: str, *, grey: bool, seconds: float, before: Path | None) -> dict[str, float]:
    """Everything for one frame size and one size of the network, in turns; medians in milliseconds."""
    today, earlier = folder / f"today-{size}" / "frames" / "1", folder / f"before-{size}" / "frames" / "1"
    images = folder / f"{frame}-{'grey' if grey else 'colour'}"
    if not images.exists():
        write_frames(images, *FRAMES[frame], grey=grey)
    flag = cv2.IMREAD_GRAYSCALE if grey else cv2.IMREAD_COLOR
    loaded = [cv2.imread(str(path), flag) for path in sorted(images.iterdir())]
    loaded = [image[:, :, None] if grey else image for image in loaded]
    new, old = Alone(today, loaded), Alone(earlier, loaded)
    rounds: list[dict[str, float]] = []
    for _ in range(ROUNDS):
        found = new.measure(seconds / 2)
        found["prepare, one step"] = old.measure(seconds / 2)["prepare"]
        found |= old.script(images, f"ipc://{folder}/script", seconds / 2)
        fps = 500 / found["engine"]
        found["daemon"] = daemon(folder, today, images, fps, seconds, sys.executable)
        if before is not None:
            found["daemon before"] = daemon(folder, earlier, images, fps, seconds, str(before.absolute() / ".venv/bin/python"))
            found["daemon : before"] = found["daemon"] / found["daemon before"]
        found["daemon : engine"] = found["daemon"] / found["engine"]
        found["daemon : script"] = found["daemon"] / found["script"]
        rounds.append(found)
    new.close()
    old.close()
    return {name: float(np.median([found[name] for found in rounds])) for name in rounds[0]}


def show(results: dict[str, dict[str, float]]) -> None:
    title = f"A frame's way, median milliseconds a part; {platform.machine()}, {os.cpu_count()} cores, OpenCV {cv2.__version__}"
    table = Table(title=title)
    table.add_column("megapixels, network")
    names = list(next(iter(results.values())))
    for name in names:
        table.add_column(name, justify="right")
    for row, values in results.items():
        table.add_row(row, *(f"{values[name]:.2f}" for name in names))
    Console(width=200).print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--before", type=Path, metavar="FOLDER", help="another version of this project, with its .venv")
    parser.add_argument("--sizes", default="256,448", help="sides of the network's input (256,448)")
    parser.add_argument("--seconds", type=float, default=2.0, help="length of each measurement (2)")
    parser.add_argument("--json", type=Path, metavar="FILE")
    options = parser.parse_args()
    cv2.setNumThreads(1)  # preparing is compared on one core
    results = {}
    with tempfile.TemporaryDirectory(prefix="anoseg-frames-") as name:
        folder = Path(name)
        for size in map(int, options.sizes.split(",")):
            print(f"training a network of {size}×{size} for a few steps ...", flush=True)
            default_bundles(folder, size)
            for frame in FRAMES:
                for grey in (False, True):
                    row = f"{frame} {'grey' if grey else 'colour'}, {size}"
                    results[row] = measure(folder, size, frame, grey=grey, seconds=options.seconds, before=options.before)
                    print(row, {name: round(value, 2) for name, value in results[row].items()}, flush=True)
    show(results)
    if options.json:
        options.json.write_text(json.dumps(results, indent=2))


if __name__ == "__main__":
    main()
