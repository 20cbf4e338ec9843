"""Runs `anoseg-train compare`: runs two bundles on the same images and prints which parts change sides.

It writes JSON and a report on request.
"""

from __future__ import annotations

import argparse
import sys

from rich.console import Console
from rich.progress import Progress

from anoseg_engines.bundle import load_bundle, note_on_candidates
from anoseg_engines.loading import load_engine
from anoseg_engines.result_files import try_file
from anoseg_trainer.commands.evaluate import write_json
from anoseg_trainer.tables import table
from anoseg_trainer.version_comparison import (
    CHANGES,
    HEAD_OF_PARTS,
    VersionComparison,
    check_comparable,
    compare,
    find_compared_images,
    part_rows,
)

MOST_LISTED = 20
"""Parts that the terminal lists of each change; --json and --report have all."""


def run(options: argparse.Namespace) -> None:
    """Run the command."""
    for option, path in (("--json", options.json), ("--report", options.report)):
        try_file(path, option)
    bundles = load_bundle(options.a), load_bundle(options.b)
    for note in filter(None, map(note_on_candidates, (options.a, options.b))):
        print(f"note: {note}", file=sys.stderr)
    notes = check_comparable(bundles, any_product=options.any_product)
    find_compared_images(options.data)  # before the bundles load, which takes seconds
    console = Console(stderr=True)
    a = load_engine(bundles[0], runtime=options.runtime)
    try:
        b = load_engine(bundles[1], runtime=options.runtime)
        try:
            with Progress(console=console, disable=not console.is_terminal) as progress:
                task = progress.add_task("inspecting", total=None)

                def show(n: int, total: int) -> None:
                    progress.update(task, completed=n, total=total)

                found = compare((a, b), options.data, options.group, show)
            print_comparison(found, notes, Console())
            if options.json:
                write_json(options.json, found.plain())
            if options.report:
                from anoseg_trainer.report.comparison_report import comparison_report

                comparison_report((a, b), options.data, found, notes).write(options.report)
                print(f"report in {options.report}")
        finally:
            b.close()
    finally:
        a.close()


def print_comparison(found: VersionComparison, notes: list[str], console: Console) -> None:
    """Print the answer, the figures of both, and the parts that change sides."""
    print(found.answer())
    head, *rows = found.rows()
    console.print(table(head, rows))
    if kinds := list(found.kind_rows()):
        console.print(table(kinds[0], kinds[1:]))
    for change, title in CHANGES.items():
        if parts := found.changed(change):
            more = f" (the first {MOST_LISTED} of {len(parts)})" if len(parts) > MOST_LISTED else f" ({len(parts)})"
            print(f"{title}{more}:")
            console.print(table(HEAD_OF_PARTS, part_rows(parts[:MOST_LISTED])))
    for note in (*notes, *found.notes):
        print(f"note: {note}")
