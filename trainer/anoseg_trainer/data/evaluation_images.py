"""Finds test images and their masks in the MVTec AD layout.

The layout is `test/<defect>` and `ground_truth/<defect>/<stem>_mask.png`. Nobody need have marked the defects: a kind of defect
without a folder of masks counts for the image metrics only.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anoseg_engines.errors import DataError
from anoseg_engines.image_structure import has_more_pages
from anoseg_engines.images import Image, list_images, no_folder, orientation, read_bytes, unread_files
from anoseg_engines.permissions import ENTER_AS, looking
from anoseg_engines.words import counted
from anoseg_trainer.data.good_images import ORIENTATION_IGNORED, named
from anoseg_trainer.data.image_size import sizes_from_headers
from anoseg_trainer.data.masks import HINT as MASK_HINT
from anoseg_trainer.data.masks import read_mask

GOOD = "good"
LAYOUT = (
    "the MVTec AD layout: test/good, test/<defect> for each kind of defect, and, if the defects are marked, "
    "ground_truth/<defect>/<name>_mask.png for each defective image"
)
LARGE = 0.5
"""Share of an image from which a mask may be inverted."""
PAGED = (".tif", ".tiff", ".png", ".webp")
"""Formats that may hold several pages."""


@dataclass(frozen=True, slots=True)
class EvaluationImage:
    """One test image.

    Attributes:
        path: The image file.
        defect: Name of its folder; `good` for good images.
        mask: Its mask file; None for good images, and if there is no folder of masks for its kind of defect.
    """

    path: Path
    defect: str
    mask: Path | None

    @classmethod
    def at(cls, data: Path, path: Path) -> EvaluationImage:
        """Return the test image at `path`, which is in `data`/test/<defect>."""
        defect = path.parent.name
        masks = data / "ground_truth" / defect
        return cls(path, defect, None if defect == GOOD or not masks.is_dir() else masks / f"{path.stem}_mask.png")

    def read_mask(self, image: Image) -> NDArray[np.bool_] | None:
        """Read the mask as bool [h, w]: all False for a good image, None if a defective image has no mask or an empty one.

        Raises:
            DataError: The mask cannot be read or is not plainly binary, or its size differs from the image's.
        """
        if self.mask is None:
            return np.zeros(image.shape[:2], bool) if self.defect == GOOD else None
        mask = read_mask(self.mask)
        if mask.shape != image.shape[:2]:
            raise DataError(_other_size(self.mask, mask.shape, image.shape[:2]))
        return mask if mask.any() else None


@looking(DataError, hint=ENTER_AS)
def find_evaluation_images(data: Path) -> list[EvaluationImage]:
    """List all test images of an MVTec AD layout, sorted by folder and name.

    Raises:
        DataError: There is no test folder, no good or no defective image, or a mask is missing.
    """
    test = data / "test"
    if not test.is_dir():
        flat = len(list_images(data)) if data.is_dir() else 0
        none = f"{data}: {no_folder(data)}" if data.is_file() else f"{test}: {no_folder(test)}"
        what = f"{data}: a flat folder of {counted(flat, 'image')}" if flat else none
        raise DataError(f"{what}; evaluate needs good and defective images apart", hint=LAYOUT)
    folders = sorted(p for p in test.iterdir() if p.is_dir())
    found = [EvaluationImage.at(data, path) for folder in folders for path in list_images(folder)]
    _raise_if(
        [str(image.mask) for image in found if image.mask is not None and not image.mask.is_file()],
        "mask is missing",
        "masks are missing",
        "an image without a visible defect needs an empty mask",
    )
    if len({image.defect == GOOD for image in found}) < 2:
        raise DataError(f"{test}: good and defective images are both needed", hint=LAYOUT)
    return found


def check_masks(tests: list[EvaluationImage]) -> list[str]:
    """Read every mask before the work.

    Returns:
        Remarks for the user: kinds of defects without masks, empty masks, and masks that may be inverted.

    Raises:
        DataError: Masks cannot be used; all of them are named.
    """
    unusable, empty, large = [], [], []
    for test in tests:
        if test.mask is None:
            continue
        try:
            mask = read_mask(test.mask)
        except DataError as error:
            unusable.append(error.what)
            continue
        sizes = sizes_from_headers([test.path])  # one that cannot be read is refused when it is inspected
        if sizes is not None and mask.shape != sizes[0]:
            unusable.append(_other_size(test.mask, mask.shape, sizes[0]))
            continue
        turned = orientation(test.path)
        if turned != orientation(test.mask):
            unusable.append(
                f"{test.path}: its EXIF orientation ({turned}) is not that of its mask, so nobody can tell whether the mask "
                "was drawn on the pixels as they are stored; save the image turned, without the tag"
            )
        elif not mask.any():
            empty.append(test.path)
        elif mask.mean() > LARGE:
            large.append(test.mask)
    _raise_if(unusable, "mask cannot be used", "masks cannot be used", MASK_HINT)
    notes = []
    if unmarked := sorted({test.defect for test in tests if test.mask is None and test.defect != GOOD}):
        folders = ", ".join(f"ground_truth/{defect}" for defect in unmarked)
        notes.append(f"left out of the pixel metrics, because there is no folder of masks: {folders}")
    if empty:
        notes.append(f"left out of the pixel metrics, because their masks are empty: {named(empty)}")
    if large:
        notes.append(f"more than half of the image is marked as defective (black must be good): {named(large)}")
    return notes


def _other_size(path: Path, mask_hw: tuple[int, ...], image_hw: tuple[int, ...]) -> str:
    return f"{path}: the mask is {mask_hw[1]}×{mask_hw[0]}, its image {image_hw[1]}×{image_hw[0]}"


def left_out(data: Path, tests: list[EvaluationImage]) -> list[str]:
    """Say which files of the test folders are not looked at, and why."""
    test, truth = data / "test", data / "ground_truth"
    folders = sorted(p for p in test.iterdir() if p.is_dir())
    used = {t.mask for t in tests if t.mask is not None}
    masks = [p for folder in sorted(truth.iterdir()) if folder.is_dir() for p in list_images(folder)] if truth.is_dir() else []
    paged = [t.path for t in tests if t.path.suffix.lower() in PAGED and has_more_pages(read_bytes(t.path))]
    found = {
        "not read, because of their format": [p for folder in (test, *folders) for p in unread_files(folder)],
        "images beside the folders test/<defect> are not read": list_images(test),
        "masks without an image": [p for p in masks if p not in used],
        "folders without an image": [folder for folder in folders if not list_images(folder)],
        "only the first page is read": paged,
        ORIENTATION_IGNORED: [t.path for t in tests if orientation(t.path) != 1],
    }
    return [f"{what}: {named(paths)}" for what, paths in found.items() if paths]


def _raise_if(unusable: list[str], what: str, several: str, hint: str) -> None:
    if unusable:
        shown = "\n  ".join(unusable[:10]) + (f"\n  and {len(unusable) - 10} more" if len(unusable) > 10 else "")
        raise DataError(f"{counted(len(unusable), what, several)}:\n  {shown}", hint=hint)
