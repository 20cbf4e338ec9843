"""Which runtime a bundle is run on, and why. A named runtime that cannot run is an error; only `auto` chooses."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from anoseg_engines.bundle.read import Bundle
from anoseg_engines.errors import ConfigError, EngineError
from anoseg_engines.runtimes.base import Runtime
from anoseg_engines.runtimes.openvino import PRECISIONS, CpuRuntime, cpu_precisions
from anoseg_engines.runtimes.tensorrt.build import BuildOptions, build_plan
from anoseg_engines.runtimes.tensorrt.gpu import Gpu, find_gpu
from anoseg_engines.runtimes.tensorrt.library import Library, libraries
from anoseg_engines.runtimes.tensorrt.plan import Machine, PlanDescription, PlanStore, build_command, check_plan
from anoseg_engines.runtimes.tensorrt.runtime import TensorRTRuntime

RUNTIMES = ("auto", "tensorrt", "cpu", *(f"cpu-{p}" for p in PRECISIONS))
"""auto: TensorRT where a GPU and a plan are, else cpu. cpu: the fastest precision of this processor that the golden images
confirm. cpu-f32, …: that precision and no other."""


@dataclass(frozen=True, slots=True)
class Choice:
    """A runtime to load. name: as in `RUNTIMES`. why: in a few words, for the log. proved: called when it has proved itself."""

    name: str
    why: str
    open: Callable[[], Runtime]
    proved: Callable[[], None] = lambda: None


def choose(bundle: Bundle, runtime: str = "auto", *, threads: int = 0, build: bool = False) -> list[Choice]:
    """What to load, in order: the next is taken only if the one before does not run so, or the golden images do not confirm it.

    There is more than one only on the CPU, where precisions are tried from the fastest to FP32. build: a plan that is
    missing, or was built for another GPU or version, is built (minutes, on a small machine).

    Raises:
        ConfigError: the name is unknown. EngineError: the runtime named cannot run here.
    """
    if runtime not in RUNTIMES:
        raise ConfigError(f"runtime {runtime!r} is unknown", hint=f"choose one of {', '.join(RUNTIMES)}")
    if runtime == "tensorrt":
        return [_tensorrt(bundle, find_gpu(), build=build)]
    if runtime == "auto":
        try:
            gpu = find_gpu()
            libraries()
        except EngineError as error:
            return _cpu(bundle, threads, error.what)
        try:
            return [_tensorrt(bundle, gpu, build=build)]
        except NoPlanError as error:
            return _cpu(bundle, threads, f"{error.what}; {error.hint}")
    if runtime == "cpu":
        return _cpu(bundle, threads, "")
    return [_cpu_choice(bundle, runtime.removeprefix("cpu-"), threads, "named in the configuration")]


class NoPlanError(EngineError):
    """There is no plan for this machine; with `auto` the CPU takes over."""


def _tensorrt(bundle: Bundle, gpu: Gpu, *, build: bool) -> Choice:
    """The plan for this GPU, checked but not read yet."""
    found = libraries()
    try:
        library, description = _plan_here(bundle, gpu, found)
        why = f"{gpu.name}, plan of {description.built}"
    except NoPlanError as error:
        if not build:
            raise
        # The build proves the plan before it accepts it; it is proved once more when it is loaded, as everything is.
        description = build_plan(bundle, BuildOptions(library=found[0].name), prove=prover(bundle))
        library, why = found[0], f"{gpu.name}, plan built now: {error.what}"
    store = PlanStore.of(bundle)

    def load() -> Runtime:
        return TensorRTRuntime.open(bundle, store.load(description), description)

    def proved() -> None:
        if description.proved_on != gpu.name:
            store.mark_proved(description, gpu)

    return Choice("tensorrt", f"{why}, {library.name} {library.version}", load, proved)


def _plan_here(bundle: Bundle, gpu: Gpu, found: list[Library]) -> tuple[Library, PlanDescription]:
    """The library and plan that fit this machine.

    Raises:
        NoPlanError: there is none, or it is for another GPU, version or platform; both values are named.
        EngineError: a description is damaged.
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
            mismatch = mismatch or error.with_traceback(None)  # its frames hold it, and all that the callers hold
            continue
        return library, description
    assert mismatch is not None
    raise NoPlanError(mismatch.what, hint=mismatch.hint) from mismatch


def prover(bundle: Bundle) -> Callable[[PlanDescription, bytes], None]:
    """For `build_plan`: runs a plan on the golden images."""

    def prove(description: PlanDescription, plan: bytes) -> None:
        from anoseg_engines.engine import Engine  # engine.py needs this module

        engine = Engine(bundle, TensorRTRuntime.open(bundle, plan, description))
        try:
            engine.prove()
        finally:
            engine.close()

    return prove


def _cpu(bundle: Bundle, threads: int, why: str) -> list[Choice]:
    choices: list[Choice] = []
    for precision in cpu_precisions():
        reason = f"{precision} is the fastest this processor has" if not choices else f"{choices[-1].name} is not confirmed"
        choices.append(_cpu_choice(bundle, precision, threads, f"{why}; {reason}" if why else reason))
    return choices


def _cpu_choice(bundle: Bundle, precision: str, threads: int, why: str) -> Choice:
    def load() -> Runtime:
        return CpuRuntime(bundle.model_onnx, bundle.manifest.input, precision=precision, threads=threads)

    return Choice(f"cpu-{precision}", why, load)
