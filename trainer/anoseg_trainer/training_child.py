"""The process of one training: `anoseg-train fit`, which ends when the process that started it ends.

`python -m anoseg_trainer.training_child PARENT fit ...`. PARENT is the process id of the one that waits for it.
"""

from __future__ import annotations

import contextlib
import ctypes
import io
import os
import signal
import sys

from anoseg_trainer.cli import main as train


def main() -> None:
    """Run the command; the arguments are those of the process."""
    _end_with(int(sys.argv[1]))
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


def _end_with(parent: int) -> None:
    """Have the kernel send SIGTERM when the thread that started this process ends: the training then saves a checkpoint."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None, use_errno=True).prctl(pr_set_pdeathsig, signal.SIGTERM)
    if os.getppid() != parent:  # it ended before the call
        sys.exit(1)


if __name__ == "__main__":
    main()
