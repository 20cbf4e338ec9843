"""Lists the signals that control the daemon. They are blocked in every thread; the main thread waits for them."""

from __future__ import annotations

import os
import signal

STEERING = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
WAKING = signal.SIGURG
"""A signal of our own that ends a wait early. A process that has not blocked it ignores it."""


def block() -> None:
    """Block the signals in this thread and in every thread it starts. Call it before importing libraries."""
    signal.pthread_sigmask(signal.SIG_BLOCK, STEERING | {WAKING})


def wake() -> None:
    """End the main thread's `wait`, because there is something to do. Any thread."""
    os.kill(os.getpid(), WAKING)


def wait(timeout_s: float) -> signal.Signals | None:
    """Wait for a signal; return None if none arrives in time, or after `wake`."""
    caught = signal.sigtimedwait(STEERING | {WAKING}, timeout_s)
    # In a process that was stopped and continued, Python's sigtimedwait may return a number that is no signal of ours.
    if caught is None or caught.si_signo not in STEERING:
        return None
    return signal.Signals(caught.si_signo)
