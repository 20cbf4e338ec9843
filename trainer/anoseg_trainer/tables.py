"""Builds the tables that commands print. They keep whole names at 80 columns."""

from __future__ import annotations

from rich.markup import escape
from rich.table import Table

LONG_NAME = 28
"""Names with more letters than this go on in the next line of a table."""


def table(head: list[str], rows: list[list[str]], *, total: bool = False) -> Table:
    """Build a table that keeps whole names at 80 columns: long ones go on in the next line.

    Args:
        head: Titles of the columns.
        rows: The cells.
        total: Whether the last row sums up the others.
    """
    found = Table()
    short = max((len(row[0]) for row in rows), default=0) <= LONG_NAME
    for n, name in enumerate(head):
        found.add_column(name, justify="right" if n else "left", overflow="fold", no_wrap=not n and short)
    for n, row in enumerate(rows):
        if total and n == len(rows) - 1:
            found.add_section()
        found.add_row(*(escape(cell) for cell in row))
    return found
