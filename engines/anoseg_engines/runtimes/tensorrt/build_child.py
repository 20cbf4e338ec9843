"""Runs the build process: `build.py` starts `python -m anoseg_engines.runtimes.tensorrt.build_child` for each build.

A build needs much memory. If memory runs out, the kernel kills this process first. stdin: a `BuildRequest` (JSON, one line),
then the ONNX file. stdout: one `Report` on each line. The plan goes to an inherited file descriptor.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import sys
import time
import traceback
from pathlib import Path
from typing import Any

import msgspec

from anoseg_engines.errors import EngineError
from anoseg_engines.parent_process import end_with
from anoseg_engines.runtimes.tensorrt.layers import Layer, count_types, layers_of
from anoseg_engines.runtimes.tensorrt.library import find_library, log_collector

OOM_SCORE_ADJ = Path("/proc/self/oom_score_adj")
DIES_FIRST = "1000"
"""With this value the kernel kills the process before all others when memory runs out."""


class BuildRequest(msgspec.Struct, frozen=True, kw_only=True):
    """What to build.

    Attributes:
        plan_fd: The file descriptor for the plan.
        timing_cache: The build reads measured kernels from this file, and adds new ones. None if the library has no cache.
        parent: Process id of `build.py`.
    """

    library: str
    height: int
    width: int
    opt_batch: int
    max_batch: int
    workspace_mb: int | None
    plan_fd: int
    timing_cache: str | None
    parent: int


class PhaseStarted(msgspec.Struct, frozen=True, tag="start"):
    """A phase has started; parent is the phase to which it belongs."""

    phase: str
    parent: str | None
    steps: int


class StepDone(msgspec.Struct, frozen=True, tag="step"):
    """A step of a phase is finished."""

    phase: str
    step: int


class PhaseFinished(msgspec.Struct, frozen=True, tag="finish"):
    """A phase is finished."""

    phase: str


class Built(msgspec.Struct, frozen=True, tag="built"):
    """The plan is written."""

    seconds: float
    layers: list[Layer]
    types: dict[str, int]


class Failed(msgspec.Struct, frozen=True, tag="failed"):
    """The build failed, so there is no plan.

    Attributes:
        what: The reason.
        memory, space: Whether memory or disk space ran out.
        unexpected: Whether the reason is an exception that nobody foresaw.
    """

    what: str
    memory: bool = False
    space: bool = False
    unexpected: bool = False


Report = PhaseStarted | StepDone | PhaseFinished | Built | Failed


def main() -> None:
    """Build the request on stdin, and report on stdout."""
    with contextlib.suppress(OSError):
        OOM_SCORE_ADJ.write_text(DIES_FIRST)
    request = msgspec.json.decode(sys.stdin.buffer.readline(), type=BuildRequest)
    end_with(request.parent, signal.SIGKILL)
    model = sys.stdin.buffer.read()
    reports = os.fdopen(os.dup(sys.stdout.fileno()), "wb", buffering=0)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # so that the output of libraries does not mix with reports

    def report(message: Report) -> None:
        reports.write(msgspec.json.encode(message) + b"\n")

    try:
        report(build(request, model, report))
    except EngineError as error:
        report(Failed(error.what))
    except MemoryError:
        report(Failed("out of memory", memory=True))
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        report(Failed(f"the plan cannot be written ({error.strerror})", space=full))
    except Exception as error:  # noqa: BLE001 - the end of the process: `build.py` raises what is reported here
        traceback.print_exc()
        report(Failed(f"the build failed with {type(error).__name__}: {error}", unexpected=True))


def build(request: BuildRequest, model: bytes, report: Any) -> Built | Failed:
    """Build a plan from ONNX with TensorRT 10, 11 or TensorRT for RTX: strongly typed.

    The plan has a profile for one input and, if there can be more, one for up to `max_batch`. With TensorRT for RTX it takes
    all memory from the caller, because otherwise it could not be captured in a CUDA graph.
    """
    trt = find_library(request.library).api
    log = log_collector(trt)
    start = time.monotonic()
    try:
        builder = trt.Builder(log)
    except (TypeError, RuntimeError) as error:  # no GPU, or its driver is too old
        raise EngineError(_last_error(log, f"{request.library}'s builder does not start; it needs a GPU ({error})")) from error
    # TensorRT 10 needs the flag. From version 11 on, all networks are strongly typed, and the flag may be missing.
    strongly_typed = getattr(trt.NetworkDefinitionCreationFlag, "STRONGLY_TYPED", None)
    network = builder.create_network(0 if strongly_typed is None else 1 << int(strongly_typed))
    parser = trt.OnnxParser(network, log)
    if not parser.parse(model):
        reasons = "; ".join(parser.get_error(i).desc() for i in range(parser.num_errors))
        raise EngineError(f"{request.library} rejects the bundle's network: {reasons}")
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # layer names for the layer table
    if request.workspace_mb is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, request.workspace_mb << 20)
    user_allocation = getattr(trt.BuilderFlag, "REQUIRE_USER_ALLOCATION", None)  # only TensorRT for RTX has it
    if user_allocation is not None:
        config.set_flag(user_allocation)
    config.add_optimization_profile(_profile(builder, request, 1, 1))
    if request.max_batch > 1:
        config.add_optimization_profile(_profile(builder, request, request.opt_batch, request.max_batch))
    cache = _load_timing_cache(config, request.timing_cache)
    monitor = _monitor(trt, report)
    config.progress_monitor = monitor
    layers = layers_of(network)
    _widen_map(trt, network)
    plan = builder.build_serialized_network(network, config)
    if plan is None:
        reason = _last_error(log, "it gave no reason")
        memory = "memory" in reason.lower() or "alloc" in reason.lower()
        return Failed(f"{request.library} built no engine: {reason}", memory=memory)
    with os.fdopen(request.plan_fd, "wb") as file:
        file.write(plan)
        file.flush()
        os.fsync(file.fileno())
    if cache is not None:
        _keep_timing_cache(config, request.timing_cache)
    fp32 = [layer for layer in layers if layer.reason]
    return Built(round(time.monotonic() - start, 2), fp32, count_types(layers))


def _profile(builder: Any, request: BuildRequest, opt_batch: int, max_batch: int) -> Any:
    profile = builder.create_optimization_profile()
    h, w = request.height, request.width
    for name, shape in (("frames", (h, w, 3)), ("coords", (2, h, w))):
        profile.set_shape(name, (1, *shape), (opt_batch, *shape), (max_batch, *shape))
    return profile


def _widen_map(trt: Any, network: Any) -> None:
    """Have the map leave the network in FP32: the GPU converts it at hardly any cost, the host needs 80 µs."""
    outputs = [network.get_output(i) for i in range(network.num_outputs)]
    for output in outputs:
        if output.name == "anomaly_map" and output.dtype == trt.DataType.HALF:
            network.unmark_output(output)
            output.name = "anomaly_map_half"
            widened = network.add_cast(output, trt.DataType.FLOAT).get_output(0)
            widened.name = "anomaly_map"
            network.mark_output(widened)


def _monitor(trt: Any, report: Any) -> Any:
    """A progress monitor that reports, and stops the build when nobody reads the reports."""

    class Monitor(trt.IProgressMonitor):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.has_reader = True

        def phase_start(self, phase: str, parent: str | None, steps: int) -> None:
            self._report(PhaseStarted(phase, parent, steps))

        def step_complete(self, phase: str, step: int) -> bool:
            self._report(StepDone(phase, step))
            return self.has_reader

        def phase_finish(self, phase: str) -> None:
            self._report(PhaseFinished(phase))

        def _report(self, message: Report) -> None:
            try:
                report(message)
            except OSError:
                self.has_reader = False

    return Monitor()


def _load_timing_cache(config: Any, path: str | None) -> Any:
    if path is None:
        return None
    file = Path(path)
    cache = config.create_timing_cache(file.read_bytes() if file.is_file() else b"")
    if not config.set_timing_cache(cache, False):  # made by another version or GPU: start with an empty one
        cache = config.create_timing_cache(b"")
        config.set_timing_cache(cache, False)
    return cache


def _keep_timing_cache(config: Any, path: str | None) -> None:
    """Write the cache. If the disk has room for the plan but not for the cache, the build does not fail."""
    cache = config.get_timing_cache()
    if cache is None or path is None:
        return
    temporary = Path(f"{path}.{os.getpid()}")
    with contextlib.suppress(OSError):
        temporary.write_bytes(cache.serialize())
        temporary.rename(path)
    temporary.unlink(missing_ok=True)


def _last_error(log: Any, otherwise: str) -> str:
    """TensorRT's last error."""
    return str(log.lines[-1]) if log.lines else otherwise


if __name__ == "__main__":
    main()
