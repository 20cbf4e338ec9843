"""Admits clients with an authorised key, and closes the connections of those whose key is authorised no more.

The thread "keys" answers libzmq, which asks for every new connection (ZAP, ZeroMQ RFC 27). The sockets of a station with keys
are made in the guard's context, because libzmq asks within a context. Without an answer nobody is admitted.
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from typing import NamedTuple

import zmq
from zmq.utils import z85

from anosegd import logs
from anosegd.connection_limits import ConnectionLimits
from anosegd.descriptors import Identity, identity_of, shut_down
from anosegd.keys.keyring import Keyring
from anosegd.worker import Worker

ZAP_ADDRESS = "inproc://zeromq.zap.01"
DOMAIN = b"anosegd"
ACCEPTED, NOT_NOW = b"200", b"300"
"""Status codes. 300 closes the connection, and the client tries again: it is admitted once its key is authorised. After 400, a
client of libzmq would never try again."""
HANDSHAKE_MS = 3000
"""A connection that is not admitted by then is closed. libzmq leaves some refused ones open (4.3.5)."""
POLL_MS = 200
CLOSE_EVERY_S = 1.0
CRYPTOGRAPHIC, MECHANISM = 0x11000001, 0x11000002
"""What libzmq reports of handshakes that fail before it asks."""
FAILED, UNFINISHED = zmq.EVENT_HANDSHAKE_FAILED_PROTOCOL, zmq.EVENT_HANDSHAKE_FAILED_NO_DETAIL
WHY = {CRYPTOGRAPHIC: "the client has another station's public key", MECHANISM: "the client uses no key"}


class Peer(NamedTuple):
    """A client that sent something.

    Attributes:
        name: The name of its key.
        control: Whether it may command the station.
    """

    name: str
    control: bool


class _Connection(NamedTuple):
    """An open connection.

    Attributes:
        identity: Tells its socket from others that get the same descriptor later.
        publics: The client's public key. A message that its client left behind when it closed may count for the next one with
            its descriptor; then there are two. It is closed when one of them is revoked, and the other one connects again.
    """

    identity: Identity
    publics: frozenset[str]


@contextlib.contextmanager
def new_socket(kind: int, guard: Guard | None) -> Iterator[tuple[zmq.Socket[bytes], ConnectionLimits]]:
    """Open a socket for clients for the length of a `with` block, protected if there is a guard."""
    with contextlib.ExitStack() as stack:
        context = stack.enter_context(zmq.Context()) if guard is None else guard.context
        socket = stack.enter_context(context.socket(kind))
        socket.set(zmq.HANDSHAKE_IVL, HANDSHAKE_MS)
        if kind == zmq.XPUB:
            socket.set(zmq.XPUB_VERBOSER, 1)  # otherwise only the first subscriber of a topic is seen, and the last one's end
        if guard is not None:
            guard.protect(socket)
        failed = None if guard is None else guard.failed_handshake
        yield socket, stack.enter_context(ConnectionLimits(socket, failed))


class Guard(Worker):
    """Owns the context of the station's sockets and the thread that admits their clients."""

    def __init__(self, keyring: Keyring) -> None:
        super().__init__("keys")
        self.context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._keyring = keyring
        self._refused = logs.Throttles("key.refused")
        self._unfinished = logs.Throttle("key.unfinished")
        self._bound = threading.Event()
        self._stopping = threading.Event()
        self._connections: dict[int, _Connection] = {}  # by file descriptor

    def start(self) -> None:
        """Start the thread; from then on sockets can be protected."""
        self.start_until(self._bound)

    def stop(self) -> None:
        """Ask the thread to end. The protected sockets must be closed, or be closed soon. Any thread."""
        self._stopping.set()

    def protect(self, socket: zmq.Socket[bytes]) -> None:
        """Let the socket accept nothing but encrypted connections of authorised clients. Call it before binding."""
        station = self._keyring.station
        assert station is not None, "the keyring is loaded"
        socket.set(zmq.ZAP_DOMAIN, DOMAIN)
        socket.set(zmq.ZAP_ENFORCE_DOMAIN, 1)  # or libzmq admits everyone when nobody answers it
        socket.set(zmq.CURVE_SERVER, 1)
        socket.set(zmq.CURVE_SECRETKEY, station.secret.encode())

    def peer(self, frame: zmq.Frame) -> Peer | None:
        """Return the client that sent a frame; None if its key is authorised no more. Called by the sockets' threads."""
        try:
            public, descriptor = str(frame.get("User-Id")), int(frame.get(zmq.SRCFD))
        except zmq.ZMQError:  # not sent by a client
            return None
        found = identity_of(descriptor)
        if found is not None:
            known = self._connections.get(descriptor)
            publics = known.publics if known is not None and known.identity == found else frozenset()
            self._connections[descriptor] = _Connection(found, publics | {public})
        client = self._keyring.client(public)
        return None if client is None else Peer(client.name, client.control)

    def work(self) -> None:
        """Answer libzmq until asked to stop."""
        zap = self.context.socket(zmq.REP)
        try:
            zap.linger = 0
            zap.bind(ZAP_ADDRESS)
            self._bound.set()
            close_at = 0.0
            while not self._stopping.is_set():
                self.answer()
                if zap.poll(POLL_MS):
                    self._decide(zap)
                if time.monotonic() >= close_at:
                    close_at = time.monotonic() + CLOSE_EVERY_S
                    self._close_revoked()
        finally:
            zap.close(linger=0)
            if self._stopping.is_set():  # otherwise the station has to notice that this thread has died
                self.context.term()  # waits until the protected sockets are closed

    def _decide(self, zap: zmq.Socket[bytes]) -> None:
        version, request_id, _, address, _, mechanism, *credentials = zap.recv_multipart()
        public = z85.encode(credentials[0]).decode() if mechanism == b"CURVE" and len(credentials) == 1 else ""
        client = self._keyring.client(public)
        if client is None:
            self._refuse(self._keyring.why_refused(public), address=address.decode(), public=public)
        status = (NOT_NOW, b"not authorised", b"") if client is None else (ACCEPTED, b"OK", public.encode())
        zap.send_multipart([version, request_id, *status, b""])

    def failed_handshake(self, event: int, value: int, endpoint: str) -> None:
        """Log that a client has failed before libzmq asked whether it may be admitted. Called by the sockets' threads."""
        if event == FAILED:
            self._refuse(WHY.get(value, "it is no ZeroMQ client"), endpoint=endpoint)
        elif event == UNFINISHED:
            # A client without a key that was the first to close, or one that looked whether anything listens.
            self._unfinished.info(endpoint=endpoint)

    def _refuse(self, why: str, **where: str) -> None:
        self._refused.of(why).warning(why=why, **where)

    def _close_revoked(self) -> None:
        for descriptor, known in list(self._connections.items()):
            public = next((public for public in known.publics if self._keyring.client(public) is None), None)
            if public is None:
                continue
            self._connections.pop(descriptor, None)
            try:
                closed = shut_down(descriptor, known.identity)
            except OSError:  # no file descriptor is free, as in a flood of connections: try again
                self._connections.setdefault(descriptor, known)
                continue
            if closed:
                self._refuse(f"connection closed: {self._keyring.why_refused(public)}", public=public)
