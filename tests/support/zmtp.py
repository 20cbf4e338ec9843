"""ZMTP by hand (ZeroMQ RFC 23), for clients that do what no library would do."""

from __future__ import annotations

import socket
import struct

LONG = 2
GREETING_BYTES = 64


def greeting(mechanism: bytes = b"NULL", *, version: bytes = b"\3\0") -> bytes:
    """What both sides send first."""
    return b"\xff" + bytes(7) + b"\x01\x7f" + version + mechanism.ljust(20, b"\0")[:20] + bytes(32)


def frame(content: bytes, flags: int = 0) -> bytes:
    """One frame. Flag 1: more frames of this message follow; flag 4: a command."""
    if len(content) < 256:
        return bytes([flags, len(content)]) + content
    return bytes([flags | LONG]) + struct.pack(">Q", len(content)) + content


def command(name: bytes, content: bytes = b"") -> bytes:
    """One command."""
    return frame(bytes([len(name)]) + name + content, 4)


def ready(kind: bytes) -> bytes:
    """The command that ends a handshake without keys."""
    properties = ((b"Socket-Type", kind), (b"Identity", b""))
    packed = (bytes([len(name)]) + name + struct.pack(">I", len(value)) + value for name, value in properties)
    return command(b"READY", b"".join(packed))


def handshake(peer: socket.socket, kind: bytes) -> None:
    """Connect as a socket of this kind, such as DEALER or SUB."""
    peer.sendall(greeting())
    _receive(peer, GREETING_BYTES)
    peer.sendall(ready(kind))
    _, size = _receive(peer, 2)
    _receive(peer, size)


def _receive(peer: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = peer.recv(size - len(data))
        if not more:
            raise ConnectionResetError
        data += more
    return data
