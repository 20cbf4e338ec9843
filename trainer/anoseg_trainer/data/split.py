"""Splits the good images by part into training, validation and calibration. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from anoseg_engines.errors import DataError
from anoseg_engines.words import counted
from anoseg_trainer.config import HoldoutConfig

CALIBRATION = (0.1, 0.2)
"""Smallest and largest share of the images that is held out for the score threshold."""


@dataclass(frozen=True, slots=True)
class Split:
    """Sorted indices into the good images.

    Attributes:
        train: For training.
        validation: For choosing weights, detector and pixel threshold.
        calibration: For the score threshold alone.
        calibration_parts: The part number of each calibration image.
        parts_known: Whether the part numbers can be relied on, see `parts.Parts`.
    """

    train: tuple[int, ...]
    validation: tuple[int, ...]
    calibration: tuple[int, ...]
    calibration_parts: tuple[int, ...]
    parts_known: bool = True

    @property
    def calibration_groups(self) -> int:
        """Number of different parts among the calibration images."""
        return len(set(self.calibration_parts))


def split_images(
    parts: NDArray[np.int64],
    holdout: HoldoutConfig,
    seed: int,
    needed: int = 0,
    *,
    known: bool = True,
    groups: NDArray[np.int64] | None = None,
) -> Split:
    """Assign whole groups to calibration, validation and training, in a random order.

    Args:
        parts: Part number of each image, int64 [n].
        holdout: Shares of the images to hold out.
        seed: Seed of the order.
        needed: Number of parts that the false-reject target needs for calibration. Used if `holdout` leaves the share open.
        known: Whether the part numbers can be relied on.
        groups: Group of each image, int64 [n]: one or more parts that are held out together. None: each part alone.

    Raises:
        DataError: There are too few different parts.
    """
    n = len(parts)
    groups = parts if groups is None else groups
    order = np.random.default_rng([seed, 77]).permutation(groups.max() + 1)
    members = [np.flatnonzero(groups == g) for g in order]
    share, most = holdout.calibration, CALIBRATION[1]
    if share is None:
        share = min(max(needed / (parts.max() + 1), CALIBRATION[0]), CALIBRATION[1])
    else:
        most = share
    calibration = _taken(members, share * n, most * n)
    # Images were counted, and parts are promised about: some parts have more images than others.
    for k in reversed(range(len(members)) if holdout.calibration is None else ()):
        if len(set(parts[calibration].tolist())) >= needed:
            break
        if len(calibration) + len(members[k]) <= most * n:
            calibration += [int(i) for i in members.pop(k)]
    validation = _taken(members, holdout.validation * n, holdout.validation * n)
    train = sorted(int(i) for m in members for i in m)
    if len(train) < 4 or not validation:
        raise DataError(
            f"{n} good images show only {counted(int(parts.max()) + 1, 'different part')}: too few for training, validation "
            "and calibration",
            hint="add images of other parts, or set holdout.group if these are different parts that look alike",
        )
    calibration.sort()
    numbers = tuple(int(parts[i]) for i in calibration)
    return Split(tuple(train), tuple(sorted(validation)), tuple(calibration), numbers, known)


def _taken(groups: list[NDArray[np.int64]], wanted: float, most: float) -> list[int]:
    """Take whole groups from the end, until as many images are taken as are wanted; two at least.

    A group that would make them more than `most` is left where it is, if without it they are nearer to `wanted`.
    """
    wanted = max(2.0, wanted)
    taken: list[int] = []
    left: list[NDArray[np.int64]] = []
    while groups and len(taken) < round(wanted):
        group = groups.pop()
        with_it = len(taken) + len(group)
        if with_it > max(wanted, most) and with_it - wanted > wanted - len(taken):
            left.append(group)
        else:
            taken += [int(i) for i in group]
    while left and len(taken) < 2:
        smallest = min(range(len(left)), key=lambda i: len(left[i]))
        taken += [int(i) for i in left.pop(smallest)]
    groups += reversed(left)
    return taken
