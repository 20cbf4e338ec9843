"""Runs `anoseg-train evaluate`: measures a bundle on test images and prints a table.

It writes JSON, a report and overlay images on request.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console
from rich.progress import Progress

from anoseg_engines.bundle import load_bundle, note_on_candidates
from anoseg_engines.errors import AnosegError
from anoseg_engines.loading import load_engine
from anoseg_engines.result_files import try_file, try_folder
from anoseg_engines.words import counted
from anoseg_trainer.evaluation import ESCAPE_HEAD, METRICS, OPERATING_HEAD, Evaluation, evaluate
from anoseg_trainer.operating_point import OperatingPoint
from anoseg_trainer.tables import table


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    for option, path in (("--json", options.json), ("--report", options.report)):
        try_file(path, option)
    try_folder(options.overlays, "--overlays")
    try_folder(options.all_overlays, "--all-overlays")
    console = Console(stderr=True)
    bundle = load_bundle(options.bundle)
    if note := note_on_candidates(options.bundle):
        print(f"note: {note}", file=sys.stderr)
    engine = load_engine(bundle, runtime=options.runtime)
    try:
        with Progress(console=console, disable=not console.is_terminal) as progress:
            task = progress.add_task("inspecting", total=None)
            found = evaluate(engine, options.data, lambda n, total: progress.update(task, completed=n, total=total))
        print_result(found, Console())
        if options.json:
            write_json(options.json, msgspec.to_builtins(found))
        if options.report:
            from anoseg_trainer.report.evaluation_report import evaluation_report

            evaluation_report(engine, options.data, found).write(options.report)
            print(f"report in {options.report}")
        for folder in filter(None, (options.overlays, options.all_overlays)):
            from anoseg_trainer.report.overlays import write_overlays

            written = write_overlays(engine, options.data, found, folder, every=folder is options.all_overlays)
            print(f"{counted(len(written), 'picture')} in {folder}")
    finally:
        engine.close()


def print_result(evaluation: Evaluation, console: Console) -> None:
    """Print the operating point first, then escapes and metrics by kind of defect, and what was left out."""
    point = OperatingPoint(**evaluation.operating_point["calibrated"])
    print(f"{evaluation.bundle} on {evaluation.runtime}, {evaluation.inference_ms:.1f} ms an image")
    print(f"At the calibrated threshold {point.threshold:.4f}, {point.escapes_cell} defective images pass (escapes),")
    print(f"and {point.false_rejects_cell} good images are rejected. {evaluation.parts_sentence()}")
    print(f"Without a false reject, recall is {_figure(evaluation.operating_point['recall_at_no_false_reject'])}.")
    console.print(table(OPERATING_HEAD, list(evaluation.operating_rows())))
    console.print(table(ESCAPE_HEAD, list(evaluation.escape_rows()), total=True))
    console.print(table(["defect", *METRICS.values()], list(evaluation.metric_rows()), total=True))
    print(f"calibration: {evaluation.operating_point['promise']}")
    for note in evaluation.notes:
        print(f"note: {note}")


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def write_json(path: Path, content: dict[str, Any]) -> None:
    """Write figures as a JSON file.

    Raises:
        AnosegError: The file cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise AnosegError(f"{path}: cannot be written ({error.strerror})") from error
