"""Turns what a station publishes into events of the handshake. Pure functions."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from anosegd.bridge.events import Heartbeat, Judged
from anosegd.bridge.tags import Outcome, Result

OUTCOMES: dict[str, Outcome] = {"PASS": "PASS", "FAIL": "FAIL"}


def heartbeat_of(state: Mapping[str, Any], camera: str) -> Heartbeat:
    """Return the heartbeat of a header of topic `state`.

    Raises:
        KeyError, ValueError, TypeError: It is no such header.
    """
    health = state["cameras"].get(camera)
    at_s = _unix_s(state["at"])
    return Heartbeat(
        run_id=str(state["run_id"]),
        at_s=at_s,
        started_s=at_s - float(state["uptime_s"]),
        state=str(state["state"]),
        last_seq=int(state["last_seq"]),
        camera_runs=health is not None and health["state"] == "running",
        camera_waits=None if health is None or "trigger" not in health else health["trigger"] == "software",
        frames=0 if health is None else int(health.get("frames", 0)),
        restarts=0 if health is None else int(health.get("restarts", 0)),
        dropped=0 if health is None else int(health.get("dropped", 0)),
        recipe="" if health is None else str(health.get("recipe") or ""),
        has_recipes=len(state.get("recipes") or ()) > 1,
        settings=checksum(state.get("settings")),
    )


def judged_of(verdict: Mapping[str, Any], *, replayed: bool, settings: int) -> Judged:
    """Return the event of a verdict's header.

    Args:
        verdict: The header.
        replayed: Whether it came from the journal.
        settings: The checksum of the station's settings, for a verdict that has none of its own.

    Raises:
        KeyError, ValueError, TypeError: It is no such header.
    """
    own = checksum(verdict.get("settings"))
    return Judged(
        run_id=str(verdict["run_id"]),
        replayed=replayed,
        seq=int(verdict["seq"]),
        sequence=int(verdict["sequence"]),
        part_id=str(verdict["part_id"]),
        triggered_at=verdict.get("triggered_at"),
        since_s=_unix_s(verdict.get("triggered_at") or verdict["captured_at"] or verdict["committed_at"]),
        result=Result(
            outcome=OUTCOMES.get(verdict["outcome"], "UNKNOWN"),
            reason=str(verdict.get("reason") or ""),
            part_id=str(verdict["part_id"]),
            defects=len(verdict.get("defects") or ()),
            score=float(verdict.get("score") or 0.0),
            threshold=float(verdict.get("threshold") or 0.0),
            recipe=str(verdict.get("recipe") or ""),
            settings=own or settings,
        ),
    )


def checksum(digest: Any) -> int:
    """Return the first 32 bits of a checksum, which is a text of hexadecimal digits; 0 for no checksum."""
    return int(digest[:8], 16) if isinstance(digest, str) and digest else 0


def _unix_s(moment: str) -> float:
    return datetime.fromisoformat(moment.replace("Z", "+00:00")).timestamp()
