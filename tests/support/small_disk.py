"""A small file system for tests of full and read-only disks."""

from __future__ import annotations

import contextlib
import os
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest


@contextlib.contextmanager
def mounted(place: Path, size: str) -> Iterator[Path]:
    """Mount a file system of this size at `place`; skips the test where that is not allowed."""
    place.mkdir()
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    if subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", place], capture_output=True).returncode:
        pytest.skip("may not mount here")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def remount(place: Path, option: str) -> None:
    """Change an option of a mounted file system: `ro` or `rw`. `ro` waits for a moment when no file is open for writing."""
    give_up_at = time.monotonic() + 30
    while subprocess.run(["mount", "-o", f"remount,{option}", place], capture_output=True).returncode:
        assert time.monotonic() < give_up_at, f"{place} cannot be made {option}"


def fill(disk: Path) -> Path:
    """Fill the remaining space with another file, and return it."""
    filler = disk / "filler"
    with filler.open("wb", buffering=0) as f:
        for size in (65536, 4096, 1):
            with contextlib.suppress(OSError):
                while f.write(bytes(size)) == size:
                    pass
    return filler
