"""Finds, reads, checks and describes the good images of a data folder, in one pass over them.

The folder has the MVTec AD layout (`train/good`) or is a flat folder of good images.
"""

from __future__ import annotations

import dataclasses
import hashlib
import io
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from anoseg_engines.errors import DataError
from anoseg_engines.files import shown_name
from anoseg_engines.images import (
    TWELVE_BITS,
    Image,
    as_bgr,
    decode_image,
    list_images,
    no_folder,
    orientation,
    read_bytes,
    unread_files,
)
from anoseg_engines.permissions import ENTER_AS, looking
from anoseg_engines.words import agreeing, counted

MIN_IMAGES = 10
"""Fewer good images would leave none for calibration."""
THUMBNAIL = 24
"""Side of a thumbnail, pixels."""
TAKES = "data (--data) is a folder of good images, or one in the MVTec AD layout"
TEN_BITS, FOURTEEN_BITS = 1023, 16383
"""The largest values of such cameras."""
DETAIL = 64
"""Side of a picture of the details, pixels."""
PIXEL_DIGESTS = "pixel_digests"
"""Key of the manifest's training record: which images were trained on or validated with, by their pixels."""
CALIBRATION_DIGESTS = "calibration_digests"
"""Key of the manifest's training record: which images were held out for the score threshold."""
ORIENTATION_IGNORED = "an EXIF orientation is ignored, as on the line: images are used as they are stored"
DIGEST = 16
"""Letters of a digest that the record keeps."""

ImageConsumer = Callable[[Path, Image], None]
"""Takes one decoded image, uint8 [h, w, 3]."""


@dataclass(frozen=True, slots=True)
class GoodImages:
    """A description of the n good images of a folder, in the order of their names; the pixels are not kept.

    Attributes:
        paths: The image files.
        sizes_hw: Height and width of each in camera pixels.
        fingerprint: SHA-256 over all names and bytes.
        pixel_digests: SHA-256 over the decoded pixels of each. Equal images have equal digests, whatever their file format.
        thumbnails: Unit vectors, float32 [n, d]. Exposures of one part have similar vectors.
        details: Unit vectors of the fine structure, float16 [n, DETAIL²].
        levels: Mean grey of each cell of a grid, float32 [n, 8, 8].
        spreads: Standard deviation of grey, float32 [n].
        tints: Mean of each colour channel, float32 [n, 3].
        notes: Remarks for the user: mixed sizes, grey images, 16 bit, what was left out.
    """

    paths: tuple[Path, ...]
    sizes_hw: tuple[tuple[int, int], ...]
    fingerprint: str
    pixel_digests: tuple[str, ...]
    thumbnails: NDArray[np.float32]
    details: NDArray[np.float16]
    levels: NDArray[np.float32]
    spreads: NDArray[np.float32]
    tints: NDArray[np.float32]
    notes: tuple[str, ...]

    def used_in(self, training: dict[str, Any], cut: Mapping[Path, str] | None = None) -> list[Path]:
        """Return the images that a training used.

        Args:
            training: The training's record in the manifest; a record of before has none.
            cut: For camera frames, the digest of what the region of each shows: a training may have used that.
        """
        used, cut = set(training.get(PIXEL_DIGESTS) or ()), cut or {}
        own = zip(self.paths, self.pixel_digests, strict=True)
        return [path for path, digest in own if {digest[:DIGEST], cut.get(path, "")[:DIGEST]} & used]

    def only(self, indices: Iterable[int]) -> GoodImages:
        """Return these images alone; fingerprint and notes stay those of the whole folder."""
        picked = [int(i) for i in indices]
        return dataclasses.replace(
            self,
            paths=tuple(self.paths[i] for i in picked),
            sizes_hw=tuple(self.sizes_hw[i] for i in picked),
            pixel_digests=tuple(self.pixel_digests[i] for i in picked),
            thumbnails=self.thumbnails[picked],
            details=self.details[picked],
            levels=self.levels[picked],
            spreads=self.spreads[picked],
            tints=self.tints[picked],
        )


@looking(DataError, hint=ENTER_AS)
def find_good_images(data: Path, least: int = MIN_IMAGES) -> list[Path]:
    """List the good images of `data`, sorted by name: those in `train/good` if there is one, else those in `data` itself.

    Args:
        data: The folder.
        least: Fewest images that are accepted.

    Raises:
        DataError: The folder does not exist, or has too few images.
    """
    if not data.is_dir():
        raise DataError(f"{data}: {no_folder(data)}", hint=TAKES)
    nested = data / "train" / "good"
    folder = nested if nested.is_dir() else data
    paths = list_images(folder)
    unread = unread_files(folder)
    left_out = ""
    if unread:
        files = counted(len(unread), "file is not read because of its", "files are not read because of their")
        left_out = f" ({files} format, such as {shown_name(unread[0].name)})"
    if not paths:
        below = sorted(p for p in folder.iterdir() if p.is_dir() and list_images(p))
        hint = f"there are images in {named(below)} below it; give the folder of the good ones" if below else TAKES
        raise DataError(f"{folder}: no images found{left_out}", hint=hint)
    if len(paths) < least:
        raise DataError(
            f"{folder}: {counted(len(paths), 'good image')}{left_out}, at least {least} are needed to train and calibrate",
            hint="use some hundred: the threshold for 1 % false rejects alone needs 99 images",
        )
    return paths


def read_good_images(paths: Sequence[Path], consume: ImageConsumer = lambda _, __: None) -> GoodImages:
    """Read and decode every good image once.

    Only one image is in memory at a time. A caller that needs the pixels receives them through `consume`.

    Args:
        paths: The files, as `find_good_images` lists them.
        consume: Called with each decoded image, until one cannot be used.

    Raises:
        DataError: Files cannot be used; all of them are named.
    """
    digest = hashlib.sha256()
    sizes: list[tuple[int, int]] = []
    digests, thumbnails, details, levels, spreads, tints, unusable = [], [], [], [], [], [], []
    grey = 0
    deep: list[Path] = []
    twelve_bits: list[Path] = []
    more_pages: list[Path] = []
    turned: list[Path] = []
    largest = 0
    for path in paths:
        try:
            data = read_bytes(path)
            decoded = decode_image(data, path)
        except DataError as error:
            unusable.append(error.what)
            continue
        image = as_bgr(decoded.image)
        digest.update(os.fsencode(path.name) + b"\0" + hashlib.sha256(data).digest())
        grey += decoded.grey
        more_pages += [path] if decoded.more_pages else []
        largest = max(largest, decoded.largest)
        turned += [path] if orientation(io.BytesIO(data)) != 1 else []
        (twelve_bits if decoded.twelve_bits else deep).extend([path] if decoded.deep else [])
        sizes.append((image.shape[0], image.shape[1]))
        grey_image = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), np.uint8)
        digests.append(pixel_digest(image))
        thumbnails.append(_detail(grey_image, THUMBNAIL, 3.0))
        details.append(_detail(grey_image, DETAIL, 2.0).astype(np.float16))
        levels.append(cv2.resize(grey_image, (8, 8), interpolation=cv2.INTER_AREA).astype(np.float32))
        spreads.append(float(grey_image.std()))
        tints.append(cv2.mean(image)[:3])
        if not unusable:
            consume(path, image)
    if unusable:
        shown = "\n  ".join(unusable[:20]) + (f"\n  and {len(unusable) - 20} more" if len(unusable) > 20 else "")
        raise DataError(
            f"{len(unusable)} of {len(paths)} good images cannot be used:\n  {shown}", hint="remove or replace them"
        )
    notes = []
    if len(set(sizes)) > 1:
        low, high = np.min(sizes, axis=0), np.max(sizes, axis=0)
        notes.append(f"images differ in size: {low[1]}×{low[0]} to {high[1]}×{high[0]} pixels")
    if grey:
        notes.append(
            f"{grey} of {len(paths)} images {agreeing(grey, 'is', 'are')} grey: grey is used for all three colour channels"
        )
    if deep and twelve_bits:
        raise DataError(
            f"{twelve_bits[0]} has values of 12 bit in 16 bit ({counted(len(twelve_bits), 'file')}), {deep[0]} of 16 bit "
            f"({counted(len(deep), 'file')}): they would be scaled differently",
            hint="store all images in the same way",
        )
    if deep:
        notes.append(f"{len(deep)} of {len(paths)} images {agreeing(len(deep), 'has', 'have')} 16 bit: the upper 8 are used")
    if twelve_bits:
        notes.append(
            f"{len(twelve_bits)} of {len(paths)} images {agreeing(len(twelve_bits), 'has', 'have')} 12 bit in 16: the upper 8 "
            "of the 12 are used, as the line does with a Mono12 camera"
        )
    if (camera := _other_camera(largest)) is not None:
        notes.append(
            f"the largest value of the images with 16 bit is {largest}. If they are from a {camera} camera, multiply all "
            f"values by 4 and train with these images: the line makes the frames of a {camera} camera that much brighter"
        )
    if more_pages:
        notes.append(f"only the first page is read of {named(more_pages)}")
    if turned:
        notes.append(f"{ORIENTATION_IGNORED}: {named(turned)}")
    for folder in sorted({path.parent for path in paths}):
        if unread := unread_files(folder):
            notes.append(f"not read, because of their format: {named(unread)}")
    return GoodImages(
        paths=tuple(paths),
        sizes_hw=tuple(sizes),
        fingerprint=digest.hexdigest(),
        pixel_digests=tuple(digests),
        thumbnails=np.stack(thumbnails),
        details=np.stack(details),
        levels=np.stack(levels),
        spreads=np.array(spreads, np.float32),
        tints=np.array(tints, np.float32),
        notes=tuple(notes),
    )


def _other_camera(largest: int) -> str | None:
    """Name the pixel format of the camera whose values may be as small as these, but are scaled by the line in another way."""
    if 0 < largest <= TEN_BITS:
        return "Mono10"
    return "Mono14" if TWELVE_BITS < largest <= FOURTEEN_BITS else None


def pixel_digest(image: Image) -> str:
    """Return the SHA-256 over the pixels of an image; equal images have equal digests."""
    return hashlib.sha256(repr(image.shape).encode() + image.tobytes()).hexdigest()


def named(paths: Sequence[Path], most: int = 5) -> str:
    """Name some files; of many a few, with their number."""
    names = ", ".join(shown_name(path.name) for path in paths[:most])
    return f"{names}, … ({len(paths)} in all)" if len(paths) > most else names


def _detail(grey: NDArray[np.uint8], side: int, blur: float) -> NDArray[np.float32]:
    """Shrink a grey image and remove smooth shading and contrast, so that exposures of one part give the same unit vector.

    Args:
        grey: The image.
        side: Side of the small picture, pixels.
        blur: Size of the shading that is removed, in pixels of the small picture.
    """
    small = cv2.resize(grey, (side, side), interpolation=cv2.INTER_AREA).astype(np.float32)
    vector = (small - cv2.GaussianBlur(small, (0, 0), blur)).reshape(-1)
    return np.asarray(vector / (np.linalg.norm(vector) + 1e-6), np.float32)
