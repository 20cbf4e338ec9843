"""Runs trainings as tasks of a Ray cluster, each on a node that has room for it. Main thread of the driver; needs Ray.

A task is a worker process of Ray, which runs the training in a process of its own. All files are on drives that every node has
at the same paths. Ray does not start tasks again: `supervision` does it, which counts how often.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence

# isort: off
from anoseg_engines.ray_cluster import first_line  # before Ray: it sets what Ray reads when it is imported

import ray
from ray.exceptions import (
    NodeDiedError,
    OutOfMemoryError,
    RayError,
    RayTaskError,
    TaskCancelledError,
    WorkerCrashedError,
)

# isort: on

from anoseg_engines.errors import ConfigError
from anoseg_engines.files import shown_name
from anoseg_trainer.fit_status import STOPPED
from anoseg_trainer.fleet.products_file import ProductTraining
from anoseg_trainer.fleet.training_run import Ending, run_training

SHARED = "every node needs images, configurations, stores and the work folder at the same paths"
LOST = {
    WorkerCrashedError: "the worker of Ray in which it ran was killed or crashed",
    OutOfMemoryError: "Ray ended it, because the memory of its node ran out: raise cores, so that fewer train side by side",
    NodeDiedError: "its node was lost",
}
"""What became of a task, in words."""
GOES_ON = "the finished products stay finished: the same command goes on"
"""What to do if the cluster is lost."""


def train_product(training: ProductTraining) -> Ending:
    """Train a product; runs in a worker of Ray."""
    node = f"node {ray.util.get_node_ip_address()}"
    for path in (training.data, training.config):
        if path is not None and not path.exists():
            return Ending("failed", f"{node}: {shown_name(path)} is not there; {SHARED}", 2, None)
    if not training.work.parent.is_dir():
        return Ending("failed", f"{node}: {shown_name(training.work.parent)} is not there; {SHARED}", 2, None)
    gpus = None if training.gpus else ""  # Ray has chosen the GPUs
    return run_training(training, threading.Event(), gpus)  # Ray stops it with an exception


class OnRay:
    """The trainings that are tasks of the cluster to which this process is connected."""

    def __init__(self, trainings: Sequence[ProductTraining]) -> None:
        """Check that some node has room for each of these trainings.

        Raises:
            ConfigError: None has.
        """
        nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        for training in trainings:
            if not any(node.get("CPU", 0) >= training.cores and node.get("GPU", 0) >= training.gpus for node in nodes):
                most = max((node.get("CPU", 0), node.get("GPU", 0)) for node in nodes)
                what = f"{training.name} needs {training.cores} cores and {training.gpus:g} GPU on one node"
                hint = f"the largest has {most[0]:g} cores and {most[1]:g} GPUs: lower cores or gpus, or add nodes"
                raise ConfigError(f"{what}, and no node of the cluster has so many", hint=hint)
        self._tasks: dict[ray.ObjectRef, ProductTraining] = {}
        self._has = ray.cluster_resources()
        self._stopping = False

    def start(self, training: ProductTraining) -> bool:
        """Give a training to Ray if the cluster has room for it, so that one that starts again is not the last in Ray's queue.

        Ray starts it when a node has room.
        """
        given = [*self._tasks.values(), training]
        cores, gpus = sum(each.cores for each in given), sum(each.gpus for each in given)
        if self._tasks and (cores > self._has.get("CPU", 0) or gpus > self._has.get("GPU", 0)):
            return False
        task = ray.remote(num_cpus=training.cores, num_gpus=training.gpus, max_retries=0)(train_product)
        self._tasks[task.options(name=training.name).remote(training)] = training
        return True

    def endings(self, timeout_s: float) -> list[tuple[str, Ending]]:
        """Wait for trainings that end; return each with its product's name, or none after the time."""
        ready, _ = ray.wait(list(self._tasks), num_returns=1, timeout=timeout_s)
        self._has = ray.cluster_resources()  # nodes come and go
        return [(self._tasks.pop(task).name, self._ending(task)) for task in ready]

    def stop(self) -> None:
        """Ask all trainings to end; `endings` still returns them."""
        self._stopping = True
        for task in self._tasks:
            ray.cancel(task)

    def _ending(self, task: ray.ObjectRef) -> Ending:
        try:
            found: Ending = ray.get(task)
        except (TaskCancelledError, RayTaskError) as error:
            if self._stopping:  # the exception that stopped it
                return Ending("stopped", "", STOPPED, None)
            return Ending("lost", f"Ray: {first_line(error)}", 1, None)
        except RayError as error:
            why = next((words for kind, words in LOST.items() if isinstance(error, kind)), f"Ray lost it: {first_line(error)}")
            return Ending("lost", why, 1, None)
        return found
