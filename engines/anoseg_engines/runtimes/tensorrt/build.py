"""Builds a plan for this machine in a child process (`build_child`), and stores it.

If there is a GPU, the plan is tested before it is stored.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import select
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import IO

import msgspec

from anoseg_engines.bundle import Bundle
from anoseg_engines.errors import AnosegError, EngineError
from anoseg_engines.placement import Placement, Region
from anoseg_engines.runtimes.tensorrt.build_child import BuildRequest, Built, Failed, Report
from anoseg_engines.runtimes.tensorrt.gpu import ANY_GPU, Gpu, find_gpu
from anoseg_engines.runtimes.tensorrt.library import Library, find_library
from anoseg_engines.runtimes.tensorrt.plan import Machine, PlanDescription, plan_name
from anoseg_engines.runtimes.tensorrt.plan_store import PlanStore

MAX_BATCH = 16
SILENT_S = 900.0
"""A build without progress for this long is ended. TensorRT sometimes waits for ever when memory has run out."""
ENDING_S = 60.0
"""How long a build process that reports no more may take to end. Freeing the GPU takes some seconds."""
TAIL_BYTES = 4000
TAIL_LINES = 20
"""How much of the build process's last output a message shows."""
NO_MEMORY = ("bad_alloc", "out of memory", "cannot allocate memory", "outofmemory")
"""What a library prints before it ends the process because it gets no more memory."""
VMSTAT = Path("/proc/vmstat")

PlanTest = Callable[[PlanDescription, bytes], None]
"""Runs a plan on the golden images, and raises an `EngineError` if the results are not the recorded ones."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BuildOptions:
    """Options of a build.

    Attributes:
        library: auto, tensorrt or tensorrt-rtx.
        workspace_mb: The memory that TensorRT may use to try kernels; None is all of it.
        max_batch: The largest batch; the smallest is 1.
        opt_batch: The batch to tune for; None is the number of tiles of the first golden image.
    """

    library: str = "auto"
    workspace_mb: int | None = None
    max_batch: int = MAX_BATCH
    opt_batch: int | None = None


def build_plan(
    bundle: Bundle,
    options: BuildOptions,
    *,
    on_progress: Callable[[Report], None] = lambda _: None,
    self_test: PlanTest | None = None,
) -> PlanDescription:
    """Build the plan of `bundle` for this machine and store it beside the bundle.

    Args:
        self_test: Called before the plan is stored, if there is a GPU. Without a GPU, the plan is stored as not yet tested.

    Raises:
        EngineError: There is no TensorRT, it rejects the network, or the self-test failed.
        AnosegError: The build ran out of memory or disk, or was killed. The store is unchanged after any error.
    """
    library = find_library(options.library)
    try:
        gpu: Gpu | None = find_gpu()
    except EngineError:
        gpu = None
    machine = Machine.here(library, gpu)
    store = PlanStore.of(bundle)
    opt_batch = min(options.opt_batch or _usual_batch(bundle), options.max_batch)
    with store.temporary_plan() as temporary:
        request = BuildRequest(
            library=library.name,
            height=bundle.manifest.input.height,
            width=bundle.manifest.input.width,
            opt_batch=opt_batch,
            max_batch=options.max_batch,
            workspace_mb=options.workspace_mb,
            plan_fd=temporary.file.fileno(),
            timing_cache=_timing_cache(store, library, machine),
            parent=os.getpid(),
        )
        built = _run(request, bundle, on_progress)
        temporary.file.seek(0)
        plan = temporary.file.read()
        sha256 = hashlib.sha256(plan).hexdigest()
        description = PlanDescription(
            bundle=bundle.label,
            bundle_sha256=bundle.digest,
            library=machine.library,  # type: ignore[arg-type]  # find_library gives no other
            library_version=machine.library_version,
            gpu=machine.gpu_name,
            compute_capability=gpu.compute_capability if gpu else ANY_GPU,
            multiprocessors=gpu.multiprocessors if gpu else None,
            memory_gib=gpu.memory_gib if gpu else None,
            platform=machine.platform,
            height=request.height,
            width=request.width,
            opt_batch=opt_batch,
            max_batch=options.max_batch,
            workspace_mb=options.workspace_mb,
            built=datetime.now(timezone.utc).isoformat(timespec="seconds"),
            build_seconds=built.seconds,
            plan=plan_name(machine, sha256),
            plan_sha256=sha256,
            plan_bytes=len(plan),
            layers=built.types,
            fp32_layers=built.layers,
        )
        if gpu is not None and self_test is not None:
            self_test(description, plan)
            description = msgspec.structs.replace(description, proved_on=gpu.name)
        store.accept(temporary, description, machine)
    return description


def _run(request: BuildRequest, bundle: Bundle, on_progress: Callable[[Report], None]) -> Built:
    """Run the build process and pass on its reports."""
    killed_before = _kills_for_memory()
    with tempfile.TemporaryFile() as errors:
        process = subprocess.Popen(
            [sys.executable, "-X", "faulthandler", "-m", "anoseg_engines.runtimes.tensorrt.build_child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            pass_fds=(request.plan_fd,),
        )
        assert process.stdin is not None
        assert process.stdout is not None
        last: Report | None = None
        silent = False
        try:
            with contextlib.suppress(BrokenPipeError):  # it has ended; its exit status says why
                process.stdin.write(msgspec.json.encode(request) + b"\n" + bundle.model_onnx)
                process.stdin.close()
            for line in _lines(process.stdout.fileno(), SILENT_S):
                last = msgspec.json.decode(line, type=Report)
                on_progress(last)
            process.wait(ENDING_S)  # before the kill below, which would hide how the process ended
        except (TimeoutError, subprocess.TimeoutExpired):
            silent = True
        finally:
            process.kill()
            process.stdout.close()
            with contextlib.suppress(BrokenPipeError):
                process.stdin.close()
            code = process.wait()
        if isinstance(last, Built):
            return last
        end = _End(code=code, silent=silent, for_memory=_kills_for_memory() > killed_before, tail=_tail(errors))
    raise _failure(last, end, request)


@dataclass(frozen=True, slots=True, kw_only=True)
class _End:
    """How a build process ended that built no plan.

    Attributes:
        code: Its exit code; negative: the signal.
        silent: Whether it was ended because it made no progress.
        for_memory: Whether the kernel killed a process for its memory meanwhile.
        tail: The end of what it printed.
    """

    code: int
    silent: bool
    for_memory: bool
    tail: str


def _lines(fd: int, silent_s: float) -> Iterator[bytes]:
    """Yield whole lines.

    Raises:
        TimeoutError: Nothing came for `silent_s`.
    """
    pending = b""
    poll = select.poll()  # not select(), which refuses descriptors above 1023: a station with many clients has them
    poll.register(fd, select.POLLIN)
    while True:
        if not poll.poll(silent_s * 1000):
            raise TimeoutError
        chunk = os.read(fd, 65536)
        if not chunk:
            return
        *lines, pending = (pending + chunk).split(b"\n")
        yield from lines


def _failure(last: Report | None, end: _End, request: BuildRequest) -> AnosegError:
    """Return the error for how the build ended. Each cause has its own message."""
    stored = "nothing was stored"
    if isinstance(last, Failed) and last.space:
        return AnosegError(f"no space left: {last.what}; {stored}", hint="free some space and run the command again")
    if isinstance(last, Failed) and last.unexpected:
        return AnosegError(f"{last.what}; {stored}{end.tail}", hint="the CPU runtime works without a plan: runtime cpu")
    if isinstance(last, Failed) and not last.memory:
        return EngineError(f"{last.what}; {stored}", hint="the CPU runtime works without a plan: runtime cpu")
    workspace_mb, max_batch = max(64, (request.workspace_mb or 1024) // 2), max(1, request.max_batch // 2)
    less = f"close other programs, and give TensorRT less: --workspace-mb {workspace_mb}, --max-batch {max_batch}"
    if isinstance(last, Failed):
        return AnosegError(f"{last.what}; {stored}", hint=less)
    if end.silent:
        return AnosegError(
            f"the build made no progress for {SILENT_S / 60:.0f} minutes and was ended; {stored}{end.tail}",
            hint=f"TensorRT may wait for ever when memory has run out: {less}",
        )
    if end.code >= 0:
        return AnosegError(f"the build ended early with exit code {end.code}; {stored}{end.tail}", hint="run the command again")
    name = _signal_name(-end.code)
    if any(words in end.tail.lower() for words in NO_MEMORY):
        return AnosegError(f"memory ran out: the build was ended by {name}; {stored}{end.tail}", hint=less)
    if -end.code == signal.SIGKILL and end.for_memory:
        return AnosegError(f"memory ran out: the kernel killed the build (SIGKILL); {stored}", hint=less)
    if -end.code in (signal.SIGKILL, signal.SIGTERM, signal.SIGINT):
        return AnosegError(
            f"somebody ended the build ({name}); the kernel killed no process for its memory; {stored}",
            hint="run the command again",
        )
    return AnosegError(
        f"the build crashed ({name}) in TensorRT or the GPU's driver; {stored}{end.tail}",
        hint=f"update them, or use the CPU runtime, which works without a plan. If memory was short, {less}",
    )


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # real-time signals have no name
        return f"signal {number}"


def _kills_for_memory() -> int:
    """Return how many processes the kernel has killed since the boot because memory ran out; 0 if it does not say."""
    try:
        for line in VMSTAT.read_text(encoding="ascii").splitlines():
            name, _, number = line.partition(" ")
            if name == "oom_kill":
                return int(number)
    except OSError:
        pass
    return 0


def _tail(errors: IO[bytes]) -> str:
    """Return the last lines of a file, for a message; empty if there are none."""
    errors.seek(max(0, errors.seek(0, os.SEEK_END) - TAIL_BYTES))
    lines = [line for line in errors.read().decode(errors="replace").splitlines() if line.strip()]
    return "".join(f"\n    {line}" for line in ["its last output:", *lines[-TAIL_LINES:]]) if lines else ""


def _timing_cache(store: PlanStore, library: Library, machine: Machine) -> str | None:
    """Return the timing cache that all bundles of the store share. TensorRT for RTX measures no kernels, so it has no cache."""
    if library.name == "tensorrt-rtx":
        return None
    return str(store.folder.parent / f"{machine.stem}.timing")


def _usual_batch(bundle: Bundle) -> int:
    """The number of tiles of the first golden image, which is like the parts of the line."""
    height, width = bundle.golden_samples()[0].image.shape[:2]
    return len(Placement.of(bundle.manifest.input, Region(0, 0, width, height)).tiles)
