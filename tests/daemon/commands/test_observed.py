"""Which past parts count when a threshold is looked back on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, cast

from anosegd import wire
from anosegd.client import Client
from anosegd.commands.observed import observed

ENGINE = wire.EngineName(name="part", version=3, digest="a" * 64, runtime="cpu")


class Station:
    """Stands for a client of a station whose journal has these verdicts."""

    def __init__(self, verdicts: list[dict[str, Any]]) -> None:
        self._verdicts = verdicts

    def status(self) -> dict[str, Any]:
        return {"last_seq": len(self._verdicts)}

    def replay(self, first: int) -> Iterator[dict[str, Any]]:
        return iter(self._verdicts[first - 1 :])


def verdict(camera: str, recipe: str, score: float | None, digest: str = ENGINE.digest) -> dict[str, Any]:
    at = "2026-11-28T06:00:00.000000Z"
    return {"camera": camera, "recipe": recipe, "score": score, "engine": {"digest": digest}, "committed_at": at}


def test_parts_of_other_recipes_do_not_count() -> None:
    """Recipes may share a bundle, but inspect other parts; nor do those of other cameras and bundles count."""
    station = Station(
        [
            verdict("top", "screw", 0.3),
            verdict("top", "screw", 0.7),
            verdict("top", "nut", 0.9),
            verdict("top", "screw", 0.9, digest="b" * 64),
            verdict("side", "screw", 0.9),
            verdict("top", "screw", None),
        ]
    )
    state = wire.State(
        station="press-4", journal_id="j", run_id="r", version="1", at="2026-11-28T06:00:00.000000Z",
        state="ContinuousExecution", uptime_s=60.0, last_seq=6, counts=wire.Counts(), masks_dropped=0, engine=ENGINE,
        journal=None, cameras={"top": wire.CameraHealth(state="running", source="device", recipe="screw")},
    )  # fmt: skip
    found = observed(cast(Client, station), state, "top", (0.2, 0.5))
    assert found is not None
    assert (found.parts, found.rejected) == (2, {0.2: 2, 0.5: 1})
