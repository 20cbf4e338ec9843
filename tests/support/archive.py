"""An archive of images for the rig and the benchmark of `anoseg-engine reinspect`, and the loop that their rows must equal."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow.parquet as pq

from anoseg_engines.engine import Engine
from anoseg_engines.errors import DataError
from anoseg_engines.images import read_image
from anoseg_engines.judgement import judge
from anoseg_engines.placement import Region
from anosegd.demo.line import DemoLine

RENDERED = 100
DAMAGED_EVERY = 997
Result = tuple[str, str, Any, tuple[Any, ...]]
"""Path, outcome, score and the defects of an image."""


def make_archive(folder: Path, n: int) -> list[Path]:
    """Write n JPEG images of demo parts, a thousand in a folder: 100 rendered ones, each moved and lit in its own way.

    One in 997 is cut, so that it cannot be read.
    """
    line = DemoLine(7)
    rendered = [line.part(number).image for number in range(min(n, RENDERED))]
    paths = []
    for number in range(n):
        rng = np.random.default_rng(number)
        image = np.roll(rendered[number % RENDERED], rng.integers(-3, 4, 2).tolist(), (0, 1))
        image = cv2.convertScaleAbs(image, alpha=rng.uniform(0.96, 1.04))
        data = cv2.imencode(".jpg", image)[1].tobytes()
        path = folder / f"{number // 1000:03}" / f"{number:06}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(data[:-200] if number % DAMAGED_EVERY == DAMAGED_EVERY - 1 else data)
        paths.append(path)
    return paths


def plain_loop(engine: Engine, paths: list[Path]) -> Iterator[Result]:
    """Inspect one image after the other, in as few lines as it takes."""
    placements: dict[tuple[int, ...], Any] = {}
    for path in paths:
        try:
            image = read_image(path)
        except DataError:
            yield str(path), "UNKNOWN", None, ()
            continue
        size = image.shape[:2]
        if size not in placements:
            placements[size] = engine.place(Region(0, 0, size[1], size[0]))
        found = judge(engine.inspect(image, placements[size]), engine.thresholds, placements[size])
        defects = tuple((d.x, d.y, d.width, d.height, d.area, d.peak, d.centroid_x, d.centroid_y) for d in found.defects)
        yield str(path), found.outcome, found.score, defects


def results_of(out: Path) -> list[Result]:
    """The rows of a result, in the order of its shards."""
    rows = [row for path in sorted(out.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]
    return [
        (row["path"], row["outcome"], row["score"], tuple(tuple(defect.values()) for defect in row["defects"])) for row in rows
    ]
