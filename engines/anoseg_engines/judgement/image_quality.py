"""Refuses images that cannot be judged: compares brightness and sharpness with those of the bundle's golden images.

Pure functions.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Annotated

import cv2
import msgspec
import numpy as np
from msgspec import Meta

from anoseg_engines.images import Image, as_grey
from anoseg_engines.placement import InputSpec, Placement, Region


class QualityLimits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Limits of the mean grey (darkest, brightest) and the sharpness (blurred), as shares of the golden images' values."""

    darkest: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.6
    brightest: Annotated[float, Meta(ge=1.0)] = 1.6
    blurred: Annotated[float, Meta(ge=0.0, le=1.0)] = 0.5


@dataclass(frozen=True, slots=True)
class Quality:
    """The quality of an image.

    Attributes:
        brightness: Mean grey, 0…255.
        sharpness: The share of the contrast that is in the finest detail, 0…1.
    """

    brightness: float
    sharpness: float


def measure(part: Image) -> Quality:
    """Measure a scaled part, uint8 [h, w, C]."""
    grey = as_grey(part).astype(np.float32)
    detail = grey - cv2.GaussianBlur(grey, (0, 0), 1.5)
    contrast = float(grey.std())
    return Quality(float(grey.mean()), float(detail.std()) / contrast if contrast > 1 else 0.0)


def reference(spec: InputSpec, good_parts: Sequence[Image]) -> Quality:
    """The median brightness of images of good parts, and the sharpness of the least sharp one."""
    measured = [measure(_scaled(spec, image)) for image in good_parts]
    return Quality(_median(q.brightness for q in measured), min(q.sharpness for q in measured))


def complaint(found: Quality, wanted: Quality, limits: QualityLimits) -> str | None:
    """Say what is wrong with an image, with both values; None if nothing is wrong."""
    if found.brightness < limits.darkest * wanted.brightness:
        return f"too dark: mean grey {found.brightness:.0f}, golden images have {wanted.brightness:.0f}"
    if found.brightness > limits.brightest * wanted.brightness:
        return f"too bright: mean grey {found.brightness:.0f}, golden images have {wanted.brightness:.0f}"
    if found.sharpness < limits.blurred * wanted.sharpness:
        return f"blurred: sharpness {found.sharpness:.3f}, golden images have {wanted.sharpness:.3f} or more"
    return None


def _scaled(spec: InputSpec, image: Image) -> Image:
    return Placement.of(spec, Region(0, 0, image.shape[1], image.shape[0])).scaled_part(image)


def _median(values: Iterable[float]) -> float:
    return float(np.median(list(values)))
