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
from rich.table import Table

from anoseg_engines.bundle import load_bundle, note_on_candidates
from anoseg_engines.errors import AnosegError
from anoseg_engines.loading import load_engine
from anoseg_trainer.evaluation import METRICS, Evaluation, evaluate


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    console = Console(stderr=True)
    bundle = load_bundle(options.bundle)
    if note := note_on_candidates(options.bundle):
        print(f"note: {note}", file=sys.stderr)
    engine = load_engine(bundle, runtime=options.runtime)
    try:
        with Progress(console=console, disable=not console.is_terminal) as progress:
            task = progress.add_task("inspecting", total=None)
            found = evaluate(engine, options.data, lambda n, total: progress.update(task, completed=n, total=total))
        Console().print(result_table(found))
        if options.json:
            _write_json(options.json, msgspec.to_builtins(found))
        if options.report:
            from anoseg_trainer.report.evaluation_report import evaluation_report

            evaluation_report(engine, options.data, found).write(options.report)
            print(f"report in {options.report}")
        if options.overlays:
            from anoseg_trainer.report.overlays import write_overlays

            written = write_overlays(engine, options.data, found, options.overlays)
            print(f"{len(written)} pictures in {options.overlays}")
    finally:
        engine.close()


def result_table(evaluation: Evaluation) -> Table:
    """Build the table that is printed."""
    table = Table(title=f"{evaluation.bundle} on {evaluation.runtime}, {evaluation.inference_ms:.1f} ms an image")
    for name in ("", "images", *METRICS.values(), "escapes"):
        table.add_column(name, justify="left" if not name else "right")
    *per_defect, overall = evaluation.table_rows()
    for row in per_defect:
        table.add_row(*row)
    table.add_section()
    table.add_row(*overall)
    figures = evaluation.overall
    threshold = evaluation.thresholds["score"]
    table.caption = f"{figures['n_good']} good images, {figures['false_rejects']} rejected at {threshold:.4f}"
    return table


def _write_json(path: Path, content: dict[str, Any]) -> None:
    try:
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")
    except OSError as error:
        raise AnosegError(f"{path}: cannot be written ({error.strerror})") from error
