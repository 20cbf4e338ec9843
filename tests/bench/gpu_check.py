"""Everything that needs a GPU, in one command (`make gpu-check`): builds the plan, loads it with its self-test, measures it
against PyTorch FP16 eager and compiled, and prints one table with the goals.

    python tests/bench/gpu_check.py [--bundle DIR] [--data DIR] [--max-batch 32] [--json FILE]

Exits 0 if all was run and the self-test passed, 1 if it or another step failed, and 2 if something is missing, which it names.
NOT RUN ON A GPU YET.
"""

import argparse
import json
import shutil
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from rich.console import Console
from rich.table import Table

from anoseg_engines.benchmark import RuntimeCandidate, measure
from anoseg_engines.bundle import find_bundle, load_bundle
from anoseg_engines.commands.bench import bench_table
from anoseg_engines.commands.build import BuildProgress, plan_table
from anoseg_engines.errors import AnosegError, EngineError
from anoseg_engines.golden import self_test
from anoseg_engines.images import list_images, read_image
from anoseg_engines.loading import load_engine, plan_test
from anoseg_engines.placement import Region
from anoseg_engines.runtimes.select import select_runtimes
from anoseg_engines.runtimes.tensorrt.build import BuildOptions, build_plan
from anoseg_engines.runtimes.tensorrt.gpu import find_gpu
from anoseg_engines.runtimes.tensorrt.layers import inspected
from anoseg_engines.runtimes.tensorrt.library import libraries
from anoseg_engines.runtimes.tensorrt.plan_store import PlanStore

DEMO = Path(__file__).parents[2] / "engines" / "store" / "demo"
TENSORRT, EAGER, COMPILED = "tensorrt", "pytorch eager f16 cuda", "pytorch compiled f16 cuda"


def missing():
    """List what this machine lacks, each with what to do."""
    lacks = []
    for look in (find_gpu, libraries):
        try:
            look()
        except EngineError as error:
            lacks.append(str(error))
    try:
        import torch

        if not torch.cuda.is_available():
            lacks.append("PyTorch sees no GPU\n  install a CUDA build of PyTorch into this environment: it is the baseline")
    except ImportError:
        lacks.append("PyTorch is not installed\n  pip install 'anoseg-edge[train]', with a CUDA build of PyTorch")
    return lacks


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


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bundle", type=Path, default=DEMO)
    parser.add_argument("--data", type=Path, help="a folder of images to inspect as well, for a run of real parts")
    parser.add_argument("--max-batch", type=int, default=32)
    parser.add_argument("--seconds", type=float, default=2.0)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    lacks = missing()
    if lacks:
        print("gpu-check cannot run here. Missing:", file=sys.stderr)
        for lack in lacks:
            print(f"- {lack}", file=sys.stderr)
        print("The TensorRT runtime has NOT been run on a GPU by this check.", file=sys.stderr)
        sys.exit(2)
    try:
        sys.exit(check(options))
    except AnosegError as error:
        print(f"gpu-check failed: {error}", file=sys.stderr)
        sys.exit(1)


def check(options):
    """Build, load, test and measure. Returns the exit code."""
    from anoseg_trainer.commands.bench import torch_candidates
    from anoseg_trainer.model.detector import count_macs
    from anoseg_trainer.model.from_bundle import detector_from_bundle

    console = Console(width=None if sys.stdout.isatty() else 200)
    gpu = find_gpu()
    with tempfile.TemporaryDirectory() as store:
        folder = find_bundle(options.bundle)
        shutil.copytree(folder, Path(store) / "checked" / folder.name)
        bundle = load_bundle(Path(store) / "checked")
        with BuildProgress() as progress:
            plan = build_plan(
                bundle, BuildOptions(max_batch=options.max_batch), on_progress=progress.show, self_test=plan_test(bundle)
            )
        console.print(plan_table(plan, str(PlanStore.of(bundle).folder / plan.plan)))
        start = time.monotonic()
        engine = load_engine(bundle, runtime="tensorrt")
        load_s = time.monotonic() - start
        worst = max(abs(result.score - result.recorded_score) for result in self_test(engine))
        for path in list_images(options.data) if options.data else []:
            image = read_image(path)
            engine.inspect(image, engine.place(Region(0, 0, image.shape[1], image.shape[0])))
        engine.close()
        runtime = select_runtimes(bundle, "tensorrt")[0].open()
        baselines, skipped = torch_candidates(bundle)
        found = [*baselines, RuntimeCandidate.load(bundle, runtime, TENSORRT)]
        batches = [n for n in (1, 2, 4, 8, 16, 32) if n <= options.max_batch]
        report = measure(bundle, found, skipped, batches=batches, seconds=options.seconds, baseline=EAGER)
        console.print(bench_table(report))
        device_ms = {}
        for n in (1, batches[-1]):
            found[-1].prepare(n)()
            device_ms[n] = runtime.device_ms()
        kinds = Counter(
            str(layer.get("Precision", layer.get("LayerType", "?"))) for layer in inspected(runtime.layer_information)
        )
        for candidate in found:
            candidate.close()
        macs = count_macs(detector_from_bundle(bundle), bundle.manifest.input.height, bundle.manifest.input.width)
    rows = {row.name: row for row in report.rows}
    ours, eager, rate = rows[TENSORRT], rows[EAGER].latency_ms_p50, fp16_rate()
    largest = batches[-1]
    achieved = macs * largest / (device_ms[largest] / 1e3)
    pixels = bundle.manifest.input.height * bundle.manifest.input.width * 3
    goals = [
        ("self-test on the golden images", f"largest score difference {worst:.4f}", True),
        ("bytes to the device a part = N·H·W·3", f"{ours.bytes_to_device} = {pixels}", ours.bytes_to_device == pixels),
        (
            "batch 1 at a third of PyTorch eager FP16 or less",
            f"{ours.latency_ms_p50:.3f} ms, {eager:.3f} ms; compiled {rows[COMPILED].latency_ms_p50:.3f} ms",
            ours.latency_ms_p50 <= eager / 3,
        ),
        (
            "wall time within 15 % of the device's (CUDA events)",
            f"{ours.latency_ms_p50:.3f} ms, {device_ms[1]:.3f} ms",
            ours.latency_ms_p50 <= 1.15 * device_ms[1],
        ),
        (
            f"batch {largest} at 70 % of the measured FP16 rate",
            f"{achieved / 1e12:.1f} of {rate / 1e12:.1f} TMAC/s, {achieved / rate:.0%}",
            achieved >= 0.7 * rate,
        ),
    ]
    table = Table(title=f"{gpu.name}, compute capability {gpu.compute_capability}, {plan.library} {plan.library_version}")
    for head in ("goal", "measured", "met"):
        table.add_column(head)
    for goal, measured, met in goals:
        table.add_row(goal, measured, "yes" if met else "NO")
    table.caption = f"loaded in {load_s:.1f} s; layers of the engine: {dict(kinds) or 'not named'}"
    console.print(table)
    if options.json:
        figures = {"goals": [{"goal": g, "measured": m, "met": met} for g, m, met in goals], "device_ms": device_ms}
        options.json.write_text(json.dumps(figures, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    main()
