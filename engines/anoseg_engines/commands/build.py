"""What a person sees of a build: its phases while it runs, then the plan and its layer table."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.table import Table

from anoseg_engines.runtimes.tensorrt.build_child import PhaseFinished, PhaseStarted, Report, StepDone
from anoseg_engines.runtimes.tensorrt.plan import PlanDescription


class BuildProgress:
    """A bar for every phase under way, on stderr; nothing where stderr is no terminal. Used as a context manager."""

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
        """One report of the building process."""
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
    """The plan as a person reads it."""
    table = Table(title=f"{description.bundle} built by {description.library} {description.library_version}", show_header=False)
    layers = ", ".join(f"{n} {kind}" for kind, n in description.layers.items())
    rows = {
        "plan": f"{path}, {description.plan_bytes / 1e6:.1f} MB",
        "for": f"{description.gpu} GPU, compute capability {description.compute_capability}, {description.platform}",
        "inputs": f"{description.height}×{description.width}, batch {description.min_batch} to {description.max_batch}, "
        f"tuned for {description.opt_batch}",
        "built in": f"{description.build_seconds:.1f} s",
        "layers": layers,
        "proved": description.proved_on or "not yet: there is no GPU here; it is proved when it is first loaded",
    }
    for key, value in rows.items():
        table.add_row(key, value)
    return table


def layer_table(description: PlanDescription) -> Table:
    """The layers that are not FP16, by the reason why."""
    table = Table(title="layers in FP32; all other arithmetic is FP16")
    table.add_column("why", ratio=1)
    table.add_column("layers", ratio=1)
    for reason in dict.fromkeys(layer.reason for layer in description.fp32_layers):
        names = [f"{layer.name} ({layer.kind.lower()})" for layer in description.fp32_layers if layer.reason == reason]
        table.add_row(reason, ", ".join(names))
    return table
