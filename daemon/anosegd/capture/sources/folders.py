"""Which images of a folder are inspected, and in which order."""

from __future__ import annotations

from pathlib import Path

from anoseg_engines.errors import DataError
from anoseg_engines.images import IMAGE_SUFFIXES, list_images


def images_of(folder: Path, *, recursive: bool) -> list[Path]:
    """The folder's images in order of name, with those of its subfolders if asked for.

    Raises:
        DataError: there is no such folder, or no image in it.
    """
    images = list_images(folder)
    if recursive:
        images = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if not images:
        hint = "" if recursive else "recursive: true looks into its subfolders too"
        raise DataError(f"{folder}: no images in this folder", hint=hint)
    return images
