"""Runs `anoseg-engine bench`: measures every runtime of this machine with `benchmark.py`, and shows the figures."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from anoseg_engines.benchmark import BenchReport, candidates, measure
from anoseg_engines.bundle import load_bundle, note_on_candidates
from anoseg_engines.commands.arguments import Subparsers, above_zero, add_bundle, positive_up_to, threads
from anoseg_engines.errors import AnosegError, EngineError
from anoseg_engines.result_files import try_file
from anoseg_engines.runtimes.select import RUNTIMES
from anoseg_engines.runtimes.tensorrt.build import MAX_BATCH
from anoseg_engines.runtimes.tensorrt.plan import LARGEST_BATCH


def add_parser(commands: Subparsers) -> None:
    """Declare the command."""
    parser = commands.add_parser("bench", help="measure every runtime of this machine, in one run")
    add_bundle(parser)
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    parser.add_argument("--runtime", action="append", default=[], choices=RUNTIMES[1:], help="only this one; may be repeated")
    parser.add_argument("--threads", type=threads, default=0, metavar="N", help="threads of the CPU runtime; 0: it decides")
    parser.add_argument(
        "--max-batch", type=positive_up_to(LARGEST_BATCH), default=MAX_BATCH, metavar="N", help=f"largest batch ({MAX_BATCH})"
    )
    parser.add_argument("--seconds", type=above_zero, default=2.0, metavar="S", help="for each runtime and batch size (2)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Measure and print."""
    try_file(options.json, "--json")
    bundle = load_bundle(options.bundle)
    if note := note_on_candidates(options.bundle):
        print(f"note: {note}", file=sys.stderr)
    found, skipped = candidates(bundle, threads=options.threads, names=options.runtime)
    if options.runtime and skipped:  # a runtime that was named must run
        raise EngineError(next(iter(skipped.values())))
    batches = [n for n in (1, 2, 4, 8, 16, 32, 64) if n < options.max_batch] + [options.max_batch]
    try:
        with Console(stderr=True).status("measuring") as status:
            report = measure(
                bundle,
                found,
                skipped,
                batches=batches,
                seconds=options.seconds,
                threads=options.threads,
                on_progress=status.update,
            )
    finally:
        for candidate in found:
            candidate.close()
    show(report, options.json)


def show(report: BenchReport, json_file: Path | None) -> None:
    """Print the table, and write the figures to a file if one is given.

    Raises:
        AnosegError: The file cannot be written.
    """
    console = Console()
    if not console.is_terminal:  # a file or a pipe has room for the whole table
        console = Console(width=200)
    whole = bench_table(report)
    if console.measure(whole, options=console.options.update(max_width=1000)).maximum <= console.width:
        console.print(whole)
    else:
        for part in narrow_tables(report):
            console.print(part)
    for name, reason in report.skipped.items():
        console.print(f"{name} was not measured: {reason}", soft_wrap=True, highlight=False, markup=False)
    if json_file is not None:
        try:
            json_file.parent.mkdir(parents=True, exist_ok=True)
            json_file.write_bytes(msgspec.json.format(msgspec.json.encode(report), indent=1) + b"\n")
        except OSError as error:
            raise AnosegError(f"{json_file}: cannot be written ({error.strerror})") from error


def bench_table(report: BenchReport) -> Table:
    """A table with a row for each candidate."""
    title, heads, rows = _content(report)
    return _table(title, heads, rows)


def narrow_tables(report: BenchReport) -> tuple[Table, Table]:
    """The same for a window of 80 columns: one table for the latency, one for the throughput. No cell is cut."""
    title, heads, rows = _content(report)
    heads = [head.replace(", ", ",\n").replace("/ from", "/\nfrom").replace("times as", "times\nas") for head in heads]
    split = next((n for n, head in enumerate(heads) if head.startswith("parts/s")), len(heads) - 1)
    return (
        _table(title, heads[:split], [row[:split] for row in rows]),
        _table("", [heads[0], *heads[split:]], [[row[0], *row[split:]] for row in rows]),
    )


def _table(title: str, heads: list[str], rows: list[list[str]]) -> Table:
    table = Table(title=title or None)
    for head in heads:
        left = head in ("runtime", "runs in", "self-test")
        table.add_column(head, justify="left" if left else "right", overflow="fold", no_wrap=not left)
    for row in rows:
        table.add_row(*row)
    return table


def _content(report: BenchReport) -> tuple[str, list[str], list[list[str]]]:
    """Return title, heads and rows."""
    batches = sorted({n for row in report.rows for n in row.parts_per_s})
    gpu = report.gpu or "no GPU"
    title = f"{report.bundle}, {report.input}; {report.processor} ({report.cores} cores, {' '.join(report.flags)}); {gpu}"
    ratio = any(row.ratio is not None for row in report.rows)
    heads = ["runtime", "runs in", "self-test", "p50 ms", "p99 ms", *(["times as fast"] if ratio else [])]
    heads += [f"parts/s, {n}" for n in batches] + ["bytes to / from device"]
    rows = []
    for row in report.rows:
        cells = [row.name, row.precision, row.golden, f"{row.latency_ms_p50:.2f}", f"{row.latency_ms_p99:.2f}"]
        cells += ["–" if row.ratio is None else f"{row.ratio:.2f}"] if ratio else []
        cells += [f"{row.parts_per_s[n]:.0f}" if n in row.parts_per_s else "–" for n in batches]
        rows.append([*cells, f"{row.bytes_to_device} / {row.bytes_from_device}"])
    return title, heads, rows
