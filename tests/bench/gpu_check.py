"""Everything that needs a GPU, in one command (`make gpu-check`), and one table of what was found.

    python tests/bench/gpu_check.py [--bundle DIR] [--data DIR] [--max-batch 32] [--json FILE] [--device-only]

First the device layer alone: copies, a captured graph, its time on the device, and scaling against the processor's. This needs
pycuda only. Then TensorRT: builds the plan, loads it with its self-test, and measures it. Where PyTorch has a GPU, it is
measured too (FP16, eager and compiled).

Exits 0 if all that could run did run and passed, 1 if a step failed, and 2 if the GPU, pycuda or TensorRT is missing.
NOT RUN ON A GPU YET.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter, deque
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from anoseg_engines.benchmark import RuntimeCandidate, measure
from anoseg_engines.bundle import find_bundle, load_bundle
from anoseg_engines.commands.bench import bench_table
from anoseg_engines.commands.build import BuildProgress, plan_table
from anoseg_engines.errors import AnosegError, EngineError
from anoseg_engines.golden import self_test
from anoseg_engines.images import list_images, read_image
from anoseg_engines.loading import load_engine, plan_test
from anoseg_engines.placement import InputSpec, Placement, Region
from anoseg_engines.runtimes.select import select_runtimes
from anoseg_engines.runtimes.tensorrt.build import BuildOptions, build_plan
from anoseg_engines.runtimes.tensorrt.device import PycudaDevice
from anoseg_engines.runtimes.tensorrt.gpu import find_gpu
from anoseg_engines.runtimes.tensorrt.layers import inspected
from anoseg_engines.runtimes.tensorrt.library import libraries
from anoseg_engines.runtimes.tensorrt.plan_store import PlanStore
from anoseg_engines.runtimes.tensorrt.region_scaler import RegionBuffers, RegionScaler, ScaledPlacement

DEMO = Path(__file__).parents[2] / "engines" / "store" / "demo"
TENSORRT, EAGER, COMPILED = "tensorrt", "pytorch eager f16 cuda", "pytorch compiled f16 cuda"
COPIED_BYTES = 8 << 20
LAUNCHES = 50
CAMERAS = ((1280, 1024), (2448, 2048))


@dataclass
class Row:
    """What was to be shown, what was measured, and whether it is met: yes, NO, or not run."""

    what: str
    measured: str
    met: str


@dataclass
class Report:
    """The rows so far."""

    console: Console
    rows: list[Row] = field(default_factory=list)

    def add(self, what, measured, met):
        self.rows.append(Row(what, measured, "yes" if met else "NO"))

    def not_run(self, what, why):
        self.rows.append(Row(what, why, "not run"))

    def show(self, title):
        table = Table(title=title)
        for head in ("what", "measured", "met"):
            table.add_column(head, overflow="fold")
        for row in self.rows:
            table.add_row(row.what, Text(row.measured), row.met)  # messages contain brackets
        self.console.print(table)


def check_device(report):
    """Copy to the device and back by a captured graph, launched several times, and compare what returns."""
    device = PycudaDevice()
    try:
        with device.current():
            first, second = device.allocate(COPIED_BYTES), device.allocate(COPIED_BYTES)
            sent, back = device.pinned(COPIED_BYTES, np.uint8), device.pinned(COPIED_BYTES, np.uint8)
            stream = device.open_stream()
            with stream.capture() as graph:
                stream.upload(first, sent)
                stream.copy(second, first, COPIED_BYTES)
                stream.download(back, second)
            whole = True
            for seed in range(3):
                sent[:] = np.random.default_rng(seed).integers(0, 256, COPIED_BYTES, np.uint8)
                stream.launch(graph)
                stream.synchronize()
                whole &= bool((sent == back).all())
            report.add("a captured graph of copies returns what was sent", f"{COPIED_BYTES >> 20} MiB, 3 launches", whole)
            milliseconds = stream.device_ms(graph, LAUNCHES)
            report.add("CUDA events measure a launch", f"{milliseconds:.3f} ms on the device", milliseconds > 0)
            del sent, back, graph
    finally:
        device.close()


def check_scaling(report, cameras=CAMERAS, launches=LAUNCHES):
    """Scale noise on the GPU and on the processor, for cameras of 1.3 and 5 megapixels, and compare grey values and times."""
    spec = InputSpec(448, 448, shrink="blocks")
    device = PycudaDevice()
    try:
        with device.current():
            scaler = RegionScaler.open(device, spec)
            if scaler is None:
                report.add("the GPU scales regions", "the kernels do not load or give other grey values", False)
                return
            stream, frames = device.open_stream(), device.allocate(448 * 448 * 3)
            back = device.pinned(448 * 448 * 3, np.uint8)
            for width, height in cameras:
                placement = Placement.of(spec, Region(0, 0, width, height))
                noise = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
                expected = np.empty((1, 448, 448, 3), np.uint8)
                start = time.perf_counter()
                for _ in range(launches):
                    placement.fill(noise, expected)
                processor_ms = (time.perf_counter() - start) * 1e3 / launches
                buffers = RegionBuffers(scaler, device, *ScaledPlacement.needs(placement, 3))
                scaled = ScaledPlacement(buffers, placement, channels=3, stream=stream)
                scaled.region_HWC[:] = noise
                scaled.put(stream, frames)
                stream.synchronize()  # the first run of the kernels is not captured
                with stream.capture() as graph:
                    scaled.put(stream, frames)
                stream.launch(graph)
                stream.download(back, frames)
                stream.synchronize()
                difference = int(np.abs(back.reshape(expected.shape).astype(int) - expected).max())
                device_ms = stream.device_ms(graph, launches)
                report.add(
                    f"the GPU scales {width}×{height} → 448 as the processor does",
                    f"{difference} grey values differ at most; {device_ms:.3f} ms on the device with the upload, "
                    f"{processor_ms:.3f} ms on the processor",
                    difference <= 1,
                )
                stream.forget(graph)
                scaled.close()
                buffers.close()
            del back
    finally:
        device.close()


def check_lanes(report, engine, seconds):
    """Run parts one at a time, then in all lanes at a time, and compare the parts a second."""
    sample = engine.golden_samples()[0]
    height, width = sample.image.shape[:2]
    placement = engine.place(Region(0, 0, width, height))
    engine.keep_ready([placement.region])
    rates = []
    for at_a_time in (1, engine.parallel):
        running, done, end = deque(), 0, time.monotonic() + seconds
        while time.monotonic() < end:
            if len(running) == at_a_time:
                engine.finish(running.popleft())
                done += 1
            running.append(engine.start(sample.image, placement))
        while running:
            engine.finish(running.popleft())
        rates.append(done / seconds)
    report.add(
        f"{engine.parallel} parts at a time are at least as fast as one",
        f"{rates[1]:.0f} parts a second, one at a time {rates[0]:.0f}; {engine.runtime_description}",
        rates[1] >= rates[0],
    )


def pytorch_or_why():
    """Return the trainer's PyTorch baseline, or why there is none."""
    try:
        import torch

        from anoseg_trainer.commands.bench import torch_candidates
    except ImportError as error:
        return None, f"PyTorch is not installed ({error.name})"
    if not torch.cuda.is_available():
        return None, "PyTorch sees no GPU: it needs a CUDA build"
    return torch_candidates, ""


def fp16_rate():
    """Measure the multiply-accumulates a second of one large FP16 matrix product in PyTorch on this GPU."""
    import torch

    side = 8192
    a, b = (torch.randn(side, side, device="cuda", dtype=torch.float16) for _ in range(2))
    for _ in range(5):
        a @ b
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    start.record()
    for _ in range(20):
        a @ b
    end.record()
    end.synchronize()
    return side**3 * 20 / (start.elapsed_time(end) / 1e3)


def check_tensorrt(report, options):
    """Build, load, test and measure."""
    torch_candidates, why_not = pytorch_or_why()
    with tempfile.TemporaryDirectory() as store:
        folder = find_bundle(options.bundle)
        copied = shutil.copytree(folder, Path(store) / "checked" / folder.name)
        bundle = load_bundle(copied)  # by its version: in the copied store nothing is released
        with BuildProgress() as progress:
            plan = build_plan(
                bundle, BuildOptions(max_batch=options.max_batch), on_progress=progress.show, self_test=plan_test(bundle)
            )
        report.console.print(plan_table(plan, str(PlanStore.of(bundle).folder / plan.plan)))
        start = time.monotonic()
        engine = load_engine(bundle, runtime="tensorrt")
        load_s = time.monotonic() - start
        worst = max(abs(result.score - result.recorded_score) for result in self_test(engine))
        for path in list_images(options.data) if options.data else []:
            image = read_image(path)
            engine.inspect(image, engine.place(Region(0, 0, image.shape[1], image.shape[0])))
        check_lanes(report, engine, options.seconds)
        engine.close()
        report.add("self-test on the golden images", f"largest score difference {worst:.4f}, loaded in {load_s:.1f} s", True)
        runtime = select_runtimes(bundle, "tensorrt")[0].open()
        baselines, skipped = torch_candidates(bundle) if torch_candidates else ([], {"pytorch": why_not})
        found = [*baselines, RuntimeCandidate.load(bundle, runtime, TENSORRT)]
        batches = [n for n in (1, 2, 4, 8, 16, 32) if n <= options.max_batch]
        figures = measure(bundle, found, skipped, batches=batches, seconds=options.seconds, baseline=EAGER)
        report.console.print(bench_table(figures))
        device_ms = {}
        for n in (1, batches[-1]):
            found[-1].prepare(n)()
            device_ms[n] = runtime.device_ms()
        kinds = Counter(
            str(layer.get("Precision", layer.get("LayerType", "?"))) for layer in inspected(runtime.layer_information)
        )
        report.console.print(f"layers of the engine: {dict(kinds) or 'not named'}")
        for candidate in found:
            candidate.close()
    rows = {row.name: row for row in figures.rows}
    ours, spec = rows[TENSORRT], bundle.manifest.input
    pixels = spec.height * spec.width * 3
    report.add("bytes to the device a part = N·H·W·3", f"{ours.bytes_to_device} = {pixels}", ours.bytes_to_device == pixels)
    report.add(
        "wall time within 15 % of the device's (CUDA events)",
        f"{ours.latency_ms_p50:.3f} ms, {device_ms[1]:.3f} ms",
        ours.latency_ms_p50 <= 1.15 * device_ms[1],
    )
    compare_with_pytorch(report, rows, bundle, batches[-1], device_ms[batches[-1]], why_not or skipped.get("pytorch", ""))
    return device_ms


def compare_with_pytorch(report, rows, bundle, largest, device_ms, why_not):
    """Add the rows that need PyTorch on the GPU."""
    third, rate_reached = (
        "batch 1 at a third of PyTorch eager FP16 or less",
        f"batch {largest} at 70 % of the measured FP16 rate",
    )
    if EAGER not in rows:
        report.not_run(third, why_not)
        report.not_run(rate_reached, why_not)
        return
    from anoseg_trainer.model.detector import count_macs
    from anoseg_trainer.model.from_bundle import detector_from_bundle

    ours, eager, compiled = (rows[name].latency_ms_p50 for name in (TENSORRT, EAGER, COMPILED))
    report.add(third, f"{ours:.3f} ms, {eager:.3f} ms; compiled {compiled:.3f} ms", ours <= eager / 3)
    macs = count_macs(detector_from_bundle(bundle), bundle.manifest.input.height, bundle.manifest.input.width)
    achieved, rate = macs * largest / (device_ms / 1e3), fp16_rate()
    report.add(
        rate_reached,
        f"{achieved / 1e12:.1f} of {rate / 1e12:.1f} TMAC/s, {achieved / rate:.0%}",
        achieved >= 0.7 * rate,
    )


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bundle", type=Path, default=DEMO)
    parser.add_argument("--data", type=Path, help="a folder of images to inspect as well, for a run of real parts")
    parser.add_argument("--max-batch", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--device-only", action="store_true", help="only what needs no TensorRT")
    options = parser.parse_args()
    try:
        gpu = find_gpu()
    except EngineError as error:
        print(f"gpu-check cannot run here. Missing:\n- {error}", file=sys.stderr)
        print("The TensorRT runtime has NOT been run on a GPU by this check.", file=sys.stderr)
        sys.exit(2)
    report = Report(Console(width=None if sys.stdout.isatty() else 200))
    device_ms, code, title = {}, 0, f"{gpu.name}, compute capability {gpu.compute_capability}"
    title += f", {gpu.multiprocessors} multiprocessors, {gpu.memory_gib} GiB"
    try:
        check_device(report)
        check_scaling(report)
        if options.device_only:
            report.not_run("TensorRT", "--device-only")
        else:
            title += ", " + ", ".join(f"{library.name} {library.version}" for library in libraries()[:1])
            device_ms = check_tensorrt(report, options)
    except AnosegError as error:
        code = 2 if str(error).startswith("no TensorRT is installed") else 1
        print(f"gpu-check {'cannot go on' if code == 2 else 'failed'}: {error}", file=sys.stderr)
        report.not_run("the rest", error.what)
    report.show(title)
    if options.json:
        figures = {"gpu": asdict(gpu), "rows": [asdict(row) for row in report.rows], "device_ms": device_ms}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    sys.exit(code)


if __name__ == "__main__":
    main()
