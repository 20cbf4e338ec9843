"""Runs `anosegd export`: writes the verdicts of a period from the journal as CSV."""

from __future__ import annotations

import argparse
import csv
import sys

from anoseg_engines.errors import AnosegError, ConfigError
from anosegd.commands.connection import connect, endpoints_of, print_missing, unix_ns

COLUMNS = (
    "seq",
    "captured_at",
    "committed_at",
    "camera",
    "part_id",
    "outcome",
    "reason",
    "score",
    "threshold",
    "recipe",
    "source",
)


def main(options: argparse.Namespace) -> int:
    """Write the verdicts committed from `--since` up to `--until` to a new file, and print their number.

    Raises:
        ConfigError: The file exists already.
        AnosegError: The file cannot be written.
        PublishError: The station does not answer.
    """
    rows = 0
    try:
        with connect(endpoints_of(options), on_event=print_missing) as client:
            # Before the file is opened: a station that is down leaves no empty file.
            first = client.first_seq_since(unix_ns(options.since)) if options.since else 1
            last = client.first_seq_since(unix_ns(options.until)) - 1 if options.until else None
            with options.csv.open("x", newline="", encoding="utf-8") as file:
                writer = csv.writer(file)
                writer.writerow((*COLUMNS, "defects"))
                for verdict in client.replay(first, last):
                    writer.writerow([*(verdict.get(column) for column in COLUMNS), len(verdict["defects"])])
                    rows += 1
    except FileExistsError as error:
        raise ConfigError(f"{options.csv}: exists already", hint="give a new file") from error
    except OSError as error:
        raise AnosegError(f"{options.csv}: cannot be written ({error.strerror})") from error
    sys.stdout.write(f"{rows} verdicts in {options.csv}\n")
    return 0
