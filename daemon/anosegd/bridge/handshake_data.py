"""Defines the data of a handshake: its settings, the parts under way, and how their results are counted. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass, replace

from anosegd.bridge.tags import Result, Statistics

_COUNTED = ("passed", "failed", "unknown", "late", "min_ms", "mean_ms", "max_ms")
"""The statistics that a result changes when it is shown."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Settings of a handshake.

    Attributes:
        triggered: The PLC triggers each part. Otherwise the camera has a trigger of its own, and each verdict is a part's.
        window_s: A result that is not there so long after its trigger, or else after its capture, is UNKNOWN: late.
        capacity: How many parts may be without an acknowledged result.
        mirror: Nobody acts on the order of the results: parts may be missing.
    """

    triggered: bool
    window_s: float
    capacity: int
    mirror: bool = False


@dataclass(slots=True)
class Part:
    """A part that was taken and whose result is not acknowledged.

    Attributes:
        number: Of the request to the station.
        since: When its trigger was taken, or else when it was captured, by the bridge's clock.
        seen_at: When the bridge began to read the trigger; without one, as `since`.
        part_id, triggered_at: Together the identity of a trigger.
        result: None until it is known.
        waited: Whether the result waits, or has waited, behind another one or for the PLC.
    """

    number: int
    since: float
    seen_at: float
    part_id: str
    triggered_at: str | None = None
    result: Result | None = None
    waited: bool = False


def rejected(result: Result, reason: str) -> Result:
    """Return the result as UNKNOWN for this reason; one that is UNKNOWN already keeps its own."""
    return result if result.outcome == "UNKNOWN" else replace(result, outcome="UNKNOWN", reason=reason)


def counted(before: Statistics, result: Result) -> Statistics:
    """Return the statistics with a result that is shown now."""
    n = before.passed + before.failed + before.unknown
    return replace(
        before,
        passed=before.passed + (result.outcome == "PASS"),
        failed=before.failed + (result.outcome == "FAIL"),
        unknown=before.unknown + (result.outcome == "UNKNOWN"),
        late=before.late + (result.reason == "late"),
        min_ms=min(before.min_ms, result.age_ms) if n else result.age_ms,
        mean_ms=(before.mean_ms * n + result.age_ms) / (n + 1),
        max_ms=max(before.max_ms, result.age_ms),
    )


def not_counted(now: Statistics, before: Statistics) -> Statistics:
    """Return the statistics without the result that was counted last; `before` are those without it."""
    return replace(now, **{name: getattr(before, name) for name in _COUNTED})
