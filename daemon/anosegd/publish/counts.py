"""Counts, for each camera, the verdicts sent, the results that came too late and the frames dropped. Any thread."""

from __future__ import annotations

import threading

from anosegd import wire


class CameraCounts:
    """Counts what happened to one camera's parts since the daemon started. Any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._passed = self._failed = self._unknown = self._late = 0
        self.dropped = 0
        self.overruns = 0

    def sent(self, verdict: wire.Verdict) -> None:
        """Count a verdict that was sent."""
        with self._lock:
            self._passed += verdict.outcome == "PASS"
            self._failed += verdict.outcome == "FAIL"
            self._unknown += verdict.outcome == "UNKNOWN"
            self.overruns += verdict.reason == "overrun"

    def late(self) -> None:
        """Count a result that came after its part was closed, or after its deadline."""
        with self._lock:
            self._late += 1

    def frame_dropped(self) -> None:
        """Count a frame that a newer one replaced (policy latest)."""
        with self._lock:
            self.dropped += 1

    @property
    def published(self) -> wire.Counts:
        """The counts that the state message carries."""
        with self._lock:
            return wire.Counts(passed=self._passed, failed=self._failed, unknown=self._unknown, late=self._late)
