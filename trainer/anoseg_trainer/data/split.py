"""Finds which good images show the same part, and splits them into training, validation and calibration. Pure functions."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anoseg_engines.errors import DataError
from anoseg_trainer.config import HoldoutConfig
from anoseg_trainer.data.good_images import GoodImages

CALIBRATION = (0.1, 0.2)
"""Smallest and largest share of the images that is held out for the score threshold."""
NEAR_DUPLICATE = 0.9
"""Correlation of two thumbnails from which the images count as the same part."""
MANY_ALIKE = 12
"""Similarity joins at most this many images, a third of all, or a fifth of all to one part; see `group_images`."""


def group_images(images: GoodImages, pattern: str, on_note: Callable[[str], None] = lambda _: None) -> NDArray[np.int64]:
    """Number the parts: images of one part (near-duplicates, exposures) get the same number.

    Without a pattern, two images are joined if their thumbnails correlate above `NEAR_DUPLICATE` and their aspect ratios
    agree. Under a fixed camera, all good parts may look the same. Then too many images are joined for one part, and their
    similarity means nothing. In that case each image counts as its own part, and a note says so.

    Args:
        images: The good images.
        pattern: Regular expression over file names. Names with an equal first group (or, without groups, an equal match)
            are the same part; a name without a match is a part of its own. Empty: compare the images.
        on_note: Receives a remark for the user.

    Returns:
        The part number of each image, int64 [n].
    """
    n = len(images.paths)
    if pattern:
        found = [re.search(pattern, p.name) for p in images.paths]
        matched = [m and (m.group(1) if m.re.groups else m.group(0)) for m in found]
        keys = [f"\0{i}" if key is None else key for i, key in enumerate(matched)]
        return np.unique(keys, return_inverse=True)[1].astype(np.int64)
    root = list(range(n))

    def find(i: int) -> int:
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    aspect = np.array([w / h for h, w in images.sizes_hw])
    for i in range(n - 1):
        alike = images.thumbnails[i + 1 :] @ images.thumbnails[i] > NEAR_DUPLICATE
        alike &= np.abs(np.log(aspect[i + 1 :] / aspect[i])) < 0.05
        for j in np.flatnonzero(alike) + i + 1:
            root[find(int(j))] = find(i)
    groups = np.unique([find(i) for i in range(n)], return_inverse=True)[1].astype(np.int64)
    largest = int(np.bincount(groups).max())
    if largest <= max(min(MANY_ALIKE, n // 3), 0.2 * n):
        return groups
    on_note(f"{largest} images look alike: each counts as another part; set holdout.group if several images show one part")
    return np.arange(n, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Split:
    """Sorted indices into the good images.

    Attributes:
        train: For training.
        validation: For choosing weights, detector and pixel threshold.
        calibration: For the score threshold alone.
        calibration_groups: Number of different parts among the calibration images.
    """

    train: tuple[int, ...]
    validation: tuple[int, ...]
    calibration: tuple[int, ...]
    calibration_groups: int


def split_images(groups: NDArray[np.int64], holdout: HoldoutConfig, seed: int, needed: int = 0) -> Split:
    """Assign whole parts to calibration, validation and training, in a random order.

    Args:
        groups: Part number of each image, int64 [n].
        holdout: Shares of the images to hold out.
        seed: Seed of the order.
        needed: Number of calibration images that the false-reject target needs. Used if `holdout` leaves the share open.

    Raises:
        DataError: There are too few different parts.
    """
    n = len(groups)
    order = np.random.default_rng([seed, 77]).permutation(groups.max() + 1)
    members = [np.flatnonzero(groups == g) for g in order]
    share = holdout.calibration
    if share is None:
        share = min(max(needed / n, CALIBRATION[0]), CALIBRATION[1])
    calibration: list[int] = []
    validation: list[int] = []
    calibration_groups = 0
    while members and len(calibration) < max(2, round(share * n)):
        calibration += [int(i) for i in members.pop()]
        calibration_groups += 1
    while members and len(validation) < max(2, round(holdout.validation * n)):
        validation += [int(i) for i in members.pop()]
    train = sorted(int(i) for m in members for i in m)
    if len(train) < 4 or not validation:
        raise DataError(
            f"{n} good images show only {len(order)} different parts: too few for training, validation and calibration",
            hint="add images of other parts, or set holdout.group if these are different parts that look alike",
        )
    return Split(tuple(train), tuple(sorted(validation)), tuple(sorted(calibration)), calibration_groups)
