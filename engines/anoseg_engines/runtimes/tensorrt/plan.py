"""Describes a plan: which GPU, library and bundle it was built for. Checks whether it fits this machine."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from anoseg_engines.bundle import Bundle, Sha256
from anoseg_engines.errors import EngineError
from anoseg_engines.runtimes.tensorrt.gpu import ANY_GPU, Gpu, platform_name
from anoseg_engines.runtimes.tensorrt.layers import Layer
from anoseg_engines.runtimes.tensorrt.library import Library

SCHEMA_VERSION: Literal[2] = 2
LARGEST_BATCH = 1024
"""Of a plan. The commands that build or measure plans refuse more."""


class PlanDescription(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What a plan was built from, and where it runs.

    Attributes:
        gpu: The GPU's name. For a plan built without a GPU, this and `compute_capability` are `ANY_GPU`.
        multiprocessors, memory_gib: Of that GPU. None without a GPU, and in descriptions of schema version 1, which lack them.
        height, width, min_batch, opt_batch, max_batch: The optimisation profile.
        workspace_mb: The memory limit of the build; None is the library's own.
        proved_on: The GPU on which the plan passed its self-test; None if it has not run on one.
        layers: Number of the network's layers by the type in which they compute.
        fp32_layers: The layers in FP32, with the reason.
    """

    schema_version: Literal[1, 2] = SCHEMA_VERSION
    bundle: str
    bundle_sha256: Sha256
    library: Literal["tensorrt", "tensorrt-rtx"]
    library_version: str
    gpu: str
    compute_capability: str
    multiprocessors: int | None = None
    memory_gib: int | None = None
    platform: str
    height: Annotated[int, Meta(ge=1)]
    width: Annotated[int, Meta(ge=1)]
    min_batch: Annotated[int, Meta(ge=1)] = 1
    opt_batch: Annotated[int, Meta(ge=1)]
    max_batch: Annotated[int, Meta(ge=1, le=LARGEST_BATCH)]
    workspace_mb: int | None = None
    built: str
    build_seconds: float
    plan: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,200}\.plan\Z")]
    plan_sha256: Sha256
    plan_bytes: Annotated[int, Meta(ge=1)]
    proved_on: str | None = None
    layers: dict[str, int] = {}
    fp32_layers: list[Layer] = []


@dataclass(frozen=True, slots=True)
class Machine:
    """What a plan must fit: the installed TensorRT, the GPU (None: there is none) and the platform."""

    library: str
    library_version: str
    gpu: Gpu | None
    platform: str

    @classmethod
    def here(cls, library: Library, gpu: Gpu | None) -> Machine:
        """This machine with one of its libraries."""
        return cls(library.name, library.version, gpu, platform_name())

    @property
    def gpu_name(self) -> str:
        """The GPU's name, `ANY_GPU` without one."""
        return self.gpu.name if self.gpu else ANY_GPU

    @property
    def stem(self) -> str:
        """The start of the file names of this machine's description and plan."""
        gpu = re.sub(r"[^a-z0-9]+", "-", self.gpu_name.lower()).strip("-")
        if self.gpu:
            gpu += f"-{self.gpu.multiprocessors}sm-{self.gpu.memory_gib}gib"
        return f"{gpu}-{self.library}-{self.library_version}"


def check_plan(description: PlanDescription, machine: Machine, bundle: Bundle) -> None:
    """Check by its description that a plan belongs to this bundle and machine.

    Raises:
        EngineError: The plan does not belong to them. The message has both values, and the command that builds the plan again.
    """
    spec = bundle.manifest.input
    pairs = [
        ("bundle", description.bundle_sha256, bundle.digest),
        ("input size", f"{description.height}×{description.width}", f"{spec.height}×{spec.width}"),
        ("platform", description.platform, machine.platform),
        ("library", description.library, machine.library),
        (f"{description.library} version", description.library_version, machine.library_version),
    ]
    if machine.gpu is not None and description.gpu != ANY_GPU:
        pairs.append(("GPU", description.gpu, machine.gpu.name))
        pairs.append(("compute capability", description.compute_capability, machine.gpu.compute_capability))
        if description.multiprocessors is not None:
            pairs.append(("GPU multiprocessors", f"{description.multiprocessors}", f"{machine.gpu.multiprocessors}"))
            pairs.append(("GPU memory", f"{description.memory_gib} GiB", f"{machine.gpu.memory_gib} GiB"))
    for what, built_for, here in pairs:
        if built_for != here:
            raise EngineError(
                f"{description.plan}: built for {what} {built_for}, here it is {here}",
                hint=f"rebuild it: {build_command(bundle)}",
            )


def build_command(bundle: Bundle) -> str:
    """The command that builds the bundle's plan."""
    return f"anoseg-engine build {bundle.path}"


def plan_name(machine: Machine, sha256: str) -> str:
    """The file name of a plan."""
    return f"{machine.stem}-{sha256[:12]}.plan"
