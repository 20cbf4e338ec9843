"""Words for numbers of things in messages. Pure functions."""

from __future__ import annotations

import math


def counted(n: int, thing: str, several: str | None = None) -> str:
    """Return the number with its noun: `1 part`, `3 parts`.

    Args:
        n: The number.
        thing: One of the things.
        several: More of them, if that is not `thing` with an s.
    """
    return f"{n} {thing if n == 1 else several or thing + 's'}"


def agreeing(n: int, one: str, several: str) -> str:
    """Return the word that agrees with the number, such as `is` or `are`."""
    return one if n == 1 else several


def rounded_up(share: float) -> float:
    """Return the least number of thousandths that is not below a share: an upper bound stays one."""
    return math.ceil(1000 * share - 1e-9) / 1000
