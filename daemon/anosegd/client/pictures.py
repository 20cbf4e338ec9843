"""Receives the pictures that a station publishes. On the client's thread."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator

import zmq

from .connection import Connection, connect
from .key import Key
from .messages import Picture


def pictures(connection: Connection, publish: str, key: Key | None, *, topic: bytes, idle_s: float | None) -> Iterator[Picture]:
    """Yield the newest picture of a topic as it is published. Older ones are passed over.

    Args:
        connection: The client's connection.
        publish: Endpoint where the station publishes.
        key: The client's key, where the station asks for one.
        topic: The whole topic, `image.CAMERA` or `mask.CAMERA`.
        idle_s: End after this long without a picture; None never ends.
    """
    socket = connection.context.socket(zmq.SUB)
    try:
        socket.set(zmq.RCVHWM, 4)
        socket.set(zmq.RECONNECT_IVL, 50)
        socket.set(zmq.RECONNECT_IVL_MAX, 500)
        socket.subscribe(topic)
        connect(socket, publish, key)
        last = time.monotonic()
        while idle_s is None or time.monotonic() - last < idle_s:
            connection.on_wait()
            newest: Picture | None = None
            while socket.poll(0 if newest else 100):
                parts = socket.recv_multipart()
                if len(parts) == 3 and parts[0] == topic:
                    newest = Picture(json.loads(parts[1]), parts[2])
            if newest is not None:
                last = time.monotonic()
                yield newest
    finally:
        socket.close(linger=0)
