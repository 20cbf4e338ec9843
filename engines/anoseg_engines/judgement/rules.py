"""Applies region rules: named regions of the part that have their own thresholds.

A camera with rules ignores the image score: the anomaly map decides, under the rules. Pure functions.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from typing import Annotated

import msgspec
import numpy as np
from msgspec import Meta
from numpy.typing import NDArray

from anoseg_engines.errors import ConfigError
from anoseg_engines.placement import Placement, Region

Share = Annotated[float, Meta(gt=0.0, le=1.0)]


class Rule(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A rule for one region. Where rules overlap, the last one counts.

    Attributes:
        region: The region in the camera image; None is the whole part.
        ignore: If true, nothing in the region is a defect.
        threshold: A pixel with this map value or more is defective; None is the bundle's pixel threshold.
        min_area: Camera pixels² of the smallest defect. In several regions, the smallest of their values counts.
    """

    name: Annotated[str, Meta(min_length=1, max_length=64)]
    region: Region | None = None
    ignore: bool = False
    threshold: Share | None = None
    min_area: Annotated[float, Meta(ge=0.0)] = 0.0

    def __post_init__(self) -> None:
        if self.ignore and (self.threshold is not None or self.min_area):
            raise ValueError(f"rule '{self.name}' ignores its region: threshold and min_area have no effect there")
        if self.region is not None and min(self.region.width, self.region.height) < 1:
            raise ValueError(f"rule '{self.name}': its region is empty")


@dataclass(frozen=True, slots=True)
class RuleMaps:
    """The rules of one placement, as values for each pixel of the part map [part_height, part_width].

    Attributes:
        thresholds: float32, infinite where ignored.
        min_areas: float32, camera pixels².
        rule: int16, index into `names`; −1 where there is no rule.
    """

    thresholds: NDArray[np.float32]
    min_areas: NDArray[np.float32]
    rule: NDArray[np.int16]
    names: tuple[str, ...]

    @classmethod
    def of(cls, rules: tuple[Rule, ...], pixel_threshold: float, placement: Placement) -> RuleMaps:
        """Apply the rules to the part map. A pixel is in a region if its centre is.

        Raises:
            ConfigError: A rule's region does not touch the part, so it would have no effect. Or the rules together leave
                nothing to inspect, so every part would pass.
        """
        shape = placement.part_height, placement.part_width
        thresholds = np.full(shape, pixel_threshold, np.float32)
        min_areas = np.zeros(shape, np.float32)
        number = np.full(shape, -1, np.int16)
        for i, rule in enumerate(rules):
            view = _window(rule, placement)
            thresholds[view] = np.inf if rule.ignore else pixel_threshold if rule.threshold is None else rule.threshold
            min_areas[view] = rule.min_area
            number[view] = i
        _check_inspects(thresholds, min_areas, placement)
        return cls(thresholds, min_areas, number, tuple(rule.name for rule in rules))


def ignore_everything(rules: tuple[Rule, ...]) -> bool:
    """Return whether the rules ignore the whole part, whatever its size: the last rules that count everywhere say so."""
    ignored = False
    for rule in rules:
        ignored = rule.ignore if rule.region is None else ignored and rule.ignore
    return ignored


def _check_inspects(thresholds: NDArray[np.float32], min_areas: NDArray[np.float32], placement: Placement) -> None:
    """Refuse rules under which no defect can count.

    Raises:
        ConfigError: Every pixel is ignored, or each pixel's least area is larger than all that is not ignored.
    """
    inspected = np.isfinite(thresholds)
    if not inspected.any():
        raise ConfigError("the rules ignore the whole part, so every part would pass", hint=_LEAVE_SOMETHING)
    scale_x, scale_y = placement.scale_xy
    largest = float(inspected.sum()) / (scale_x * scale_y)
    least = float(min_areas[inspected].min())
    if least > largest:
        raise ConfigError(
            f"the smallest min_area of the rules is {least:g} pixels², but they leave only {largest:.0f} pixels² to inspect, "
            "so every part would pass",
            hint=_LEAVE_SOMETHING,
        )


_LEAVE_SOMETHING = "leave a part of the image that the rules do not ignore, and give a smaller min_area"


def rules_digest(rules: tuple[Rule, ...], region: Region | None, rotate: int) -> str:
    """SHA-256 (hex) of everything that decides with these rules, except the bundle.

    The digest depends on the order of the rules, because the last of overlapping rules counts. It ignores their names.

    Args:
        region: The part's region; None is the whole image.
        rotate: Degrees clockwise.
    """

    def corners(region: Region | None) -> list[int] | None:
        return None if region is None else [region.x, region.y, region.width, region.height]

    content = {
        "rotate": rotate,
        "region": corners(region),
        "rules": [
            {
                "region": corners(rule.region),
                "ignore": rule.ignore,
                "threshold": None if rule.threshold is None else float(rule.threshold),
                "min_area": float(rule.min_area),
            }
            for rule in rules
        ],
    }
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _window(rule: Rule, placement: Placement) -> tuple[slice, slice]:
    if rule.region is None:
        return slice(None), slice(None)
    part, region, (scale_x, scale_y) = placement.region, rule.region, placement.scale_xy

    def span(start: int, length: int, scale: float, size: int) -> slice:
        first, last = (int(np.ceil(value * scale - 0.5)) for value in (start, start + length))
        return slice(min(max(first, 0), size), min(max(last, 0), size))

    rows = span(region.y - part.y, region.height, scale_y, placement.part_height)
    columns = span(region.x - part.x, region.width, scale_x, placement.part_width)
    if rows.start >= rows.stop or columns.start >= columns.stop:
        raise ConfigError(
            f"rule '{rule.name}': its region x={region.x} y={region.y} {region.width}×{region.height} does not touch the part "
            f"x={part.x} y={part.y} {part.width}×{part.height}",
            hint="both are in camera pixels",
        )
    return rows, columns
