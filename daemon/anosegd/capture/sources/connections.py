"""Finds out whether the connection of a stream has ended. Runs in the capture process.

If a connection ends within a frame, FFmpeg gives what came of it, and reports the end only when it reads again. Its H.265
decoder does not report either that a frame's last rows are missing.
"""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path


class Connections:
    """Knows the TCP connections of one stream, which a library opened in this process."""

    def __init__(self) -> None:
        self._sockets: set[int] = set()

    @contextmanager
    def opened(self) -> Iterator[None]:
        """Take the connections that are opened in the `with` block."""
        before = _sockets()
        try:
            yield
        finally:
            self._sockets = _sockets() - before

    @property
    def ended(self) -> bool:
        """Whether one of them has ended and everything that it brought has been read."""
        return any(_has_ended(fd) for fd in self._sockets)


def _sockets() -> set[int]:
    found = set()
    for name in list(Path("/proc/self/fd").iterdir()):
        with suppress(OSError):  # the descriptor of this list
            if stat.S_ISSOCK(os.fstat(int(name.name)).st_mode):
                found.add(int(name.name))
    return found


def _has_ended(fd: int) -> bool:
    try:
        with socket.socket(fileno=os.dup(fd)) as copy:
            return copy.type == socket.SOCK_STREAM and not copy.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except ConnectionError:
        return True
    except OSError:  # nothing to read yet, or the library has closed it
        return False
