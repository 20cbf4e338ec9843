"""Counts which past parts a threshold would have rejected. `status` and `set-threshold` say it where no promise holds."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

from anoseg_engines.words import counted
from anosegd.client import Client, ClientError
from anosegd.commands.shown import local_time
from anosegd.wire import State

LOOKED_AT = 10_000
"""The newest verdicts of the station that are looked at."""


@dataclass(frozen=True, slots=True)
class Observed:
    """Counts a camera's inspected parts in the journal, with one bundle and recipe.

    Attributes:
        parts: How many there are.
        rejected: How many of them each threshold would have rejected.
        first_at: When the oldest of them was stored, UTC; None if there are none.
    """

    parts: int
    rejected: dict[float, int]
    first_at: str | None


def observed(client: Client, state: State, camera: str, thresholds: Collection[float]) -> Observed | None:
    """Look at the newest parts of a camera in the journal.

    Args:
        client: A client of the station.
        state: The station's state. Only parts of its bundle and of the camera's recipe count: scores of other bundles cannot
            be compared, and recipes may share a bundle, but inspect other parts.
        camera: The camera.
        thresholds: The thresholds.

    Returns:
        The counts; None if the station keeps no journal or does not answer.
    """
    recipe = state.cameras[camera].recipe if camera in state.cameras else ""
    parts, rejected, first_at = 0, dict.fromkeys(thresholds, 0), None
    try:
        last = client.status()["last_seq"]
        for verdict in client.replay(max(1, last - LOOKED_AT + 1)):
            score = verdict.get("score")
            if verdict["camera"] != camera or verdict["engine"]["digest"] != state.engine.digest or score is None:
                continue
            if recipe and verdict.get("recipe") != recipe:
                continue
            parts += 1
            first_at = first_at or verdict["committed_at"]
            for threshold in rejected:
                rejected[threshold] += score >= threshold
    except ClientError:
        return None
    return Observed(parts, rejected, first_at)


def observed_note(found: Observed | None, threshold: float, *, before: float) -> str:
    """Say what the counts show, for an operator.

    Args:
        found: The counts, of `threshold` and `before`.
        threshold: The threshold in use.
        before: The one to compare it with.
    """
    if found is None:
        return "what it would have rejected is not known: the station keeps no journal that can be asked"
    if not found.parts:
        return (
            "what it would have rejected is not known: the journal has no part of this camera that this bundle has inspected "
            "with the recipe in force"
        )
    rejected = found.rejected[threshold]
    parts = counted(found.parts, "part")
    share = f"rejects {rejected} of the last {parts} ({rejected / found.parts:.1%})"
    since = local_time(found.first_at or "")
    return f"threshold {threshold:g} {share} in the journal, since {since}; {before:g} rejects {found.rejected[before]}"
