"""Running the trainer as a user does, for tests."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "anoseg_trainer.cli"]
ENVIRONMENT = os.environ | {"PYTHONPATH": os.pathsep.join(str(ROOT / d) for d in ("engines", "trainer"))}


def run(*arguments, **options):
    """`anoseg-train` in a process of its own."""
    command = [*COMMAND, *(str(a) for a in arguments)]
    return subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=250, check=False, **options)
