"""Deletes the oldest verdicts: those older than `keep_days`, and those for which `keep_mb` has no room; removes old names.

Works in steps of a few milliseconds between commits, on the journal's thread.
"""

from __future__ import annotations

import time

from anosegd.age_clock import DAY_NS, AgeClock
from anosegd.journal.store import EXPIRE_BYTES, Store
from anosegd.journal.types import JournalConfig

LOG_BYTES = 36 << 20
"""The share of keep_mb for the write-ahead log (20 MiB, and what is written between two checks) and for free pages."""

NAMES_EVERY_S = 3600.0


class Retention:
    """Decides when a step of retention is due, and deletes the oldest verdicts.

    Attributes:
        clock: Decides how old entries are.
    """

    def __init__(self, config: JournalConfig, clock: AgeClock) -> None:
        self.clock = clock
        self._config = config
        self._due_at = 0.0
        self._names_due_at = 0.0
        self._bytes_written = 0

    @property
    def due_in_s(self) -> float:
        """The seconds until the next step is due."""
        return max(0.0, self._due_at - time.monotonic())

    def wrote(self, size: int) -> None:
        """Count the bytes of committed verdicts, so that retention keeps pace with them."""
        self._bytes_written += size

    def wait(self, seconds: float) -> None:
        """Postpone the next step by this time. If many verdicts are committed, it is due earlier."""
        self._due_at = time.monotonic() + seconds

    def steps_due(self) -> int:
        """Return how many steps to take now."""
        steps = self._bytes_written // (EXPIRE_BYTES // 2)
        if not steps and self.due_in_s > 0:
            return 0
        self._bytes_written = 0
        return max(steps, 1)

    def delete_oldest(self, store: Store) -> bool:
        """Take one step: delete some of the oldest verdicts if the journal exceeds a limit.

        Returns:
            Whether any were deleted; more may be due.

        Raises:
            sqlite3.Error: The file cannot be written.
        """
        oldest_ns = self.clock.now_ns() - int(self._config.keep_days * DAY_NS)
        return store.expire(before_kept_ns=oldest_ns, max_bytes=(self._config.keep_mb << 20) - LOG_BYTES) > 0

    def forget_names(self, store: Store) -> None:
        """Remove the names of persons that are older than `keep_names_days`, once an hour.

        Raises:
            sqlite3.Error: The file cannot be written.
        """
        if time.monotonic() >= self._names_due_at:
            store.forget_names(self.clock.now_ns() - int(self._config.keep_names_days * DAY_NS))
            self._names_due_at = time.monotonic() + NAMES_EVERY_S
