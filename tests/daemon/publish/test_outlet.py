"""The PUB socket: who does not read fills no memory, and takes nothing from those who read."""

import threading
import time
from collections.abc import Iterator

import pytest
import zmq

from anosegd import connection_limits
from anosegd.publish import outlet as outlet_module
from anosegd.publish.images import Subscriptions
from anosegd.publish.outlet import Outlet, open_outlet

MAP = bytes(200_000)
LIMIT_S = 30.0


@pytest.fixture
def context() -> Iterator[zmq.Context[zmq.Socket[bytes]]]:
    with zmq.Context() as context:
        context.linger = 0
        yield context


def subscribed(context: zmq.Context[zmq.Socket[bytes]], endpoint: str, topic: bytes = b"mask.") -> zmq.Socket[bytes]:
    socket = context.socket(zmq.SUB)
    socket.rcvhwm = 1
    socket.rcvbuf = 4096
    socket.subscribe(topic)
    socket.connect(endpoint)
    return socket


def free_endpoint() -> str:
    with zmq.Context() as context, context.socket(zmq.PUB) as socket:
        return f"tcp://127.0.0.1:{socket.bind_to_random_port('tcp://127.0.0.1')}"


def wait_for_subscribers(outlet: Outlet, subscribers: int) -> None:
    give_up_at = time.monotonic() + LIMIT_S
    while outlet._limits.subscribers[b"mask."] < subscribers:
        assert time.monotonic() < give_up_at
        outlet.hear()


def test_a_subscriber_that_reads_no_maps_loses_its_connection(
    context: zmq.Context[zmq.Socket[bytes]], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Maps wait for it up to a limit. Then its connection is closed, and the others get every further map."""
    monkeypatch.setattr(outlet_module, "MAX_WAITING_BYTES", 4 * len(MAP))
    monkeypatch.setattr(connection_limits, "STUCK_S", 3.0)
    endpoint = free_endpoint()
    stopped = threading.Event()
    with open_outlet(endpoint, None, Subscriptions()) as outlet, context.socket(zmq.SUB) as reading:
        reading.subscribe(b"mask.")
        reading.connect(endpoint)
        stuck = subscribed(context, endpoint)
        quiet = subscribed(context, endpoint, b"verdict.")  # nothing waits for it, and it stays connected
        wait_for_subscribers(outlet, 2)
        got = []

        def read() -> None:
            while not stopped.is_set():
                if reading.poll(50):
                    got.append(reading.recv_multipart())

        thread = threading.Thread(target=read)
        thread.start()
        try:
            sent, give_up_at = [], time.monotonic() + LIMIT_S
            while not (False in sent and all(sent[-100:])):  # refused, and accepted again
                assert time.monotonic() < give_up_at
                sent.append(outlet.send_map(b"mask.a", b"{}", MAP))
                outlet.hear()
                time.sleep(0.005)
            give_up_at = time.monotonic() + LIMIT_S
            while len(got) < sum(sent):
                assert time.monotonic() < give_up_at
                time.sleep(0.01)
            while not quiet.poll(0):
                assert time.monotonic() < give_up_at
                outlet.send("verdict.a", b"{}")
                time.sleep(0.05)
        finally:
            stopped.set()
            thread.join()
            stuck.close()
            quiet.close()
    (closed,) = (record.fields for record in caplog.records if record.getMessage() == "connection.closed")
    assert closed["why"] == "it does not read what it subscribes to"
