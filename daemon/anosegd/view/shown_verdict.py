"""Makes the form of a verdict that the pages get. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime, timezone
from typing import Any

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


def shown_verdict(verdict: Verdict, now_ms: float) -> dict[str, Any]:
    """Return what the pages show of a verdict.

    Args:
        verdict: The verdict.
        now_ms: The present time of the screen's own clock (`clock_ms`).

    Returns:
        Some of its fields; `total_ms`; `bundle`; `boxes`, with their places in camera pixels; and `at`, the time of capture by
        the screen's own clock.
    """
    total_ms = float(verdict["timings_ms"]["total"])
    age_ms = _age_ms(verdict) if verdict.replayed else total_ms
    return {
        **past_verdict(verdict),
        "at": now_ms - age_ms,
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


def _age_ms(verdict: dict[str, Any]) -> float:
    """Return how old a verdict from the journal is, by the clock of the machine."""
    at = datetime.fromisoformat(part_time(verdict).replace("Z", "+00:00"))
    return max(0.0, (datetime.now(timezone.utc) - at).total_seconds() * 1000)
