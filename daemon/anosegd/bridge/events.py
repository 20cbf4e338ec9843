"""Defines what the handshake takes from a station, and what it asks of one. Pure data; any thread may make it."""

from __future__ import annotations

from dataclasses import dataclass

from anosegd.bridge.tags import Result


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """What the model needs from a station's heartbeat.

    Attributes:
        run_id: Identifies the run of the station.
        at_s: When it was sent, by the station's clock.
        started_s: When the run began, by what the station's clock shows now. It changes only if that clock is set.
        state: The station's state.
        last_seq: Number of the last verdict sent in this run; 0 before the first.
        camera_runs: Whether the camera gives frames.
        camera_waits: Whether the camera waits for triggers of clients; None if the station does not say.
        frames: Number of the camera's last part in this run; parts without a verdict count.
        restarts: How often the camera was lost and opened again.
        dropped: Frames that got no verdict because a newer one came.
        recipe: The camera's recipe.
        has_recipes: Whether the station has other recipes.
        settings: The first 32 bits of the checksum of the settings.
    """

    run_id: str
    at_s: float
    state: str
    last_seq: int
    started_s: float = 0.0
    camera_runs: bool = True
    camera_waits: bool | None = None
    frames: int = 0
    restarts: int = 0
    dropped: int = 0
    recipe: str = ""
    has_recipes: bool = False
    settings: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """What the model needs from a verdict of its camera.

    Attributes:
        run_id: Identifies the run of the station.
        replayed: Whether it came from the journal.
        seq: The number among the verdicts of the station.
        sequence: The number among the camera's parts in this run, from 1, those without a verdict included; 0 for a part of an
            earlier run.
        part_id, triggered_at: Together the identity of a trigger; `triggered_at` is None without one.
        since_s: When the part was triggered or else captured, by the station's clock.
        result: What the PLC will read.
    """

    run_id: str
    replayed: bool
    seq: int
    sequence: int
    part_id: str
    triggered_at: str | None
    since_s: float
    result: Result


@dataclass(frozen=True, slots=True)
class TriggerRequest:
    """Asks the station to take a part. `number` identifies the request in the answer; the texts may be empty."""

    number: int
    part_id: str
    recipe: str


@dataclass(frozen=True, slots=True)
class RecipeRequest:
    """Asks the station for another recipe. `number` identifies the request in the answer."""

    number: int
    recipe: str


Request = TriggerRequest | RecipeRequest
