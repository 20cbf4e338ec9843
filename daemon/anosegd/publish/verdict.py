"""Builds verdicts and mask headers from a part and its outcome. Pure functions of their arguments and the clock."""

from __future__ import annotations

import time

import msgspec

from anoseg_engines.passwords import mask_passwords
from anosegd import wire
from anosegd.journal import VerdictId
from anosegd.outcome import Inspected, Outcome, Unknown
from anosegd.part import Part
from anosegd.publish.masks import MaskJob


def verdict_of(
    part: Part, outcome: Outcome, verdict_id: VerdictId, *, station: str, run_id: str, engine: wire.EngineName, durable: bool
) -> wire.Verdict:
    """Return the part's verdict under its number; committed_at is now.

    Args:
        part: The part.
        outcome: Its outcome.
        verdict_id: The number.
        station, run_id: Who sends it.
        engine: The engine to name if none has judged the part.
        durable: Whether the verdict is going to be in the journal when it is sent.
    """
    inspected = outcome if isinstance(outcome, Inspected) else None
    unknown = outcome if isinstance(outcome, Unknown) else None
    judgement = inspected.judgement if inspected else None
    review = judgement is not None and judgement.outcome == "REVIEW"
    defects = judgement.defects if judgement else ()
    camera = part.settings
    if camera is not None and (scale := camera.mm_per_pixel) is not None:
        defects = tuple(defect.in_mm(scale) for defect in defects)
    return wire.Verdict(
        station=station,
        journal_id=verdict_id.journal_id,
        seq=verdict_id.seq,
        run_id=run_id,
        camera=part.camera,
        part_id=part.part_id,
        sequence=part.sequence,
        triggered_at=None if part.triggered_wall_ns is None else wire.utc(part.triggered_wall_ns),
        captured_at=None if part.captured_wall_ns is None else wire.utc(part.captured_wall_ns),
        read_at=None if part.read_wall_ns is None else wire.utc(part.read_wall_ns),
        committed_at=wire.utc(time.time_ns()),
        outcome="UNKNOWN" if judgement is None or judgement.outcome == "REVIEW" else judgement.outcome,
        reason=unknown.reason if unknown else "review" if review else None,
        detail=_detail(unknown),
        score=judgement.score if judgement else None,
        threshold=judgement.threshold if judgement else None,
        threshold_from=inspected.threshold_from if inspected else None,
        defects=defects,
        recipe=camera.recipe if camera is not None else "default",
        recipe_asked=part.recipe_asked,
        settings=inspected.settings if inspected else None,
        engine=inspected.engine if inspected else engine,
        source=part.source,
        durable=durable,
        timings_ms=_timings(part, inspected),
    )


def unknown_instead(verdict: wire.Verdict, part: Part, unknown: Unknown) -> wire.Verdict:
    """Return the part's verdict under the same number, but UNKNOWN: its result must not be used."""
    return msgspec.structs.replace(
        verdict,
        committed_at=wire.utc(time.time_ns()),
        outcome="UNKNOWN",
        reason=unknown.reason,
        detail=_detail(unknown),
        score=None,
        threshold=None,
        threshold_from=None,
        settings=None,
        defects=(),
        timings_ms=_timings(part, None),
    )


def mask_job(verdict: wire.Verdict, inspected: Inspected) -> MaskJob:
    """Return the verdict's anomaly map, for encoding."""
    height, width = inspected.inspection.anomaly_map.shape
    scale_x, scale_y = inspected.placement.scale_xy
    header = wire.Mask(
        station=verdict.station,
        journal_id=verdict.journal_id,
        seq=verdict.seq,
        camera=verdict.camera,
        part_id=verdict.part_id,
        region=inspected.placement.region,
        width=width,
        height=height,
        scale_x=scale_x,
        scale_y=scale_y,
    )
    return MaskJob(header, inspected.inspection.anomaly_map)


def _detail(unknown: Unknown | None) -> str | None:
    return mask_passwords(unknown.detail) if unknown and unknown.detail else None


def _timings(part: Part, inspected: Inspected | None) -> wire.Timings:
    total = _ms(time.monotonic_ns() - part.began_ns)
    captured = None if part.captured_ns is None or part.triggered_ns is None else _ms(part.captured_ns - part.triggered_ns)
    if inspected is None or part.captured_ns is None:
        return wire.Timings(capture=captured, total=total)
    return wire.Timings(
        capture=captured,
        wait=_ms(inspected.started_ns - part.captured_ns),
        inspect=_ms(inspected.finished_ns - inspected.started_ns),
        inference=_ms(inspected.inspection.inference_ns),
        total=total,
    )


def _ms(ns: int) -> float:
    return round(ns / 1e6, 3)
