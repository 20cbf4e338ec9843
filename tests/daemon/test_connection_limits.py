"""Clients that would fill the memory lose their connection, and others are served. The bad ones speak ZMTP by hand."""

import errno
import os
import socket as socketlib
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing

import pytest
import zmq
from support.journal_tools import eventually
from support.zmtp import command, frame, handshake

from anosegd import connection_limits
from anosegd.connection_limits import MAX_SUBSCRIPTIONS, MAX_TOPIC_BYTES, MAX_UNREAD_BYTES, ConnectionLimits
from anosegd.descriptors import identity_of, shut_down

LIMIT_S = 30.0
MORE = 1


class Server:
    """A bound socket and its connections, on a thread as in the daemon. Requests are sent back."""

    def __init__(self, kind: int) -> None:
        self._kind = kind
        self.port = 0
        self.subscribers: Mapping[bytes, int] = {}
        self._bound, self._stopping = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._serve)

    def start(self) -> None:
        self._thread.start()
        assert self._bound.wait(LIMIT_S)

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()

    def _serve(self) -> None:
        with zmq.Context() as context, context.socket(self._kind) as socket, ConnectionLimits(socket) as limits:
            socket.linger = 0
            socket.maxmsgsize = 32 << 10
            if self._kind == zmq.XPUB:
                socket.set(zmq.XPUB_VERBOSER, 1)
            self.subscribers = limits.subscribers
            self.port = socket.bind_to_random_port("tcp://127.0.0.1")
            self._bound.set()
            while not self._stopping.is_set():
                limits.check()
                if not socket.poll(20):
                    continue
                frames = socket.recv_multipart(copy=False)
                if self._kind == zmq.XPUB:
                    limits.delivered(*frames)
                    limits.subscription(frames[0])
                else:
                    limits.delivered(*frames[1:])
                    socket.send_multipart([part.bytes for part in frames])


@pytest.fixture
def serve() -> Iterator[Server]:
    server = Server(zmq.ROUTER)
    server.start()
    yield server
    server.stop()


@pytest.fixture
def publish() -> Iterator[Server]:
    server = Server(zmq.XPUB)
    server.start()
    yield server
    server.stop()


def connected(server: Server, kind: bytes) -> socketlib.socket:
    peer = socketlib.create_connection(("127.0.0.1", server.port), LIMIT_S)
    handshake(peer, kind)
    return peer


def closed(peer: socketlib.socket) -> bool:
    """Whether the server closes the connection within the limit."""
    try:
        while peer.recv(65536):
            pass
    except ConnectionResetError:
        pass
    except TimeoutError:
        return False
    return True


def send_until_closed(peer: socketlib.socket, data: bytes, at_most: int) -> bool:
    """Send over and over; whether the connection is closed before so many bytes were sent."""
    try:
        for _ in range(at_most // len(data)):
            peer.sendall(data)
    except (BrokenPipeError, ConnectionResetError):
        return True
    return closed(peer)


def test_a_message_without_an_end_is_cut_off(serve: Server, caplog: pytest.LogCaptureFixture) -> None:
    """libzmq keeps the frames of a message until the last one has come; nothing else limits how many."""
    with closing(connected(serve, b"DEALER")) as good, closing(connected(serve, b"DEALER")) as bad:
        assert send_until_closed(bad, frame(b"x" * 30_000, MORE), 500 << 20)
        good.sendall(frame(b"still here"))
        assert b"still here" in good.recv(1000)
    (said,) = [record.__dict__["fields"] for record in caplog.records if record.getMessage() == "connection.closed"]
    assert said.items() >= {"why": "it sends messages without an end", "address": "127.0.0.1"}.items()


def test_many_clients_that_each_send_a_little_too_much_are_cut_off(serve: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """None is above its own limit."""
    monkeypatch.setattr(connection_limits, "MAX_UNREAD_BYTES_OF_ALL", MAX_UNREAD_BYTES)
    peers = [connected(serve, b"DEALER") for _ in range(6)]
    good = connected(serve, b"DEALER")
    try:
        for peer in peers:
            peer.sendall(frame(b"x" * 20_000, MORE) * (MAX_UNREAD_BYTES // 3 // 20_000))
            peer.settimeout(2)
        assert sum(closed(peer) for peer in peers) >= 3
        good.sendall(frame(b"still here"))
        assert b"still here" in good.recv(1000)
    finally:
        for peer in (*peers, good):
            peer.close()


def test_a_client_that_sends_much_and_whole_messages_is_served(serve: Server) -> None:
    """Ten times the limit, in requests of every size."""
    with closing(connected(serve, b"DEALER")) as peer:
        sent = 0
        while sent < 10 * MAX_UNREAD_BYTES:
            for size in (1, 100, 30_000):
                data = frame(b"x" * size)
                peer.sendall(data)
                answer = b""
                while len(answer) < len(data):
                    answer += peer.recv(65536)
                sent += len(data)


def subscription(topic: bytes) -> bytes:
    return frame(b"\1" + topic)


def test_a_client_with_too_many_subscriptions_is_cut_off(publish: Server) -> None:
    with closing(connected(publish, b"SUB")) as good, closing(connected(publish, b"SUB")) as bad:
        good.sendall(b"".join(subscription(b"verdict.%d" % number) for number in range(MAX_SUBSCRIPTIONS)))
        assert send_until_closed(bad, b"".join(subscription(os.urandom(20)) for _ in range(MAX_SUBSCRIPTIONS + 1)), 1 << 20)
        good.settimeout(1)
        assert not closed(good)


def test_a_client_with_long_topics_is_cut_off(publish: Server) -> None:
    with closing(connected(publish, b"SUB")) as peer:
        topics = b"".join(subscription(os.urandom(1000)) for _ in range(MAX_TOPIC_BYTES // 1000 + 1))
        assert send_until_closed(peer, topics, 1 << 20)


def test_a_client_is_not_closed_for_what_the_one_with_its_descriptor_sent_before(publish: Server) -> None:
    """Messages of a connection that has been closed are read later; the next connection has its descriptor then."""
    for _ in range(20):
        bad = connected(publish, b"SUB")
        bad.sendall(b"".join(subscription(os.urandom(20)) for _ in range(MAX_SUBSCRIPTIONS + 1)))
        bad.close()
        with closing(connected(publish, b"SUB")) as good:
            good.sendall(subscription(b"verdict.top"))
            good.settimeout(0.1)
            assert not closed(good)


def test_many_subscriptions_one_after_the_other_are_served(publish: Server) -> None:
    """A client that changes what it looks at does not collect subscriptions."""
    with closing(connected(publish, b"SUB")) as peer:
        for number in range(3 * MAX_SUBSCRIPTIONS):
            topic = b"image.%d" % number
            peer.sendall(subscription(topic) + frame(b"\0" + topic))
        peer.settimeout(1)
        assert not closed(peer)


def test_subscriptions_that_two_clients_share_are_not_counted_twice(publish: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each may begin and end them again and again."""
    monkeypatch.setattr(connection_limits, "MAX_SUBSCRIPTIONS", 8)
    begin, end = subscription(b"image.top"), frame(b"\0image.top")
    with closing(connected(publish, b"SUB")) as one, closing(connected(publish, b"SUB")) as other:
        for _ in range(30):
            for peer, data in ((one, begin), (other, begin), (one, end), (other, end)):
                peer.sendall(data)
                time.sleep(0.02)  # until it has been taken
        one.settimeout(1)
        assert not closed(one)


def until(found: Callable[[], bool]) -> bool:
    give_up_at = time.monotonic() + LIMIT_S
    while not found() and time.monotonic() < give_up_at:
        time.sleep(0.02)
    return found()


def test_a_subscription_lasts_until_its_own_connection_ends_it(publish: Server) -> None:
    """Others may end what they do not have, have it twice, end it twice, or disconnect."""
    begin, end = subscription(b"image.top"), frame(b"\0image.top")
    with closing(connected(publish, b"SUB")) as one:
        one.sendall(begin)
        assert until(lambda: publish.subscribers.get(b"image.top") == 1)
        for sent, subscribers in ((end, 1), (begin + begin, 2), (begin + end + end, 1), (begin + begin + end, 1)):
            with closing(connected(publish, b"SUB")) as other:
                other.sendall(sent + subscription(b"last"))
                assert until(lambda: b"last" in publish.subscribers)
                assert publish.subscribers[b"image.top"] == subscribers
            assert until(lambda: b"last" not in publish.subscribers)
            assert publish.subscribers == {b"image.top": 1}
        one.sendall(end)
        assert until(lambda: not publish.subscribers)


def test_the_end_of_a_subscription_that_nobody_has_makes_no_room(publish: Server) -> None:
    with closing(connected(publish, b"SUB")) as peer:
        data = b"".join(subscription(os.urandom(20)) + frame(b"\0nothing") for _ in range(MAX_SUBSCRIPTIONS + 1))
        peer.settimeout(5)
        assert send_until_closed(peer, data, len(data))


def test_a_client_with_frequent_heartbeats_is_served(publish: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """As much as one every 0.2 s with keys. Nothing delivers them."""
    monkeypatch.setattr(connection_limits, "MAX_UNREAD_BYTES", 400)
    ping = command(b"PING", bytes(2 + 11))
    with closing(connected(publish, b"SUB")) as peer:
        for _ in range(50):
            peer.sendall(ping)
            time.sleep(0.1)
        peer.settimeout(1)
        assert not closed(peer)


def test_a_connection_does_not_save_up_what_it_may_send(serve: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(connection_limits, "UNREAD_BYTES_PER_S", MAX_UNREAD_BYTES)
    with closing(connected(serve, b"DEALER")) as peer:
        time.sleep(3)
        peer.settimeout(1)
        assert send_until_closed(peer, frame(b"x" * 20_000, MORE) * (2 * MAX_UNREAD_BYTES // 20_000), 2 * MAX_UNREAD_BYTES)


def test_without_a_free_descriptor_nothing_is_taken_for_closed(publish: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a flood of connections no descriptor may be free. Subscribers stay known, and are looked at again later."""
    with closing(connected(publish, b"SUB")) as peer:
        peer.sendall(frame(b"\1image.a"))
        eventually(lambda: publish.subscribers.get(b"image.a") == 1)
        refused = threading.Event()

        def no_descriptor(descriptor: int) -> int:
            refused.set()
            raise OSError(errno.EMFILE, "too many open files")

        with monkeypatch.context() as without:
            without.setattr(os, "dup", no_descriptor)
            assert refused.wait(LIMIT_S)
            with pytest.raises(OSError, match="too many"):
                shut_down(peer.fileno(), identity_of(peer.fileno()) or (0, 0))
        assert publish.subscribers.get(b"image.a") == 1
        assert shut_down(peer.fileno(), identity_of(peer.fileno()) or (0, 0))
