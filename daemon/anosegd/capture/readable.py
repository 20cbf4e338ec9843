"""Waits for data on several files. Any thread."""

from __future__ import annotations

import select
from collections.abc import Sequence


def readable(files: Sequence[int], timeout_s: float | None) -> list[int]:
    """Wait and return the descriptors that can be read or have been closed at the other end.

    Not `select.select`: it refuses descriptors above 1023, and a station with many clients has them.

    Args:
        files: The descriptors.
        timeout_s: The longest wait; None is forever.
    """
    poll = select.poll()
    for file in files:
        poll.register(file, select.POLLIN)
    return [file for file, _ in poll.poll(None if timeout_s is None else max(0.0, timeout_s) * 1000)]
