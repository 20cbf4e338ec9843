"""`anoseg-train calibrate --config --camera`: what share of good parts a camera's region rules reject, kept in the bundle.

The rules decide by themselves, so the score threshold promises nothing about them. Good camera frames go through the bundle and
the rules as on the line, and what was counted becomes the bundle's next version; everything else of it stays as it was.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anoseg_engines.bundle.manifest import RuleCalibration
from anoseg_engines.bundle.read import Bundle
from anoseg_engines.engine import Engine
from anoseg_engines.errors import ConfigError
from anoseg_engines.images import read_image, rotated
from anoseg_engines.judgement.judge import Inspection, Thresholds, judge
from anoseg_engines.judgement.rules import RuleMaps, rules_digest
from anoseg_engines.loading import load_engine
from anoseg_engines.placement import Placement, Region
from anoseg_engines.seal import BundleDraft, write_bundle
from anoseg_trainer.commands.calibrate import OnImage, good_ones, honest, load_version, plan_note
from anoseg_trainer.data.station_camera import CameraRules
from anoseg_trainer.thresholds import RejectedShare, rejected_share, share_in_words

SHOWN = 10
"""Rejected images that are named."""
FINE = 10_000
"""Map thresholds are looked for in steps of 1 / FINE."""


@dataclass(frozen=True, slots=True)
class RulesCalibrated:
    """bundle, before, runtime, notes: as in `NewThreshold`. rejected: images in order of name, and which rules found something.

    review: images that are for a person to look at. raise_to: see `common_threshold`; None where the wish is met, or no
    threshold would do. uncovered: some of the part lies in no rule's region, where the bundle's pixel threshold holds.
    """

    bundle: Bundle
    before: Bundle
    share: RejectedShare
    rejected: tuple[tuple[Path, tuple[str, ...]], ...]
    review: int
    raise_to: float | None
    uncovered: bool
    runtime: str
    notes: tuple[str, ...]

    def in_words(self) -> Iterator[str]:
        """What a person should read, line by line."""
        share = self.share
        yield f"{share.n} good images on {self.runtime}: {share.rejected} rejected, {self.review} for a person to look at"
        for path, rules in self.rejected[:SHOWN]:
            yield f"  rejected {path.name} by {', '.join(rules)}"
        if share.rejected > SHOWN:
            yield f"  and {share.rejected - SHOWN} more"
        yield f"calibration: {self.bundle.rule_calibrations[-1].guarantee}"
        if share.met:
            return
        if self.raise_to is not None:
            where = " and in a first rule without a region, for what none covers" if self.uncovered else ""
            most = f"at most {share.allowed}" if share.allowed > 0 else "none"
            images = "the same images will do" if share.allowed >= 0 else f"with at least {share.needed} good images"
            yield (
                f"with thresholds of at least {self.raise_to:g} in all rules that do not ignore{where}, {most} of these images "
                f"would be rejected: change them so, and calibrate again ({images})"
            )
        elif share.rejected > max(share.allowed, 0):
            yield "no threshold would help: look at the images, or at rules that ignore a region or ask for a larger area"
        elif share.n < share.needed:
            yield f"{share.needed} good images are needed, of which none is rejected"


def calibrate_rules(
    path: Path,
    data: Path,
    camera: CameraRules,
    false_reject: float,
    *,
    runtime: str = "auto",
    on_image: OnImage = lambda _, __: None,
) -> RulesCalibrated:
    """Count the good images of `data`, whole camera frames, that the camera's rules reject; write the next version with that.

    Raises:
        ConfigError, DataError: as `calibrate_score`; a rule or the region lies beside the part.
        EngineError: the bundle is refused.
    """
    before, target = load_version(path)
    good = good_ones(data, before)
    engine = load_engine(before, runtime=runtime)
    rejected: list[tuple[Path, tuple[str, ...]]] = []
    passes_from: list[float] = []
    review, uncovered = 0, False
    try:
        ran_on = engine.runtime_description
        for n, (image, inspection, placement, rules) in enumerate(_frames(engine, good.paths, camera)):
            verdict = judge(inspection, engine.thresholds, placement, rules=rules, review_from=camera.review_from)
            review += verdict.outcome == "REVIEW"
            uncovered |= bool((rules.rule < 0).any())
            if verdict.outcome == "FAIL":
                rejected.append((image, tuple(dict.fromkeys(d.rule or "outside every rule" for d in verdict.defects))))
                passes_from.append(least_threshold(inspection, engine.thresholds, placement, rules))
            on_image(n + 1, len(good.paths))
    finally:
        engine.close()
    share = rejected_share(len(rejected), len(good.paths), false_reject)
    height, width = rotated(read_image(good.paths[0]), camera.rotate).shape[:2]
    entry = RuleCalibration(
        digest=rules_digest(camera.rules, camera.region, camera.rotate),
        width=width,
        height=height,
        n_images=share.n,
        rejected=share.rejected,
        guaranteed=share.guaranteed,
        false_reject_target=false_reject,
        held_out=good.held_out,
        guarantee=honest(share_in_words(share, false_reject, good.parts), good),
    )
    others = [known for known in before.rule_calibrations if known.digest != entry.digest]
    return RulesCalibrated(
        write_bundle(target, dataclasses.replace(BundleDraft.of(before), rules=(*others, entry))),
        before,
        share,
        tuple(rejected),
        review,
        common_threshold(passes_from, share),
        uncovered,
        ran_on,
        (*good.notes, *plan_note(before)),
    )


def least_threshold(inspection: Inspection, thresholds: Thresholds, placement: Placement, rules: RuleMaps) -> float:
    """The smallest map value (a multiple of 1 / `FINE`) to which all lower thresholds have to be raised, what is ignored aside,
    so that the part passes; infinite where none does. A higher threshold never makes a part fail, so it is bisected."""

    def passes(step: int) -> bool:
        raised = dataclasses.replace(rules, thresholds=np.maximum(rules.thresholds, np.float32(step / FINE)))
        return judge(inspection, thresholds, placement, rules=raised).outcome == "PASS"

    low, high = 0, FINE
    if not passes(high):
        return math.inf
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if passes(middle) else (middle + 1, high)
    return high / FINE


def common_threshold(passes_from: list[float], share: RejectedShare) -> float | None:
    """The smallest of the rejected images' `least_threshold` that leaves no more rejected than are allowed; None: not needed,
    or none does.

    The bound of `largest_share` then holds with the same images, though the value was chosen on them: it is an order statistic
    of what images need to pass, and the share of parts that need more than it has that very distribution (Wilks, 1941).
    """
    allowed = max(share.allowed, 0)
    if len(passes_from) <= allowed:
        return None
    value = sorted(passes_from, reverse=True)[allowed]
    return value if math.isfinite(value) else None


def _frames(
    engine: Engine, paths: tuple[Path, ...], camera: CameraRules
) -> Iterator[tuple[Path, Inspection, Placement, RuleMaps]]:
    """Each camera frame inspected as the daemon does, with its placement and its rule maps."""
    placed: tuple[Placement, RuleMaps] | None = None
    size: tuple[int, ...] | None = None
    for path in paths:
        image = rotated(read_image(path), camera.rotate)
        size = size or image.shape
        if image.shape != size:
            raise ConfigError(
                f"{path}: {image.shape[1]}×{image.shape[0]} pixels, the frames before have {size[1]}×{size[0]}",
                hint="rules lie in camera pixels: frames of one camera at one resolution are needed",
            )
        region = camera.region or Region(0, 0, image.shape[1], image.shape[0])
        try:
            if placed is None or placed[0].region != region:
                placement = engine.place(region)
                placed = placement, RuleMaps.of(camera.rules, engine.thresholds.pixel, placement)
            inspection = engine.inspect(image, placed[0])
        except ConfigError as error:
            hint = error.hint or "whole camera frames are needed, neither turned nor cut to the region"
            raise ConfigError(f"{path}: {error.what}", hint=hint) from error
        yield path, inspection, *placed
