"""Parses the command line of `anoseg-engine`, and runs one command of `commands/`."""

from __future__ import annotations

import argparse
import sys

from anoseg_engines.commands import bench, build, diff, inspect, reinspect, release, verify
from anoseg_engines.completion import add_common_options
from anoseg_engines.errors import AnosegError
from anoseg_engines.program import program_output


def main() -> None:
    """Entry point of `anoseg-engine`; exits with the error's code."""
    with program_output("anoseg-engine"):
        try:
            options = parser().parse_args()
            options.run(options)
        except AnosegError as error:
            print(f"anoseg-engine: {error}", file=sys.stderr)
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            sys.exit(130)


def parser() -> argparse.ArgumentParser:
    """The command line."""
    found = argparse.ArgumentParser(
        prog="anoseg-engine",
        description="Build, verify, release and measure engine bundles; inspect archives again.",
    )
    add_common_options(found)
    commands = found.add_subparsers(dest="command", required=True)
    for command in (build, verify, inspect, release, bench, reinspect, diff):
        command.add_parser(commands)
    return found
