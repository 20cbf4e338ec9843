"""Inspects the images of a run on a Ray cluster: a pool of actors, each with an engine of its own. Main thread; needs Ray.

An actor inspects a shard and returns the shard's Parquet file; this process writes it. So a node needs the bundle and the
images at the same paths, but not the result's folder. Ray starts an actor again if it dies, and gives its shard to another one.
If that does not help, because a whole node was lost, a new pool gets the shards that are left.
"""

from __future__ import annotations

import logging
import pickle
import warnings
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa

# isort: off
from anoseg_engines.ray_cluster import first_line, ray_cluster  # before Ray: it sets what Ray reads when it is imported

import ray
import ray.data
from ray.exceptions import RayError

# isort: on

from anoseg_engines.bundle import load_bundle
from anoseg_engines.errors import AnosegError, ConfigError, EngineError
from anoseg_engines.files import shown_name
from anoseg_engines.loading import load_engine
from anoseg_engines.reinspection.image_inspection import ImageInspector
from anoseg_engines.reinspection.image_list import ImageList, ListedImage
from anoseg_engines.reinspection.ray_nodes import EngineOnRay, check_nodes, check_version
from anoseg_engines.reinspection.result_folder import ResultFolder, shard_path
from anoseg_engines.reinspection.result_rows import shard_bytes
from anoseg_engines.version import installed_version
from anoseg_engines.words import agreeing, counted

TRIES = 6
"""How often a shard is tried whose actor dies, before the run ends: an image might crash every engine."""
POOLS = 4
"""How many pools of actors a run may need. Another one starts when a node is lost, if the one before has finished a shard."""
GOES_ON = "the finished shards stay: the same command goes on"


class ShardInspector:
    """Runs in an actor: inspects shards with an engine of its own.

    An error is a result like any other. Ray would wrap one that is raised, and start the actor again.
    """

    def __init__(self, engine: EngineOnRay, digest: str, folder: str | None, record: bytes, version: str) -> None:
        """Check this node and load its engine.

        Args:
            folder: Of the images, if it was given instead of a list.
        """
        self._record = record
        self._failure: AnosegError | None = None
        try:
            node = f"node {ray.util.get_node_ip_address()}"
            check_version(ray.util.get_node_ip_address(), installed_version(), version)  # the node may have come later
            if folder is not None and not Path(folder).exists():
                raise ConfigError(f"{node}: {folder} is not there", hint="every node needs the images at the same path")
            bundle = load_bundle(engine.bundle)
            if bundle.digest != digest:
                raise EngineError(f"{node}: {engine.bundle} is another bundle there", hint="copy it to every node")
            self._inspector = ImageInspector(load_engine(bundle, runtime=engine.runtime, threads=engine.cpus))
        except AnosegError as error:
            self._failure = error

    def __call__(self, shard: pa.Table) -> pa.Table:
        """Inspect a table with one row, a shard, and return one with its file, or with an error."""
        found = b""
        if self._failure is None:
            try:
                images: list[ListedImage] = pickle.loads(shard["images"][0].as_py())
                found = shard_bytes(shard["shard"][0].as_py(), list(self._inspector.rows(images)), self._record)
            except AnosegError as error:  # the inspector may have unfinished images, so it inspects no other shard
                self._failure = error
        failure = b"" if self._failure is None else pickle.dumps(self._failure)
        columns = {"file": pa.array([found], pa.large_binary()), "failure": pa.array([failure], pa.large_binary())}
        return pa.table({"shard": shard["shard"], **columns})


def inspect_on_ray(
    address: str,
    engine: EngineOnRay,
    images: ImageList,
    result: ResultFolder,
    on_images: Callable[[int], None],
    on_note: Callable[[str], None],
) -> None:
    """Inspect the images of all shards that are not finished, and write each shard when it comes.

    Args:
        address: Of the cluster's head, HOST:PORT; `auto` finds a cluster on this machine, `local` starts one.
        on_images: Called with the number of images that were just inspected.
        on_note: Called with a sentence about actors that were lost.

    Raises:
        ConfigError: The cluster is too small, or a node does not have the images or this version of the package.
        EngineError: An actor refused the bundle, or its runtime failed.
        AnosegError: The cluster cannot be reached or was lost, or the result cannot be written.
    """
    with ray_cluster(address, GOES_ON):
        context = ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        logging.getLogger("ray.data").setLevel(logging.CRITICAL)  # it would print the traceback of what is raised below
        pools = 0
        while shards := result.to_do():
            pools += 1
            try:
                _inspect_shards(shards, engine, images, result, on_images)
            except RayError as error:  # with a node, all of its actors are lost; a new pool starts on those that are left
                if pools < POOLS and len(result.to_do()) < len(shards):
                    on_note(f"Ray lost actors ({first_line(error)}); going on with {counted(len(result.to_do()), 'shard')}")
                    continue
                what = f"--ray {address}: Ray failed ({first_line(error)}); {first_not_finished(images, result)}"
                hint = f"{GOES_ON}; if an image makes engines crash, find it among these and leave it out of the list"
                raise AnosegError(what, hint=hint) from error


def _inspect_shards(
    shards: list[int], engine: EngineOnRay, images: ImageList, result: ResultFolder, on_images: Callable[[int], None]
) -> None:
    """Inspect the images of these shards with a new pool of actors, and write each shard when it comes.

    Raises:
        ConfigError, EngineError: As `inspect_on_ray`.
        AnosegError: The result cannot be written.
        RayError: Actors were lost, more often than Ray starts them again.
    """
    number = check_nodes(engine)
    items = [{"shard": shard, "images": _packed(images, result.record.rows_of(shard))} for shard in shards]
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*ray_remote_args", category=DeprecationWarning)  # max_task_retries
        found = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
            ShardInspector,
            batch_size=1,
            batch_format="pyarrow",
            compute=ray.data.ActorPoolStrategy(size=min(number, len(items))),
            num_cpus=engine.cpus,
            num_gpus=engine.gpus,
            max_task_retries=TRIES - 1,
            fn_constructor_args=(
                engine,
                result.record.engine_digest,
                str(images.source.absolute()) if images.source.is_dir() else None,  # of a list, nodes need the images only
                result.metadata(),
                installed_version(),
            ),
        )
    for row in found.iter_rows():
        if row["failure"]:
            raise pickle.loads(row["failure"])
        result.write_shard(row["shard"], row["file"])
        on_images(len(result.record.rows_of(row["shard"])))


def first_not_finished(images: ImageList, result: ResultFolder) -> str:
    """Name the first shard that is not finished, with its first and last image. Ray does not say whose actor died."""
    shard = result.to_do()[0]
    rows = result.record.rows_of(shard)
    first, last = (shown_name(images.images[number].path) for number in (rows[0], rows[-1]))
    more = len(result.to_do()) - 1
    said = f"{shard_path(result.folder, shard).name} is not finished (from {first} to {last})"
    return f"{said}, nor {agreeing(more, 'is', 'are')} {counted(more, 'later shard')}" if more else said


def _packed(images: ImageList, numbers: range) -> bytes:
    return pickle.dumps([images.images[number] for number in numbers])  # JSON knows no file names that are not UTF-8
