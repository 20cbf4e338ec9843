"""Runs `anosegd check`: validates a configuration and its bundle. It opens no camera and no socket."""

from __future__ import annotations

import argparse
import sys

from anoseg_engines.errors import ConfigError
from anosegd.config import load_config
from anosegd.config_check import check_whole
from anosegd.inspection.rule_calibration import rules_note
from anosegd.journal import check_place


def main(options: argparse.Namespace) -> int:
    """Print what was found.

    Raises:
        ConfigError: The configuration is invalid.
        EngineError: The bundle is refused.
    """
    config = load_config(options.config)
    engine = check_whole(config, journal=False)
    try:
        lines = [
            f"{options.config}: valid",
            f"  engine {engine.description}, proved on its golden images",
            f"  runtime {engine.runtime_name}: {engine.why}",
        ]
        if engine.bundle.passed_over:
            lines.append(f"  warning: {engine.bundle.passed_over}")
        for name, camera in config.cameras.items():
            lines.append(f"  camera {name}: {type(camera.source).__struct_config__.tag}, policy {camera.policy}")
            if note := rules_note(camera, engine.bundle):
                lines.append(f"    {len(camera.rules)} {note}")
    finally:
        engine.close()
    if config.journal is not None:
        try:
            lines.append(f"  journal {check_place(config.journal)}")
        except ConfigError as error:  # under systemd the folder is created when the service starts
            lines.append(f"  not yet: {error.what}; the service creates /var/lib/anoseg/STATION, you create any other folder")
    lines.append(f"  publishes at {config.publish.endpoint}")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0
