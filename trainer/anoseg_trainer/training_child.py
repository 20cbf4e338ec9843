"""The process of one training: `anoseg-train fit`, which ends when the process that started it ends.

`python -m anoseg_trainer.training_child PARENT fit ...`. PARENT is the process id of the one that waits for it.
"""

from __future__ import annotations

import contextlib
import io
import signal
import sys

from anoseg_engines.parent_process import end_with
from anoseg_trainer.cli import main as train


def main() -> None:
    """Run the command; the arguments are those of the process."""
    end_with(int(sys.argv[1]), signal.SIGTERM)  # the training then saves a checkpoint
    sys.argv[1:2] = []
    sys.stdout = sys.stderr = _Unbreakable(sys.stderr.buffer, encoding="utf-8", errors="backslashreplace", line_buffering=True)
    train()


class _Unbreakable(io.TextIOWrapper):
    """Output that nobody may read any more: a training must still write its last checkpoint then."""

    def write(self, text: str) -> int:
        with contextlib.suppress(OSError):
            return super().write(text)
        return len(text)

    def flush(self) -> None:
        with contextlib.suppress(OSError):
            super().flush()


if __name__ == "__main__":
    main()
