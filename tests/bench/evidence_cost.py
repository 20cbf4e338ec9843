"""Measures what evidence costs a part: p50 and p99 from capture to the finished verdict, with and without it, in turns.

    python tests/bench/evidence_cost.py [--seconds 8] [--rounds 4] [--share 0.1] [--sizes 0.3,1.3] [--live]

The demo's bundle inspects frames of 0.3 and 1.3 megapixels at half of the engine's own rate. Of the parts, `--share` are kept,
as PNG. With --live, a subscriber to image.<camera> is there too. Times are those of the verdicts (`timings_ms.total`).
"""

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import zmq
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from bench.frames_bench import FRAMES, write_frames
from support.anosegd_line import Daemon
from support.paths import DEMO

from anoseg_engines.bundle import load_bundle
from anoseg_engines.loading import load_engine
from anoseg_engines.placement import Region


def engine_ms(images: Path) -> float:
    """Median milliseconds of the engine alone."""
    frames = [cv2.imread(str(path)) for path in sorted(images.iterdir())]
    engine = load_engine(load_bundle(DEMO))
    placement = engine.place(Region(0, 0, frames[0].shape[1], frames[0].shape[0]))
    spent = []
    for _ in range(10):
        for frame in frames:
            began = time.perf_counter()
            engine.inspect(frame, placement)
            spent.append(time.perf_counter() - began)
    engine.close()
    return 1e3 * float(np.median(spent))


def run(
    folder: Path, images: Path, *, fps: float, seconds: float, evidence: str, live: bool
) -> tuple[list[float], dict[str, int]]:
    """Run the daemon for so long. Return the parts' milliseconds, and the counts of what was lost."""
    address = f"ipc://{folder}/pub"
    config = folder / "station.yaml"
    config.write_text(
        f"engine: {{bundle: {DEMO}}}\npublish: {{endpoint: '{address}'}}\njournal: {{path: verdicts.db}}\n{evidence}"
        f"cameras:\n  c:\n    source: {{kind: folder, path: {images}, preload: true, loop: true, fps: {fps:.2f}}}\n"
        "    policy: every\n    score_threshold: 1.0\n"  # every part passes
    )
    daemon = Daemon(config)
    totals: list[float] = []
    lost = 0
    state: dict[str, object] = {}
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.linger = 0
        for topic in ("verdict.", "state", *(("image.c",) if live else ())):
            socket.subscribe(topic)
        socket.connect(address)
        end = time.monotonic() + 60
        while time.monotonic() < end:
            if not socket.poll(200):
                continue
            topic, header, *_ = socket.recv_multipart()
            message = json.loads(header) if topic != b"image.c" else {}
            if topic.startswith(b"verdict"):
                if not totals:
                    end = time.monotonic() + seconds + 1
                totals.append(message["timings_ms"]["total"])
                lost += message["outcome"] == "UNKNOWN"
            elif topic == b"state":
                state = message.get("evidence") or {}
    assert daemon.terminate() == 0, daemon.log
    return totals[round(fps) :], {"UNKNOWN": lost, **{key: int(state.get(key, 0)) for key in ("kept", "dropped")}}  # type: ignore[call-overload]


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--seconds", type=float, default=8.0)
    parser.add_argument("--rounds", type=int, default=4)
    parser.add_argument("--share", type=float, default=0.1)
    parser.add_argument("--sizes", default="0.3,1.3")
    parser.add_argument("--live", action="store_true")
    options = parser.parse_args()
    table = Table("frames", "evidence", "parts", "p50 ms", "p99 ms", "UNKNOWN", "kept", "dropped")
    with tempfile.TemporaryDirectory() as made:
        for megapixels in options.sizes.split(","):
            images = Path(made) / megapixels
            write_frames(images, *FRAMES[megapixels], grey=False)
            fps = 500 / engine_ms(images)
            found: dict[str, list[float]] = {"off": [], "on": []}
            counts: dict[str, dict[str, int]] = {"off": {}, "on": {}}
            for number in range(options.rounds):
                for kind in ("off", "on") if number % 2 else ("on", "off"):
                    folder = Path(made) / f"{megapixels}-{kind}-{number}"
                    folder.mkdir()
                    keep = f"evidence: {{folder: kept, good_share: {options.share}}}\n" if kind == "on" else ""
                    live = options.live and kind == "on"
                    totals, lost = run(folder, images, fps=fps, seconds=options.seconds, evidence=keep, live=live)
                    found[kind] += totals
                    counts[kind] = {key: counts[kind].get(key, 0) + n for key, n in lost.items()}
            for kind, totals in found.items():
                p50, p99 = np.percentile(totals, [50, 99])
                numbers = (len(totals), f"{p50:.1f}", f"{p99:.1f}", *counts[kind].values())
                table.add_row(f"{megapixels} MP at {fps:.0f}/s", kind, *map(str, numbers))
    Console().print(table)


if __name__ == "__main__":
    main()
