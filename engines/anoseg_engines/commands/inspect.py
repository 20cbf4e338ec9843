"""Runs `anoseg-engine inspect`, which describes a bundle, and `schema`, which prints the JSON Schema of its manifest."""

from __future__ import annotations

import argparse
import json
import sys

import msgspec
from rich.console import Console
from rich.table import Table
from rich.text import Text

from anoseg_engines.bundle import INT8, Bundle, load_bundle, manifest_schema, note_on_candidates
from anoseg_engines.commands.arguments import Subparsers, add_bundle


def add_parser(commands: Subparsers) -> None:
    """Declare both commands."""
    parser = commands.add_parser("inspect", help="show what a bundle is")
    add_bundle(parser)
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=run)
    schema = commands.add_parser("schema", help="print the JSON Schema of manifest.json")
    schema.set_defaults(run=lambda options: print(json.dumps(manifest_schema(), indent=2)))


def run(options: argparse.Namespace) -> None:
    """Print a table, or the manifest."""
    bundle = load_bundle(options.bundle)
    if note := note_on_candidates(options.bundle):
        print(f"note: {note}", file=sys.stderr)
    if options.json:
        sys.stdout.write(msgspec.json.format(msgspec.json.encode(bundle.manifest), indent=2).decode() + "\n")
    else:
        Console().print(bundle_table(bundle))


def _origin(bundle: Bundle) -> str:
    origin = bundle.origin
    if origin is None:
        return ""
    parent = (
        ""
        if origin.parent_version is None
        else f" from version {origin.parent_version} (digest {(origin.parent_digest or '')[:12]})"
    )
    return f" by {origin.command}{parent}"


def _int8(bundle: Bundle) -> str:
    int8 = bundle.int8
    if int8 is None:
        return "none"
    auroc = f"image AUROC on synthetic defects {int8.image_auroc:.4f} (the other network: {int8.image_auroc_of_first:.4f})"
    return f"{len(bundle.model_of(INT8)) / 1e6:.2f} MB ONNX; {auroc}; runtime cpu-int8"


def bundle_table(bundle: Bundle) -> Table:
    """A table of the bundle's manifest."""
    manifest, spec = bundle.manifest, bundle.manifest.input
    tiles = f", scale {spec.scale}, overlap {spec.overlap}" if spec.mode == "tile" else ""
    calibration = manifest.calibration
    rows = {
        "folder": str(bundle.path),
        "digest": bundle.digest,
        "created": f"{manifest.created}{_origin(bundle)}",
        "input": f"{spec.height}×{spec.width}, {spec.mode}{tiles}",
        "score": manifest.score,
        "score threshold": f"{manifest.score_threshold:.4f} (a part with this score or more: FAIL)",
        "pixel threshold": f"{manifest.pixel_threshold:.4f}",
        "calibration": f"{calibration.method}, {calibration.n_images} good images; {calibration.guarantee}",
        **{f"rules {entry.digest[:12]}, {entry.width}×{entry.height}": entry.guarantee for entry in bundle.rule_calibrations},
        "golden images": ", ".join(f"{g.verdict} {g.score:.3f}" for g in manifest.golden),
        "network": f"{len(bundle.model_onnx) / 1e6:.2f} MB ONNX",
        "INT8 network": _int8(bundle),
    }
    table = Table(title=bundle.label, show_header=False)
    for key, value in rows.items():
        table.add_row(key, Text(value))
    return table
