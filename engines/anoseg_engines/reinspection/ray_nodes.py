"""Finds out whether the nodes of a Ray cluster can run the engines. Main thread, with a connection to the cluster."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ray
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from anoseg_engines.errors import ConfigError
from anoseg_engines.version import installed_version

ANSWER_S = 120.0
"""How long a node may take to start a process and to say its version."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineOnRay:
    """The engine of each actor.

    Attributes:
        bundle: The bundle's folder, at the same path on every node.
        cpus: Processor cores of an engine, which are also its threads.
        gpus: GPUs of an engine; a share is possible.
        engines: How many there are; None: as many as the cluster has cores or GPUs for.
    """

    bundle: Path
    runtime: str
    cpus: int
    gpus: float
    engines: int | None


def check_nodes(engine: EngineOnRay) -> int:
    """Check that the nodes have room for the engines, and the version of this package. Returns how many engines to start.

    Raises:
        ConfigError: There is no room, or a node has another version.
    """
    for address, version in _versions(engine):
        check_version(address, version)
    has = ray.cluster_resources()  # only now: a node that has just been lost counts until it is asked in vain
    cores, gpus = has.get("CPU", 0), has.get("GPU", 0)
    room = int(cores // engine.cpus) if not engine.gpus else int(min(cores // engine.cpus, gpus / engine.gpus))
    if room < max(1, engine.engines or 1):
        needs = f"{engine.engines or 1} × ({engine.cpus} cores, {engine.gpus:g} GPUs)"
        what = f"the cluster has {cores:g} cores and {gpus:g} GPUs, too few for {needs}"
        raise ConfigError(what, hint="change --engines, --cpus or --gpus, or add nodes")
    return engine.engines or room


def check_version(node: str, version: str | None, wanted: str | None = None) -> None:
    """Compare the version on a node with the one that is wanted, or else with this process's.

    Raises:
        ConfigError: The node has another version, or none.
    """
    wanted = wanted or installed_version()
    if version != wanted:
        has = "does not have anoseg-edge" if version is None else f"has version {version} of anoseg-edge"
        raise ConfigError(f"node {node}: {has}, the command has {wanted}", hint="install the same version on every node")


def _versions(engine: EngineOnRay) -> list[tuple[str, str | None]]:
    """Ask each node that has room for an engine for its version of this package; None: it has none.

    A node that was lost may be in Ray's list for half a minute. Returns the addresses and versions of those that answer.

    Raises:
        RayError: A node is there, but cannot run a program.
    """

    def version_there() -> str | None:
        """Has no imports of ours: Ray sends the code of an inner function, so that it runs on nodes of any version."""
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("anoseg-edge")
        except PackageNotFoundError:
            return None

    asked: list[tuple[dict[str, Any], Any]] = []
    for node in ray.nodes():
        has = node["Resources"]
        if node["Alive"] and has.get("CPU", 0) >= engine.cpus and has.get("GPU", 0) >= engine.gpus:
            there = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            asked.append((node, ray.remote(version_there).options(num_cpus=0, scheduling_strategy=there).remote()))
    end, found = time.monotonic() + ANSWER_S, []
    for node, answer in asked:
        try:
            found.append((node["NodeManagerAddress"], ray.get(answer, timeout=max(0.0, end - time.monotonic()))))
        except RayError:
            if any(other["NodeID"] == node["NodeID"] and other["Alive"] for other in ray.nodes()):
                raise
    return found
