"""Parses and binds the address at which the screen is served: loopback only, because there are no users and no TLS yet."""

from __future__ import annotations

import errno
import ipaddress
import re
import socket
from typing import NamedTuple

from anoseg_engines.errors import ConfigError, PublishError

MAX_PORT = 65_535
UNSENT_LIMIT_MS = 20_000
"""The kernel closes a connection whose browser has taken nothing for this long."""

_ADDRESS = re.compile(r"(\[[^\[\]]+\]|[^\[\]:\s]+):(\d{1,5})")


class Address(NamedTuple):
    """A loopback address. `host` is without brackets."""

    host: str
    port: int

    @property
    def url(self) -> str:
        """Where a browser finds the screen."""
        return f"http://{f'[{self.host}]' if ':' in self.host else self.host}:{self.port}/"


def listen_address(text: str) -> Address:
    """Parse HOST:PORT. Port 0 stands for any free port.

    Raises:
        ValueError: It is no address, or other machines could reach it.
    """
    match = _ADDRESS.fullmatch(text)
    if not match or int(match[2]) > MAX_PORT:
        raise ValueError(f"{text}: not an address; write 127.0.0.1:8080")
    host = match[1].strip("[]")
    try:
        local = host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        local = False
    if not local:
        raise ValueError(
            f"{text}: only loopback addresses (127.0.0.1, [::1], localhost) are allowed: at any other address, everyone in the "
            "network could watch. That needs users and encryption, which this version does not support"
        )
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
