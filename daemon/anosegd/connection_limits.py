"""Limits what each connection of one ZeroMQ socket may keep in memory, and closes those that exceed it. Socket's thread.

libzmq limits the size of a frame and the number of messages, but not the frames of one message, which it keeps until the last
one has come, nor the subscriptions of one connection. So this module compares what the kernel has received on each connection
with what the socket has delivered. It cannot do so for ipc connections, which only programs of this machine open.

A message says on which descriptor it came. By the time it is read, that descriptor may be the next client's. So no connection
is closed for more than the kernel has received on it.
"""

from __future__ import annotations

import contextlib
import socket as socketlib
import struct
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import zmq

from anosegd import logs
from anosegd.descriptors import Identity, duplicate, identity_of, shut_down
from anosegd.tcp_counters import tcp_counters

CHECK_EVERY_S = 0.25
MAX_EVENTS = 500
"""Events that are looked at in one step, so that nobody can hold up the thread with connections."""
MAX_UNREAD_BYTES = 512 << 10
"""What one connection may send that is not delivered, as far as it is not a whole message."""
MAX_UNREAD_BYTES_OF_ALL = 4 << 20
FRAME_BYTES = 64
"""What a frame takes on the wire besides its content, at most: its length, and with keys a nonce and a checksum."""
UNREAD_BYTES_PER_S = 1024
"""What a connection may send besides: ZeroMQ's heartbeats. No message delivers them.

With keys, a heartbeat every 0.2 s takes 210 bytes a second. A message that never ends may grow at this rate: by 88 MB a day.
"""
STUCK_S = 5.0
"""If a connection takes nothing for this long although something waits for it, its client does not read."""
MAX_SUBSCRIPTIONS = 256
MAX_TOPIC_BYTES = 16 << 10
"""Of all subscriptions of one connection."""
EVENT = struct.Struct("=Hi")
FailedHandshake = Callable[[int, int, str], None]
"""Is given event, value and endpoint of a handshake that failed, as zmq_socket_monitor(3) describes them."""


@dataclass(slots=True)
class _Connection:
    """One accepted connection.

    Attributes:
        identity: Its socket.
        looked_at: When what it had sent was looked at last, monotonic seconds.
        delivered: Bytes of its frames that the socket has delivered, with what they take on the wire.
        allowed: Bytes that were not delivered and are taken for heartbeats. What is not used up is not saved for later.
        acknowledged: Bytes that its client had taken when that was looked at last.
        taking_at: When its client had last taken something, or nothing waited for it, monotonic seconds.
        topics: Its subscriptions.
    """

    identity: Identity
    looked_at: float
    delivered: int = 0
    allowed: float = 0.0
    acknowledged: int = -1
    taking_at: float = 0.0
    topics: set[bytes] = field(default_factory=set)


class ConnectionLimits:
    """The open connections of one socket, and what each may use.

    Args:
        socket: The socket, before it is bound.
        failed_handshake: Called for each handshake that fails.

    Attributes:
        subscribers: How many open connections subscribe to a topic; it has no topic without any. Other threads may look topics
            up. Nobody else can end a connection's subscription.
    """

    def __init__(self, socket: zmq.Socket[bytes], failed_handshake: FailedHandshake | None = None) -> None:
        self._socket = socket
        self._failed_handshake = failed_handshake
        self.subscribers: Counter[bytes] = Counter()
        self._open: dict[int, _Connection] = {}  # by file descriptor
        self._check_at = 0.0
        self._stuck_looked_at = 0.0
        self._closed = logs.Throttles("connection.closed")
        self._monitor: zmq.Socket[bytes] | None = None

    def __enter__(self) -> ConnectionLimits:
        events = zmq.EVENT_ACCEPTED
        if self._failed_handshake is not None:
            events |= zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL | zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
        address = f"inproc://connections-{id(self)}"
        self._socket.monitor(address, events)
        self._monitor = self._socket.context.socket(zmq.PAIR)
        self._monitor.rcvhwm = 0  # a full queue would stop libzmq's thread, and with it the verdicts
        self._monitor.linger = 0
        self._monitor.connect(address)
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.disable_monitor()
        if self._monitor is not None:
            self._monitor.close()

    def delivered(self, *frames: zmq.Frame) -> None:
        """Count the frames that the socket has delivered, all of one message, without the routing id."""
        connection = self._connection_of(frames[-1])
        if connection is not None:
            connection.delivered += sum(len(frame) + FRAME_BYTES for frame in frames)

    def subscription(self, frame: zmq.Frame) -> None:
        """Count a message that an XPUB socket has delivered. A connection with too many subscriptions is closed."""
        connection = self._connection_of(frame)
        if connection is None:
            return
        topic = frame.bytes[1:]
        if frame.bytes[:1] != b"\1":
            self._end(connection, {topic})  # unless it does not have it
            return
        if topic not in connection.topics:
            connection.topics.add(topic)
            self.subscribers[topic] += 1
        topic_bytes = sum(map(len, connection.topics))
        if len(connection.topics) > MAX_SUBSCRIPTIONS or topic_bytes > MAX_TOPIC_BYTES:
            descriptor = int(frame.get(zmq.SRCFD))
            try:
                with duplicate(descriptor, connection.identity) as copy:
                    received = None if copy is None else _received(copy)
            except OSError:  # no file descriptor is free: its next subscription will do
                return
            if received is None or received >= topic_bytes:
                self._shut_down(descriptor, "it has too many subscriptions")
            else:  # they are of the client that had this descriptor before
                self._end(connection, set(connection.topics))

    def _end(self, connection: _Connection, topics: set[bytes]) -> None:
        """End subscriptions that a connection has."""
        for topic in topics & connection.topics:
            if self.subscribers[topic] > 1:
                self.subscribers[topic] -= 1
            else:
                del self.subscribers[topic]
        connection.topics -= topics

    def _forget(self, descriptor: int) -> None:
        """Forget a connection that is closed."""
        connection = self._open.pop(descriptor, None)
        if connection is not None:
            self._end(connection, set(connection.topics))

    def check(self) -> bool:
        """Look at what has happened. Call it at least four times a second.

        Returns:
            Whether something is left, for which it is to be called at once.
        """
        more = self._take_events()
        now = time.monotonic()
        if now >= self._check_at:
            self._check_at = now + CHECK_EVERY_S
            with contextlib.suppress(OSError):  # no file descriptor is free: look again next time
                self._close_flooding(now)
        return more

    def close_stuck(self) -> None:
        """Close TCP connections whose clients do not read what waits for them. Call it often while too much waits."""
        now = time.monotonic()
        began = now - self._stuck_looked_at > STUCK_S / 2  # what was seen long ago says nothing about now
        self._stuck_looked_at = now
        for descriptor, connection in list(self._open.items()):
            try:
                with duplicate(descriptor, connection.identity) as copy:
                    counters = None if copy is None else tcp_counters(copy)
            except OSError:  # no file descriptor is free: look again next time
                return
            if counters is None:
                continue
            if began or counters.acknowledged != connection.acknowledged or not counters.unsent:
                connection.acknowledged, connection.taking_at = counters.acknowledged, now
            elif now - connection.taking_at > STUCK_S:
                self._shut_down(descriptor, "it does not read what it subscribes to")

    def _take_events(self) -> bool:
        """Look at events, at most `MAX_EVENTS`. Return whether some may be left."""
        assert self._monitor is not None, "within a with block"
        for _ in range(MAX_EVENTS):
            try:
                content, endpoint = self._monitor.recv_multipart(zmq.DONTWAIT)
            except zmq.Again:
                return False
            event, value = EVENT.unpack(content)
            self._take(event, value, endpoint.decode())
        return True

    def _take(self, event: int, value: int, endpoint: str) -> None:
        if event == zmq.EVENT_ACCEPTED:
            identity, before = identity_of(value), self._open.get(value)
            if before is not None and before.identity == identity:
                return  # the event of an earlier connection, which has been closed, was taken for this one's
            self._forget(value)
            if identity is not None:
                self._open[value] = _Connection(identity, time.monotonic())
        elif self._failed_handshake is not None:
            self._failed_handshake(event, value, endpoint)

    def _connection_of(self, frame: zmq.Frame) -> _Connection | None:
        try:
            descriptor = int(frame.get(zmq.SRCFD))
        except zmq.ZMQError:  # libzmq made this message itself
            return None
        identity = identity_of(descriptor)
        connection = self._open.get(descriptor)
        if connection is None or connection.identity != identity:
            self._take_events()  # its first message may come before the event of its connection was looked at
            connection = self._open.get(descriptor)
        return None if connection is None or connection.identity != identity else connection

    def _close_flooding(self, now: float) -> None:
        """Close connections whose messages are too long, and those with the longest while all together are."""
        unread: list[tuple[float, int]] = []
        for descriptor, connection in list(self._open.items()):
            with duplicate(descriptor, connection.identity) as copy:
                if copy is None:  # it has been closed
                    self._forget(descriptor)
                    continue
                received = _received(copy)
            if received is None:
                continue
            connection.delivered = min(connection.delivered, received)
            more = UNREAD_BYTES_PER_S * (now - connection.looked_at)
            connection.looked_at = now
            connection.allowed = min(connection.allowed + more, received - connection.delivered)
            unread.append((received - connection.delivered - connection.allowed, descriptor))
        total = sum(left for left, _ in unread)
        for left, descriptor in sorted(unread, reverse=True):
            if left <= MAX_UNREAD_BYTES and total <= MAX_UNREAD_BYTES_OF_ALL:
                break
            self._shut_down(descriptor, "it sends messages without an end")
            total -= left

    def _shut_down(self, descriptor: int, why: str) -> None:
        connection = self._open.get(descriptor)
        if connection is None:
            return
        try:
            with duplicate(descriptor, connection.identity) as copy:
                address = None if copy is None else _address(copy)
            closed = shut_down(descriptor, connection.identity)
        except OSError:  # no file descriptor is free: it stays known, and is closed when it is looked at again
            return
        self._forget(descriptor)
        if closed:
            self._closed.of(why).warning(why=why, address=address)


def _received(connection: socketlib.socket) -> int | None:
    """Return how many bytes the kernel has received; None for ipc."""
    counters = tcp_counters(connection)
    return None if counters is None else counters.received


def _address(connection: socketlib.socket) -> str | None:
    with contextlib.suppress(OSError):
        peer: Any = connection.getpeername()
        return str(peer[0]) if isinstance(peer, tuple) else None
    return None
