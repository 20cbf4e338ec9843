"""Runs `anoseg-train calibrate --config --camera`: bounds the share of good parts that a camera's region rules reject.

The rules decide without the score threshold, so the bound of that threshold does not hold for them. Good camera frames go
through the bundle and the rules as on the line, and the count becomes part of the bundle's next version.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from anoseg_engines.bundle import Bundle, Origin, RuleCalibration
from anoseg_engines.bundle_writer import BundleDraft, write_bundle
from anoseg_engines.engine import Engine
from anoseg_engines.errors import ConfigError
from anoseg_engines.files import shown_name
from anoseg_engines.images import Image, as_bgr, rotated
from anoseg_engines.judgement import Inspection, RuleMaps, Thresholds, judge, rules_digest
from anoseg_engines.loading import load_engine
from anoseg_engines.placement import Placement, Region
from anoseg_engines.result_files import try_folder
from anoseg_engines.words import counted
from anoseg_trainer.confidence_bound import RejectedShare, describe_rejected_share, rejected_share
from anoseg_trainer.data.good_images import find_good_images, pixel_digest, read_good_images
from anoseg_trainer.data.station_camera import CameraRules
from anoseg_trainer.recalibration import CalibrationImages, OnImage, check_runtime, load_version, plan_notes

SHOWN = 10
"""Rejected images that are named."""
STEPS = 10_000
"""Map thresholds are searched in steps of 1 / STEPS."""


@dataclass(frozen=True, slots=True)
class RulesCalibrated:
    """A bundle with the bound for a camera's rules.

    Attributes:
        bundle: The new version.
        before: The version that it was made from.
        share: The bound, which counts parts.
        n_images: Number of images.
        rejected: Rejected images in order of name, each with the rules that found something.
        review: Number of images that are for a person to look at.
        raise_to: See `sufficient_threshold`.
        uncovered: Whether some of the part is in no rule's region. The bundle's pixel threshold applies there.
        runtime: The runtime that was used.
        notes: Remarks for the user.
    """

    bundle: Bundle
    before: Bundle
    share: RejectedShare
    n_images: int
    rejected: tuple[tuple[Path, tuple[str, ...]], ...]
    review: int
    raise_to: float | None
    uncovered: bool
    runtime: str
    notes: tuple[str, ...]

    def summary(self) -> Iterator[str]:
        """Yield the lines to print."""
        share = self.share
        rejected = len(self.rejected)
        images = counted(self.n_images, "good image")
        yield f"{images} on {self.runtime}: {rejected} rejected, {self.review} for a person to look at"
        for path, rules in self.rejected[:SHOWN]:
            yield f"  rejected {shown_name(path.name)} by {', '.join(rules)}"
        if rejected > SHOWN:
            yield f"  and {rejected - SHOWN} more"
        yield f"calibration: {self.bundle.rule_calibrations[-1].guarantee}"
        if share.met:
            return
        if self.raise_to is not None:
            where = " and in a first rule without a region, for what no rule covers" if self.uncovered else ""
            most = f"at most {share.allowed}" if share.allowed > 0 else "none"
            images = (
                "on the same images" if share.allowed >= 0 else f"with at least {share.needed} good images of different parts"
            )
            yield (
                f"with thresholds of at least {self.raise_to:g} in all rules that do not ignore{where}, {most} of these parts "
                f"would be rejected: change them and calibrate again ({images})"
            )
        elif share.rejected > max(share.allowed, 0):
            yield "no threshold would help: look at the images, or use rules that ignore a region or need a larger area"
        elif share.n < share.needed:
            yield f"{share.needed} good images of different parts are needed, of which none is rejected"


def calibrate_rules(
    path: Path,
    data: Path,
    camera: CameraRules,
    false_reject: float,
    *,
    group: str | None = None,
    runtime: str = "auto",
    on_image: OnImage = lambda _, __: None,
) -> RulesCalibrated:
    """Count the good images that the camera's rules reject, and write the next version with that bound.

    Args:
        path: STORE/NAME or STORE/NAME/VERSION.
        data: Folder of good images, which are whole camera frames.
        camera: The camera's region and rules.
        false_reject: Share of good parts that may be rejected.
        group: Regular expression over file names that says which images show the same part; None: as in the training.
        runtime: The runtime to use.
        on_image: Called after each image.

    Raises:
        ConfigError: `path` is not a version in a store, the runtime is `cpu-int8`, or a rule or the region is outside the
            frames.
        DataError: The images cannot be used.
        EngineError: The bundle is refused.
    """
    check_runtime(runtime)
    before, target = load_version(path)
    try_folder(target, "--bundle")
    paths = find_good_images(data)
    engine = load_engine(before, runtime=runtime)
    counter = _FrameCounter(engine, camera)
    try:

        def count(path: Path, image: Image) -> None:
            counter.add(path, image)
            on_image(counter.n, len(paths))

        good = CalibrationImages.of(read_good_images(paths, count), before, group, cut=counter.cut)
        ran_on = engine.runtime_description
    finally:
        engine.close()
    # a part is rejected if one of its images is; it needs the largest of their thresholds
    needs: dict[int, float] = {}
    part_of = dict(zip(paths, good.parts.numbers.tolist(), strict=True))
    for (rejected, _), threshold in zip(counter.rejected, counter.pass_thresholds, strict=True):
        needs[part_of[rejected]] = max(threshold, needs.get(part_of[rejected], 0.0))
    share = rejected_share(len(needs), good.parts.count, false_reject)
    entry = RuleCalibration(
        digest=rules_digest(camera.rules, camera.region, camera.rotate),
        width=counter.size_hw[1],
        height=counter.size_hw[0],
        n_images=counter.n,
        rejected=len(counter.rejected),
        guaranteed=share.upper_bound if good.parts.known else 1.0,
        false_reject_target=false_reject,
        held_out=good.held_out,
        guarantee=good.qualify(describe_rejected_share(share, false_reject, images=counter.n, parts_known=good.parts.known)),
    )
    others = [known for known in before.rule_calibrations if known.measured_for != entry.measured_for]
    origin = Origin(command="calibrate-rules", parent_version=before.manifest.version, parent_digest=before.digest)
    draft = dataclasses.replace(BundleDraft.of(before), rules=(*others, entry), origin=origin)
    return RulesCalibrated(
        bundle=write_bundle(target, draft),
        before=before,
        share=share,
        n_images=counter.n,
        rejected=tuple(counter.rejected),
        review=counter.review,
        raise_to=sufficient_threshold(list(needs.values()), share),
        uncovered=counter.uncovered,
        runtime=ran_on,
        notes=(*good.notes, *plan_notes(before)),
    )


class _FrameCounter:
    """Inspects camera frames as the daemon does, and counts the outcomes of the rules.

    Attributes:
        n: Frames inspected.
        size_hw: Height and width of the rotated frames.
        rejected: Rejected frames, each with the rules that found something.
        pass_thresholds: `least_passing_threshold` of each rejected frame.
        cut: `pixel_digest` of what the region of each frame shows.
        review: Frames that are for a person to look at.
        uncovered: Whether some of the part is in no rule's region.
    """

    def __init__(self, engine: Engine, camera: CameraRules) -> None:
        self._engine = engine
        self._camera = camera
        self._placed: tuple[Placement, RuleMaps] | None = None
        self.n = 0
        self.size_hw = (0, 0)
        self.rejected: list[tuple[Path, tuple[str, ...]]] = []
        self.pass_thresholds: list[float] = []
        self.cut: dict[Path, str] = {}
        self.review = 0
        self.uncovered = False

    def add(self, path: Path, image: Image) -> None:
        """Inspect one frame.

        Raises:
            ConfigError: The frame's size differs from the earlier ones, or the region or a rule does not fit it.
        """
        frame = rotated(image, self._camera.rotate)
        height, width = frame.shape[:2]
        if self.n and (height, width) != self.size_hw:
            raise ConfigError(
                f"{path}: {width}×{height} pixels, the frames before have {self.size_hw[1]}×{self.size_hw[0]}",
                hint="rules are in camera pixels: use frames of one camera at one resolution",
            )
        self.size_hw = height, width
        try:
            placement, rules = self._placed = self._placed or self._place(height, width)
            inspection = self._engine.inspect(frame, placement)
        except ConfigError as error:
            hint = error.hint or "use whole camera frames, neither rotated nor cut to the region"
            raise ConfigError(f"{path}: {error.what}", hint=hint) from error
        region = placement.region
        self.cut[path] = pixel_digest(as_bgr(frame[region.y : region.y + region.height, region.x : region.x + region.width]))
        thresholds = self._engine.thresholds
        verdict = judge(inspection, thresholds, placement, rules=rules, review_from=self._camera.review_from)
        self.n += 1
        self.review += verdict.outcome == "REVIEW"
        if verdict.outcome == "FAIL":
            self.rejected.append((path, tuple(dict.fromkeys(d.rule or "outside every rule" for d in verdict.defects))))
            self.pass_thresholds.append(least_passing_threshold(inspection, thresholds, placement, rules))

    def _place(self, height: int, width: int) -> tuple[Placement, RuleMaps]:
        placement = self._engine.place(self._camera.region or Region(0, 0, width, height))
        rules = RuleMaps.of(self._camera.rules, self._engine.thresholds.pixel, placement)
        self.uncovered = bool((rules.rule < 0).any())
        return placement, rules


def least_passing_threshold(inspection: Inspection, thresholds: Thresholds, placement: Placement, rules: RuleMaps) -> float:
    """Find the smallest map threshold at which the part passes, if all lower thresholds of the rules are raised to it.

    A higher threshold never makes a part fail, so bisection finds the smallest threshold.

    Returns:
        A multiple of 1 / `STEPS`; infinity if no threshold lets the part pass.
    """

    def passes(step: int) -> bool:
        raised = dataclasses.replace(rules, thresholds=np.maximum(rules.thresholds, np.float32(step / STEPS)))
        return judge(inspection, thresholds, placement, rules=raised).outcome == "PASS"

    low, high = 0, STEPS
    if not passes(high):
        return math.inf
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if passes(middle) else (middle + 1, high)
    return high / STEPS


def sufficient_threshold(pass_thresholds: list[float], share: RejectedShare) -> float | None:
    """Find the smallest of the rejected parts' thresholds that leaves no more rejected than allowed.

    The bound holds although the same images choose the value. The value is an order statistic of the thresholds that the
    parts need. The share of parts that need a higher threshold then has the distribution that the bound assumes (Wilks,
    1941).

    Returns:
        None if no change is needed, or no threshold would do.
    """
    allowed = max(share.allowed, 0)
    if len(pass_thresholds) <= allowed:
        return None
    value = sorted(pass_thresholds, reverse=True)[allowed]
    return value if math.isfinite(value) else None
