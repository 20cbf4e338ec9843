"""Holds what is known of past verdicts in columns of numbers: small enough to keep 600,000, fast enough to ask again and again.

Pure data; the event loop's thread owns the table. `rows_of` runs on the journal's thread.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from anosegd.view.shown_verdict import part_time

MAX_ROWS = 600_000
"""A week of one part a second. The oldest go first."""
PASS, FAIL, UNKNOWN = 0, 1, 2
OUTCOMES = ("PASS", "FAIL", "UNKNOWN")
MAX_NAMES = 250
"""Different cameras, bundles and reasons. Further ones are counted as the last of them."""
_COLUMNS = np.dtype(
    [
        ("seq", np.int64),
        ("at", np.float64),  # Unix time, s
        ("score", np.float32),  # NaN: not inspected
        ("threshold", np.float32),  # NaN: region rules decided, or not inspected
        ("outcome", np.uint8),
        ("camera", np.uint8),
        ("bundle", np.uint8),
        ("reason", np.uint8),
    ]
)


class Row(NamedTuple):
    """One verdict."""

    seq: int
    at: float
    score: float
    threshold: float
    outcome: int
    camera: str
    bundle: str
    reason: str


def rows_of(verdicts: Iterable[Mapping[str, Any]]) -> list[Row]:
    """Return the rows of these verdicts."""
    return [
        Row(
            verdict["seq"],
            datetime.fromisoformat(part_time(verdict).replace("Z", "+00:00")).timestamp(),
            _number(verdict.get("score")),
            _number(verdict.get("threshold")),
            OUTCOMES.index(verdict["outcome"]),
            verdict["camera"],
            f"{verdict['engine']['name']}/{verdict['engine']['version']} {verdict['engine']['digest']}",
            verdict.get("reason") or "",
        )
        for verdict in verdicts
    ]


def _number(value: float | None) -> float:
    return float("nan") if value is None else value


class Names:
    """Gives each name a number."""

    def __init__(self) -> None:
        self.all: list[str] = []
        self._numbers: dict[str, int] = {}

    def number(self, name: str) -> int:
        """Return the name's number."""
        if name not in self._numbers and len(self.all) < MAX_NAMES:
            self._numbers[name] = len(self.all)
            self.all.append(name)
        return self._numbers.get(name, MAX_NAMES - 1)


@dataclass(slots=True)
class VerdictTable:
    """Columns of past verdicts, for charts and comparisons.

    Attributes:
        journal_id: The journal that it was read from; None before the first answer.
        next: The first number that was not read; None before the first answer.
        complete: Whether everything up to a moment ago is in it.
        from_beginning: Whether it has the first verdict of the journal. Else there were parts before its first row.
        cameras, bundles, reasons: The names behind the numbers in the columns. A bundle is `NAME/VERSION DIGEST`.
    """

    journal_id: str | None
    next: int | None
    complete: bool
    from_beginning: bool
    cameras: Names
    bundles: Names
    reasons: Names
    _rows: NDArray[Any]
    _count: int

    @classmethod
    def empty(cls) -> VerdictTable:
        """Return a table without rows."""
        return cls(None, None, False, False, Names(), Names(), Names(), np.empty(4096, _COLUMNS), 0)

    @property
    def rows(self) -> NDArray[Any]:
        """All rows in the order of their numbers, as a view that is valid until the next `add`."""
        return self._rows[: self._count]

    def add(self, rows: list[Row]) -> None:
        """Append rows; drop the oldest beyond the limit."""
        if not rows:
            return
        if self._count + len(rows) > len(self._rows):
            kept = self.rows[max(0, self._count + len(rows) - MAX_ROWS * 9 // 10) :] if self._count >= MAX_ROWS else self.rows
            self.from_beginning &= len(kept) == self._count
            grown = np.empty(min(MAX_ROWS + 4096, max(2 * len(kept), len(kept) + len(rows))), _COLUMNS)
            grown[: len(kept)] = kept
            self._rows, self._count = grown, len(kept)
        numbers = [
            (*row[:5], self.cameras.number(row.camera), self.bundles.number(row.bundle), self.reasons.number(row.reason))
            for row in rows
        ]
        self._rows[self._count : self._count + len(rows)] = np.array(numbers, _COLUMNS)
        self._count += len(rows)

    def of_period(self, since: float, until: float, camera: str | None = None) -> NDArray[Any]:
        """Return the rows of a period by the parts' own time, of one camera or of all. `until` is not included."""
        rows = self.rows
        chosen = (rows["at"] >= since) & (rows["at"] < until)
        if camera is not None:
            chosen &= rows["camera"] == (self.cameras.all.index(camera) if camera in self.cameras.all else MAX_NAMES)
        return rows[chosen]
