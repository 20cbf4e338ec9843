"""Folders that take long to make, shared by the workers of pytest-xdist."""

import fcntl
import os
from collections.abc import Callable
from pathlib import Path

import pytest


def made_once(tmp_path_factory: pytest.TempPathFactory, name: str, make: Callable[[Path], None]) -> Path:
    """Give a folder that one worker makes and all others use.

    Args:
        tmp_path_factory: pytest's fixture.
        name: The folder's name.
        make: Fills the folder; tests must not change it.

    Returns:
        The folder. A worker waits while another one makes it.
    """
    root = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:
        root = root.parent  # the folder of the whole run
    folder = root / f"shared-{name}"
    with (root / f"shared-{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        finished = root / f"shared-{name}.finished"
        if not finished.exists():
            folder.mkdir()
            make(folder)
            finished.touch()
    return folder
