"""Runs `anoseg-engine diff`: compares two results of `reinspect` and prints which images change sides."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from anoseg_engines.commands.arguments import Subparsers
from anoseg_engines.commands.extra_packages import extra_packages

if TYPE_CHECKING:
    from anoseg_engines.reinspection.difference import ComparedImage, Difference

MOST_LISTED = 20
"""Images that the terminal lists of each change; --json has all."""
OUTCOMES = ("PASS", "FAIL", "UNKNOWN")


def add_parser(commands: Subparsers) -> None:
    """Declare the command."""
    parser = commands.add_parser("diff", help="compare two results of reinspect: which images change sides")
    parser.add_argument("a", type=Path, metavar="OUT_A", help="the output folder of a reinspect command")
    parser.add_argument("b", type=Path, metavar="OUT_B", help="that of another one")
    parser.add_argument("--common", action="store_true", help="compare what both have, if one lacks shards or images")
    parser.add_argument("--json", action="store_true", help="print JSON, with all images that change sides")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Compare and print."""
    with extra_packages("anoseg-engine diff"):
        from anoseg_engines.reinspection.difference import compare_results
    found = compare_results(options.a, options.b, common=options.common)
    if options.json:
        sys.stdout.write(json.dumps(found.plain(), indent=2) + "\n")
    else:
        _print(found)


def _print(found: Difference) -> None:
    from anoseg_engines.reinspection.difference import CHANGES

    console = Console()
    print(found.answer())
    a, b = found.results
    figures = Table()
    for head in ("", f"A: {a.record.bundle}", f"B: {b.record.bundle}"):
        figures.add_column(Text(head), justify="left" if not head else "right", overflow="fold")
    figures.add_row("score threshold", *("–" if each.threshold is None else f"{each.threshold:.4f}" for each in (a, b)))
    for outcome in OUTCOMES:
        figures.add_row(outcome, *(f"{each.outcomes.get(outcome, 0):,}" for each in (a, b)))
    console.print(figures)
    if moves := found.moves:
        print(
            f"scores from A to B: median {moves['median']:+.4f} (of the absolute values {moves['median_absolute']:.4f}), "
            f"largest rise {moves['largest_rise']:.4f}, largest fall {abs(moves['largest_fall']):.4f}"
        )
    for change, title in CHANGES.items():
        if images := found.changed(change):
            more = f" (the first {MOST_LISTED} of {len(images):,})" if len(images) > MOST_LISTED else f" ({len(images)})"
            print(f"Images that {title}{more}:")
            console.print(_images(images[:MOST_LISTED]))
    for note in found.notes():
        print(f"note: {note}")


def _images(images: list[ComparedImage]) -> Table:
    parts = any(image.part_id is not None for image in images)
    table = Table()
    for head in ("image", *(("part",) if parts else ()), "A", "B"):
        table.add_column(head, overflow="fold")
    for image in images:
        judged = (
            outcome if score is None else f"{outcome} {score:.4f}"
            for outcome, score in zip(image.outcomes, image.scores, strict=True)
        )
        table.add_row(*map(Text, (image.path, *((image.part_id or "",) if parts else ()), *judged)))
    return table
