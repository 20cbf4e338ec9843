"""Runs `anosegd replay`: prints committed verdicts from the journal as JSON lines."""

from __future__ import annotations

import argparse

from anoseg_engines.errors import ConfigError
from anosegd.commands.connection import print_line, print_missing
from anosegd.commands.past import open_past


def main(options: argparse.Namespace) -> int:
    """Print the verdicts from `--from` to `--to`; report missing numbers on stderr.

    Raises:
        ConfigError, PublishError, JournalError: As `open_past`; or the range is empty.
    """
    first = getattr(options, "from")
    if options.to is not None and options.to < first:
        raise ConfigError(f"--to {options.to} is before --from {first}")
    with open_past(options, print_missing) as past:
        for verdict in past.replay(first, options.to):
            print_line(verdict)
    return 0
