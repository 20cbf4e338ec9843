"""Makes the form of a verdict that the pages get. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any, NamedTuple

from anosegd.client import Verdict

COPIED = (
    "journal_id",
    "seq",
    "camera",
    "part_id",
    "outcome",
    "reason",
    "detail",
    "score",
    "threshold",
    "threshold_from",
    "captured_at",
    "committed_at",
    "recipe",
    "source",
    "durable",
)
EARLY_MS = 3000.0
"""A part may be this much later than its station's clock, as the screen knows it: a heartbeat takes a moment to arrive."""


class StationClock(NamedTuple):
    """What the station's clock showed when a heartbeat was sent.

    Attributes:
        at: The heartbeat's time, UTC.
        heard_ms: When the heartbeat arrived, by the screen's own clock (`clock_ms`).
    """

    at: str
    heard_ms: float


def shown_verdict(verdict: Verdict, now_ms: float, clock: StationClock | None) -> dict[str, Any]:
    """Return what the pages show of a verdict.

    Args:
        verdict: The verdict.
        now_ms: The present time of the screen's own clock (`clock_ms`).
        clock: The station's clock; None before the first heartbeat.

    Returns:
        Some of its fields; `total_ms`; `bundle`; `boxes`, with their places in camera pixels; and `at`, the time of capture by
        the screen's own clock, or None if the verdict is from the journal and its age is not known.
    """
    age_ms = _age_ms(verdict, now_ms, clock) if verdict.replayed else float(verdict["timings_ms"]["total"])
    return {
        **past_verdict(verdict),
        "at": None if age_ms is None else now_ms - age_ms,
        "boxes": [
            {name: defect.get(name) for name in ("x", "y", "width", "height", "peak", "rule")} for defect in verdict["defects"]
        ],
    }


def past_verdict(verdict: Verdict) -> dict[str, Any]:
    """Return what a list of past parts shows of a verdict."""
    engine = verdict["engine"]
    return {
        **{name: verdict.get(name) for name in COPIED},
        "total_ms": verdict["timings_ms"]["total"],
        "bundle": f"{engine['name']}/{engine['version']}",
        "defects": len(verdict["defects"]),
        "mark": verdict.mark,
    }


def part_time(verdict: Mapping[str, Any]) -> str:
    """Return the time of a part, UTC: its capture, else its trigger, else the commit."""
    return str(verdict.get("captured_at") or verdict.get("triggered_at") or verdict["committed_at"])


def _age_ms(verdict: Mapping[str, Any], now_ms: float, clock: StationClock | None) -> float | None:
    """Return how old a verdict from the journal is, by the clock of its station: that of this machine may differ."""
    if clock is None:
        return None
    age_ms = (_moment(clock.at) - _moment(part_time(verdict))).total_seconds() * 1000 + now_ms - clock.heard_ms
    return max(0.0, age_ms) if age_ms > -EARLY_MS else None  # later than now: the station's clock was set back


def _moment(utc: str) -> datetime:
    return datetime.fromisoformat(utc.replace("Z", "+00:00"))
