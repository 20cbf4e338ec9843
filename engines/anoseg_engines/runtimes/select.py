"""Selects the runtimes for a bundle, with the reasons.

`auto` chooses the device, and both `auto` and `cpu` choose the precision on a CPU. A runtime that is named exactly and cannot
run is an error.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from anoseg_engines.bundle import INT8, Bundle
from anoseg_engines.errors import AnosegError, ConfigError, EngineError, GpuMemoryError, PrecisionError, SelfTestError
from anoseg_engines.runtimes.base import Runtime
from anoseg_engines.runtimes.openvino import CpuRuntime
from anoseg_engines.runtimes.openvino_network import PRECISIONS, cpu_precisions
from anoseg_engines.runtimes.tensorrt.build import BuildOptions, PlanTest, build_plan
from anoseg_engines.runtimes.tensorrt.gpu import Gpu, find_gpu
from anoseg_engines.runtimes.tensorrt.library import Library, libraries
from anoseg_engines.runtimes.tensorrt.plan import Machine, PlanDescription, build_command, check_plan
from anoseg_engines.runtimes.tensorrt.plan_store import PlanStore
from anoseg_engines.runtimes.tensorrt.runtime import TensorRTRuntime

RUNTIMES = ("auto", "tensorrt", "cpu", *(f"cpu-{p}" for p in PRECISIONS), f"cpu-{INT8}")
"""auto: TensorRT where there are a GPU and a plan, else cpu. cpu: the fastest precision of this processor that passes the
self-test, but never INT8, which must be asked for. cpu-f32, …: that precision and no other."""

MOST_WORKSPACE_MB, WORKSPACE_SHARE = 1024, 8
"""The daemon's own build may use this much memory, and at most one part in so many of the GPU's memory, to try kernels."""


@dataclass(frozen=True, slots=True)
class SelectedRuntime:
    """A runtime to load.

    Attributes:
        name: One of `RUNTIMES`, but neither auto nor cpu.
        why: The reason for it in a few words, for the log.
        open: Loads it.
        instead: The errors after which the next runtime is tried. Its reason then names the error.
        passed: The caller calls this when the runtime has passed the self-test.
    """

    name: str
    why: str
    open: Callable[[], Runtime]
    instead: tuple[type[EngineError], ...] = (SelfTestError, PrecisionError)
    passed: Callable[[], None] = lambda: None


def select_runtimes(
    bundle: Bundle, runtime: str = "auto", *, threads: int = 0, build_with: PlanTest | None = None
) -> list[SelectedRuntime]:
    """List the runtimes to try, in order. The caller tries the next runtime after an error that `instead` names.

    On the CPU, precisions are tried from the fastest to FP32. If `auto` chose TensorRT, the CPU follows in case other programs
    have taken the GPU's memory. If a plan cannot be built, `auto` takes the CPU: each restart would only fail again.

    Args:
        runtime: One of `RUNTIMES`.
        threads: Threads of the CPU runtime; 0 lets it decide.
        build_with: The self-test for a new plan. A plan is built if it is missing, or made for another GPU or version. The
            build takes minutes on a small machine. None: no plan is built.

    Raises:
        ConfigError: The name is unknown.
        EngineError: The named runtime cannot run here, or a plan's description is damaged.
        AnosegError: A plan for the named runtime cannot be built.
    """
    if runtime not in RUNTIMES:
        raise ConfigError(f"runtime {runtime!r} is unknown", hint=f"choose one of {', '.join(RUNTIMES)}")
    if runtime == "tensorrt":
        gpu = find_gpu()
        try:
            return [_stored_plan(bundle, gpu)]
        except NoPlanError as missing:
            if build_with is None:
                raise
            return [_new_plan(bundle, gpu, build_with, missing)]
    if runtime == "auto":
        try:
            gpu = find_gpu()
            libraries()
        except EngineError as error:
            return _cpu_in_order(bundle, threads, error.what)
        try:
            tensorrt = _stored_plan(bundle, gpu)
        except NoPlanError as missing:
            if build_with is None:
                return _cpu_in_order(bundle, threads, f"{missing.what}; {missing.hint}")
            try:
                tensorrt = _new_plan(bundle, gpu, build_with, missing)
            except AnosegError as error:
                failure = error.what.splitlines()[0]  # the other lines are what TensorRT printed
                why = f"the TensorRT plan could not be built: {failure}; `{build_command(bundle)}` shows more"
                return _cpu_in_order(bundle, threads, why)
        return [tensorrt, *_cpu_in_order(bundle, threads, "")]
    if runtime == "cpu":
        return _cpu_in_order(bundle, threads, "")
    return [_cpu(bundle, runtime.removeprefix("cpu-"), threads, "named in the configuration")]


class NoPlanError(EngineError):
    """There is no plan for this machine. `auto` takes the CPU instead."""


def _stored_plan(bundle: Bundle, gpu: Gpu) -> SelectedRuntime:
    """Find the plan for this GPU. This checks the plan's description, and does not read the plan yet.

    Raises:
        NoPlanError, EngineError: As `_plan_here`.
    """
    library, description = _plan_here(bundle, gpu, libraries())
    return _tensorrt(bundle, gpu, library, description, f"{gpu.name}, plan of {description.built}")


def _new_plan(bundle: Bundle, gpu: Gpu, build_with: PlanTest, missing: NoPlanError) -> SelectedRuntime:
    """Build a plan for this GPU. The build tests it before it stores it. Loading tests it again, as it does every engine.

    Raises:
        AnosegError: The build failed, or the plan did not pass its self-test.
    """
    library = libraries()[0]
    options = BuildOptions(library=library.name, workspace_mb=_workspace_mb(gpu))
    description = build_plan(bundle, options, self_test=build_with)
    return _tensorrt(bundle, gpu, library, description, f"{gpu.name}, plan built now: {missing.what}")


def _tensorrt(bundle: Bundle, gpu: Gpu, library: Library, description: PlanDescription, why: str) -> SelectedRuntime:
    store = PlanStore.of(bundle)

    def load() -> Runtime:
        return TensorRTRuntime.open(bundle, store.load(description), description, cache=store.kernels(description))

    def passed() -> None:
        if description.proved_on != gpu.name:
            store.mark_proved(description, gpu)

    return SelectedRuntime("tensorrt", f"{why}, {library.name} {library.version}", load, (GpuMemoryError,), passed)


def _workspace_mb(gpu: Gpu) -> int:
    """Return the memory limit of a build beside a running line: on a Jetson, the GPU's memory is the machine's."""
    return min(MOST_WORKSPACE_MB, gpu.memory_bytes // WORKSPACE_SHARE >> 20)


def _plan_here(bundle: Bundle, gpu: Gpu, found: list[Library]) -> tuple[Library, PlanDescription]:
    """Find the library and plan that fit this machine.

    Raises:
        NoPlanError: No plan exists, or the plan is for another GPU, version or platform. The message has both values.
        EngineError: A description is damaged.
    """
    mismatch: EngineError | None = None
    for library in found:
        machine = Machine.here(library, gpu)
        description = PlanStore.of(bundle).find(machine)
        if description is None:
            raise NoPlanError("no TensorRT plan has been built for this bundle", hint=f"build it: {build_command(bundle)}")
        try:
            check_plan(description, machine, bundle)
        except EngineError as error:
            mismatch = mismatch or error.with_traceback(None)  # a traceback would keep the callers' objects alive
            continue
        return library, description
    assert mismatch is not None
    raise NoPlanError(mismatch.what, hint=mismatch.hint) from mismatch


def _cpu_in_order(bundle: Bundle, threads: int, why: str) -> list[SelectedRuntime]:
    found: list[SelectedRuntime] = []
    for precision in cpu_precisions():
        reason = f"{found[-1].name} did not pass" if found else f"{precision} is the fastest this processor has"
        found.append(_cpu(bundle, precision, threads, f"{why}; {reason}" if why else reason))
    return found


def _cpu(bundle: Bundle, precision: str, threads: int, why: str) -> SelectedRuntime:
    model = bundle.model_of(precision)

    def load() -> Runtime:
        return CpuRuntime.open(model, bundle.manifest.input, precision=precision, threads=threads)

    return SelectedRuntime(f"cpu-{precision}", why, load)
