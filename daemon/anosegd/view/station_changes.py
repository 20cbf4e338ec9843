"""Has the changes of how the station inspects. Each is one request to the station, which notes it in its journal with who."""

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


SET_THRESHOLD = Change("set_threshold", "change", Threshold, _set_threshold)
