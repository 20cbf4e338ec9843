"""Parses and binds the address at which the screen is served."""

from __future__ import annotations

import contextlib
import errno
import ipaddress
import re
import socket
from collections.abc import Collection
from typing import NamedTuple

from anoseg_engines.errors import ConfigError, PublishError

MAX_PORT = 65_535
UNSENT_LIMIT_MS = 20_000
"""The kernel closes a connection whose browser has taken nothing for this long."""

_ADDRESS = re.compile(r"(\[[^\[\]]+\]|[^\[\]:\s]+):(\d{1,5})")


class Address(NamedTuple):
    """An address of this machine. `host` is without brackets."""

    host: str
    port: int

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine reaches it."""
        return self.host == "localhost" or ipaddress.ip_address(self.host).is_loopback

    @property
    def is_every(self) -> bool:
        """Whether it stands for all addresses of this machine."""
        return self.host != "localhost" and ipaddress.ip_address(self.host).is_unspecified

    def url(self, scheme: str = "http", names: Collection[str] = ()) -> str:
        """Return where a browser finds the screen.

        Args:
            scheme: `http` or `https`.
            names: Those of the certificate. One with a domain is shown instead of an address, if all addresses are served.
        """
        host = self.host
        if self.is_every:
            full = sorted(name for name in names if "." in name and not name.startswith("*") and not name.endswith(".local"))
            host = full[0] if full else network_address() or socket.gethostname()
        return f"{scheme}://{f'[{host}]' if ':' in host else host}:{self.port}/"


def network_address() -> str | None:
    """Return the address of this machine's network card; None without a network."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        probe.connect(("192.0.2.1", 9))  # sends nothing; chooses the network card
        return str(probe.getsockname()[0])
    return None


def listen_address(text: str) -> Address:
    """Parse HOST:PORT. Port 0 stands for any free port.

    Raises:
        ValueError: It is no IP address with a port, and not `localhost`.
    """
    match = _ADDRESS.fullmatch(text)
    if not match or int(match[2]) > MAX_PORT:
        raise ValueError(f"{text}: not an address; write 127.0.0.1:8080")
    host = match[1].strip("[]")
    if host != "localhost":
        try:
            ipaddress.ip_address(host)
        except ValueError:
            raise ValueError(f"{text}: give an IP address, such as 127.0.0.1:8080, or 0.0.0.0:8443 for all networks") from None
    return Address(host, int(match[2]))


def bind(address: Address) -> socket.socket:
    """Return a socket that listens at the address.

    Raises:
        PublishError: Another program uses the address.
        ConfigError: This machine has no such address, or this user may not use the port.
    """
    listener = socket.socket(socket.AF_INET6 if ":" in address.host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNSENT_LIMIT_MS)
        listener.bind(address)
        listener.listen(128)  # a browser that connects now waits until the screen answers
    except OSError as error:
        listener.close()
        where = f"{address.host}:{address.port}"
        if error.errno == errno.EADDRINUSE:
            raise PublishError(f"{where} is in use", hint="is a screen running already? Else give another port") from error
        raise ConfigError(f"{where} cannot be used ({error.strerror})", hint="give another address or port") from error
    return listener
