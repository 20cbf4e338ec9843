"""Saves and loads the state of a training: one file that is replaced atomically, and a readable summary beside it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from anoseg_engines.errors import AnosegError, DataError

NAME = "checkpoint.pt"


def save_checkpoint(folder: Path, state: dict[str, Any], note: dict[str, Any]) -> None:
    """Write a checkpoint. If the process is killed at any moment, either the earlier or the new checkpoint is complete.

    Args:
        folder: The folder of the checkpoint.
        state: Everything that a training needs in order to continue.
        note: The readable summary.

    Raises:
        AnosegError: The disk is full, or writing is not permitted; the earlier checkpoint stays.
    """
    temporary = folder / (NAME + ".tmp")
    try:
        with temporary.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(folder / NAME)
        (folder / "checkpoint.json").write_text(json.dumps(note, indent=1) + "\n", encoding="utf-8")
    except (OSError, RuntimeError) as error:  # torch reports a full disk as RuntimeError
        temporary.unlink(missing_ok=True)
        raise AnosegError(f"{folder}: the checkpoint cannot be written ({error})", hint="free space or set --work") from error


def find_checkpoint(folder: Path) -> Path:
    """Return the checkpoint's file.

    Raises:
        DataError: No checkpoint exists.
    """
    path = folder / NAME
    if not path.is_file():
        raise DataError(f"{path}: no checkpoint to resume from", hint="omit --resume, or give the --work of that training")
    return path


def load_checkpoint(folder: Path) -> dict[str, Any]:
    """Read the checkpoint of `folder`.

    Raises:
        DataError: No checkpoint exists, or it is damaged.
    """
    path = find_checkpoint(folder)
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise DataError(f"{path}: damaged checkpoint ({error})", hint="start again without --resume") from error
    return state
