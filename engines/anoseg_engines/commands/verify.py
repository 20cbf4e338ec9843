"""Runs `anoseg-engine verify`: checks every hash of a bundle, and runs its self-test on this machine."""

from __future__ import annotations

import argparse
import json
import sys

from rich.console import Console
from rich.table import Table
from rich.text import Text

from anoseg_engines.bundle import load_bundle, note_on_candidates
from anoseg_engines.commands.arguments import Subparsers, add_bundle, threads
from anoseg_engines.golden import self_test
from anoseg_engines.loading import load_engine
from anoseg_engines.runtimes.select import RUNTIMES


def add_parser(commands: Subparsers) -> None:
    """Declare the command."""
    parser = commands.add_parser("verify", help="check every hash, and run the self-test on the golden images")
    add_bundle(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument("--runtime", default="auto", help=", ".join(RUNTIMES))
    parser.add_argument("--threads", type=threads, default=0, metavar="N", help="threads of the CPU runtime; 0: it decides")
    parser.add_argument("--build", action="store_true", help="build a missing TensorRT plan")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Print the result for each golden image."""
    bundle = load_bundle(options.bundle)
    if note := note_on_candidates(options.bundle):
        print(f"note: {note}", file=sys.stderr)
    engine = load_engine(bundle, runtime=options.runtime, threads=options.threads, build=options.build)
    try:
        results = list(zip(bundle.manifest.golden, self_test(engine), strict=True))
        description, why = engine.runtime_description, engine.why
    finally:
        engine.close()
    if options.json:
        rows = [
            {
                "image": golden.image,
                "verdict": golden.verdict,
                "score": result.score,
                "recorded_score": result.recorded_score,
                "map_mean_difference": result.map_mean,
                "map_p999_difference": result.map_p999,
            }
            for golden, result in results
        ]
        found = {"bundle": bundle.label, "digest": bundle.digest, "runtime": description, "why": why, "golden": rows}
        print(json.dumps(found, indent=2))
        return
    table = Table(title=f"{bundle.label}: self-test passed on {description}", caption=why)
    for column in ("golden image", "verdict", "score", "recorded", "map difference, mean", "99.9th percentile"):
        table.add_column(column, justify="left" if column in ("golden image", "verdict") else "right")
    for golden, result in results:
        table.add_row(
            Text(golden.image),
            golden.verdict,
            f"{result.score:.4f}",
            f"{result.recorded_score:.4f}",
            f"{result.map_mean:.5f}",
            f"{result.map_p999:.5f}",
        )
    Console().print(table)
