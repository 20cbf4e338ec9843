"""A benchmark as a person reads it, and as JSON for programs."""

from __future__ import annotations

from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from anoseg_engines.bench import BenchReport
from anoseg_engines.errors import AnosegError


def bench_table(report: BenchReport) -> Table:
    """One row a candidate."""
    batches = sorted({n for row in report.rows for n in row.parts_per_s})
    gpu = report.gpu or "no GPU"
    title = f"{report.bundle}, {report.input}; {report.processor} ({report.cores} cores, {' '.join(report.flags)}); {gpu}"
    table = Table(title=title)
    ratio = any(row.ratio is not None for row in report.rows)
    heads = ["runtime", "runs in", "golden", "p50 ms", "p99 ms", *(["times as fast"] if ratio else [])]
    heads += [f"parts/s, {n}" for n in batches] + ["bytes to / from device"]
    for head in heads:
        table.add_column(head, justify="left" if head in ("runtime", "runs in", "golden") else "right")
    for row in report.rows:
        cells = [row.name, row.precision, row.golden, f"{row.latency_ms_p50:.2f}", f"{row.latency_ms_p99:.2f}"]
        cells += ["–" if row.ratio is None else f"{row.ratio:.2f}"] if ratio else []
        cells += [f"{row.parts_per_s[n]:.0f}" if n in row.parts_per_s else "–" for n in batches]
        table.add_row(*cells, f"{row.bytes_to_device} / {row.bytes_from_device}")
    return table


def show(report: BenchReport, json_file: Path | None) -> None:
    """The table to the terminal, the figures to a file where one is wished.

    Raises:
        AnosegError: the file cannot be written.
    """
    console = Console()
    if not console.is_terminal:  # a file or a pipe has room for the whole table
        console = Console(width=200)
    console.print(bench_table(report))
    for name, reason in report.skipped.items():
        console.print(f"{name} was not measured: {reason}", soft_wrap=True, highlight=False, markup=False)
    if json_file is not None:
        try:
            json_file.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
        except OSError as error:
            raise AnosegError(f"{json_file}: cannot be written ({error.strerror})") from error
