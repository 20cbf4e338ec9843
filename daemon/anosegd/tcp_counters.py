"""Reads what the kernel counts about a TCP connection. Any thread."""

from __future__ import annotations

import socket as socketlib
import struct
from typing import NamedTuple, Protocol

COUNTERS = struct.Struct("=120xQQ8xI")
"""`tcpi_bytes_acked`, `tcpi_bytes_received` and `tcpi_notsent_bytes` in the kernel's struct tcp_info, since Linux 4.6."""


class HasOptions(Protocol):
    """A socket, or what asyncio shows of one."""

    def getsockopt(self, level: int, option: int, length: int, /) -> bytes:
        """Read an option, as socket.getsockopt does."""


class TcpCounters(NamedTuple):
    """Bytes of one connection since it was opened.

    Attributes:
        acknowledged: Sent, and received by the other end's kernel.
        received: Received by this machine's kernel.
        unsent: Written, but not sent yet: the other end has no room for it, or the network is slow.
    """

    acknowledged: int
    received: int
    unsent: int


def tcp_counters(connection: HasOptions) -> TcpCounters | None:
    """Return the counters of a connection; None if it is no TCP connection."""
    try:
        info = connection.getsockopt(socketlib.IPPROTO_TCP, socketlib.TCP_INFO, COUNTERS.size)
    except OSError:
        return None
    return TcpCounters(*COUNTERS.unpack(info)) if len(info) == COUNTERS.size else None
