"""A client whose address or key ZeroMQ does not understand."""

import pytest
import zmq

from anosegd.client import Client, Key


@pytest.mark.parametrize(
    ("control", "key"),
    [
        ("tcp://192.168.7.20/24:5571", None),
        (f"ipc:///{'a' * 200}", None),
        ("tcp://127.0.0.1:5571", Key("screen", "é" * 40, "é" * 40, "é" * 40)),
    ],
)
def test_every_request_fails_at_once(control: str, key: Key | None) -> None:
    """Not the first one alone: the second one once waited for ever, without calling `on_wait`."""
    with Client(control=control, key=key) as client:
        for _ in range(3):
            with pytest.raises((zmq.ZMQError, ValueError, TypeError)):
                client.request("status")
