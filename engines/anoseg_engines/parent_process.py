"""Ends a process with the one that started it. Main thread of the process, at its start."""

from __future__ import annotations

import ctypes
import os
import signal

PR_SET_PDEATHSIG = 1
"""Option of Linux's prctl(2)."""


def end_with(parent: int, by: signal.Signals) -> None:
    """Have the kernel send this process a signal when the thread that started it ends, for whatever reason.

    Args:
        parent: Process id of the one that started it.
        by: The signal. If the parent has ended already, it is sent at once.
    """
    ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, by)
    if os.getppid() != parent:  # it ended before the call
        os.kill(os.getpid(), by)
