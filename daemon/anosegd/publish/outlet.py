"""Owns the PUB socket: sends messages through it, and hears what subscribers ask for. On the thread "publisher"."""

from __future__ import annotations

import contextlib
from collections import deque
from collections.abc import Iterator

import zmq

from anosegd import endpoint
from anosegd.connection_limits import ConnectionLimits
from anosegd.keys import Guard, new_socket
from anosegd.publish.images import Subscriptions

SEND_HWM = 2000
"""Messages kept for one slow subscriber before it loses some. Each takes about 160 bytes; the content is shared."""
LINGER_MS = 1000
"""How long unsent messages are kept when the daemon stops."""
MAX_WAITING_BYTES = 64 << 20
"""Pictures that ZeroMQ may hold for subscribers that do not read them, and as much of anomaly maps. While it holds more, no
further ones are sent."""
MAX_SUBSCRIPTION_MESSAGES = 1000
"""Subscriptions that are looked at in one step, so that nobody can hold up verdicts with them."""
MAX_SUBSCRIPTION_BYTES = 1024
"""A topic is a word and a camera's name; ZeroMQ's own handshake takes a few hundred bytes."""


class _Waiting:
    """Messages of one kind that ZeroMQ may still hold."""

    def __init__(self) -> None:
        self._sent: deque[tuple[zmq.MessageTracker, int]] = deque()
        self._bytes = 0

    def has_room(self, size: int) -> bool:
        """Return whether so many bytes more may wait."""
        while self._sent and self._sent[0][0].done:
            self._bytes -= self._sent.popleft()[1]
        if self._bytes + size > MAX_WAITING_BYTES:  # one client may hold an old message, and the later ones are sent
            self._sent = deque(each for each in self._sent if not each[0].done)
            self._bytes = sum(waiting for _, waiting in self._sent)
        return self._bytes + size <= MAX_WAITING_BYTES

    def add(self, tracker: zmq.MessageTracker, size: int) -> None:
        """Count a message that was sent."""
        self._sent.append((tracker, size))
        self._bytes += size


class Outlet:
    """The bound socket. `open_outlet` makes it."""

    def __init__(self, socket: zmq.Socket[bytes], limits: ConnectionLimits, guard: Guard | None) -> None:
        self._socket, self._limits, self._guard = socket, limits, guard
        self._images, self._maps = _Waiting(), _Waiting()
        self._crowded = False

    def send(self, topic: str, *frames: bytes) -> None:
        """Send a message to everybody who subscribes to its topic."""
        self._socket.send_multipart([topic.encode(), *frames])

    def send_image(self, topic: bytes, header: bytes, jpeg: bytes) -> None:
        """Send a picture, unless too many wait for subscribers that do not read them."""
        self._send_large(self._images, topic, header, jpeg)

    def send_map(self, topic: bytes, header: bytes, png: bytes) -> bool:
        """Send an anomaly map, unless too many wait for subscribers that do not read them. Return whether it was sent."""
        return self._send_large(self._maps, topic, header, png)

    def _send_large(self, waiting: _Waiting, *frames: bytes) -> bool:
        """Send a message whose last frame is large: those that nobody reads must not fill the memory."""
        self._crowded = not waiting.has_room(len(frames[-1]))
        if self._crowded:
            return False
        tracker = self._socket.send_multipart(frames, copy=False, track=True)
        assert tracker is not None
        waiting.add(tracker, len(frames[-1]))
        return True

    def hear(self) -> bool:
        """Note who subscribes to what, and close connections that would fill the memory.

        Returns:
            Whether something of a flood is left, for which it is to be called at once.
        """
        left = self._limits.check()
        if self._crowded:  # who does not read must not take pictures and maps from those who do
            self._limits.close_stuck()
        with contextlib.suppress(zmq.Again):
            for _ in range(MAX_SUBSCRIPTION_MESSAGES):
                frame = self._socket.recv(zmq.DONTWAIT, copy=False)
                self._limits.delivered(frame)
                self._limits.subscription(frame)
                if self._guard is not None:
                    self._guard.peer(frame)  # it closes this connection when the key is revoked
            return True
        return left


@contextlib.contextmanager
def open_outlet(address: str, guard: Guard | None, subscriptions: Subscriptions) -> Iterator[Outlet]:
    """Bind the socket for the length of a `with` block.

    Args:
        address: Endpoint to bind.
        guard: Admits subscribers by their keys; None admits every one.
        subscriptions: Knows from now on who subscribes to what.

    Raises:
        PublishError: The endpoint cannot be bound.
    """
    with new_socket(zmq.XPUB, guard) as (socket, limits):
        socket.sndhwm = SEND_HWM
        socket.linger = LINGER_MS
        socket.copy_threshold = 0  # what is sent without a copy is counted, however small it is
        socket.maxmsgsize = MAX_SUBSCRIPTION_BYTES  # a subscriber that sends more loses its connection
        socket.rcvhwm = 100
        endpoint.bind(socket, address)
        subscriptions.follow(limits.subscribers)
        yield Outlet(socket, limits, guard)
