"""Runs `anoseg-engine build`: builds the TensorRT plan for this machine, and shows its progress and its layer table."""

from __future__ import annotations

import argparse
import sys
from types import TracebackType

import msgspec
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from anoseg_engines.bundle import load_bundle, note_on_candidates
from anoseg_engines.commands.arguments import Subparsers, add_bundle, positive, positive_up_to
from anoseg_engines.loading import plan_test
from anoseg_engines.runtimes.tensorrt.build import MAX_BATCH, BuildOptions, build_plan
from anoseg_engines.runtimes.tensorrt.build_child import PhaseFinished, PhaseStarted, Report, StepDone
from anoseg_engines.runtimes.tensorrt.library import MODULES
from anoseg_engines.runtimes.tensorrt.plan import LARGEST_BATCH, PlanDescription
from anoseg_engines.runtimes.tensorrt.plan_store import PlanStore


def add_parser(commands: Subparsers) -> None:
    """Declare the command."""
    parser = commands.add_parser("build", help="build the TensorRT plan for this machine; with a GPU, also test it")
    add_bundle(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--runtime", default="auto", choices=("auto", *MODULES), help="which TensorRT, if both are installed")
    parser.add_argument("--workspace-mb", type=positive, metavar="N", help="memory that TensorRT may use for the build (all)")
    parser.add_argument(
        "--max-batch",
        type=positive_up_to(LARGEST_BATCH),
        default=MAX_BATCH,
        metavar="N",
        help=f"largest number of tiles of a part ({MAX_BATCH})",
    )
    parser.add_argument("--opt-batch", type=positive, metavar="N", help="number of tiles to tune for (as a golden image has)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Build the plan and print its description."""
    bundle = load_bundle(options.bundle)
    if note := note_on_candidates(options.bundle):
        print(f"note: {note}", file=sys.stderr)
    build_options = BuildOptions(
        library=options.runtime,
        workspace_mb=options.workspace_mb,
        max_batch=options.max_batch,
        opt_batch=options.opt_batch,
    )
    with BuildProgress() as progress:
        description = build_plan(bundle, build_options, on_progress=progress.show, self_test=plan_test(bundle))
    if options.json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(description), indent=2).decode() + "\n")
        return
    Console().print(plan_table(description, str(PlanStore.of(bundle).folder / description.plan)))
    Console().print(layer_table(description))


class BuildProgress:
    """Shows a bar on stderr for every phase that runs. Shows nothing if stderr is not a terminal. A context manager."""

    def __init__(self) -> None:
        console = Console(stderr=True)
        self._progress = Progress(
            TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn(), console=console, disable=not console.is_terminal
        )
        self._tasks: dict[str, TaskID] = {}

    def __enter__(self) -> BuildProgress:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._progress.stop()

    def show(self, report: Report) -> None:
        """Show one report of the build process."""
        if isinstance(report, PhaseStarted):
            self._drop(report.phase)
            self._tasks[report.phase] = self._progress.add_task(report.phase, total=max(report.steps, 1))
        elif isinstance(report, StepDone) and report.phase in self._tasks:
            self._progress.update(self._tasks[report.phase], completed=report.step + 1)
        elif isinstance(report, PhaseFinished):
            self._drop(report.phase)

    def _drop(self, phase: str) -> None:
        task = self._tasks.pop(phase, None)
        if task is not None:
            self._progress.remove_task(task)


def plan_table(description: PlanDescription, path: str) -> Table:
    """A table that describes a plan."""
    table = Table(title=f"{description.bundle} built by {description.library} {description.library_version}", show_header=False)
    layers = ", ".join(f"{n} {kind}" for kind, n in description.layers.items())
    rows = {
        "plan": f"{path}, {description.plan_bytes / 1e6:.1f} MB",
        "for": f"{description.gpu} GPU, compute capability {description.compute_capability}, {description.platform}",
        "inputs": f"{description.height}×{description.width}, batch {description.min_batch} to {description.max_batch}, "
        f"tuned for {description.opt_batch}",
        "built in": f"{description.build_seconds:.1f} s",
        "layers": layers,
        "self-test": description.proved_on or "not yet: this machine has no GPU; it runs when the plan is first loaded",
    }
    for key, value in rows.items():
        table.add_row(key, Text(value))
    return table


def layer_table(description: PlanDescription) -> Table:
    """A table of the layers that are not FP16, grouped by the reason."""
    table = Table(title="layers in FP32; all other arithmetic is FP16")
    table.add_column("why", ratio=1)
    table.add_column("layers", ratio=1)
    for reason in dict.fromkeys(layer.reason for layer in description.fp32_layers):
        names = [f"{layer.name} ({layer.kind.lower()})" for layer in description.fp32_layers if layer.reason == reason]
        table.add_row(reason, ", ".join(names))
    return table
