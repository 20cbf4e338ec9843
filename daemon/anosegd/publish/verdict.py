"""Building the published headers from a part and what became of it. Pure functions of what they are given, and the clock."""

from __future__ import annotations

import time

from anosegd import wire
from anosegd.outcome import Result, Unknown
from anosegd.part import Part
from anosegd.publish.masks import MaskJob


def verdict_of(
    part: Part,
    outcome: Result | Unknown,
    *,
    station: str,
    engine: wire.EngineName,
    run_id: str,
    journal_id: str,
    seq: int,
    durable: bool,
) -> wire.Verdict:
    """The part's verdict under the number it was given; committed_at is now. engine: named where none has judged it."""
    judgement = outcome.judgement if isinstance(outcome, Result) else None
    defects = judgement.defects if judgement else ()
    camera = part.settings
    if camera is not None and (scale := camera.mm_per_pixel) is not None:
        defects = tuple(defect.in_mm(scale) for defect in defects)
    return wire.Verdict(
        station=station,
        journal_id=journal_id,
        seq=seq,
        run_id=run_id,
        camera=part.camera,
        part_id=part.part_id,
        sequence=part.sequence,
        triggered_at=None if part.triggered_wall_ns is None else wire.utc(part.triggered_wall_ns),
        captured_at=None if part.captured_wall_ns is None else wire.utc(part.captured_wall_ns),
        committed_at=wire.utc(time.time_ns()),
        outcome="UNKNOWN" if judgement is None or judgement.outcome == "REVIEW" else judgement.outcome,
        reason=outcome.reason if isinstance(outcome, Unknown) else _reason(outcome),
        detail=outcome.detail if isinstance(outcome, Unknown) else None,
        score=judgement.score if judgement else None,
        threshold=judgement.threshold if judgement else None,
        defects=defects,
        recipe=camera.recipe if camera is not None else "default",
        engine=outcome.engine if isinstance(outcome, Result) else engine,
        source=part.source,
        durable=durable,
        timings_ms=_timings(part, outcome),
    )


def _reason(result: Result) -> wire.Reason | None:
    return "review" if result.judgement.outcome == "REVIEW" else None


def mask_job(verdict: wire.Verdict, result: Result) -> MaskJob:
    """The map that belongs to a verdict, for encoding."""
    height, width = result.inspection.anomaly_map.shape
    scale_x, scale_y = result.placement.scale_xy
    header = wire.Mask(
        station=verdict.station,
        journal_id=verdict.journal_id,
        seq=verdict.seq,
        camera=verdict.camera,
        part_id=verdict.part_id,
        region=result.placement.region,
        width=width,
        height=height,
        scale_x=scale_x,
        scale_y=scale_y,
    )
    return MaskJob(header, result.inspection.anomaly_map)


def _timings(part: Part, outcome: Result | Unknown) -> wire.Timings:
    total = _ms(time.monotonic_ns() - part.began_ns)
    captured = None if part.captured_ns is None or part.triggered_ns is None else _ms(part.captured_ns - part.triggered_ns)
    if isinstance(outcome, Unknown) or part.captured_ns is None:
        return wire.Timings(capture=captured, total=total)
    return wire.Timings(
        capture=captured,
        wait=_ms(outcome.started_ns - part.captured_ns),
        inspect=_ms(outcome.finished_ns - outcome.started_ns),
        inference=_ms(outcome.inspection.inference_ns),
        total=total,
    )


def _ms(ns: int) -> float:
    return round(ns / 1e6, 3)
