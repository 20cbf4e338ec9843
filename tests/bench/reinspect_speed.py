"""How many images a second are inspected again: by a plain loop, `reinspect`, a pool of processes, and `reinspect --ray`.

    python tests/bench/reinspect_speed.py [--images 1500] [--json FILE]

All inspect the same archive of demo parts with the demo's bundle, one after the other in one run, twice. The rate counts from
the first result to the last. So it leaves out the start, which has a column of its own: loading the engine, and starting Ray.
All must give the same results. For figures that count, nothing else may run on the machine.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parents[1]))

from support.archive import make_archive, plain_loop, results_of
from support.paths import DEMO

from anoseg_engines.bundle import load_bundle
from anoseg_engines.engine import Engine
from anoseg_engines.loading import load_engine
from anoseg_engines.ray_cluster import LOCAL
from anoseg_engines.reinspection.image_list import find_images
from anoseg_engines.reinspection.on_ray import inspect_on_ray
from anoseg_engines.reinspection.on_this_machine import inspect_here
from anoseg_engines.reinspection.ray_nodes import EngineOnRay
from anoseg_engines.reinspection.result_folder import ResultFolder, RunRecord

CORES = multiprocessing.cpu_count()
SHARD_SIZE = 50
OnImages = Callable[[int], None]
_engine: Engine | None = None


def run_loop(paths: list[Path], _: Path, on_images: OnImages) -> list[Any]:
    """A plain loop: one engine with all cores, one image after the other."""
    engine = load_engine(load_bundle(DEMO))
    found = []
    for result in plain_loop(engine, paths):
        found.append(result)
        on_images(1)
    engine.close()
    return found


def run_here(paths: list[Path], out: Path, on_images: OnImages) -> list[Any]:
    """`reinspect` without Ray."""
    images, record = find_images(paths[0].parents[1]), _record(len(paths), paths[0].parents[1])
    engine = load_engine(load_bundle(DEMO))
    with ResultFolder(out, record) as result:
        inspect_here(engine, images, result, on_images)
    engine.close()
    return results_of(out)


def run_pool(paths: list[Path], _: Path, on_images: OnImages) -> list[Any]:
    """A process with an engine for each core, fed by `multiprocessing.Pool`."""
    found = []
    with multiprocessing.get_context("spawn").Pool(CORES, _load) as pool:
        for results in pool.imap(_inspect, [paths[n : n + SHARD_SIZE] for n in range(0, len(paths), SHARD_SIZE)]):
            found += results
            on_images(len(results))
    return found


def _load() -> None:
    global _engine
    _engine = load_engine(load_bundle(DEMO), threads=1)


def _inspect(paths: list[Path]) -> list[Any]:
    assert _engine is not None
    return list(plain_loop(_engine, paths))


def run_ray(paths: list[Path], out: Path, on_images: OnImages) -> list[Any]:
    """`reinspect --ray`: an actor with an engine for each core."""
    images, record = find_images(paths[0].parents[1]), _record(len(paths), paths[0].parents[1])
    engine = EngineOnRay(bundle=load_bundle(DEMO).path, runtime="auto", cpus=1, gpus=0, engines=CORES)
    with ResultFolder(out, record) as result:
        inspect_on_ray(LOCAL, engine, images, result, on_images, print)
    return results_of(out)


def _record(n: int, source: Path) -> RunRecord:
    bundle = load_bundle(DEMO)
    return RunRecord(
        bundle=bundle.label,
        engine_digest=bundle.digest,
        source=str(source),
        images=n,
        images_digest="",
        runtime="auto",
        shard_size=SHARD_SIZE,
    )


WAYS = {"plain loop": run_loop, "reinspect": run_here, "multiprocessing.Pool": run_pool, "reinspect --ray": run_ray}


def measure(way: str, paths: list[Path], out: Path) -> tuple[dict[str, float], list[Any]]:
    """Run one way; return its figures and its results."""
    stamps, done = list[tuple[float, int]](), 0

    def on_images(n: int) -> None:
        nonlocal done
        done += n
        stamps.append((time.perf_counter(), done))

    began = time.perf_counter()
    found = WAYS[way](paths, out, on_images)
    ended = time.perf_counter()
    (first, n_first), (last, n_last) = stamps[0], stamps[-1]
    rate = (n_last - n_first) / (last - first)
    return {"images_per_s": rate, "start_s": first - began - n_first / rate, "all_s": ended - began}, found


def main() -> None:
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--images", type=int, default=1500)
    options.add_argument("--json", type=Path, metavar="FILE")
    given = options.parse_args()
    figures: dict[str, list[dict[str, float]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        paths = make_archive(folder / "images", given.images)
        expected = None
        for turn in range(2):
            for way in WAYS:
                found, results = measure(way, paths, folder / f"{way} {turn}")
                figures[way].append(found)
                expected = results if expected is None else expected
                differing = sum(a != b for a, b in zip(results, expected, strict=True))
                print(f"{way}: {found['images_per_s']:.1f} images/s, {differing} rows differ from the loop's", flush=True)
    table = Table(title=f"{given.images} images, {CORES} cores")
    for column in ("", "images/s, two turns", "times the loop", "start, s"):
        table.add_column(column)
    loop = max(each["images_per_s"] for each in figures["plain loop"])
    for way, turns in figures.items():
        rates = " / ".join(f"{each['images_per_s']:.1f}" for each in turns)
        times = max(each["images_per_s"] for each in turns) / loop
        table.add_row(way, rates, f"{times:.2f}", " / ".join(f"{each['start_s']:.1f}" for each in turns))
    Console(width=120).print(table)
    if given.json is not None:
        given.json.write_text(json.dumps(figures, indent=1))


if __name__ == "__main__":
    main()
