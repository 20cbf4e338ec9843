"""Adds the arguments that several commands have."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TypeAlias

Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """Add the argument BUNDLE."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="STORE/NAME (its current version) or STORE/NAME/VERSION")


def positive(text: str) -> int:
    """A whole number above 0, as an argument's type."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number
