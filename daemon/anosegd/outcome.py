"""Defines the outcome of a part: it was inspected, or it is UNKNOWN for a reason. Pure data."""

from __future__ import annotations

from dataclasses import dataclass

from anoseg_engines.judgement import Inspection, Judgement
from anoseg_engines.placement import Placement
from anosegd import wire


@dataclass(frozen=True, slots=True)
class Inspected:
    """Holds the result of inspecting a part. The inspector makes it and keeps no reference to its arrays.

    Attributes:
        judgement: PASS, FAIL or REVIEW, with score and defects.
        inspection: Score and anomaly map; the map belongs to the receiver.
        placement: Where in the camera image the map is.
        engine: The engine that judged the part.
        threshold_from: Who chose the score's threshold; None if region rules decided.
        settings: Checksum of the settings that judged the part.
        started_ns, finished_ns: Monotonic times before placement and after judgement.
    """

    judgement: Judgement
    inspection: Inspection
    placement: Placement
    engine: wire.EngineName
    started_ns: int
    finished_ns: int
    threshold_from: wire.ThresholdOrigin | None = None
    settings: str | None = None


@dataclass(frozen=True, slots=True)
class Unknown:
    """Says why a part was not inspected, or why its result must not be used."""

    reason: wire.Reason
    detail: str | None = None


Outcome = Inspected | Unknown
