"""Clients without a control socket, when a station sends verdicts in another order than that of their numbers."""

import itertools
import json
import threading
import time

import pytest
import zmq

from anosegd.client import Client, Event

LAST = 99


def followed(sent: list[tuple[str, int]], first: int | None = 1) -> tuple[list[tuple[str, int]], list[Event]]:
    """Follow a station that sends these verdicts, each with the journal's id and its number, and then number LAST.

    Returns:
        What arrived before number LAST, and the events.
    """
    with zmq.Context() as context, context.socket(zmq.XPUB) as socket:
        socket.linger = 0
        port = socket.bind_to_random_port("tcp://127.0.0.1")

        def send() -> None:
            for _ in ("verdict.", "state"):
                assert socket.poll(60_000), "the client did not subscribe"
                socket.recv()
            for journal_id, seq in [*sent, ("j", LAST)]:
                header = {"journal_id": journal_id, "seq": seq, "camera": "top", "durable": True}
                socket.send_multipart([b"verdict.top", json.dumps(header).encode()])

        begun = time.monotonic()

        def check() -> None:
            assert time.monotonic() - begun < 60, "the last verdict did not come"

        station = threading.Thread(target=send)
        station.start()
        events: list[Event] = []
        try:
            with Client(f"tcp://127.0.0.1:{port}", None, on_event=events.append, on_wait=check) as client:
                verdicts = ((v["journal_id"], v["seq"]) for v in client.follow(first=first))
                arrived = list(itertools.takewhile(lambda verdict: verdict[1] != LAST, verdicts))
        finally:
            station.join()
    return arrived, [event for event in events if event.kind == "missed"]


def test_a_verdict_that_others_have_overtaken_is_delivered_once() -> None:
    """At its deadline, the verdict of one camera is sent before that of another one, which waits for the journal."""
    order = [1, 4, 3, 5, 2]
    arrived, missed = followed([("j", seq) for seq in (*order, 3, 4, 1)])
    assert arrived == [("j", seq) for seq in order]
    assert [(event.first, event.last) for event in missed] == [(2, 3), (6, LAST - 1)]


@pytest.mark.parametrize("overtaken", [5, 1])
def test_the_first_verdict_may_have_overtaken_another_one(overtaken: int) -> None:
    """A client that has just connected has no number before it."""
    arrived, _ = followed([("j", 6), ("j", overtaken), ("j", overtaken), ("j", 7)], first=None)
    assert arrived == [("j", 6), ("j", overtaken), ("j", 7)]


def test_numbers_of_another_journal_are_others() -> None:
    """A number that was skipped in one journal says nothing about the next journal."""
    arrived, _ = followed([("old", 1), ("old", 4), ("j", 1), ("j", 3), ("j", 1), ("j", 2), ("j", 3)])
    assert arrived == [("old", 1), ("old", 4), ("j", 1), ("j", 3), ("j", 2)]
