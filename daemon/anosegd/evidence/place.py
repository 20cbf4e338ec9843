"""Checks the place of the evidence before a station starts. Runs on the caller's thread."""

from __future__ import annotations

import os
from pathlib import Path

from anoseg_engines.errors import ConfigError
from anoseg_engines.files import shown_name
from anoseg_engines.permissions import ENTER, looking
from anosegd.evidence.config import EvidenceConfig


@looking(ConfigError, key="evidence.folder", hint=ENTER)
def check_place(config: EvidenceConfig) -> None:
    """Check that nothing else is where the folder is to be. A disk that is missing or full does not stop a station.

    Raises:
        ConfigError: Something else is there.
    """
    folder = Path(config.folder)
    for path in (folder, *folder.parents):
        if os.path.lexists(path):
            if not path.is_dir():
                raise ConfigError(f"evidence.folder: {shown_name(path)}: is not a folder", hint="name another folder")
            return


def place_warning(config: EvidenceConfig) -> str | None:
    """Return why no parts could be kept now; None if they could."""
    there = Path(config.folder)
    while not os.access(there, os.F_OK):  # Path.exists fails below a folder that this user may not enter
        there = there.parent
    shown = shown_name(config.folder)
    if not os.access(there, os.W_OK | os.X_OK):
        return f"evidence.folder: {shown}: this user may not write there: no pictures of parts will be kept"
    disk = os.statvfs(there)
    if disk.f_bavail < config.min_free * disk.f_blocks:
        return (
            f"evidence.folder: {shown}: the disk has less than {config.min_free:.0%} free, which min_free asks for: "
            "no pictures of parts will be kept"
        )
    return None
