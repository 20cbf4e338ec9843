"""Says how a camera is read and how its parts are inspected: `cameras.NAME` of the configuration. Pure data."""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from anoseg_engines.judgement import QualityLimits, Rule, ignore_everything
from anoseg_engines.placement import Region
from anosegd.capture.config import (
    LIVE,
    CaptureConfig,
    FolderSource,
    HardwareTrigger,
    IntervalTrigger,
    NotEmpty,
    Positive,
    SoftwareTrigger,
)

CameraName = Annotated[
    str,
    Meta(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,62}\Z",
        description="a camera's name has 1 to 63 characters: letters, digits, - and _, the first one a letter or a digit",
    ),
]
ONE_LINE = r"^[^\x00-\x1f\x7f-\x9f]*\Z"
ONE_LINE_SAID = "line breaks and control characters are not allowed"

BYTES_PER_PIXEL = 3


class PresenceConfig(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Says how to recognise that a part is in the image.

    Attributes:
        empty: Path of an image of the place without a part, as the camera gives it.
        difference: Grey values by which a pixel must differ from that image.
        share: Share of the pixels that must differ for a part to be present.
    """

    empty: NotEmpty
    difference: Annotated[float, Meta(gt=0, le=255)] = 25.0
    share: Annotated[float, Meta(gt=0, le=1)] = 0.05


class CameraConfig(CaptureConfig, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Says how one camera is read (`CaptureConfig`) and how its parts are inspected.

    Attributes:
        region: The part's place in camera pixels; None is the whole image.
        mm_per_pixel: If given, defects are also given in millimetres.
        recipe: Name of this camera's inspection job, copied into its verdicts.
        presence: How to recognise frames without a part; None makes every frame a part.
        quality: Images too dark, too bright or blurred are UNKNOWN: image_quality; None accepts all.
        score_threshold: A part with this score or more is FAIL; None takes the bundle's calibrated threshold.
        rules: Named regions with thresholds of their own. If there are any, they alone decide.
        review_from: Score (with rules, map value) from which a part that does not fail is UNKNOWN: review.
        queue: Parts that may wait under policy `every`.
        deadline_ms: Longest time from software trigger, else capture, until the verdict is sent. None sets no deadline.
        keep_evidence: Whether its parts are kept as evidence, where the station keeps any.
    """

    region: Region | None = None
    mm_per_pixel: Positive | None = None
    recipe: Annotated[str, Meta(max_length=256, pattern=ONE_LINE, description=ONE_LINE_SAID)] = "default"
    presence: PresenceConfig | None = None
    quality: QualityLimits | None = None
    score_threshold: Annotated[float, Meta(gt=0, le=1)] | None = None
    rules: tuple[Rule, ...] = ()
    review_from: Annotated[float, Meta(gt=0, lt=1)] | None = None
    queue: Annotated[int, Meta(ge=1, le=64)] = 2
    deadline_ms: Annotated[float, Meta(gt=0, le=86_400_000)] | None = None
    keep_evidence: bool = True

    def __post_init__(self) -> None:
        if len({rule.name for rule in self.rules}) < len(self.rules):
            raise ValueError("rules: two rules have the same name")
        if self.rules and self.score_threshold is not None:
            raise ValueError("score_threshold: it has no effect with rules, because they alone decide: remove one of the two")
        if ignore_everything(self.rules):
            raise ValueError("the rules ignore the whole part, so every part would pass: leave something to inspect")
        paced = isinstance(self.trigger, (SoftwareTrigger, IntervalTrigger))
        if isinstance(self.source, FolderSource) and self.source.fps is None and self.policy != "wait" and not paced:
            raise ValueError(f"a folder has no rate of its own: set source.fps, or policy: wait (now {self.policy})")
        if isinstance(self.trigger, (SoftwareTrigger, HardwareTrigger)) and self.policy != "every":
            raise ValueError(f"every trigger needs a verdict: set policy: every (now {self.policy})")
        if isinstance(self.trigger, SoftwareTrigger) and self.presence is not None:
            raise ValueError("presence: a software trigger already says that a part is in place: remove one of the two")
        if isinstance(self.trigger, HardwareTrigger) and not isinstance(self.source, LIVE):
            raise ValueError("trigger.kind hardware needs a camera: a file or folder has no trigger input")
        if self.policy == "wait" and isinstance(self.source, LIVE):
            raise ValueError("a live camera cannot wait: choose policy latest or every")
        if self.region is not None and (
            min(self.region.x, self.region.y) < 0 or min(self.region.width, self.region.height) < 1
        ):
            raise ValueError("region: x and y must be at least 0, width and height at least 1")
        if self.region is not None:
            width, height = self.region.x + self.region.width, self.region.y + self.region.height
            if width * height * BYTES_PER_PIXEL > self.max_frame_mb << 20:
                what = f"region: a frame of at least {width}×{height} pixels exceeds max_frame_mb ({self.max_frame_mb} MiB)"
                raise ValueError(f"{what}: correct the region, or raise max_frame_mb")
