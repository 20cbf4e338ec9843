"""Finds test images and their masks in the MVTec AD layout.

The layout is `test/<defect>` and `ground_truth/<defect>/<stem>_mask.png`.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anoseg_engines.errors import DataError
from anoseg_engines.images import Image, list_images, read_image

GOOD = "good"


@dataclass(frozen=True, slots=True)
class EvaluationImage:
    """One test image.

    Attributes:
        path: The image file.
        defect: Name of its folder; `good` for good images.
        mask: Its mask file; None for good images.
    """

    path: Path
    defect: str
    mask: Path | None

    @classmethod
    def at(cls, data: Path, path: Path) -> EvaluationImage:
        """Return the test image at `path`, which is in `data`/test/<defect>."""
        defect = path.parent.name
        mask = None if defect == GOOD else data / "ground_truth" / defect / f"{path.stem}_mask.png"
        return cls(path, defect, mask)

    def read_mask(self, image: Image) -> NDArray[np.bool_] | None:
        """Read the mask as bool [h, w]: all False for a good image, None if the mask of a defective image is empty.

        Raises:
            DataError: The mask cannot be read, or its size differs from the image's.
        """
        if self.mask is None:
            return np.zeros(image.shape[:2], bool)
        mask = read_image(self.mask)[:, :, 0] >= 128
        if mask.shape != image.shape[:2]:
            raise DataError(
                f"{self.mask}: the mask is {mask.shape[1]}×{mask.shape[0]}, its image {image.shape[1]}×{image.shape[0]}"
            )
        return mask if mask.any() else None


def find_evaluation_images(data: Path) -> list[EvaluationImage]:
    """List all test images of an MVTec AD layout, sorted by folder and name.

    Raises:
        DataError: There is no test folder, no good or no defective image, or a mask is missing.
    """
    test = data / "test"
    if not test.is_dir():
        raise DataError(
            f"{test}: no such folder", hint="evaluate needs the MVTec AD layout: test/good, test/<defect>, ground_truth"
        )
    folders = sorted(p for p in test.iterdir() if p.is_dir())
    found = [EvaluationImage.at(data, path) for folder in folders for path in list_images(folder)]
    missing = [str(image.mask) for image in found if image.mask is not None and not image.mask.is_file()]
    if missing:
        shown = "\n  ".join(missing[:10]) + (f"\n  and {len(missing) - 10} more" if len(missing) > 10 else "")
        raise DataError(
            f"{len(missing)} masks are missing:\n  {shown}", hint="an image without a visible defect needs an empty mask"
        )
    if len({image.defect == GOOD for image in found}) < 2:
        raise DataError(f"{test}: good and defective images are both needed", hint="test/good and test/<defect>")
    return found
