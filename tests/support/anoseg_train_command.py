"""Runs `anoseg-train` for tests: in this process, or in one of its own where signals are the point."""

import os
import subprocess
import sys
from pathlib import Path

from support.commands import run_here
from support.paths import REPOSITORY

COMMAND = [sys.executable, "-m", "anoseg_trainer.cli"]
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(str(REPOSITORY / d) for d in ("engines", "trainer"))}


def run(*arguments: object, cwd: Path | None = None) -> "subprocess.CompletedProcess[str]":
    """Run `anoseg-train ARGUMENTS` in this process."""
    from anoseg_trainer.cli import main  # takes seconds to import: PyTorch

    return run_here(main, "anoseg-train", *arguments, cwd=cwd)


def run_process(*arguments: object) -> "subprocess.CompletedProcess[str]":
    """Run `anoseg-train ARGUMENTS` in a process of its own."""
    command = [*COMMAND, *map(str, arguments)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=250, check=False)
