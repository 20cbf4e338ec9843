"""`anoseg-engine`: verify and inspect bundles."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from anoseg_engines.bundle import Bundle, load_bundle
from anoseg_engines.engine import Engine
from anoseg_engines.errors import AnosegError
from anoseg_engines.manifest import manifest_schema


def main() -> None:
    """Entry point of `anoseg-engine`; exits with the error's code."""
    try:
        sys.exit(run(sys.argv[1:]))
    except AnosegError as error:
        print(f"anoseg-engine: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
    except BrokenPipeError:  # the reader of our output (head, less) has gone
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except KeyboardInterrupt:
        sys.exit(130)


def run(arguments: list[str]) -> int:
    """Run one command; returns the exit code."""
    parser = argparse.ArgumentParser(prog="anoseg-engine", description="Verify and inspect engine bundles.")
    commands = parser.add_subparsers(dest="command", required=True)
    verify = commands.add_parser("verify", help="check every hash and prove the bundle on its golden images")
    inspect = commands.add_parser("inspect", help="show what a bundle is")
    for command in (verify, inspect):
        command.add_argument("bundle", type=Path, metavar="BUNDLE", help="STORE/NAME (newest version) or STORE/NAME/VERSION")
        command.add_argument("--json", action="store_true", help="print JSON")
    verify.add_argument("--runtime", default="auto", help="auto or cpu")
    commands.add_parser("schema", help="print the JSON Schema of manifest.json")
    options = parser.parse_args(arguments)
    if options.command == "schema":
        print(json.dumps(manifest_schema(), indent=2))
        return 0
    bundle = load_bundle(options.bundle)
    if options.command == "verify":
        _verify(bundle, options.runtime, options.json)
    else:
        _inspect(bundle, options.json)
    return 0


def _verify(bundle: Bundle, runtime: str, as_json: bool) -> None:
    engine = Engine.load(bundle, runtime=runtime)
    try:
        results = engine.prove()
        description = engine.runtime_description
    finally:
        engine.close()
    if as_json:
        rows = [
            {
                "image": golden.image,
                "verdict": golden.verdict,
                "score": result.score,
                "recorded_score": result.recorded_score,
                "map_mean_difference": result.map_mean,
                "map_p999_difference": result.map_p999,
            }
            for golden, result in zip(bundle.manifest.golden, results, strict=True)
        ]
        print(json.dumps({"bundle": bundle.label, "digest": bundle.digest, "runtime": description, "golden": rows}, indent=2))
        return
    table = Table(title=f"{bundle.label} proved on {description}")
    for column in ("golden image", "verdict", "score", "recorded", "map difference, mean", "99.9th percentile"):
        table.add_column(column, justify="left" if column in ("golden image", "verdict") else "right")
    for golden, result in zip(bundle.manifest.golden, results, strict=True):
        table.add_row(
            golden.image,
            golden.verdict,
            f"{result.score:.4f}",
            f"{result.recorded_score:.4f}",
            f"{result.map_mean:.5f}",
            f"{result.map_p999:.5f}",
        )
    Console().print(table)


def _inspect(bundle: Bundle, as_json: bool) -> None:
    manifest = bundle.manifest
    if as_json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(manifest), indent=2).decode() + "\n")
        return
    table = Table(title=bundle.label, show_header=False)
    spec = manifest.input
    rows = {
        "folder": str(bundle.path),
        "digest": bundle.digest,
        "created": manifest.created,
        "input": f"{spec.height}×{spec.width}, {spec.mode}"
        + (f", scale {spec.scale}, overlap {spec.overlap}" if spec.mode == "tile" else ""),
        "score": manifest.score,
        "score threshold": f"{manifest.score_threshold:.4f} (part score ≥ it: FAIL)",
        "pixel threshold": f"{manifest.pixel_threshold:.4f}",
        "calibration": f"{manifest.calibration.method}, {manifest.calibration.n_images} good images; "
        + manifest.calibration.guarantee,
        "golden images": ", ".join(f"{g.verdict} {g.score:.3f}" for g in manifest.golden),
        "network": f"{len(bundle.model_onnx) / 1e6:.2f} MB ONNX",
    }
    for key, value in rows.items():
        table.add_row(key, value)
    Console().print(table)
