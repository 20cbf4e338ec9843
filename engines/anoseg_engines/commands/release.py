"""Runs `anoseg-engine release`, which makes a version current, and `list`, which shows all versions of a bundle."""

from __future__ import annotations

import argparse
import contextlib
import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table
from rich.text import Text

from anoseg_engines.bundle import (
    GIVE,
    MANIFEST,
    Bundle,
    Release,
    find_bundle,
    load_bundle,
    read_releases,
    release_version,
    store_of,
    versions,
)
from anoseg_engines.commands.arguments import Subparsers
from anoseg_engines.errors import ConfigError, EngineError
from anoseg_engines.files import shown_name
from anoseg_engines.permissions import looking


def add_parser(commands: Subparsers) -> None:
    """Declare both commands."""
    parser = commands.add_parser("release", help="make a version current: STORE/NAME means this version from now on")
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="STORE/NAME/VERSION")
    parser.set_defaults(run=run)
    listing = commands.add_parser("list", help="show all versions of a bundle, and which one is current")
    listing.add_argument("bundle", type=Path, metavar="STORE/NAME")
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.set_defaults(run=run_list)


def run(options: argparse.Namespace) -> None:
    """Verify the bundle's hashes, release it, and print what was current before.

    Raises:
        ConfigError: BUNDLE is no version in a store.
        EngineError: The bundle or the list of releases is damaged.
        AnosegError: The list of releases cannot be written.
    """
    path: Path = options.bundle
    with looking(EngineError, hint=GIVE):
        written = versions(path) if path.is_dir() and not (path / MANIFEST).is_file() else []
    if written:
        hint = f"for example: anoseg-engine release {path / str(written[-1])}; `anoseg-engine list {path}` shows all versions"
        raise ConfigError(f"{path}: name the version to release", hint=hint)
    bundle = load_bundle(path)
    store_name = store_of(bundle)
    before = release_version(store_name, bundle.manifest.version, bundle.digest)
    if before is not None and before.digest == bundle.digest and before.at is not None:
        print(f"{store_name}: version {bundle.manifest.version} is current already")
        return
    was = "" if before is None or before.digest == bundle.digest else f" (before: version {before.version})"
    print(f"{store_name}: version {bundle.manifest.version} is current{was}")
    print("a running line whose configuration names this folder takes it with: anosegd reload CONFIG")


@dataclass(frozen=True, slots=True)
class Row:
    """One version as `list` shows it.

    Attributes:
        origin: The command that wrote it; None for a bundle from before releases.
        parent: The version that it was calibrated from.
        figures: Measured on synthetic defects when it was trained, as in the manifest.
        released: Whether it is released.
        released_at: When; None if it is not known.
        current: Whether STORE/NAME means this version.
        damaged: What is wrong with its files, or None.
    """

    version: int
    digest: str | None = None
    created: str | None = None
    origin: str | None = None
    parent: int | None = None
    score_threshold: float | None = None
    pixel_threshold: float | None = None
    false_reject_target: float | None = None
    calibration_images: int | None = None
    synthetic_image_auroc: float | None = None
    synthetic_defects_caught: float | None = None
    released: bool = False
    released_at: str | None = None
    current: bool = False
    damaged: str | None = None


def run_list(options: argparse.Namespace) -> None:
    """Print one line for each version.

    Raises:
        ConfigError: There is no version.
        EngineError: The list of releases is damaged.
    """
    path: Path = options.bundle
    with looking(EngineError, hint=GIVE):
        store_name = store_of(load_bundle(path)) if (path / MANIFEST).is_file() else path
    found = rows(store_name)
    if options.json:
        sys.stdout.write(json.dumps([asdict(row) for row in found], indent=2) + "\n")
        return
    Console().print(_table(store_name, found))
    for row in found:
        if row.damaged:
            print(f"version {row.version}: {row.damaged}")
    if not any(row.current for row in found):
        print(f"no version can be used as {store_name} yet; run: anoseg-engine release {store_name}/VERSION")


def rows(store_name: Path) -> list[Row]:
    """Return the versions under STORE/NAME, ascending.

    Raises:
        ConfigError: There is none.
        EngineError: The list of releases is damaged.
    """
    released = {entry.version: entry for entry in read_releases(store_name)}
    numbers = sorted({*versions(store_name), *released})
    if not numbers:
        below = []
        with looking(EngineError, hint=GIVE):
            if store_name.is_dir():
                below = sorted(str(p) for p in store_name.iterdir() if p.is_dir() and versions(p))
        hint = f"give STORE/NAME; there are: {', '.join(below)}" if below else "give STORE/NAME"
        raise ConfigError(f"{store_name}: no versions of a bundle in this folder", hint=hint)
    found: list[Row] = []
    whole: set[int] = set()
    for number in numbers:
        try:
            bundle = load_bundle(store_name / str(number))
        except (ConfigError, EngineError) as error:
            entry = released.get(number)
            found.append(
                Row(version=number, released=entry is not None, released_at=entry.at if entry else None, damaged=error.what)
            )
        else:
            whole.add(number)
            found.append(_row(number, bundle, released.get(number)))
    used = None
    with contextlib.suppress(ConfigError):  # nothing is released
        used = int(find_bundle(store_name).name)
    current = used if used in whole else None
    return [Row(**{**asdict(row), "current": row.version == current}) for row in found]


def _row(number: int, bundle: Bundle, entry: Release | None) -> Row:
    manifest, origin = bundle.manifest, bundle.origin
    auroc, caught = (manifest.metrics.get(key) for key in ("synthetic_image_auroc", "synthetic_defects_caught"))
    return Row(
        version=number,
        digest=bundle.digest,
        created=manifest.created,
        origin=origin.command if origin else None,
        parent=origin.parent_version if origin else None,
        score_threshold=manifest.score_threshold,
        pixel_threshold=manifest.pixel_threshold,
        false_reject_target=manifest.calibration.false_reject_target,
        calibration_images=manifest.calibration.n_images,
        synthetic_image_auroc=auroc if isinstance(auroc, float) else None,
        synthetic_defects_caught=caught if isinstance(caught, float) else None,
        released=entry is not None,
        released_at=entry.at if entry else None,
    )


def _table(store_name: Path, found: list[Row]) -> Table:
    table = Table(
        title_justify="left",
        caption_justify="left",
        title=Text(shown_name(store_name)),
        caption="score, pixel: thresholds; AUROC, caught: synthetic defects; times in UTC",
        box=None,
        padding=(0, 1, 0, 0),
    )
    for column in ("version", "written", "origin", "from", "score", "pixel", "AUROC", "caught", "state"):
        words = column in ("written", "origin", "state")
        table.add_column(column, justify="left" if words else "right", no_wrap=column != "origin", min_width=len(column))
    for row in found:
        cells = (
            str(row.version),
            (row.created or "–")[:16].replace("T", " "),
            (row.origin or "–").replace("-", " "),
            _figure(row.parent, "d"),
            _figure(row.score_threshold, ".4f"),
            _figure(row.pixel_threshold, ".4f"),
            _figure(row.synthetic_image_auroc, ".3f"),
            _figure(row.synthetic_defects_caught, ".0%"),
            _state(row),
        )
        table.add_row(*cells, style="red" if row.damaged else "bold" if row.current else "")
    return table


def _figure(value: float | None, form: str) -> str:
    return "–" if value is None else format(value, form)


def _state(row: Row) -> str:
    if row.damaged:
        return "damaged"
    return "current" if row.current else "released" if row.released else "candidate"
