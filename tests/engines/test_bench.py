"""The benchmark reports what it ran. `make gpu-check` reports what is missing on a machine where it cannot run."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console
from support.commands import run_here
from support.host_device import HostDevice, TinyNetwork
from support.paths import TESTS
from support.tiny_bundle import write_tiny_bundle

from anoseg_engines.benchmark import BenchReport, BenchRow, RuntimeCandidate, candidates, measure
from anoseg_engines.cli import main
from anoseg_engines.commands import bench
from anoseg_engines.errors import EngineError
from anoseg_engines.runtimes.openvino_network import cpu_precisions
from anoseg_engines.runtimes.tensorrt.gpu import find_gpu
from anoseg_engines.runtimes.tensorrt.runtime import TensorRTRuntime


def test_bench_as_a_user_runs_it(tmp_path: Path) -> None:
    """Every precision of this processor is measured and tested. A runtime that cannot run is named with the reason."""
    bundle = write_tiny_bundle(tmp_path / "tiny")
    command = [sys.executable, "-m", "anoseg_engines", "bench", str(bundle.path), "--seconds", "0.05", "--max-batch", "4"]
    done = subprocess.run([*command, "--json", str(tmp_path / "new" / "b.json")], capture_output=True, text=True, check=True)
    found = json.loads((tmp_path / "new" / "b.json").read_bytes())
    assert {row["name"] for row in found["rows"]} >= {f"cpu-{p}" for p in cpu_precisions()}
    assert all(row["golden"] == "holds" for row in found["rows"])
    assert all(set(row["parts_per_s"]) == {"1", "2", "4"} for row in found["rows"])
    assert found["processor"]
    for name in {"tensorrt"} - {row["name"] for row in found["rows"]}:
        assert name in found["skipped"]
        assert f"{name} was not measured" in done.stdout


@pytest.mark.parametrize("command", ["bench", "verify"])
@pytest.mark.parametrize("threads", ["-1", "1025", "two"])
def test_a_wrong_number_of_threads_is_named(command: str, threads: str) -> None:
    """The message does not blame the bundle, which is not even read."""
    done = run_here(main, "anoseg-engine", command, "no/bundle", "--threads", threads)
    assert done.returncode == 2
    assert "argument --threads" in done.stderr


@pytest.mark.parametrize("command", ["bench", "build"])
@pytest.mark.parametrize("size", ["0", "1025"])
def test_a_batch_that_no_plan_can_have_is_named(command: str, size: str) -> None:
    """A plan for a larger batch would be built for minutes, and then be refused by every program."""
    done = run_here(main, "anoseg-engine", command, "no/bundle", "--max-batch", size)
    assert done.returncode == 2
    assert f"argument --max-batch: must be at least 1 and at most 1024, not {size}" in done.stderr


def test_a_runtime_named_to_bench_must_run(tmp_path: Path) -> None:
    """A named runtime that cannot run is an error with exit code 3, not a table without it."""
    try:
        find_gpu()
        pytest.skip("this machine has a GPU")
    except EngineError:
        pass
    bundle = write_tiny_bundle(tmp_path / "tiny")
    command = [sys.executable, "-m", "anoseg_engines", "bench", str(bundle.path), "--runtime", "tensorrt"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, "Traceback" in done.stderr) == (3, False)


def test_bytes_to_the_device_are_counted_for_one_part(tmp_path: Path) -> None:
    """A part sends N·H·W·3 bytes to the device. Batches that are too large for the plan are omitted."""
    bundle, device = write_tiny_bundle(tmp_path / "tiny"), HostDevice()
    runtime = TensorRTRuntime(bundle.manifest.input, device, TinyNetwork(device, 2), "host")
    found = RuntimeCandidate.load(bundle, runtime, "on the host")
    others, skipped = candidates(bundle, names=["cpu-f32"])
    report = measure(bundle, [found, *others], skipped, batches=(1, 2, 4), seconds=0.05, baseline="cpu-f32")
    row, cpu = report.rows
    assert row.bytes_to_device == 64 * 64 * 3
    assert (set(row.parts_per_s), set(cpu.parts_per_s)) == ({1, 2}, {1, 2, 4})
    assert (cpu.ratio, cpu.bytes_to_device) == (1.0, 0)


def test_gpu_check_names_what_is_missing() -> None:
    """Without a GPU it exits 2, and says what to install and that nothing was run on a GPU."""
    try:
        find_gpu()
        pytest.skip("this machine has a GPU")
    except EngineError:
        pass
    done = subprocess.run([sys.executable, str(TESTS / "bench" / "gpu_check.py")], capture_output=True, text=True)
    assert done.returncode == 2
    assert "Missing:\n- no GPU can be used" in done.stderr
    assert "NOT been run on a GPU" in done.stderr


def test_gpu_check_needs_no_pytorch() -> None:
    """On a line without PyTorch, gpu-check loads, and says that the baseline is not measured."""
    script = (
        "import runpy, sys; sys.modules['torch'] = None; "
        f"print(runpy.run_path({str(TESTS / 'bench' / 'gpu_check.py')!r}, run_name='checked')['pytorch_or_why']())"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.stdout == "(None, 'PyTorch is not installed (torch)')\n", done.stderr


def test_the_tables_keep_whole_names_at_80_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a terminal of 80 columns no cell is cut: the latency comes first, the throughput in a second table."""
    names = ("PyTorch, channels last", "openvino 2026.4.1 cpu bf16")
    rows = [
        BenchRow(
            name=name,
            precision="bf16",
            golden="map differs by 0.0500",
            latency_ms_p50=1231.25,
            latency_ms_p99=2088.10,
            parts_per_s={1: 32.0, 4: 35.0, 8: 36.0, 16: 1037.0},
            bytes_to_device=3072000,
            bytes_from_device=4100000,
            ratio=1.25,
        )
        for name in names
    ]
    report = BenchReport(
        bundle="my-part/1", bundle_sha256="", input="320×320", processor="Xeon", cores=2, threads=0, flags=[], gpu=None,
        rows=rows, skipped={},
    )  # fmt: skip
    shown = {}
    for width in (80, 200):
        file = io.StringIO()
        monkeypatch.setattr(
            bench,
            "Console",
            lambda file=file, width=width: Console(file=file, width=width, force_terminal=True, color_system=None),
        )
        bench.show(report, None)
        shown[width] = file.getvalue()
        assert "…" not in shown[width]
        assert max(len(line) for line in shown[width].splitlines()) <= width
        assert all(cell in shown[width] for cell in ("1231.25", "2088.10", "3072000", "4100000", "1037"))
    assert shown[80].count("┏") == 2
    assert shown[200].count("┏") == 1
