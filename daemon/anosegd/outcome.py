"""What can become of a part, as other threads tell the publisher; and the count of what was sent. Pure data."""

from __future__ import annotations

from dataclasses import dataclass

from anoseg_engines.judgement.judge import Inspection, Judgement
from anoseg_engines.placement import Placement
from anosegd import wire


@dataclass(frozen=True, slots=True)
class Result:
    """A part's inspection, as the inspector hands it over; the map is the receiver's.

    engine: what judged it. started_ns, finished_ns: monotonic, around placement, network and judgement.
    """

    judgement: Judgement
    inspection: Inspection
    placement: Placement
    engine: wire.EngineName
    started_ns: int
    finished_ns: int


@dataclass(frozen=True, slots=True)
class Unknown:
    """A part that was not inspected."""

    reason: wire.Reason
    detail: str | None


@dataclass(frozen=True, slots=True)
class Dropped:
    """A frame passed over under policy latest: no part, no verdict, but counted."""


Outcome = Result | Unknown | Dropped


@dataclass(slots=True)
class Tally:
    """What was sent for one camera, and what was not. Written by the publisher's thread only."""

    passed: int = 0
    failed: int = 0
    unknown: int = 0
    late: int = 0
    dropped: int = 0
    overruns: int = 0

    def counts(self) -> wire.Counts:
        """As published."""
        return wire.Counts(passed=self.passed, failed=self.failed, unknown=self.unknown, late=self.late)

    def add(self, verdict: wire.Verdict) -> None:
        """Count a verdict that was sent."""
        if verdict.outcome == "PASS":
            self.passed += 1
        elif verdict.outcome == "FAIL":
            self.failed += 1
        else:
            self.unknown += 1
            self.overruns += verdict.reason == "overrun"
