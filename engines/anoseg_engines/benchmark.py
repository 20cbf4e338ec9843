"""Compares the speed of runtimes. They take turns in one run, so that other load on the machine slows all of them.

Runs on the caller's thread.
"""

from __future__ import annotations

import contextlib
import os
import platform
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from anoseg_engines.bundle import Bundle
from anoseg_engines.engine import Engine
from anoseg_engines.errors import EngineError, SelfTestError
from anoseg_engines.golden import self_test
from anoseg_engines.placement import Placement, Region
from anoseg_engines.runtimes.base import Runtime
from anoseg_engines.runtimes.openvino_network import cpu_precisions
from anoseg_engines.runtimes.select import select_runtimes
from anoseg_engines.runtimes.tensorrt.gpu import find_gpu

ROUNDS = 5
SHOWN_FLAGS = (
    "avx2",
    "avx512f",
    "avx512_bf16",
    "avx512_fp16",
    "avx512_vnni",
    "avx_vnni",
    "amx",
    "asimdhp",
    "sve",
    "bf16",
    "i8mm",
)
"""The processor flags that decide how fast a network runs."""


class Candidate(Protocol):
    """Something that runs the bundle's network.

    Attributes:
        name: The name that the table shows.
        precision: The precision that really runs.
        golden: Whether its results on the golden images match the recorded results.
    """

    name: str
    precision: str
    golden: str

    def prepare(self, n: int) -> Callable[[], object]:
        """Put inputs in place, and return a function that runs a batch of n once.

        Raises:
            EngineError: The batch is too large.
        """
        ...

    def traffic(self) -> tuple[int, int]:
        """Bytes copied to and from the device so far."""
        ...

    def close(self) -> None:
        """Free everything."""
        ...


class BenchRow(msgspec.Struct, frozen=True, kw_only=True):
    """The figures of one candidate.

    Attributes:
        latency_ms_p50, latency_ms_p99: The latency at batch 1.
        parts_per_s: The throughput for each batch size.
        bytes_to_device, bytes_from_device: The bytes copied for one part at batch 1.
        ratio: How many times as fast as the baseline this candidate is at batch 1. None if there is no baseline.
    """

    name: str
    precision: str
    golden: str
    latency_ms_p50: float
    latency_ms_p99: float
    parts_per_s: dict[int, float]
    bytes_to_device: int
    bytes_from_device: int
    ratio: float | None = None


class BenchReport(msgspec.Struct, frozen=True, kw_only=True):
    """All figures of a run.

    Attributes:
        flags: Those of `SHOWN_FLAGS` that the processor has.
        skipped: The runtimes that could not be measured here, with the reason.
    """

    bundle: str
    bundle_sha256: str
    input: str
    processor: str
    flags: list[str]
    cores: int
    threads: int
    gpu: str | None
    rows: list[BenchRow]
    skipped: dict[str, str]


@dataclass(slots=True)
class RuntimeCandidate:
    """A runtime of this package, and a network input cut from a golden image. `load` makes a candidate."""

    name: str
    precision: str
    golden: str
    runtime: Runtime
    inputs: tuple[NDArray[np.uint8], NDArray[np.float16]]

    @classmethod
    def load(cls, bundle: Bundle, runtime: Runtime, name: str) -> RuntimeCandidate:
        """Run the self-test, and take inputs from a golden image."""
        try:
            self_test(Engine(bundle, runtime))
            golden = "holds"
        except SelfTestError:
            golden = "does not hold"
        return cls(name, runtime.precision, golden=golden, runtime=runtime, inputs=example(bundle))

    def prepare(self, n: int) -> Callable[[], object]:
        """Bind coordinates, and fill the runtime's own input buffer."""
        frames, coords = self.inputs
        self.runtime.bind(np.ascontiguousarray(np.repeat(coords, n, axis=0)))[:] = frames
        return self.runtime.infer

    def traffic(self) -> tuple[int, int]:
        """Bytes counted by the runtime."""
        return self.runtime.traffic.to_device, self.runtime.traffic.from_device

    def close(self) -> None:
        """Close the runtime."""
        self.runtime.close()


def example(bundle: Bundle) -> tuple[NDArray[np.uint8], NDArray[np.float16]]:
    """One network input from the first golden image: frames uint8 [1, H, W, 3], coords FP16 [1, 2, H, W]."""
    image = bundle.golden_samples()[0].image
    placement = Placement.of(bundle.manifest.input, Region(0, 0, image.shape[1], image.shape[0]))
    frames = np.empty((len(placement.tiles), bundle.manifest.input.height, bundle.manifest.input.width, 3), np.uint8)
    placement.fill(image, frames)
    return frames[:1].copy(), placement.coords_N2HW[:1].copy()


def candidates(bundle: Bundle, *, threads: int = 0, names: Sequence[str] = ()) -> tuple[list[Candidate], dict[str, str]]:
    """Load the runtimes that run here.

    Args:
        threads: Threads of the CPU runtime; 0 lets it decide.
        names: The runtimes to load. If it is empty, TensorRT and all precisions of the CPU that the bundle has are loaded.

    Returns:
        The loaded runtimes, and the reason for each that cannot run.
    """
    found: list[Candidate] = []
    skipped: dict[str, str] = {}
    int8 = ["cpu-int8"] if bundle.int8 else []
    for name in names or ("tensorrt", *int8, *(f"cpu-{p}" for p in cpu_precisions())):
        try:
            selected = select_runtimes(bundle, name, threads=threads)[0]
            found.append(RuntimeCandidate.load(bundle, selected.open(), selected.name))
        except EngineError as error:
            skipped[name] = f"{error.what}; {error.hint}" if error.hint else error.what
    return found, skipped


def measure(
    bundle: Bundle,
    found: Sequence[Candidate],
    skipped: dict[str, str],
    *,
    batches: Sequence[int] = (1, 2, 4, 8, 16),
    seconds: float = 2.0,
    threads: int = 0,
    baseline: str | None = None,
    clock: Callable[[], float] = time.perf_counter,
    on_progress: Callable[[str], None] = lambda _: None,
) -> BenchReport:
    """Run every candidate at every batch size, in turns.

    Args:
        seconds: About how long to measure each candidate at each batch size.
        threads: The number of threads that the report shows.
        baseline: The other candidates are compared with the latency of this one.
        clock: Returns seconds.
    """
    times: dict[int, dict[str, list[float]]] = {}
    traffic: dict[str, tuple[int, int]] = {}
    for n in batches:
        runs = _prepared(found, n)
        for candidate, run in runs:
            before = candidate.traffic()
            run()
            after = candidate.traffic()
            if n == 1:
                traffic[candidate.name] = after[0] - before[0], after[1] - before[1]
        times[n] = {candidate.name: [] for candidate, _ in runs}
        for _ in range(ROUNDS):
            for candidate, run in runs:
                on_progress(f"{candidate.name}, batch {n}")
                run()  # refill the caches after the candidate before
                times[n][candidate.name] += _time(run, seconds / ROUNDS, clock)
    latencies = times.get(1, {})
    base = float(np.median(latencies[baseline])) if baseline in latencies else None
    rows = [
        BenchRow(
            name=candidate.name,
            precision=candidate.precision,
            golden=candidate.golden,
            latency_ms_p50=round(float(np.median(seen)) * 1e3, 3),
            latency_ms_p99=round(float(np.quantile(seen, 0.99)) * 1e3, 3),
            parts_per_s={
                n: round(n / float(np.median(by_name[candidate.name])), 1)
                for n, by_name in times.items()
                if candidate.name in by_name
            },
            bytes_to_device=traffic[candidate.name][0],
            bytes_from_device=traffic[candidate.name][1],
            ratio=None if base is None else round(base / float(np.median(seen)), 2),
        )
        for candidate in found
        if (seen := latencies.get(candidate.name))
    ]
    spec = bundle.manifest.input
    processor, flags = processor_here()
    return BenchReport(
        bundle=bundle.label,
        bundle_sha256=bundle.digest,
        input=f"{spec.height}×{spec.width}×3",
        processor=processor,
        flags=flags,
        cores=len(os.sched_getaffinity(0)),
        threads=threads,
        gpu=_gpu_name(),
        rows=rows,
        skipped=skipped,
    )


def processor_here() -> tuple[str, list[str]]:
    """Return the processor's name, and those of `SHOWN_FLAGS` that it has."""
    name, flags = platform.processor() or platform.machine(), set[str]()
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            key, _, value = (part.strip() for part in line.partition(":"))
            if key == "model name":
                name = value
            elif key in ("flags", "Features"):
                flags = set(value.split())
    except OSError:
        pass
    return name, sorted(flag for flag in flags if flag.startswith(SHOWN_FLAGS))


def _prepared(found: Sequence[Candidate], n: int) -> list[tuple[Candidate, Callable[[], object]]]:
    """Prepare all candidates that take batches of n."""
    runs = []
    for candidate in found:
        with contextlib.suppress(EngineError):  # the batch is too large for its plan
            runs.append((candidate, candidate.prepare(n)))
    return runs


def _time(run: Callable[[], object], seconds: float, clock: Callable[[], float]) -> list[float]:
    """Time at least two calls, for about `seconds` in all. Returns the seconds of each call."""
    seen: list[float] = []
    end = clock() + seconds
    while len(seen) < 2 or clock() < end:
        start = clock()
        run()
        seen.append(clock() - start)
    return seen


def _gpu_name() -> str | None:
    try:
        return find_gpu().name
    except EngineError:
        return None
