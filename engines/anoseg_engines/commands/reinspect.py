"""Runs `anoseg-engine reinspect`: inspects an archive of images again with a bundle, and writes a row for each image."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from anoseg_engines.bundle import load_bundle, note_on_candidates
from anoseg_engines.commands.arguments import Subparsers, above_zero, positive, threads
from anoseg_engines.commands.extra_packages import extra_packages
from anoseg_engines.commands.image_progress import image_progress
from anoseg_engines.errors import ConfigError, DataError
from anoseg_engines.files import shown_name
from anoseg_engines.loading import load_engine
from anoseg_engines.runtimes.select import RUNTIMES
from anoseg_engines.words import counted

if TYPE_CHECKING:
    from anoseg_engines.bundle import Bundle
    from anoseg_engines.reinspection.image_list import ImageList
    from anoseg_engines.reinspection.result_folder import ResultFolder

SHARD_SIZE = 500
MOST_LISTED = 20
"""Images that the terminal lists; --json has all."""

RETRY = "after the repair, give the same command with --retry-unreadable"


def add_parser(commands: Subparsers) -> None:
    """Declare the command."""
    parser = commands.add_parser("reinspect", help="inspect an archive of images again; writes Parquet files")
    parser.add_argument(
        "--bundle", type=Path, required=True, metavar="BUNDLE", help="STORE/NAME (its current version) or STORE/NAME/VERSION"
    )
    parser.add_argument(
        "--images",
        type=Path,
        required=True,
        metavar="DIR|LIST",
        help="a folder, with the folders below it; or a list: one path a line, or the lines of `anosegd evidence list --json`",
    )
    parser.add_argument("--out", type=Path, required=True, metavar="DIR", help="a new folder, or one of the same command")
    parser.add_argument("--runtime", default="auto", choices=RUNTIMES, metavar="NAME", help=", ".join(RUNTIMES))
    parser.add_argument("--threads", type=threads, default=0, metavar="N", help="threads of the CPU runtime; 0: it decides")
    parser.add_argument(
        "--shard-size", type=positive, default=SHARD_SIZE, metavar="N", help=f"images of one Parquet file ({SHARD_SIZE})"
    )
    parser.add_argument(
        "--retry-unreadable", action="store_true", help="inspect the shards again that have an image which could not be read"
    )
    ray = parser.add_argument_group(
        "many machines", "Ray, the extra fleet; every node needs bundle and images at the same paths"
    )
    ray.add_argument(
        "--ray",
        nargs="?",
        const="local",
        metavar="ADDRESS",
        help="of a cluster, HOST:PORT or auto; without it, starts one here",
    )
    ray.add_argument("--engines", type=positive, metavar="N", help="how many; each in a process (as many as there is room for)")
    ray.add_argument("--cpus", type=positive, metavar="N", help="processor cores of an engine, and its threads (1)")
    ray.add_argument("--gpus", type=above_zero, metavar="N", help="GPUs of an engine, such as 1 or 0.5 (none)")
    parser.add_argument("--dry-run", action="store_true", help="say what would be done, and write nothing")
    parser.add_argument("--json", action="store_true", help="print JSON at the end")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Inspect, or say what would be inspected.

    Raises:
        ConfigError: The output folder cannot be used, or a package is missing.
        DataError: There are no images, or none could be inspected.
        EngineError: The bundle is refused, or the runtime failed.
        AnosegError: The result cannot be written.
    """
    with extra_packages("anoseg-engine reinspect"):
        from anoseg_engines.reinspection.image_list import find_images
        from anoseg_engines.reinspection.result_folder import ResultFolder, RunRecord
    _check_options(options)
    bundle = load_bundle(options.bundle)
    images = find_images(options.images)
    for note in filter(None, (note_on_candidates(options.bundle), *images.notes)):
        _note(note)
    record = RunRecord(
        bundle=bundle.label,
        engine_digest=bundle.digest,
        source=shown_name(images.source),
        images=len(images.images),
        images_digest=images.digest(),
        runtime=options.runtime,
        shard_size=options.shard_size,
    )
    result = ResultFolder(options.out, record, retry_unreadable=options.retry_unreadable)
    if options.dry_run:
        result.look()
        _print_plan(options, result)
        return
    with result:
        for path in result.damaged:
            _note(f"{shown_name(path)}: is not a whole shard of this result: it is written again")
        if result.to_do():
            try:
                _inspect(options, bundle, images, result)
            except KeyboardInterrupt:
                print(f"\nstopped: {_done(result)}; the same command goes on", file=sys.stderr)
                raise
        _print_result(options, result)


def _note(said: str) -> None:
    print(f"note: {said}", file=sys.stderr)


def _inspect(options: argparse.Namespace, bundle: Bundle, images: ImageList, result: ResultFolder) -> None:
    before = sum(len(result.record.rows_of(shard)) for shard in result.finished)
    if options.ray is not None:
        with extra_packages("anoseg-engine reinspect --ray"):
            from anoseg_engines.reinspection.on_ray import inspect_on_ray
            from anoseg_engines.reinspection.ray_nodes import EngineOnRay
        engine_on_ray = EngineOnRay(
            bundle=bundle.path.absolute(),
            runtime=options.runtime,
            cpus=options.cpus or 1,
            gpus=options.gpus or 0,
            engines=options.engines,
        )
        with image_progress(len(images.images), before) as on_images:
            inspect_on_ray(options.ray, engine_on_ray, images, result, on_images, _note)
        return
    from anoseg_engines.reinspection.on_this_machine import inspect_here

    engine = load_engine(bundle, runtime=options.runtime, threads=options.threads)
    try:
        with image_progress(len(images.images), before) as on_images:
            inspect_here(engine, images, result, on_images)
    finally:
        engine.close()


def _check_options(options: argparse.Namespace) -> None:
    """Refuse options that would have no effect.

    Raises:
        ConfigError: There is one.
    """
    if options.ray is None:
        for name in ("engines", "cpus", "gpus"):
            if getattr(options, name) is not None:
                raise ConfigError(f"--{name} needs --ray", hint="without Ray, one engine uses the whole machine; see --threads")
    elif options.gpus is not None and options.gpus > 1 and options.gpus % 1:
        raise ConfigError(f"--gpus {options.gpus:g}: is neither a share of one GPU nor a whole number", hint="such as 0.5 or 2")
    elif options.threads:
        raise ConfigError("--threads has no effect with --ray", hint="--cpus sets the threads of each engine")


def _done(result: ResultFolder) -> str:
    return f"{len(result.finished)} of {counted(result.record.shards, 'shard')} finished"


def _print_plan(options: argparse.Namespace, result: ResultFolder) -> None:
    record, to_do = result.record, result.to_do()
    images = sum(len(record.rows_of(shard)) for shard in to_do)
    if options.json:
        plan = {"images": record.images, "images_to_do": images, "shards": record.shards, "shards_to_do": len(to_do)}
        _print_json(result, {"dry_run": True, **plan})
        return
    print(f"{counted(record.images, 'image')} of {record.source}, with {record.bundle} on the runtime {record.runtime}")
    print(f"{shown_name(options.out)}: {_done(result)}; {counted(images, 'image')} would be inspected")
    for path in result.damaged:
        print(f"{shown_name(path)}: is not a whole shard of this result: it would be written again")
    print("dry run: nothing was written")


def _print_result(options: argparse.Namespace, result: ResultFolder) -> None:
    from anoseg_engines.reinspection.result_folder import count_outcomes, note_on_runtimes

    outcomes, unknown, runtimes = count_outcomes(options.out, result.record)
    if len(unknown) == result.record.images:
        what = f"none of {counted(len(unknown), 'image')} could be inspected; the first: {unknown[0]['error']}"
        again = RETRY if any(row["reason"] == "unreadable" for row in unknown) else "give a new --out folder after the repair"
        raise DataError(what, hint=f"{shown_name(options.out)} has a row for each; {again}")
    if options.json:
        counts = {outcome: outcomes[outcome] for outcome in ("PASS", "FAIL", "UNKNOWN")}
        _print_json(result, {"images": result.record.images, "outcomes": counts, "not_inspected": unknown})
    else:
        said = ", ".join(f"{outcomes[outcome]:,} {outcome}" for outcome in ("PASS", "FAIL", "UNKNOWN"))
        print(f"{counted(result.record.images, 'image')} with {result.record.bundle}: {said}")
        if unknown:
            more = f" (the first {MOST_LISTED})" if len(unknown) > MOST_LISTED else ""
            print(f"{counted(len(unknown), 'image')} could not be inspected{more}:")
        for row in unknown[:MOST_LISTED]:
            print(f"  {row['path']}: UNKNOWN: {row['reason']}: {row['error']}")
        print(f"result in {shown_name(options.out)}, {counted(result.record.shards, 'Parquet file')}")
    if note := note_on_runtimes(runtimes):
        print(f"note: {note}", file=sys.stderr)
    if n := sum(row["reason"] == "unreadable" for row in unknown):
        print(f"note: {counted(n, 'image')} could not be read: {RETRY}", file=sys.stderr)


def _print_json(result: ResultFolder, figures: dict[str, Any]) -> None:
    record = result.record
    about = {"out": shown_name(result.folder), "bundle": record.bundle, "engine_digest": record.engine_digest}
    sys.stdout.write(json.dumps({**about, **figures}, indent=2) + "\n")
