"""Notifies systemd (sd_notify): READY, STATUS, WATCHDOG, RELOADING, STOPPING. Runs on the main thread.

Outside systemd, nothing is sent.
"""

from __future__ import annotations

import socket
import time
from collections.abc import Mapping

from anoseg_engines.passwords import mask_passwords
from anosegd import logs


class Notifier:
    """Sends to systemd's datagram socket; never blocks and never raises.

    Attributes:
        watchdog_s: Longest time between two WATCHDOG=1; None without a watchdog.
    """

    def __init__(self, address: str | None = None, watchdog_s: float | None = None) -> None:
        self.watchdog_s = watchdog_s
        self._socket: socket.socket | None = None
        self._reported = False
        # A leading @ means Linux' abstract namespace, where the address starts with NUL.
        self._address = "\0" + address[1:] if address and address.startswith("@") else address
        if self._address:
            self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], *, pid: int) -> Notifier:
        """Read NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID as sd_notify(3) and sd_watchdog_enabled(3) define them."""
        usec = environment.get("WATCHDOG_USEC", "")
        meant_for_us = environment.get("WATCHDOG_PID", str(pid)) == str(pid)
        watchdog_s = int(usec) / 1e6 if usec.isascii() and usec.isdigit() and int(usec) > 0 and meant_for_us else None
        return cls(environment.get("NOTIFY_SOCKET"), watchdog_s)

    def ready(self, status: str) -> None:
        """Report that inspection can begin."""
        self._send(f"READY=1\nSTATUS={status}")

    def status(self, status: str) -> None:
        """Set the line that `systemctl status` shows."""
        self._send(f"STATUS={status}")

    def watchdog(self) -> None:
        """Feed the watchdog."""
        if self.watchdog_s is not None:
            self._send("WATCHDOG=1")

    def reloading(self) -> None:
        """Report that a new configuration takes over; `ready` must follow."""
        self._send(f"RELOADING=1\nMONOTONIC_USEC={time.monotonic_ns() // 1000}")

    def stopping(self) -> None:
        """Report that shutdown has begun."""
        self._send("STOPPING=1")

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _send(self, message: str) -> None:
        if self._socket is None or self._address is None:
            return
        try:
            self._socket.sendto(mask_passwords(message).encode(), self._address)
        except OSError as error:
            if not self._reported:
                logs.warning("systemd.unreachable", error=error.strerror)
            self._reported = True
