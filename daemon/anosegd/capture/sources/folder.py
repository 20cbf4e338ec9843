"""Reads the images of a folder. Runs in the capture process."""

from __future__ import annotations

from pathlib import Path

import cv2

from anoseg_engines.errors import DataError
from anoseg_engines.files import shown_name
from anoseg_engines.images import IMAGE_SUFFIXES, Image, list_images, read_image, unread_files
from anosegd.capture.config import FolderSource
from anosegd.capture.sources.base import Shot, StillSource

MOST_NAMES = 5
"""Files that are named."""


def images_of(folder: Path, *, recursive: bool) -> list[Path]:
    """Return the folder's images in order of name, including those of its subfolders if `recursive`.

    Raises:
        DataError: The folder does not exist, or has no images.
    """
    images = list_images(folder)
    if recursive:
        images = sorted(p for p in folder.rglob("*") if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())
    if not images:
        hint = "" if recursive else "recursive: true looks into its subfolders too"
        raise DataError(f"{folder}: no images in this folder", hint=hint)
    return images


def not_read(folder: Path, *, recursive: bool) -> str:
    """Name the files that are not read because of their format; empty if there are none."""
    below = [p for p in folder.rglob("*") if p.is_dir()] if recursive else []
    files = [p for place in (folder, *below) for p in unread_files(place)]
    names = ", ".join(shown_name(p.name) for p in files[:MOST_NAMES])
    more = f", … ({len(files)} in all)" if len(files) > MOST_NAMES else ""
    return f"not read because of their format: {names}{more}" if files else ""


class Folder(StillSource):
    """Reads the images of a folder in order of name. An unreadable file is a part too: no file is skipped in silence."""

    def __init__(self, config: FolderSource) -> None:
        self._config = config
        self._base = Path(config.path)
        self._paths: list[Path] = []
        self._preloaded: dict[Path, Shot] | None = None
        self.fps = config.fps
        self.description = config.path

    def open(self) -> None:
        """List the folder and, if configured, decode every image.

        Raises:
            DataError: The folder does not exist, or has no images.
        """
        self._paths = images_of(self._base, recursive=self._config.recursive)
        left_out = not_read(self._base, recursive=self._config.recursive)
        self.description = f"{len(self._paths)} images" + (f"; {left_out}" if left_out else "")
        if self._config.preload:
            self._preloaded = {path: self._decode(path) for path in self._paths}

    def upcoming(self, position: int) -> str | None:
        """Return the file's path below the folder; None for preloaded images, which are decoded already."""
        path = None if self._preloaded is not None else self._path(position)
        return None if path is None else shown_name(path.relative_to(self._base))

    def read(self, position: int, into: Image | None) -> Shot | None:
        """Decode one file."""
        path = self._path(position)
        if path is None:
            return None
        return self._preloaded[path] if self._preloaded is not None else self._decode(path)

    def _decode(self, path: Path) -> Shot:
        name = shown_name(path.relative_to(self._base))
        try:
            return Shot(read_image(path), source=name)
        except DataError as error:
            return Shot(None, source=name, error=shown_name(error.what))
        except (cv2.error, MemoryError) as error:  # OpenCV raises for sizes beyond its limits
            return Shot(None, source=name, error=f"{shown_name(path)}: {str(error).strip() or 'not enough memory'}")

    def _path(self, position: int) -> Path | None:
        if position >= len(self._paths) and not self._config.loop:
            return None
        return self._paths[position % len(self._paths)]
