"""Runs `anosegd recipe`: has the station inspect by another recipe."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from anoseg_engines.errors import ConfigError
from anoseg_engines.files import shown_name
from anosegd.commands.connection import connect, endpoints_of, refuse_if_down
from anosegd.commands.shown import shown
from anosegd.config import load_config
from anosegd.recipe import recipes_of

TIMEOUT_S = 900.0
"""An engine may have to be loaded first. With `engine.build`, a TensorRT plan may be built, too."""


def main(options: argparse.Namespace) -> int:
    """Request the recipe, and print what inspects now.

    Raises:
        ConfigError: No recipe is named.
        PublishError: The station is down, does not answer, or refuses; the message gives the reason.
    """
    if options.config is None and Path(options.name).suffix in (".yaml", ".yml"):
        names = ", ".join(shown(name) for name in recipes_of(load_config(Path(options.name))))
        raise ConfigError(
            "the recipe's name is missing", hint=f"anosegd recipe {shown_name(Path(options.name))} NAME; there are: {names}"
        )
    endpoints = endpoints_of(options)
    refuse_if_down(endpoints)
    with connect(endpoints, request_timeout_s=TIMEOUT_S) as client:
        answer = client.recipe(options.name, who=options.who, why=options.why)
    engine, name = answer["engine"], shown(answer["recipe"])
    before = "as before" if answer["recipe"] == answer["before"] else f"before, {shown(answer['before'])}"
    lines = [
        f"recipe: {name} is in force ({before}), with {shown(engine['name'])}/{engine['version']}",
        f"  checksum of the settings {answer['settings'][:12]}",
    ]
    if answer["cameras"]:
        lines.append(f"  opened again: {', '.join(answer['cameras'])}")
    sys.stdout.write("\n".join(lines) + "\n")
    return 0
