"""Finds the sockets behind file descriptors that libzmq owns, and shuts them down. Any thread.

libzmq may close a descriptor at any moment, and the next file gets its number. Device and inode tell them apart.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket as socketlib
import stat
import struct
from collections.abc import Iterator

Identity = tuple[int, int]
"""Device and inode of an open socket."""
RESET = struct.pack("ii", 1, 0)
"""For SO_LINGER: closing the socket resets the connection."""


def identity_of(descriptor: int) -> Identity | None:
    """Return what identifies the socket with this descriptor; None if it is closed, or no socket."""
    try:
        status = os.fstat(descriptor)
    except OSError:
        return None
    return (status.st_dev, status.st_ino) if stat.S_ISSOCK(status.st_mode) else None


@contextlib.contextmanager
def duplicate(descriptor: int, identity: Identity) -> Iterator[socketlib.socket | None]:
    """Lend a duplicate of a socket's descriptor, which stays this socket's; None if the descriptor is another's by now.

    Raises:
        OSError: The process has no free file descriptor.
    """
    try:
        copy = os.dup(descriptor)
    except OSError as error:
        if error.errno != errno.EBADF:
            raise
        yield None
        return
    if identity_of(copy) != identity:
        os.close(copy)
        yield None
        return
    with socketlib.socket(fileno=copy) as connection:
        yield connection


def shut_down(descriptor: int, identity: Identity) -> bool:
    """Shut a connection down and return whether it was still the wanted one.

    Raises:
        OSError: The process has no free file descriptor.
    """
    with duplicate(descriptor, identity) as connection:
        if connection is None:
            return False
        with contextlib.suppress(OSError):  # its other end may be gone
            # Otherwise a sender whose data finds no room would not learn that the connection was closed.
            connection.setsockopt(socketlib.SOL_SOCKET, socketlib.SO_LINGER, RESET)
        with contextlib.suppress(OSError):
            connection.shutdown(socketlib.SHUT_RDWR)
        return True
