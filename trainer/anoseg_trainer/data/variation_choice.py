"""Chooses which poses and changes of light count as normal where the configuration leaves it open. Pure functions.

The choice is made from the good images. A note says what was chosen, and the recorded configuration contains it.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import msgspec
import numpy as np
from numpy.typing import NDArray

from anoseg_trainer.config import VariationConfig
from anoseg_trainer.data.good_images import THUMBNAIL, GoodImages
from anoseg_trainer.data.split import Split

FIXED_POSE = 0.6
"""Median correlation between thumbnails of different images from which the part always has the same pose."""
USUAL_POSE = 0.95
"""Distance below which a transformed image belongs to the good ones; unrelated images are 1.41 apart."""
FEW = 50
FEW_POSE = 1.05
"""The same distance with fewer than `FEW` images, which have no near neighbours. A single angle says little then, so the mean
over angles counts: 0.70 to 0.93 for 16 or 20 images of mvtec_screw, 1.24 or more for 20 tiles of magnetic_tile."""
ANY_ROTATION = 180.0
WIDEST = 2.0
"""The aspect ratio up to which turned images are compared within the disc that no rotation moves out of them."""
ANGLES = (45, 90, 135, 225, 270, 315)
"""The angles at which parts are compared, in degrees."""
PROBES = 200
"""Images that are compared with all others, at most."""
Thumbnails = NDArray[np.float32]


def choose_variation(
    given: VariationConfig, images: GoodImages, groups: NDArray[np.int64], split: Split, *, seed: int
) -> tuple[VariationConfig, list[str]]:
    """Choose every open value of `given`.

    Calibration images have no influence. Otherwise a variation that only these images show would count as normal.

    Args:
        given: The configured variation.
        images: The good images.
        groups: Part number of each image, int64 [n]; images of the same part say nothing about each other's pose.
        split: Which images are for calibration.
        seed: Seed of the choice of probes.

    Returns:
        The variation, and notes for the user.
    """
    seen = sorted((*split.train, *split.validation))
    images, groups = images.only(seen), groups[seen]
    notes = []
    posed, note = choose_poses(given, images, groups, seed)
    if posed != given:
        notes.append(note)
    variation = choose_light(posed, images)
    if variation != posed:
        notes.append(
            f"light varies between good images: brightness {variation.brightness:.2f}, contrast {variation.contrast:.2f}, "
            f"shading {variation.shading:.2f}, colour {variation.tint:.2f} (natural logarithms)"
        )
    return variation, notes


def choose_poses(
    given: VariationConfig, images: GoodImages, groups: NDArray[np.int64], seed: int
) -> tuple[VariationConfig, str]:
    """Choose the rotations and mirror images that count as normal: those in which good parts are found.

    A pose is usual if a thumbnail brought to it still has a near neighbour among the other parts.
    """
    if None not in (given.rotation_deg, given.flip_x, given.flip_y):
        return given, ""
    poses = _PoseComparison(images, groups, seed)
    few = len(images.thumbnails) < FEW
    usual = FEW_POSE if few else USUAL_POSE
    fixed = poses.correlation() > FIXED_POSE
    mirrored_x = not fixed and poses.distance(lambda t: t[:, ::-1]) < usual
    mirrored_y = not fixed and poses.distance(lambda t: t[::-1]) < usual
    turned = [poses.distance_turned(angle) for angle in ANGLES]
    any_way = not fixed and (float(np.mean(turned)) if few else max(turned)) < usual
    unchanged = poses.distance(lambda t: t)
    small = next((a for a in (4.0, 2.0) if poses.distance(poses.rotation(a)) < unchanged + 0.15), 1.0)
    rotation = ANY_ROTATION if any_way else small
    variation = msgspec.structs.replace(
        given,
        rotation_deg=rotation if given.rotation_deg is None else given.rotation_deg,
        flip_x=(0.5 if mirrored_x else 0.0) if given.flip_x is None else given.flip_x,
        flip_y=(0.5 if mirrored_y else 0.0) if given.flip_y is None else given.flip_y,
    )
    return variation, _describe_poses(given, variation)


def _describe_poses(given: VariationConfig, chosen: VariationConfig) -> str:
    """Say in a note which poses count as normal, and which of them the configuration names."""
    flips = (("left to right", chosen.flip_x), ("upside down", chosen.flip_y))
    mirrored = [name for name, share in flips if share]
    rotations = f"rotations up to {chosen.rotation_deg:g}°"
    if given.rotation_deg is not None:
        note = f"{rotations} count as normal, as configured"
    elif chosen.rotation_deg == ANY_ROTATION:
        note = "good parts appear any way round, so every rotation counts as normal"
    else:
        note = f"good parts appear one way round, so {rotations} count as normal"
    return note + (f"; so do parts mirrored {' and '.join(mirrored)}" if mirrored else "")


def choose_light(given: VariationConfig, images: GoodImages) -> VariationConfig:
    """Choose how much change of light counts as normal: a little more than the good images show.

    Under a fixed lamp, a small change of brightness may be a defect; with several exposures it is not.
    """
    mean = images.levels.mean(axis=(1, 2)) + 4.0
    fields = np.log(images.levels + 4.0) - np.log(mean)[:, None, None]
    brightness = 1.5 * float(np.log(mean).std())
    contrast = 1.5 * float(np.log((images.spreads + 2.0) / mean).std())
    # If parts appear at any rotation, the rotation itself changes the levels of the image's cells. Light is not the cause.
    shading = 1.5 * float(np.median(fields.std(axis=0))) if (given.rotation_deg or 0) < 90 else 0.0
    casts = np.log(images.tints + 4.0) - np.log(images.tints.mean(axis=1, keepdims=True) + 4.0)
    colourless = bool((np.abs(casts) < 1e-3).all())
    # The largest cast counts: another white balance is rare and still normal.
    tint = 0.0 if colourless else _within(float(np.abs(casts - np.median(casts, axis=0)).max()), 0.03, 0.3)
    return msgspec.structs.replace(
        given,
        tint=tint if given.tint is None else given.tint,
        brightness=_within(brightness, 0.1, 0.4) if given.brightness is None else given.brightness,
        contrast=_within(contrast, 0.1, 0.4) if given.contrast is None else given.contrast,
        shading=_within(shading, 0.1, 0.3) if given.shading is None else given.shading,
    )


def _within(value: float, low: float, high: float) -> float:
    return round(min(max(value, low), high), 3)


class _PoseComparison:
    """Compares thumbnails of different parts, without their corners.

    Thumbnails are square, also those of wide and tall images. Rotations are those of the images.
    """

    def __init__(self, images: GoodImages, groups: NDArray[np.int64], seed: int) -> None:
        sizes = np.array(images.sizes_hw, np.float64)
        self._aspect = float(np.median(sizes[:, 1] / sizes[:, 0]))
        y, x = np.mgrid[0:THUMBNAIL, 0:THUMBNAIL] - (THUMBNAIL - 1) / 2
        self._disc = (x * x + y * y <= (THUMBNAIL / 2) ** 2).astype(np.float32)
        # The disc that no rotation moves out of the image: its diameter is the image's shorter side. In very wide and tall
        # images so few pixels of a thumbnail are in it that unrelated images look alike. There it is wider.
        wide, tall = (min(max(side, 1.0), WIDEST) for side in (self._aspect, 1 / self._aspect))
        self._inner = ((wide * x) ** 2 + (tall * y) ** 2 <= (THUMBNAIL / 2) ** 2).astype(np.float32)
        self._thumbnails = images.thumbnails.reshape(-1, THUMBNAIL, THUMBNAIL)
        self._units = self._unit_vectors(self._thumbnails, self._disc)
        self._inner_units = self._unit_vectors(self._thumbnails, self._inner)
        self._probes = np.random.default_rng([seed, 78]).permutation(len(self._thumbnails))[:PROBES]
        self._same_part = groups[self._probes][:, None] == groups[None, :]

    def _unit_vectors(self, thumbnails: Thumbnails, disc: Thumbnails) -> Thumbnails:
        flat = (thumbnails * disc).reshape(len(thumbnails), -1)
        return np.asarray(flat / (np.linalg.norm(flat, axis=1, keepdims=True) + 1e-6), np.float32)

    def distance(self, pose: Callable[[Thumbnails], Thumbnails]) -> float:
        """Return the median distance, 0…2, between a thumbnail brought to `pose` and the nearest of another part."""
        return self._to_nearest(pose, self._disc, self._units)

    def distance_turned(self, angle: float) -> float:
        """Return the same for a rotation by any angle, within the disc that no rotation moves out of the image."""
        return self._to_nearest(self.rotation(angle), self._inner, self._inner_units)

    def rotation(self, angle: float) -> Callable[[Thumbnails], Thumbnails]:
        """Return the pose that turns an image by an angle in degrees, as it looks in a thumbnail."""
        centre = (THUMBNAIL - 1) / 2
        matrix = cv2.getRotationMatrix2D((centre, centre), angle, 1.0)
        matrix[0, 1] /= self._aspect
        matrix[1, 0] *= self._aspect
        matrix[:, 2] = centre - matrix[:, :2].sum(axis=1) * centre
        return lambda t: np.asarray(
            cv2.warpAffine(t, matrix, (THUMBNAIL, THUMBNAIL), borderMode=cv2.BORDER_REFLECT_101), np.float32
        )

    def _to_nearest(self, pose: Callable[[Thumbnails], Thumbnails], disc: Thumbnails, units: Thumbnails) -> float:
        moved = self._unit_vectors(np.stack([pose(self._thumbnails[i]) for i in self._probes]), disc)
        nearest = np.where(self._same_part, -1.0, moved @ units.T).max(axis=1)
        return float(np.median(np.sqrt(np.maximum(2 - 2 * nearest, 0))))

    def correlation(self) -> float:
        """Return the median correlation between unchanged images of different parts."""
        different = (self._units[self._probes] @ self._units.T)[~self._same_part]
        return float(np.median(different)) if len(different) else 1.0
