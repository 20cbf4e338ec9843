"""Which addresses the daemon may listen on: loopback TCP and ipc, until keys are supported."""

from __future__ import annotations

import errno
import ipaddress
import re
import socket as socketlib

import zmq

from anoseg_engines.errors import PublishError


def check_endpoint(endpoint: str) -> None:
    """Refuse what is not loopback TCP or ipc.

    Raises:
        ValueError: with the reason.
    """
    if endpoint.startswith("ipc://"):
        path = endpoint[len("ipc://") :]
        if not path.startswith(("/", "@")):
            raise ValueError(f"{endpoint}: an ipc endpoint needs an absolute path")
        if len(path.encode()) > 107:
            raise ValueError(f"{endpoint}: the path is longer than the 107 bytes a socket may have")
        return
    match = re.fullmatch(r"tcp://(\[?[^\]]+\]?):(\d{1,5})", endpoint)
    if not match or not 0 < int(match[2]) < 65536:
        raise ValueError(f"{endpoint}: not an endpoint; write tcp://127.0.0.1:PORT or ipc:///PATH")
    try:
        local = ipaddress.ip_address(match[1].strip("[]")).is_loopback
    except ValueError:
        local = False
    if not local:
        raise ValueError(
            f"{endpoint}: only loopback addresses (127.0.0.1, [::1]) and ipc are served: whoever can reach another address "
            "could listen, so that needs keys, which this version does not support"
        )


def bind(socket: zmq.Socket[bytes], endpoint: str) -> None:
    """Bind, and refuse an endpoint that somebody else serves.

    Raises:
        PublishError: it is in use or cannot be bound.
    """
    # libzmq takes an ipc path away from whoever serves it: ask first whether somebody answers there.
    if endpoint.startswith("ipc:///") and _answers(endpoint[len("ipc://") :]):
        raise PublishError(f"{endpoint} is in use", hint="stop the other daemon, or choose another endpoint")
    socket.setsockopt(zmq.IPV6, int("[" in endpoint))
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        if error.errno == errno.EADDRINUSE:
            raise PublishError(f"{endpoint} is in use", hint="stop the other daemon, or choose another endpoint") from error
        raise PublishError(f"{endpoint} cannot be bound ({error.strerror})") from error


def _answers(path: str) -> bool:
    with socketlib.socket(socketlib.AF_UNIX, socketlib.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except TimeoutError:  # somebody holds it and is busy
            return True
        except OSError:
            return False
        return True
