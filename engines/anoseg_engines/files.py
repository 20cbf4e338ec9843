"""Writes files that survive a power cut, removes what a failed write leaves, and shows file names of any encoding."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator
from pathlib import Path


def shown_name(name: str | os.PathLike[str]) -> str:
    """Return a file name, or a text that contains one, as text that can be written: bytes that are not UTF-8 as `\\xf6`."""
    return os.fsencode(name).decode("utf-8", "backslashreplace")


def shown_json(text: str) -> str:
    """Return JSON that can be written: in its texts, bytes of a file name that are not UTF-8 as `\\xf6`."""
    return re.sub("[\udc80-\udcff]", lambda found: rf"\\x{ord(found[0]) - 0xDC00:02x}", text)


@contextlib.contextmanager
def folder_made(folder: Path) -> Iterator[None]:
    """Make a folder and its parents. After the block, the new folders that are empty are removed."""
    made = [p for p in (folder, *folder.parents) if not p.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        yield
    finally:
        for path in made:
            with contextlib.suppress(OSError):  # not empty
                path.rmdir()


def write_synced(path: Path, data: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Wait until the names in a folder are on the disk."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
