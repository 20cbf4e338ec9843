"""Opens the socket at which a bridge listens."""

from __future__ import annotations

import errno
import socket

from anoseg_engines.errors import ConfigError, PublishError

UNSENT_LIMIT_MS = 20_000
"""The kernel closes a connection whose client has taken nothing for this long."""


def open_listener(address: tuple[str, int], key: str) -> socket.socket:
    """Return a socket that is bound to an address.

    Args:
        address: IP address and port.
        key: The configuration key that has the address, for an error's hint.

    Raises:
        PublishError: Another program uses the address.
        ConfigError: This machine has no such address, or this user may not use the port.
    """
    host, port = address
    shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if hasattr(socket, "TCP_USER_TIMEOUT"):
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNSENT_LIMIT_MS)
        listener.bind((host, port))
    except OSError as error:
        listener.close()
        if error.errno == errno.EADDRINUSE:
            raise PublishError(
                f"{shown} is in use",
                hint=f"another program listens there, perhaps a second bridge: end it, or set another port in {key}",
            ) from error
        hint = f"set another address or port in {key}"
        if error.errno == errno.EACCES:
            hint = (
                f"only the service may use a port below 1024 (see docs/plc.md): run the bridge as the service, or change {key}"
            )
        raise ConfigError(f"{shown} cannot be used ({error.strerror})", hint=hint) from error
    return listener
