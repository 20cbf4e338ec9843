"""Runs `anosegd replay`: prints committed verdicts from the journal as JSON lines."""

from __future__ import annotations

import argparse

from anosegd.commands.connection import print_line, print_missing
from anosegd.commands.past import open_past


def main(options: argparse.Namespace) -> int:
    """Print the verdicts from `--from` to `--to`; report missing numbers on stderr.

    Raises:
        ConfigError, PublishError, JournalError: As `open_past`.
    """
    with open_past(options, print_missing) as past:
        for verdict in past.replay(getattr(options, "from"), options.to):
            print_line(verdict)
    return 0
