"""Runs `anosegd changes`: shows who changed thresholds, bundles and recipes or paused the inspection, when and why."""

from __future__ import annotations

import argparse
import json
import sys
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from anoseg_engines.files import shown_json
from anosegd.commands.past import open_past
from anosegd.commands.shown import local_time, shown
from anosegd.inspection.score_thresholds import CONFIGURATION


def main(options: argparse.Namespace) -> int:
    """Print the newest changes, the oldest of them first.

    Raises:
        ConfigError, PublishError, JournalError: As `open_past`.
    """
    with open_past(options) as past:
        changes = past.changes(options.limit)
    if options.json:
        for change in changes:
            sys.stdout.write(shown_json(json.dumps(change, ensure_ascii=False)) + "\n")
    elif changes:
        Console().print(_table(changes))
    else:
        sys.stdout.write("nobody has changed a threshold, bundle or recipe or paused the inspection since this journal began\n")
    return 0


DIGEST = 12
"""Letters of a digest that are shown."""
WIDTHS = {"from": DIGEST, "to": DIGEST, "who": len(CONFIGURATION)}
"""Columns whose words are not broken in a narrow window."""
ORIGINS = {"calibration": "calibrated", "configuration": "configured"}


def _table(changes: list[dict[str, Any]]) -> Table:
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    for column in ("time", "what", "from", "to", "who", "why"):
        table.add_column(column, overflow="fold", min_width=WIDTHS.get(column))
    for change in changes:
        what = change["kind"] + (f" {change['camera']}" if change["camera"] else "")
        short = SHORT.get(change["kind"], _bundle)
        cells = (local_time(change["at"]), what, short(change["old"]), short(change["new"]), change["who"], change["why"])
        table.add_row(*(Text(shown(cell)) for cell in cells))
    return table


def _threshold(value: str) -> str:
    number, _, origin = value.partition(" ")
    return f"{float(number):g} {ORIGINS.get(origin, origin)}"


def _pause(value: str) -> str:
    words, _, until = value.rpartition(" ")
    return f"{words} {local_time(until, '%H:%M:%S')}" if until.endswith("Z") else value


def _recipe(value: str) -> str:
    return value


SHORT = {"threshold": _threshold, "pause": _pause, "resume": _pause, "recipe": _recipe}
"""How the values of a kind of change are shown; all others are bundles."""


def _bundle(value: str) -> str:
    label, _, digest = value.partition(" ")
    return f"{label} {digest[:DIGEST]}"
