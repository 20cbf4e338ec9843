"""Tries the places of results before the work, so that hours of it are not lost to a folder that cannot be written."""

from __future__ import annotations

import tempfile
from pathlib import Path

from anoseg_engines.errors import ConfigError
from anoseg_engines.permissions import ENTER_AS, looking


@looking(ConfigError, hint=ENTER_AS)
def try_file(path: Path | None, option: str) -> None:
    """Check that a file can be written at `path`; its folder may be missing. Nothing is left behind.

    Raises:
        ConfigError: It cannot.
    """
    if path is None or path.is_char_device() or path.is_fifo():
        return
    if path.is_dir():
        raise ConfigError(f"{option} {path}: is a folder", hint="name a file")
    if path.exists():
        try:
            path.open("ab").close()
        except OSError as error:
            raise ConfigError(f"{option} {path}: cannot be written ({error.strerror})", hint="name another file") from error
    try_folder(path.parent, option)


@looking(ConfigError, hint=ENTER_AS)
def try_folder(path: Path | None, option: str) -> None:
    """Check that the folder `path` can be written, or created. Nothing is left behind.

    Raises:
        ConfigError: It cannot.
    """
    if path is None:
        return
    there = path
    while not there.exists() and there != there.parent:
        there = there.parent
    try:
        tempfile.TemporaryFile(dir=there).close()
    except OSError as error:
        what = "is not a folder" if not there.is_dir() else f"cannot be written ({error.strerror})"
        raise ConfigError(f"{option} {path}: {there} {what}", hint="free space or name another folder") from error
