"""Listening to a station: one SUB socket, messages checked on arrival. Used by `tail` and `status`."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TypeVar

import msgspec
import zmq

from anoseg_engines.errors import ConfigError

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Message:
    """topic, header as received (JSON)."""

    topic: str
    header: bytes


class Subscription:
    """A connected SUB socket; one thread."""

    def __init__(self, socket: zmq.Socket[bytes]) -> None:
        self._socket = socket

    def receive(self, timeout_s: float) -> Message | None:
        """The next message, None if none came in time."""
        if not self._socket.poll(round(max(0.0, timeout_s) * 1000)):
            return None
        parts = self._socket.recv_multipart()
        return Message(parts[0].decode(errors="replace"), parts[1]) if len(parts) >= 2 else None

    def wait_for(self, topic: str, kind: type[T], timeout_s: float) -> T | None:
        """The next header of `topic`, decoded; None if none came in time."""
        give_up_at = time.monotonic() + timeout_s
        while (left := give_up_at - time.monotonic()) > 0:
            message = self.receive(left)
            if message is not None and message.topic == topic:
                return decode(message, kind)
        return None


@contextmanager
def subscribe(endpoint: str, *topics: str) -> Iterator[Subscription]:
    """Connect to `endpoint` and subscribe; a station that is not there yet is waited for by ZeroMQ.

    Raises:
        ConfigError: the endpoint is none.
    """
    with zmq.Context() as context, context.socket(zmq.SUB) as socket:
        socket.linger = 0
        socket.rcvhwm = 100_000
        socket.setsockopt(zmq.IPV6, int("[" in endpoint))
        for topic in topics:
            socket.subscribe(topic)
        try:
            socket.connect(endpoint)
        except zmq.ZMQError as error:
            raise ConfigError(f"{endpoint}: not an endpoint ({error.strerror})", hint="write tcp://127.0.0.1:PORT") from error
        yield Subscription(socket)


def decode(message: Message, kind: type[T]) -> T:
    """The header as `kind`.

    Raises:
        ConfigError: it is not such a header: another program, or another version, publishes there.
    """
    try:
        return msgspec.json.decode(message.header, type=kind)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise ConfigError(f"topic {message.topic}: not a header this version understands: {error}") from error
