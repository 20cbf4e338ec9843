"""Runs `anosegd check`: validates a configuration and its bundle. It opens no camera and no socket."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from anoseg_engines.engine import Engine
from anoseg_engines.errors import ConfigError
from anoseg_engines.files import shown_name
from anoseg_engines.passwords import mask_passwords
from anoseg_engines.permissions import ENTER, looking
from anoseg_engines.words import counted
from anosegd.capture.config import FolderSource
from anosegd.capture.sources.folder import not_read
from anosegd.config import CameraConfig, Config, load_config
from anosegd.config_check import check_ipc_folders, check_whole
from anosegd.config_warnings import shared_devices, warnings_of
from anosegd.evidence import EvidenceConfig, place_warning
from anosegd.inspection.rule_calibration import DECIDE, rules_note
from anosegd.inspection.score_thresholds import in_use, threshold_note
from anosegd.journal import JournalConfig, check_content, check_place
from anosegd.recipe import Recipe

STATE = Path("/var/lib/anoseg")
"""The service creates a folder of the configuration's name here when it starts."""
RUNTIME = Path("/run/anoseg")
"""And one here."""


def main(options: argparse.Namespace) -> int:
    """Print what was found.

    Raises:
        ConfigError: The configuration is invalid.
        EngineError: The bundle is refused.
    """
    config = load_config(options.config)
    journal = None if config.journal is None else _journal_line(config.journal, STATE / options.config.stem)
    check_ipc_folders(config, created=RUNTIME / options.config.stem)
    lines = [f"{shown_name(options.config)}: valid"]

    def passed(engine: Engine, recipes: list[Recipe]) -> None:
        default = next((recipe for recipe in recipes if not recipe.key), None)
        if default is not None:
            lines.extend(_default_lines(config, engine))
        for recipe in recipes:
            if recipe is not default:
                lines.append(f"  recipe {recipe.name}: engine {engine.description}, proved on its golden images")
                lines.extend(_passed_over(engine, "    "))
                for name, camera in recipe.cameras.items():
                    lines.extend(f"    camera {name}: {line.strip()}" for line in _camera_lines(camera, engine))

    check_whole(config, journal=False, passed=passed)
    if journal is not None:
        lines.append(journal)
    if config.evidence is not None:
        lines += _evidence_lines(config.evidence)
    lines.append(f"  publishes at {config.publish.endpoint}")
    sys.stdout.write(mask_passwords("\n".join(lines)) + "\n")
    return 0


def _default_lines(config: Config, engine: Engine) -> list[str]:
    """Return what there is to say about the engine and the cameras of the default recipe."""
    lines = [
        f"  engine {engine.description}, proved on its golden images",
        f"  runtime {engine.runtime_name}: {engine.why}",
        *_passed_over(engine, "  "),
        *(f"  warning: {text}" for text in shared_devices(config.cameras)),
    ]
    for name, camera in config.cameras.items():
        lines.append(f"  camera {name}: {type(camera.source).__struct_config__.tag}, policy {camera.policy}")
        if isinstance(camera.source, FolderSource) and (
            left_out := not_read(Path(camera.source.path), recursive=camera.source.recursive)
        ):
            lines.append(f"    {left_out}")
        lines += _camera_lines(camera, engine)
    return lines


def _passed_over(engine: Engine, indent: str) -> list[str]:
    return [f"{indent}warning: {engine.bundle.passed_over}"] if engine.bundle.passed_over else []


def _camera_lines(camera: CameraConfig, engine: Engine) -> list[str]:
    """Return what there is to say about how a camera inspects with an engine."""
    lines = []
    if note := rules_note(camera, engine.bundle, size=None):
        lines.append(f"    {counted(len(camera.rules), 'region rule decides', DECIDE)}{note.removeprefix(DECIDE)}")
    lines += [f"    warning: {text}" for text in warnings_of(camera, engine)]
    if note := threshold_note(in_use(camera, engine.bundle)):
        lines.append(f"    {note}")
    return lines


def _evidence_lines(config: EvidenceConfig) -> list[str]:
    limits = f"up to {config.keep_days:g} days, {config.max_gb:g} GiB, {config.min_free:.0%} of the disk left free"
    lines = [f"  keeps pictures of parts in {shown_name(config.folder)}: {limits}"]
    if (warning := place_warning(config)) is not None:
        lines.append(f"    warning: {warning}")
    return lines


def _journal_line(config: JournalConfig, created: Path) -> str:
    """Check the journal's place.

    Args:
        config: The journal's settings.
        created: A folder that may be missing, because the service creates it when it starts.

    Raises:
        ConfigError: A journal cannot be at this path.
    """
    folder = Path(config.path).absolute().parent
    with looking(ConfigError, key="journal.path", hint=ENTER):
        if folder == created and not folder.exists():
            return f"  not yet: journal.path: {folder}: no such folder; the service creates it when it starts"
    path = check_place(config)
    check_content(path)
    return f"  journal {path}"
