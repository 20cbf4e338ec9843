"""Renders the demo's parts: machined flanges on a belt, some with known defects. Pure functions of (seed, index).

The source kind `demo` reads these images in the capture process, like any other source.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from anoseg_engines.images import Image

SIZE = 320
DEFECT_SHARE = 0.15
CENTRE = SIZE / 2
RADIUS = 128.0
BOLT_CIRCLE = 92.0
BOLT_RADIUS = 12.0
BORE_RADIUS = 40.0
_SHIFT = 4  # cv2 draws at 1/16 pixel with shift=4

FloatImage = NDArray[np.floating[Any]]


@dataclass(frozen=True, slots=True)
class DemoPart:
    """Holds one rendered part. The receiver owns the arrays.

    Attributes:
        image: uint8 [320, 320, 3], BGR.
        mask: uint8 [320, 320], 255 where the part is defective.
        part_id: The part's name.
        defect: Name of the defect; None for a good part.
    """

    image: Image
    mask: NDArray[np.uint8]
    part_id: str
    defect: str | None


def part_index(part_id: str) -> int:
    """The index of a part that `DemoLine.part` named."""
    return int(part_id.rsplit("-", 1)[1])


class DemoLine:
    """Renders a line of parts. For the same seed, `part(i)` always renders the same part.

    Attributes:
        seed: Another seed gives other parts.
        defect_share: Share of defective parts, 0…1.
    """

    def __init__(self, seed: int = 7, *, defect_share: float = DEFECT_SHARE) -> None:
        self.seed = seed
        self.defect_share = defect_share

    def part(self, index: int) -> DemoPart:
        """Render part number `index`; its part id is `demo-<index>`."""
        rng = np.random.default_rng([self.seed, index])
        name = str(rng.choice(sorted(DEFECTS))) if rng.random() < self.defect_share else None
        return self.render(rng, name, f"demo-{index:06d}")

    @staticmethod
    def render(rng: np.random.Generator, defect: str | None, part_id: str) -> DemoPart:
        """Render one part, good or with the named defect, with the variation of good parts."""
        pose = _Pose(
            x=CENTRE + rng.uniform(-6, 6),
            y=CENTRE + rng.uniform(-6, 6),
            angle=rng.uniform(-4, 4),
            scale=rng.uniform(0.985, 1.015),
        )
        good = _flange(rng, pose)
        image, mask = good.copy(), np.zeros((SIZE, SIZE), np.uint8)
        if defect is not None:
            shape = DEFECTS[defect](rng, pose, image)
            changed = (shape > 0.15) & (np.abs(image - good) > 4).any(axis=2)
            mask = cv2.morphologyEx(changed.astype(np.uint8) * 255, cv2.MORPH_CLOSE, np.ones((5, 5), np.uint8)).astype(np.uint8)
        return DemoPart(_photograph(rng, image), mask, part_id, defect)


@dataclass(frozen=True, slots=True)
class _Pose:
    """Holds a part's centre in pixels, angle in degrees, and scale around 1."""

    x: float
    y: float
    angle: float
    scale: float

    def at(self, radius: float, degrees: float) -> tuple[float, float]:
        """Pixel position of a point given in the part's polar coordinates."""
        a = math.radians(degrees + self.angle)
        return self.x + radius * self.scale * math.cos(a), self.y + radius * self.scale * math.sin(a)


def _flange(rng: np.random.Generator, pose: _Pose) -> FloatImage:
    image = np.full((SIZE, SIZE, 3), (52, 50, 48), np.float32)
    image += _noise(rng, 3, 5.0)[..., None]  # the belt's weave
    brushed = _brushed(rng, pose)
    body = _disc(pose.x, pose.y, RADIUS * pose.scale)
    face = np.stack([brushed + 4, brushed + 2, brushed], axis=2)
    _blend(image, body, face)
    # a bright chamfer outside, a dark groove, and a bright rim at the bore and each bolt hole
    _blend(image, _ring(pose.x, pose.y, (RADIUS - 3) * pose.scale, 4), 205.0)
    _blend(image, 0.55 * _ring(pose.x, pose.y, 66 * pose.scale, 3), 70.0)
    for radius, spot in [(BORE_RADIUS, (0.0, 0.0))] + [(BOLT_RADIUS, (BOLT_CIRCLE, 60.0 * i)) for i in range(6)]:
        x, y = pose.at(*spot)
        _blend(image, _disc(x, y, (radius + 3) * pose.scale), 200.0)
        _blend(image, _disc(x, y, radius * pose.scale), 34.0)
    x, y = pose.at(BOLT_CIRCLE, 30)  # the casting mark: it is normal here and a defect elsewhere
    _blend(image, 0.7 * _disc(x, y, 5 * pose.scale), 80.0)
    return image


def _brushed(rng: np.random.Generator, pose: _Pose) -> FloatImage:
    """Turned metal: fine rings, and the two bright fans that a ring light produces."""
    y, x = np.mgrid[0:SIZE, 0:SIZE].astype(np.float32)
    radius = np.hypot(x - pose.x, y - pose.y)
    angle = np.arctan2(y - pose.y, x - pose.x)
    rings = np.interp(radius, np.arange(0, 2 * SIZE, 1.5), rng.normal(0, 4, len(np.arange(0, 2 * SIZE, 1.5))))
    fans = 16 * np.cos(2 * (angle - 0.6 + rng.uniform(-0.1, 0.1)))
    return np.asarray(142 + rings + fans + _noise(rng, 1, 3.0), np.float32)


def _photograph(rng: np.random.Generator, scene: FloatImage) -> Image:
    """Add the effects of daylight, lens and sensor."""
    gain = rng.uniform(0.92, 1.08)
    ramp = np.linspace(-1, 1, SIZE, dtype=np.float32) * rng.uniform(-6, 6)
    image = cv2.GaussianBlur(scene * gain + ramp[None, :, None], (3, 3), 0.7)
    image = image + rng.normal(0, 2.0, (SIZE, SIZE, 1)).astype(np.float32)
    return np.clip(image, 0, 255).astype(np.uint8)


def _scratch(rng: np.random.Generator, pose: _Pose, image: FloatImage) -> FloatImage:
    """A bright line with a dark edge, somewhat bent."""
    start, turn = rng.uniform(0, 360), rng.uniform(-40, 40)
    points = [pose.at(rng.uniform(52, 62), start), pose.at(88, start + turn / 2), pose.at(rng.uniform(105, 120), start + turn)]
    line = np.round(np.array(points) * 16).astype(np.int32)[:, None]
    shape = np.zeros((SIZE, SIZE), np.uint8)
    cv2.polylines(shape, [line], False, 255, int(rng.integers(1, 3)), cv2.LINE_AA, _SHIFT)
    alpha = shape.astype(np.float32) / 255
    _blend(image, np.roll(alpha, 1, axis=0) * 0.7, 60.0)
    _blend(image, alpha * 0.8, float(rng.uniform(215, 245)))
    return np.maximum(alpha, np.roll(alpha, 1, axis=0))


def _stain(rng: np.random.Generator, pose: _Pose, image: FloatImage) -> FloatImage:
    """An oil stain: a soft brown area."""
    x, y = pose.at(rng.uniform(56, 112), rng.uniform(0, 360))
    axes = (rng.uniform(9, 20), rng.uniform(7, 14))
    shape = np.zeros((SIZE, SIZE), np.uint8)
    cv2.ellipse(shape, ((x, y), (2 * axes[0], 2 * axes[1]), rng.uniform(0, 180)), 255, -1, cv2.LINE_AA)
    alpha = cv2.GaussianBlur(shape.astype(np.float32) / 255, (0, 0), 2.0) * float(rng.uniform(0.45, 0.7))
    _blend(image, alpha, np.array([40.0, 70.0, 95.0], np.float32))
    return alpha


def _chip(rng: np.random.Generator, pose: _Pose, image: FloatImage) -> FloatImage:
    """A piece broken off the rim: the belt shows."""
    degrees = rng.uniform(0, 360)
    shape = np.zeros((SIZE, SIZE), np.uint8)
    bites = [pose.at(rng.uniform(124, 132), degrees + d) for d in (-5, 0, 5)]
    for x, y in bites:
        cv2.circle(shape, (round(x * 16), round(y * 16)), round(rng.uniform(7, 13) * 16), 255, -1, cv2.LINE_AA, _SHIFT)
    alpha = shape.astype(np.float32) / 255
    _blend(image, alpha, (50 + _noise(rng, 3, 5.0))[..., None].repeat(3, axis=2))
    return alpha


def _missing_hole(rng: np.random.Generator, pose: _Pose, image: FloatImage) -> FloatImage:
    """A bolt hole that was not drilled."""
    x, y = pose.at(BOLT_CIRCLE, 60.0 * int(rng.integers(6)))
    alpha = _disc(x, y, (BOLT_RADIUS + 4) * pose.scale)
    face = _brushed(rng, pose)
    _blend(image, alpha, np.stack([face + 4, face + 2, face], axis=2))
    return alpha


def _dent(rng: np.random.Generator, pose: _Pose, image: FloatImage) -> FloatImage:
    """A blow: a small crater, dark on one side and bright on the other."""
    x, y = pose.at(rng.uniform(52, 114), rng.uniform(0, 360))
    radius = rng.uniform(4, 8)
    alpha = _disc(x, y, radius)
    side = np.clip((np.mgrid[0:SIZE, 0:SIZE][1] - x) / radius, -1, 1).astype(np.float32)
    _blend(image, 0.85 * alpha, (130 + 90 * side)[..., None].repeat(3, axis=2))
    return alpha


DEFECTS: dict[str, Callable[[np.random.Generator, _Pose, FloatImage], FloatImage]] = {
    "scratch": _scratch,
    "stain": _stain,
    "chip": _chip,
    "missing_hole": _missing_hole,
    "dent": _dent,
}


def _disc(x: float, y: float, radius: float) -> FloatImage:
    shape = np.zeros((SIZE, SIZE), np.uint8)
    cv2.circle(shape, (round(x * 16), round(y * 16)), round(radius * 16), 255, -1, cv2.LINE_AA, _SHIFT)
    return shape.astype(np.float32) / 255


def _ring(x: float, y: float, radius: float, thickness: int) -> FloatImage:
    shape = np.zeros((SIZE, SIZE), np.uint8)
    cv2.circle(shape, (round(x * 16), round(y * 16)), round(radius * 16), 255, thickness, cv2.LINE_AA, _SHIFT)
    return shape.astype(np.float32) / 255


def _blend(image: FloatImage, alpha: FloatImage, colour: float | FloatImage) -> None:
    """Paint `colour` over `image` in place, with the opacity `alpha` [H, W]."""
    image += alpha[..., None] * (colour - image)


def _noise(rng: np.random.Generator, blur: int, amplitude: float) -> FloatImage:
    """Smooth noise [320, 320] of the given standard deviation."""
    noise = cv2.GaussianBlur(rng.standard_normal((SIZE, SIZE)).astype(np.float32), (0, 0), blur)
    return np.asarray(noise * (amplitude / float(noise.std())), np.float32)
