"""`make gpu-check` on the mock GPU, up to what needs TensorRT."""

import io
from pathlib import Path

from bench.gpu_check import Report, check_device, check_lanes, check_scaling
from rich.console import Console
from support.mock_gpu import Driver
from support.mock_network import MockNetwork
from support.tiny_bundle import write_tiny_bundle

from anoseg_engines.engine import Engine
from anoseg_engines.runtimes.tensorrt.device import PycudaDevice
from anoseg_engines.runtimes.tensorrt.runtime import TensorRTRuntime


def test_what_needs_no_tensorrt_passes_the_check() -> None:
    """The device layer and the scaling of regions run, and every row is met."""
    report = Report(Console(file=io.StringIO()))
    check_device(report)
    check_scaling(report, cameras=((640, 512), (1001, 777)), launches=1)
    assert [row.met for row in report.rows] == ["yes"] * 4


def test_the_lanes_are_measured(driver: Driver, tmp_path: Path) -> None:
    """Parts run one at a time and nine at a time; which is faster is not a matter of the mock."""
    report = Report(Console(file=io.StringIO()))
    bundle = write_tiny_bundle(tmp_path / "tiny")
    engine = Engine(bundle, TensorRTRuntime(bundle.manifest.input, PycudaDevice(), MockNetwork(driver, 2), "mock"))
    check_lanes(report, engine, 0.1)
    engine.close()
    (row,) = report.rows
    assert row.what.startswith("9 parts at a time")
