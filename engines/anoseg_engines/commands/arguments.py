"""Adds the arguments that several commands have."""

from __future__ import annotations

import argparse
import math
from pathlib import Path
from typing import TypeAlias

MAX_THREADS = 256
"""As `engine.threads` of the daemon's configuration."""
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


def seconds(text: str) -> float:
    """A finite time above 0, as an argument's type."""
    number = float(text)
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError("must be above 0")
    return number


def threads(text: str) -> int:
    """A number of threads, as an argument's type. The runtime would report a wrong number as an error of the bundle."""
    number = int(text)
    if not 0 <= number <= MAX_THREADS:
        raise argparse.ArgumentTypeError(f"must be from 0 to {MAX_THREADS}; 0 lets the runtime decide")
    return number
