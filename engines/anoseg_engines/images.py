"""Reads and rotates images. The trainer, the evaluation and the cameras use this module, so they see the same pixels."""

from __future__ import annotations

import io
import stat
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from anoseg_engines.errors import DataError
from anoseg_engines.image_structure import (
    JPEG_START,
    StructureError,
    as_stored,
    check_jpeg,
    check_structure,
    has_more_pages,
    is_tiff,
    tiff_pages,
)
from anoseg_engines.permissions import ENTER, looking

IMAGE_SUFFIXES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".bmp", ".tif", ".tiff", ".webp"),
    *(".pgm", ".ppm", ".pnm"),
)
TEXT_SUFFIXES = (".txt", ".md", ".json", ".yaml", ".yml", ".csv", ".xml", ".html", ".log", ".ini", ".sha256", ".db")
TWELVE_BITS = 4095
"""A file of 16 bit whose largest value is at most this holds 12 bit, as a camera's Mono12 delivers them."""

Image = NDArray[np.uint8]
"""A camera image: uint8 [H, W, 3], BGR as OpenCV delivers, or [H, W, 1] from a grey camera."""

ROTATIONS = {90: cv2.ROTATE_90_CLOCKWISE, 180: cv2.ROTATE_180, 270: cv2.ROTATE_90_COUNTERCLOCKWISE}
"""The rotations of a camera's image, in degrees clockwise."""

MAX_PIXELS = 1 << 30
"""The largest image that is decoded, as in OpenCV. A damaged header may name any size."""


def list_images(folder: Path) -> list[Path]:
    """List what is named like an image directly in `folder`, sorted by name.

    Links to nothing, folders and pipes of such a name are listed too: they are no images, and `read_image` says so.

    Raises:
        DataError: The folder does not exist, is not a folder, or cannot be listed.
    """
    with looking(DataError, hint=ENTER):
        if not folder.is_dir():
            raise DataError(f"{folder}: {no_folder(folder)}", hint="give a folder of images")
    try:
        return sorted(p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES)
    except OSError as error:
        raise DataError(f"{folder}: cannot be listed ({error.strerror})") from error


def no_folder(path: Path) -> str:
    """Say what is at a path where a folder should be."""
    return "is a file, not a folder" if path.is_file() else "no such folder"


@looking(DataError, hint=ENTER)
def unread_files(folder: Path) -> list[Path]:
    """List the files directly in `folder` that `list_images` leaves out, sorted by name, but no hidden files and no texts.

    Raises:
        DataError: The files cannot be looked at.
    """
    return sorted(
        p
        for p in folder.iterdir()
        if not p.is_dir() and not p.name.startswith(".") and p.suffix.lower() not in (*IMAGE_SUFFIXES, *TEXT_SUFFIXES)
    )


def read_image(path: Path) -> Image:
    """Read `path` as uint8 [H, W, 3] BGR: grey is repeated, alpha dropped, 16 bit divided by 256, EXIF rotation not applied.

    If 16 bit hold values of 12 bit, these are divided by 16, as those of a camera with Mono12 are.

    Rotation is not applied because a camera does not apply it either, and masks are drawn on the stored pixels.

    Raises:
        DataError: The file is missing, empty, or cannot be decoded.
    """
    return as_bgr(decode_image(read_bytes(path), path).image)


def read_bytes(path: Path) -> bytes:
    """Read an image file without decoding it.

    Raises:
        DataError: The file is missing, empty or not a file.
    """
    if (kind := other_than_file(path)) is not None:  # to read a pipe could take for ever
        raise DataError(f"{path}: is {kind}, not an image file", hint="delete it or copy it again")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from error
    if not data:
        raise DataError(f"{path}: the file is empty (0 bytes)", hint="delete it or copy it again")
    return data


def other_than_file(path: Path) -> str | None:
    """Name what is at the path if it is not a file; None if it is a file, or nothing is there."""
    try:
        mode = path.stat().st_mode
    except PermissionError:  # whoever reads it finds out
        return None
    except OSError:
        return "a link to something that does not exist" if path.is_symlink() else None
    if stat.S_ISREG(mode):
        return None
    kinds = {stat.S_IFDIR: "a folder", stat.S_IFIFO: "a pipe", stat.S_IFSOCK: "a socket"}
    return kinds.get(stat.S_IFMT(mode), "a device")


@dataclass(frozen=True, slots=True)
class DecodedImage:
    """The pixels of an image file, and how the file stores them.

    Attributes:
        image: uint8 [H, W, 3], as of `read_image`; [H, W, 1] if the file is grey.
        grey: Whether the file has one channel.
        deep: Whether the file has 16 bit for each value.
        twelve_bits: Whether these hold values of 12 bit.
        more_pages: Whether the file has further pages or animation frames, which are not read.
        largest: With 16 bit, the largest value in the file.
    """

    image: Image
    grey: bool
    deep: bool
    twelve_bits: bool = False
    more_pages: bool = False
    largest: int = 0


def decode_image(data: bytes, path: Path) -> DecodedImage:
    """Decode the bytes of an image file as `read_image` does, but leave grey as one channel; `path` names it in errors.

    Raises:
        DataError: The bytes cannot be decoded, or are not one whole image.
    """
    try:
        return decode(data)
    except DataError as error:
        raise DataError(f"{path}: {error.what}", hint=error.hint or "delete it or copy it again") from error


def decode(data: bytes) -> DecodedImage:
    """Decode the bytes of an image as `read_image` does, but leave grey as one channel.

    Raises:
        DataError: The bytes cannot be decoded, or are not one whole image.
    """
    if data.startswith(JPEG_START):
        return decode_jpeg(data)
    try:
        check_structure(data)
    except StructureError as error:
        raise DataError(f"not a readable image: {error} ({len(data)} bytes)") from error
    stored = decode_stored(data, cv2.IMREAD_ANYCOLOR | cv2.IMREAD_ANYDEPTH)
    if stored is None:
        raise DataError(f"not a readable image ({len(data)} bytes)")
    deep = stored.dtype == np.uint16
    largest = int(stored.max()) if deep else 0
    twelve_bits = 0 < largest <= TWELVE_BITS
    try:
        image = as_image(np.left_shift(stored, 4) if twelve_bits else stored)
    except DataError as error:
        raise DataError(error.what, hint="store it with 8 or 16 bit for each value") from error
    pages, grey = has_more_pages(data), stored.ndim == 2
    return DecodedImage(image, grey=grey, deep=deep, twelve_bits=twelve_bits, more_pages=pages, largest=largest)


def decode_stored(data: bytes, flags: int) -> NDArray[Any] | None:
    """Decode an image with OpenCV, without turning it by its EXIF orientation. Return None if OpenCV cannot decode it.

    Raises:
        DataError: It has too many pixels for OpenCV or for the memory.
    """
    try:
        stored = cv2.imdecode(np.frombuffer(data, np.uint8), flags | cv2.IMREAD_IGNORE_ORIENTATION)
    except (cv2.error, MemoryError) as error:
        what = "the image has too many pixels" if isinstance(error, MemoryError) or "PIXELS" in str(error) else str(error)
        raise DataError(f"{what} ({len(data)} bytes)", hint="cut it into smaller images") from error
    if stored is not None and is_tiff(data):  # the one format that OpenCV turns all the same
        return as_stored(stored, tiff_pages(data).orientation)
    return stored


def orientation(file: Path | io.BytesIO) -> int:
    """Return the EXIF orientation of an image file, 1 if it has none or cannot be read.

    1 means that the pixels are stored as they are shown. Any other value turns the picture that a person sees, but not the
    pixels that are read here.
    """
    if isinstance(file, Path) and not file.is_file():  # to read a pipe could take for ever
        return 1
    from PIL import ExifTags, Image  # here, because a camera's process should start fast, and does not need it

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(file) as header:
                found = int(header.getexif().get(ExifTags.Base.Orientation, 1))
    except (OSError, ValueError, SyntaxError, TypeError, Image.DecompressionBombError):
        return 1
    return found if 1 <= found <= 8 else 1


def decode_jpeg(data: bytes, into: Image | None = None) -> DecodedImage:
    """Decode a JPEG image to the same pixels as OpenCV, but refuse it where OpenCV fills in what is missing.

    JPEG has no checksum: damage that leaves the length of the coded data unchanged can go unnoticed.

    Args:
        data: The bytes of the image; bytes after its end are ignored, unless another image begins there.
        into: Memory for the pixels, used if the size is the same.

    Raises:
        DataError: The image is damaged or incomplete, or another one follows it.
    """
    try:
        check_jpeg(data)
        height, width, colours, _ = simplejpeg.decode_jpeg_header(data)
        if height * width > MAX_PIXELS:
            raise DataError(f"{width}×{height} pixels are too many")
        grey = colours == "Gray"
        buffer = into if into is not None and into.shape == (height, width, 1 if grey else 3) else None
        image = simplejpeg.decode_jpeg(data, "GRAY" if grey else "BGR", buffer=buffer)
    except ValueError as error:
        why = str(error).rpartition("(): ")[2]  # as libjpeg says it, for example "Premature end of JPEG file"
        raise DataError(f"not a whole JPEG image: {why} ({len(data)} bytes)") from error
    return DecodedImage(image, grey=grey, deep=False)


def as_image(stored: NDArray[Any]) -> Image:
    """Convert a decoded image or camera frame to an `Image`, C-contiguous: alpha dropped, 16 bit divided by 256.

    Raises:
        DataError: The array does not have the shape or dtype of an image.
    """
    image = (stored >> 8).astype(np.uint8) if stored.dtype == np.uint16 else stored
    if image.dtype != np.uint8:
        raise DataError(f"image has dtype {image.dtype}, 8 or 16 bit unsigned is needed")
    if image.ndim == 2:
        image = image[:, :, None]
    elif image.ndim == 3 and image.shape[2] == 4:
        image = np.asarray(cv2.cvtColor(image, cv2.COLOR_BGRA2BGR))
    if image.ndim != 3 or image.shape[2] not in (1, 3) or 0 in image.shape:
        raise DataError(f"image has shape {image.shape}, [H, W] or [H, W, 3] is needed")
    return np.ascontiguousarray(image, dtype=np.uint8)


def as_bgr(image: Image) -> Image:
    """Return the image with three channels, uint8 [H, W, 3]: grey is repeated."""
    return image if image.shape[2] == 3 else np.asarray(cv2.cvtColor(image, cv2.COLOR_GRAY2BGR), np.uint8)


def as_grey(image: Image) -> NDArray[np.uint8]:
    """Return the image's brightness, uint8 [H, W]."""
    return image[:, :, 0] if image.shape[2] == 1 else np.asarray(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), np.uint8)


def rotated(image: Image, degrees: int, into: Image | None = None) -> Image:
    """Rotate the image clockwise by one of `ROTATIONS`, into `into` if given. For 0 degrees, return the image itself."""
    rotation = ROTATIONS.get(degrees)
    if rotation is None:
        return image
    turned = cv2.rotate(image, rotation) if into is None else cv2.rotate(image, rotation, dst=into)
    return np.asarray(turned, np.uint8).reshape(*turned.shape[:2], image.shape[2])  # OpenCV drops a single channel
