"""Reads the images of a folder. Runs in the capture process."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import cv2

from anoseg_engines.errors import DataError
from anoseg_engines.files import shown_name
from anoseg_engines.images import IMAGE_SUFFIXES, Image, decode_image, list_images, read_bytes, unread_files
from anoseg_engines.permissions import ENTER, looking
from anoseg_engines.words import counted
from anosegd.capture.config import FolderSource
from anosegd.capture.protocol import Job
from anosegd.capture.sources.base import Shot, StillSource

MOST_NAMES = 5
"""Files that are named."""


def images_of(folder: Path, *, recursive: bool) -> list[Path]:
    """Return what is named like an image in order of name, including that of its subfolders if `recursive`.

    A subfolder that cannot be listed is returned as if it were an image: parts are missing there, and that must be seen.

    Raises:
        DataError: The folder does not exist, has no images, or cannot be listed.
    """
    images = list_images(folder)
    if recursive:
        folders, unlisted, _ = _below(folder)
        images = sorted({*unlisted, *(p for place in folders for p in list_images(place))} - {*folders})
    if not images:
        hint = "" if recursive else "recursive: true looks into its subfolders too"
        left_out = not_read(folder, recursive=recursive)
        raise DataError(f"{folder}: no images in this folder{f'; {left_out}' if left_out else ''}", hint=hint)
    return images


def not_read(folder: Path, *, recursive: bool) -> str:
    """Name the files that are not read because of their format, and the links to folders; empty if there are none.

    Raises:
        DataError: The files in the folder cannot be looked at.
    """
    folders, _, links = _below(folder) if recursive else ([folder], [], [])
    files = [p for place in folders for p in unread_files(place)]
    found = {
        "not read because of their format": files,
        "links to folders, which are not followed": [p for p in links if p.suffix.lower() not in IMAGE_SUFFIXES],
    }
    return "; ".join(f"{what}: {_named(paths)}" for what, paths in found.items() if paths)


@looking(DataError, hint=ENTER)
def _below(folder: Path) -> tuple[list[Path], list[Path], list[Path]]:
    """Return the folder with its subfolders, those that cannot be listed, and the links to folders."""
    unlisted: list[Path] = []
    links: list[Path] = []
    folders: list[Path] = []
    for place, subfolders, _ in os.walk(folder, onerror=lambda error: unlisted.append(Path(error.filename))):
        folders.append(Path(place))
        links += [path for name in subfolders if (path := Path(place, name)).is_symlink()]
    return folders, unlisted, links


def _named(paths: list[Path]) -> str:
    names = ", ".join(shown_name(p.name) for p in paths[:MOST_NAMES])
    return names + (f", … ({len(paths)} in all)" if len(paths) > MOST_NAMES else "")


class Folder(StillSource):
    """Reads the images of a folder in order of name. An unreadable file is a part too: no file is skipped in silence."""

    def __init__(self, config: FolderSource, job: Job, alive: Callable[[], None] = lambda: None) -> None:
        self._config = config
        self._alive = alive
        self._start_at, self._after = job.start_at, job.after
        self._first = job.start_at  # index of the file at position start_at
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
        if self._after is not None:  # files may have come or gone since the last list
            self._first = self._behind(self._after)
        left_out = not_read(self._base, recursive=self._config.recursive)
        self.description = counted(len(self._paths), "image") + (f"; {left_out}" if left_out else "")
        if self._config.preload:
            self._preloaded = {}
            for path in self._paths:
                self._preloaded[path] = self._decode(path)
                self._alive()

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

    def _behind(self, name: str) -> int:
        """Return the index of the first file behind the one of this name, which may be gone."""
        names = [shown_name(path.relative_to(self._base)) for path in self._paths]
        return names.index(name) + 1 if name in names else sum(path < self._base / name for path in self._paths)

    def _decode(self, path: Path) -> Shot:
        name = shown_name(path.relative_to(self._base))
        try:
            decoded = decode_image(read_bytes(path), path)
            if decoded.more_pages:
                return Shot(
                    None, source=name, error=f"{shown_name(path)}: the file has several pages, and only one can be inspected"
                )
            return Shot(decoded.image, source=name)
        except DataError as error:
            return Shot(None, source=name, error=shown_name(error.what))
        except (cv2.error, MemoryError) as error:  # OpenCV raises for sizes beyond its limits
            return Shot(None, source=name, error=f"{shown_name(path)}: {str(error).strip() or 'not enough memory'}")

    def _path(self, position: int) -> Path | None:
        index = self._first + position - self._start_at
        if index >= len(self._paths) and not self._config.loop:
            return None
        return self._paths[index % len(self._paths)]
