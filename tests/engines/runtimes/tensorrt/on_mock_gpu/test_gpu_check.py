"""`make gpu-check` on the mock GPU, up to what needs TensorRT."""

import io

from bench.gpu_check import Report, check_device
from rich.console import Console


def test_the_device_layer_passes_the_check() -> None:
    """The first step of `gpu-check` runs, and every row is met."""
    report = Report(Console(file=io.StringIO()))
    check_device(report)
    assert [row.met for row in report.rows] == ["yes", "yes"]
