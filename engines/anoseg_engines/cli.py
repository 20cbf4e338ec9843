"""`anoseg-engine`: build, verify, inspect and bench bundles."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import msgspec
from rich.console import Console
from rich.table import Table

from anoseg_engines.bench import candidates, measure
from anoseg_engines.bundle.manifest import manifest_schema
from anoseg_engines.bundle.read import Bundle, load_bundle
from anoseg_engines.commands.bench import show
from anoseg_engines.commands.build import BuildProgress, layer_table, plan_table
from anoseg_engines.engine import Engine
from anoseg_engines.errors import AnosegError, EngineError
from anoseg_engines.runtimes.select import RUNTIMES, prover
from anoseg_engines.runtimes.tensorrt.build import MAX_BATCH, BuildOptions, build_plan
from anoseg_engines.runtimes.tensorrt.library import MODULES
from anoseg_engines.runtimes.tensorrt.plan import PlanStore


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
    options = _parser().parse_args(arguments)
    if options.command == "schema":
        print(json.dumps(manifest_schema(), indent=2))
        return 0
    bundle = load_bundle(options.bundle)
    if options.command == "verify":
        _verify(bundle, options)
    elif options.command == "build":
        _build(bundle, options)
    elif options.command == "bench":
        _bench(bundle, options)
    else:
        _inspect(bundle, options.json)
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="anoseg-engine", description="Build, verify, inspect and measure engine bundles.")
    commands = parser.add_subparsers(dest="command", required=True)
    build = commands.add_parser("build", help="build the TensorRT plan for this machine, and prove it where a GPU is")
    verify = commands.add_parser("verify", help="check every hash and prove the bundle on its golden images")
    inspect = commands.add_parser("inspect", help="show what a bundle is")
    bench = commands.add_parser("bench", help="measure every runtime of this machine, in one run")
    for command in (build, verify, inspect, bench):
        command.add_argument("bundle", type=Path, metavar="BUNDLE", help="STORE/NAME (newest version) or STORE/NAME/VERSION")
    for command in (build, verify, inspect):
        command.add_argument("--json", action="store_true", help="print JSON")
    bench.add_argument("--json", type=Path, metavar="FILE", help="write the figures")
    bench.add_argument("--runtime", action="append", default=[], choices=RUNTIMES[1:], help="only this one; may be repeated")
    bench.add_argument("--threads", type=int, default=0, metavar="N", help="of the CPU runtime; 0: it chooses")
    bench.add_argument("--max-batch", type=_positive, default=MAX_BATCH, metavar="N", help=f"largest batch ({MAX_BATCH})")
    bench.add_argument("--seconds", type=float, default=2.0, metavar="S", help="for each runtime and batch size (2)")
    build.add_argument("--runtime", default="auto", choices=("auto", *MODULES), help="which TensorRT, if both are installed")
    build.add_argument("--workspace-mb", type=_positive, metavar="N", help="memory TensorRT may use while it builds (all)")
    build.add_argument(
        "--max-batch", type=_positive, default=MAX_BATCH, metavar="N", help=f"most tiles of a part ({MAX_BATCH})"
    )
    build.add_argument("--opt-batch", type=_positive, metavar="N", help="tiles to tune for (those of a golden image)")
    verify.add_argument("--runtime", default="auto", help=", ".join(RUNTIMES))
    verify.add_argument("--threads", type=int, default=0, metavar="N", help="of the CPU runtime; 0: it chooses")
    verify.add_argument("--build", action="store_true", help="build a TensorRT plan if one is missing")
    commands.add_parser("schema", help="print the JSON Schema of manifest.json")
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _build(bundle: Bundle, options: argparse.Namespace) -> None:
    wish = BuildOptions(
        library=options.runtime,
        workspace_mb=options.workspace_mb,
        max_batch=options.max_batch,
        opt_batch=options.opt_batch,
    )
    with BuildProgress() as progress:
        description = build_plan(bundle, wish, on_progress=progress.show, prove=prover(bundle))
    if options.json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(description), indent=2).decode() + "\n")
        return
    Console().print(plan_table(description, str(PlanStore.of(bundle).folder / description.plan)))
    Console().print(layer_table(description))


def _bench(bundle: Bundle, options: argparse.Namespace) -> None:
    found, skipped = candidates(bundle, threads=options.threads, names=options.runtime)
    if options.runtime and skipped:  # what was named must run
        raise EngineError(next(iter(skipped.values())))
    console = Console(stderr=True)
    batches = [n for n in (1, 2, 4, 8, 16, 32, 64) if n < options.max_batch] + [options.max_batch]
    try:
        with console.status("measuring") as status:
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


def _verify(bundle: Bundle, options: argparse.Namespace) -> None:
    engine = Engine.load(bundle, runtime=options.runtime, threads=options.threads, build=options.build)
    try:
        results = engine.prove()
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
            for golden, result in zip(bundle.manifest.golden, results, strict=True)
        ]
        told = {"bundle": bundle.label, "digest": bundle.digest, "runtime": description, "why": why, "golden": rows}
        print(json.dumps(told, indent=2))
        return
    table = Table(title=f"{bundle.label} proved on {description}", caption=why)
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
        **{f"rules {entry.digest[:12]}": entry.guarantee for entry in bundle.rule_calibrations},
        "golden images": ", ".join(f"{g.verdict} {g.score:.3f}" for g in manifest.golden),
        "network": f"{len(bundle.model_onnx) / 1e6:.2f} MB ONNX",
    }
    for key, value in rows.items():
        table.add_row(key, value)
    Console().print(table)
