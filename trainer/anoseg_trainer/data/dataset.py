"""The images a training is given: found, checked, split without leaks, and kept as scaled parts in one file.

`--data` is either the MVTec AD layout (`train/good`, and for evaluation `test/<defect>`,
`ground_truth/<defect>/<stem>_mask.png`) or a flat folder of good images.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from anoseg_engines.errors import DataError
from anoseg_engines.images import Image, list_images, read_image
from anoseg_engines.placement import InputSpec, Placement, Region
from anoseg_trainer.config import HoldoutConfig
from anoseg_trainer.synthesis.background import bare_mask, part_mask

MIN_IMAGES = 10
"""Fewer good images leave nothing to calibrate with."""
CALIBRATION = (0.1, 0.2)
"""Shares of the images that are kept for the threshold, at least and at most."""
THUMBNAIL = 24
NEAR_DUPLICATE = 0.9
"""Correlation of two images' thumbnails, light and smooth shading removed, from which they count as the same part."""
MANY_ALIKE = 12
"""More images than these, a third and a fifth of all are not taken for one part because they look alike."""


@dataclass(frozen=True, slots=True)
class GoodImages:
    """The good images of a data folder: paths sorted by name, size of each in camera pixels, and what tells them apart.

    fingerprint: SHA-256 over names and bytes. thumbnails: float32 [n, d], unit vectors, for `group_images`.
    levels: float32 [n, 8, 8], mean grey of each cell. spreads: float32 [n], standard deviation of grey. tints: float32 [n, 3],
    mean of each colour channel.
    notes: what a user should know (mixed sizes, grey, 16 bit), in words.
    """

    paths: tuple[Path, ...]
    sizes_hw: tuple[tuple[int, int], ...]
    fingerprint: str
    thumbnails: NDArray[np.float32]
    levels: NDArray[np.float32]
    spreads: NDArray[np.float32]
    tints: NDArray[np.float32]
    notes: tuple[str, ...]

    def only(self, indices: Sequence[int]) -> GoodImages:
        """These images of it; what speaks of the whole folder (fingerprint, notes) stays."""
        picked = list(indices)
        return dataclasses.replace(
            self,
            paths=tuple(self.paths[i] for i in picked),
            sizes_hw=tuple(self.sizes_hw[i] for i in picked),
            thumbnails=self.thumbnails[picked],
            levels=self.levels[picked],
            spreads=self.spreads[picked],
            tints=self.tints[picked],
        )


def good_folder(data: Path) -> Path:
    """The folder of good images in `data`: `train/good` if there is one, else `data` itself.

    Raises:
        DataError: neither is a folder.
    """
    if not data.is_dir():
        raise DataError(f"{data}: no such folder", hint="--data takes a folder of good images or the MVTec AD layout")
    nested = data / "train" / "good"
    return nested if nested.is_dir() else data


def load_good_images(data: Path, on_image: Callable[[], None] = lambda: None) -> GoodImages:
    """Read every good image once: all must be readable.

    Raises:
        DataError: folder missing or empty, too few images, or unreadable files (every one of them named).
    """
    folder = good_folder(data)
    paths = list_images(folder)
    if not paths:
        raise DataError(f"{folder}: no images there", hint="--data takes a folder of good images or the MVTec AD layout")
    digest = hashlib.sha256()
    sizes: list[tuple[int, int]] = []
    thumbnails, levels, spreads, tints, bad = [], [], [], [], []
    grey = deep = 0
    for path in paths:
        try:
            image = read_image(path)
        except DataError as error:
            bad.append(error.what)
            continue
        data_bytes = path.read_bytes()
        digest.update(os.fsencode(path.name) + b"\0" + hashlib.sha256(data_bytes).digest())
        stored = cv2.imdecode(np.frombuffer(data_bytes, np.uint8), cv2.IMREAD_UNCHANGED)
        if stored is not None:
            grey += stored.ndim == 2
            deep += stored.dtype != np.uint8
        sizes.append(image.shape[:2])
        grey_image = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), np.uint8)
        thumbnails.append(_thumbnail(grey_image))
        levels.append(cv2.resize(grey_image, (8, 8), interpolation=cv2.INTER_AREA).astype(np.float32))
        spreads.append(float(grey_image.std()))
        tints.append(cv2.mean(image)[:3])
        on_image()
    if bad:
        shown = "\n  ".join(bad[:20]) + (f"\n  and {len(bad) - 20} more" if len(bad) > 20 else "")
        raise DataError(f"{len(bad)} of {len(paths)} good images cannot be used:\n  {shown}", hint="remove or replace them")
    if len(paths) < MIN_IMAGES:
        raise DataError(
            f"{folder}: {len(paths)} good images, at least {MIN_IMAGES} are needed to train and calibrate",
            hint="some hundred are advised: 1 % false rejects needs 99 images for the threshold alone",
        )
    notes = []
    if len(set(sizes)) > 1:
        low, high = np.min(sizes, axis=0), np.max(sizes, axis=0)
        notes.append(f"images differ in size: {low[1]}×{low[0]} to {high[1]}×{high[0]} pixels")
    if grey:
        notes.append(f"{grey} of {len(paths)} images are grey: the grey is used for all three colours")
    if deep:
        notes.append(f"{deep} of {len(paths)} images have 16 bit: the upper 8 are used")
    return GoodImages(
        tuple(paths),
        tuple(sizes),
        digest.hexdigest(),
        np.stack(thumbnails),
        np.stack(levels),
        np.array(spreads, np.float32),
        np.array(tints, np.float32),
        tuple(notes),
    )


def _thumbnail(grey: NDArray[np.uint8]) -> NDArray[np.float32]:
    """A small grey picture, smooth shading and contrast removed, as a unit vector: alike for exposures of one part."""
    small = cv2.resize(grey, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA).astype(np.float32)
    detail = small - cv2.GaussianBlur(small, (0, 0), 3.0)
    vector = detail.reshape(-1)
    return np.asarray(vector / (np.linalg.norm(vector) + 1e-6), np.float32)


def group_images(images: GoodImages, pattern: str, on_note: Callable[[str], None] = lambda _: None) -> NDArray[np.int64]:
    """Number the parts: images of one part (near-duplicates, exposures) get one number. int64 [n].

    With `pattern`, names decide (first group of the match, else the match; a name without match stands alone).
    Without, images whose thumbnails correlate above `NEAR_DUPLICATE` and whose aspect ratio agrees are joined.
    Where that joins so many that they cannot be one part (a fixed camera: all good parts look the same), every image is taken
    as a part of its own, and that is noted: likeness then says nothing.
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
    on_note(f"{largest} images look alike: each image is taken as another part; set holdout.group if several show one part")
    return np.arange(n, dtype=np.int64)


@dataclass(frozen=True, slots=True)
class Split:
    """Indices into the good images, sorted: for training, for choosing weights, for the score threshold alone.

    calibration_groups: number of different parts among the calibration images.
    """

    train: tuple[int, ...]
    validation: tuple[int, ...]
    calibration: tuple[int, ...]
    calibration_groups: int


def split_images(groups: NDArray[np.int64], holdout: HoldoutConfig, seed: int, needed: int = 0) -> Split:
    """Deal whole groups to calibration, validation and training, in an order drawn from `seed`.

    needed: calibration images that the wished share of false rejects takes; what good images are left teach the network.

    Raises:
        DataError: too few different parts to hold any out.
    """
    n = len(groups)
    order = np.random.default_rng([seed, 77]).permutation(groups.max() + 1)
    members = [np.flatnonzero(groups == g) for g in order]
    parts: dict[str, list[int]] = {"calibration": [], "validation": []}
    calibration = holdout.calibration
    if calibration is None:
        calibration = min(max(needed / n, CALIBRATION[0]), CALIBRATION[1])
    wanted = {"calibration": max(2, round(calibration * n)), "validation": max(2, round(holdout.validation * n))}
    calibration_groups = 0
    while members and len(parts["calibration"]) < wanted["calibration"]:
        parts["calibration"] += [int(i) for i in members.pop()]
        calibration_groups += 1
    while members and len(parts["validation"]) < wanted["validation"]:
        parts["validation"] += [int(i) for i in members.pop()]
    train = sorted(int(i) for m in members for i in m)
    if len(train) < 4 or not parts["validation"]:
        raise DataError(
            f"{n} good images show only {len(order)} different parts: too few to train, choose and calibrate apart",
            hint="add images of other parts, or set holdout.group if these are different parts that look alike",
        )
    return Split(tuple(train), tuple(sorted(parts["validation"])), tuple(sorted(parts["calibration"])), calibration_groups)


class PartStore:
    """Scaled parts of all good images in one file, read through a memory map: workers share it without copies.

    Pickled by path; each process maps the file when it first reads.
    """

    def __init__(self, path: Path, shapes: Sequence[tuple[int, int]]) -> None:
        self.path = path
        self.shapes = tuple(shapes)
        sizes = [h * w * 3 for h, w in self.shapes]
        self.offsets = [0, *(int(v) for v in np.cumsum(sizes))]
        self._map: NDArray[np.uint8] | None = None
        self._masks: dict[int, tuple[NDArray[np.bool_], NDArray[np.bool_]]] = {}

    @classmethod
    def write(cls, path: Path, images: GoodImages, spec: InputSpec, on_image: Callable[[], None] = lambda: None) -> PartStore:
        """Scale every image as its Placement does and write it to `path`.

        Raises:
            DataError: no space left, or an image vanished meanwhile.
        """
        shapes = []
        try:
            with path.open("wb") as file:
                for image_path in images.paths:
                    image = read_image(image_path)
                    part = whole_placement(spec, image).scaled_part(image)
                    shapes.append((part.shape[0], part.shape[1]))
                    file.write(part.tobytes())
                    on_image()
        except OSError as error:
            path.unlink(missing_ok=True)
            raise DataError(f"{path}: cannot be written ({error.strerror})", hint="free space or give --work") from error
        return cls(path, shapes)

    def __len__(self) -> int:
        return len(self.shapes)

    def __getitem__(self, index: int) -> Image:
        """Part `index`, uint8 [h, w, 3]; a read-only view."""
        if self._map is None:
            self._map = np.memmap(self.path, np.uint8, "r")
        start, end = self.offsets[index], self.offsets[index + 1]
        view = self._map[start:end].reshape(*self.shapes[index], 3)
        return np.asarray(view)

    def part_mask(self, index: int) -> NDArray[np.bool_]:
        """Where on picture `index` the part is, coarse (see `background.part_mask`)."""
        return self._masks_of(index)[0]

    def bare_mask(self, index: int) -> NDArray[np.bool_]:
        """Where on picture `index` there is surely no part, coarse (see `background.bare_mask`)."""
        return self._masks_of(index)[1]

    def _masks_of(self, index: int) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
        """Kept, 18 kB each."""
        if index not in self._masks:
            self._masks[index] = part_mask(self[index]), bare_mask(self[index])
        return self._masks[index]

    def __getstate__(self) -> dict[str, object]:
        return self.__dict__ | {"_map": None, "_masks": {}}


def whole_placement(spec: InputSpec, image: Image) -> Placement:
    """The placement of a whole image: training takes the image file as the part's region."""
    return Placement.of(spec, Region(0, 0, image.shape[1], image.shape[0]))
