"""Changes how the station inspects. Each change is one request to the station, which notes in its journal who made it."""

from __future__ import annotations

from typing import Any

import msgspec

from anosegd.view.change import Change
from anosegd.view.station_requests import StationRequests


class Threshold(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Another score threshold for a camera.

    Attributes:
        camera: Name of the camera.
        value: A part with this score or more is FAIL; None returns to the configured or calibrated threshold.
        why: The reason, for the journal.
    """

    camera: str
    value: float | None
    why: str


async def _set_threshold(station: StationRequests, who: str, values: Threshold) -> dict[str, Any]:
    answer = await station.ask("set_threshold", camera=values.camera, value=values.value, who=who, why=values.why)
    return {"old": answer["old"], "new": answer["new"]}


class Pause(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A pause of a camera.

    Attributes:
        minutes: How long.
        camera: Name of the camera; None for all.
        why: The reason, for the journal; may be empty.
    """

    minutes: float
    camera: str | None = None
    why: str = ""


class Resume(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The end of a pause; the attributes are those of `Pause`."""

    camera: str | None = None
    why: str = ""


async def _pause(station: StationRequests, who: str, values: Pause) -> dict[str, Any]:
    minutes, camera, why = values.minutes, values.camera, values.why
    answer = await station.ask("pause", minutes=minutes, camera=camera, who=who, why=why)
    return {"cameras": answer["cameras"], "until": answer["until"]}


async def _resume(station: StationRequests, who: str, values: Resume) -> dict[str, Any]:
    answer = await station.ask("resume", who=who, camera=values.camera, why=values.why)
    return {"cameras": answer["cameras"]}


PAUSE = Change("pause", "change", Pause, _pause)
RESUME = Change("resume", "change", Resume, _resume)
SET_THRESHOLD = Change("set_threshold", "change", Threshold, _set_threshold)
