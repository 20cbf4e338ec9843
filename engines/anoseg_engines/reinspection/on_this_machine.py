"""Inspects the images of a run in this process, with one engine that uses the whole machine. Main thread."""

from __future__ import annotations

from collections.abc import Callable
from itertools import chain

from anoseg_engines.engine import Engine
from anoseg_engines.reinspection.image_inspection import ImageInspector, Row
from anoseg_engines.reinspection.image_list import ImageList
from anoseg_engines.reinspection.result_folder import ResultFolder
from anoseg_engines.reinspection.result_rows import shard_bytes


def inspect_here(engine: Engine, images: ImageList, result: ResultFolder, on_images: Callable[[int], None]) -> None:
    """Inspect the images of all shards that are not finished, and write each shard when its last image is inspected.

    Args:
        on_images: Called with the number of images that were just inspected.

    Raises:
        EngineError: The runtime failed.
        AnosegError: The result cannot be written.
    """
    shards = result.to_do()
    numbers = chain.from_iterable(result.record.rows_of(shard) for shard in shards)
    with ImageInspector(engine) as inspector:
        rows = inspector.rows(images.images[number] for number in numbers)
        for shard in shards:
            found: list[Row] = []
            for _ in result.record.rows_of(shard):
                found.append(next(rows))
                on_images(1)
            result.write_shard(shard, shard_bytes(shard, found, result.metadata()))
