"""Runs `anosegd replay`: prints committed verdicts from the journal as JSON lines."""

from __future__ import annotations

import argparse

from anosegd.commands.connection import connect, endpoints_of, print_line, print_missing


def main(options: argparse.Namespace) -> int:
    """Print the verdicts from `--from` to `--to`; report missing numbers on stderr.

    Raises:
        PublishError: The station does not answer.
    """
    with connect(endpoints_of(options), on_event=print_missing) as client:
        for verdict in client.replay(getattr(options, "from"), options.to):
            print_line(verdict)
    return 0
