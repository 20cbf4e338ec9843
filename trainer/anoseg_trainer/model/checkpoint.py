"""Checkpoints: everything a training needs to go on, replaced atomically, with a readable note beside it."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch

from anoseg_engines.errors import AnosegError, DataError

NAME = "checkpoint.pt"


def save_checkpoint(folder: Path, state: dict[str, Any], note: dict[str, Any]) -> None:
    """Write `state` to a temporary file, then rename: a kill at any moment leaves the old or the new one, whole.

    Raises:
        AnosegError: no space left or no permission; the old checkpoint stays.
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
        raise AnosegError(f"{folder}: the checkpoint cannot be written ({error})", hint="free space or give --work") from error


def load_checkpoint(folder: Path) -> dict[str, Any]:
    """Read the checkpoint of `folder`.

    Raises:
        DataError: there is none, or it is damaged.
    """
    path = folder / NAME
    if not path.is_file():
        raise DataError(f"{path}: no checkpoint to resume from", hint="leave --resume out, or give the --work of that training")
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, KeyError) as error:
        raise DataError(f"{path}: damaged checkpoint ({error})", hint="start anew without --resume") from error
    return state
