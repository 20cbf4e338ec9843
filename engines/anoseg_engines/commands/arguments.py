"""Adds the arguments that several commands have."""

from __future__ import annotations

import argparse
import math
from collections.abc import Callable
from pathlib import Path
from typing import TypeAlias

MAX_THREADS = 256
"""As `engine.threads` of the daemon's configuration."""
Subparsers: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"


def add_bundle(parser: argparse.ArgumentParser) -> None:
    """Add the argument BUNDLE."""
    parser.add_argument("bundle", type=Path, metavar="BUNDLE", help="STORE/NAME (its current version) or STORE/NAME/VERSION")


def whole_number(text: str) -> int:
    """A whole number, as an argument's type."""
    try:
        return int(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a whole number") from None


def positive(text: str) -> int:
    """A whole number above 0, as an argument's type."""
    number = whole_number(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"must be at least 1, not {text}")
    return number


def positive_up_to(most: int) -> Callable[[str], int]:
    """A whole number from 1 to `most`, as an argument's type."""

    def number(text: str) -> int:
        found = whole_number(text)
        if not 1 <= found <= most:
            raise argparse.ArgumentTypeError(f"must be at least 1 and at most {most}, not {text}")
        return found

    return number


def seed(text: str) -> int:
    """A seed of random numbers, as an argument's type."""
    number = whole_number(text)
    if number < 0:
        raise argparse.ArgumentTypeError(f"must be at least 0, not {text}")
    return number


def above_zero(text: str) -> float:
    """A finite number above 0, such as seconds, as an argument's type."""
    try:
        number = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not a number") from None
    if not 0 < number < math.inf:
        raise argparse.ArgumentTypeError(f"must be above 0, not {text}")
    return number


def threads(text: str) -> int:
    """A number of threads, as an argument's type. The runtime would report a wrong number as an error of the bundle."""
    number = whole_number(text)
    if not 0 <= number <= MAX_THREADS:
        raise argparse.ArgumentTypeError(f"must be from 0 to {MAX_THREADS}, not {text}; 0 lets the runtime decide")
    return number
