"""Owns a client's connection to the control socket: one request at a time, and its answer. On the client's thread."""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from typing import Any

import zmq

from .errors import ClientError, NoAnswerError, RefusedError, RequestError
from .key import Key

MAX_REQUEST_BYTES = 32 << 10
WAIT_S = 0.1
"""Longest wait between two calls of `on_wait`."""


def connect(socket: zmq.Socket[bytes], endpoint: str, key: Key | None = None) -> None:
    """Connect a socket to a station, with the key that the station asks for.

    Raises:
        zmq.ZMQError: ZeroMQ does not understand the address or the key. The socket is closed.
    """
    try:
        socket.set(zmq.IPV6, int("[" in endpoint))
        if key is not None:
            socket.set(zmq.CURVE_SERVERKEY, key.station.encode())
            socket.set(zmq.CURVE_PUBLICKEY, key.public.encode())
            socket.set(zmq.CURVE_SECRETKEY, key.secret.encode())
        socket.connect(endpoint)
    except zmq.ZMQError:
        socket.close(linger=0)  # sending through it would wait for ever
        raise


class Connection:
    """Sends requests to one station.

    Attributes:
        context: Where the client's sockets are made.
        on_wait: Called at least ten times a second while the client waits.
    """

    def __init__(self, endpoint: str | None, key: Key | None, *, timeout_s: float, on_wait: Callable[[], None]) -> None:
        """Prepare; the socket is opened for the first request.

        Args:
            endpoint: Where the station answers requests; None refuses every request.
            key: This client's key, where the station asks for one.
            timeout_s: How long one request may wait for its answer.
            on_wait: See `Connection`.
        """
        self.context = zmq.Context()
        self.context.linger = 0
        self.on_wait = on_wait
        self._endpoint, self._key, self._timeout_s = endpoint, key, timeout_s
        self._socket: zmq.Socket[bytes] | None = None
        self._request_id = 0

    @property
    def has_control(self) -> bool:
        """Whether requests can be sent."""
        return self._endpoint is not None

    def close(self) -> None:
        """Close every socket of the client."""
        self.context.destroy(linger=0)

    def request(self, op: str, **arguments: Any) -> dict[str, Any]:
        """Send one request to the control socket and return its answer.

        Raises:
            RefusedError: The station refuses.
            NoAnswerError: No answer arrived in time.
            RequestError: The arguments cannot be sent.
            ClientError: This client has no control socket.
        """
        if self._endpoint is None:
            raise ClientError(f"{op}: this client has no control socket")
        self._request_id += 1
        try:
            request = json.dumps({"id": self._request_id, "op": op, **arguments}, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise RequestError(op, "it holds bytes that are not UTF-8 text") from None
        if len(request) > MAX_REQUEST_BYTES:  # the station would not answer it
            raise RequestError(op, f"it has {len(request)} bytes, and a request may have {MAX_REQUEST_BYTES}")
        if self._socket is None:
            socket = self.context.socket(zmq.DEALER)
            connect(socket, self._endpoint, self._key)
            self._socket = socket
        self._socket.send(request)
        end = time.monotonic() + self._timeout_s
        while (left := end - time.monotonic()) > 0:
            self.on_wait()
            if not self._socket.poll(int(min(left, WAIT_S) * 1000) + 1):
                continue
            reply = json.loads(self._socket.recv())
            if reply.get("id") != self._request_id:
                continue  # the late answer to an earlier request that timed out
            if not reply.get("ok"):
                raise RefusedError(op, str(reply.get("error")), str(reply.get("message")))
            return dict(reply)
        # The socket may still hold this request and deliver it much later, when the station is back. A new socket drops it.
        self._socket.close(linger=0)
        self._socket = None
        raise NoAnswerError(f"{op}: no answer from {self._endpoint} within {self._timeout_s} s")
