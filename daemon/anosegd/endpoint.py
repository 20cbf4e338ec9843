"""Checks and binds the addresses at which the daemon listens: without keys, only loopback TCP and ipc."""

from __future__ import annotations

import errno
import ipaddress
import os
import re
import socket as socketlib
import stat

import zmq

from anoseg_engines.errors import ConfigError, PublishError

IPC = "ipc://"
MAX_PORT = 65_535
MAX_IPC_PATH_BYTES = 107  # of a Unix socket


_TCP = re.compile(r"tcp://(\[[^\[\]]+\]|[^\[\]:\s]+):(\d{1,5})")
_HOST = re.compile(r"\[[0-9A-Fa-f:.]+(%[0-9A-Za-z._-]+)?\]|[0-9A-Za-z._-]+")
"""What ZeroMQ looks up or takes for an address."""


def check_address(endpoint: str) -> None:
    """Check the address of another station, which may be on another machine.

    Raises:
        ValueError: It is no address.
    """
    if endpoint.startswith(IPC):
        _check_ipc(endpoint)
        return
    match = _TCP.fullmatch(endpoint)
    if not (match and _HOST.fullmatch(match[1]) and 0 < int(match[2]) <= MAX_PORT):
        raise ValueError(f"{endpoint}: not an endpoint; write tcp://HOST:PORT or ipc:///PATH")


def check_endpoint(endpoint: str) -> None:
    """Check an address at which the daemon is to listen.

    Raises:
        ValueError: The endpoint is invalid.
    """
    if endpoint.startswith(IPC):
        _check_ipc(endpoint)
        return
    match = _TCP.fullmatch(endpoint)
    if not match or not 0 < int(match[2]) <= MAX_PORT:
        raise ValueError(f"{endpoint}: not an endpoint; write tcp://127.0.0.1:PORT or ipc:///PATH")
    try:
        match[1] == "localhost" or ipaddress.ip_address(match[1].strip("[]"))
    except ValueError:
        raise ValueError(f"{endpoint}: give the IP address at which to listen, not a name; 0.0.0.0 is every address") from None


def _check_ipc(endpoint: str) -> None:
    path = endpoint[len(IPC) :]
    if not path.startswith(("/", "@")):
        raise ValueError(f"{endpoint}: an ipc endpoint needs an absolute path")
    if path.endswith("/") or path == "@":
        raise ValueError(f"{endpoint}: the name of the socket is missing; write ipc:///PATH")
    if len(path.encode()) > MAX_IPC_PATH_BYTES:
        raise ValueError(f"{endpoint}: the path is longer than {MAX_IPC_PATH_BYTES} bytes, the limit for a socket")


def check_local(endpoint: str) -> None:
    """Check that no other machine can reach a valid endpoint.

    Raises:
        ValueError: One could.
    """
    if endpoint.startswith(IPC):
        return
    host = endpoint.removeprefix("tcp://").rpartition(":")[0]
    if host != "localhost" and not ipaddress.ip_address(host.strip("[]")).is_loopback:
        raise ValueError(
            f"{endpoint}: only loopback addresses (127.0.0.1, [::1], localhost) and ipc are allowed without keys: at any other "
            "address, everyone in the network could listen. Set `keys`"
        )


def same_place(endpoint: str, other: str) -> bool:
    """Return whether two valid endpoints are one address, however they are written. A link to a folder is followed."""
    return _place(endpoint) == _place(other)


def _place(endpoint: str) -> tuple[str, str]:
    if endpoint.startswith(IPC):
        path = endpoint[len(IPC) :]
        return IPC, path if path.startswith("@") else os.path.realpath(path)
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    host = host.strip("[]")
    return "127.0.0.1" if host == "localhost" else ipaddress.ip_address(host).compressed, str(int(port))


def check_socket_place(endpoint: str) -> None:
    """Check that nothing else than a socket is at an ipc path: libzmq deletes whatever is there.

    Raises:
        ConfigError: Something else is there.
    """
    if not endpoint.startswith(f"{IPC}/"):
        return
    path = endpoint[len(IPC) :]
    try:
        found = os.lstat(path).st_mode
    except OSError:
        return
    if not stat.S_ISSOCK(found):
        kind = "a folder" if stat.S_ISDIR(found) else "a link" if stat.S_ISLNK(found) else "a file"
        raise ConfigError(f"{endpoint}: {path} is {kind}, not a socket", hint="give a path at which nothing else is")


def bind(socket: zmq.Socket[bytes], endpoint: str) -> None:
    """Bind the socket.

    Raises:
        PublishError: The endpoint is in use, or cannot be bound.
        ConfigError: Something else than a socket is at an ipc path.
    """
    check_socket_place(endpoint)
    # libzmq would take an ipc path away from another program, so check first whether a program answers there.
    if endpoint.startswith(f"{IPC}/") and answers(endpoint):
        raise PublishError(f"{endpoint} is in use", hint="stop the other daemon, or choose another endpoint")
    socket.setsockopt(zmq.IPV6, int("[" in endpoint))
    try:
        socket.bind(endpoint)
    except zmq.ZMQError as error:
        if error.errno == errno.EADDRINUSE:
            raise PublishError(f"{endpoint} is in use", hint="stop the other daemon, or choose another endpoint") from error
        raise PublishError(f"{endpoint} cannot be bound ({error.strerror})") from error


def answers(endpoint: str) -> bool:
    """Return whether a program listens at the endpoint. ZeroMQ itself reports an address that cannot be used."""
    if endpoint.startswith(f"{IPC}/"):
        return _answers(socketlib.AF_UNIX, endpoint[len(IPC) :])
    host, _, port = endpoint.removeprefix("tcp://").rpartition(":")
    if not endpoint.startswith("tcp://") or not port.isdecimal() or int(port) > MAX_PORT:
        return True
    host = host.strip("[]")
    return _answers(socketlib.AF_INET6 if ":" in host else socketlib.AF_INET, (host, int(port)))


def _answers(family: int, address: str | tuple[str, int]) -> bool:
    with socketlib.socket(family, socketlib.SOCK_STREAM) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(address)
        except TimeoutError:  # a busy program holds it
            return True
        except OSError:
            return False
        return True
