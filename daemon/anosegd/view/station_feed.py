"""Receives what the station publishes, on two threads: "station" (verdicts and heartbeats) and "pictures" (maps and images).

Both hand everything to the event loop's thread, which owns the board. They never end by themselves: a station that is down is
waited for.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

import zmq

from anosegd.client import Client, ClientError, Event, Key, connect
from anosegd.view.board import PictureKind, clock_ms
from anosegd.view.shown_verdict import StationClock, shown_verdict
from anosegd.worker import Worker

RETRY_S = 0.5
POLL_MS = 100
TOPICS: dict[bytes, PictureKind] = {b"mask.": "map", b"image.": "image"}


class Receiver(Protocol):
    """Takes what the station sends. It is called on the feed's threads."""

    def state(self, state: dict[str, Any]) -> None:
        """Take a heartbeat."""

    def verdict(self, shown: dict[str, Any]) -> None:
        """Take a verdict, as `shown_verdict` gives it."""

    def event(self, event: Event) -> None:
        """Take a change in the stream."""

    def picture(self, header: dict[str, Any], kind: PictureKind, content: bytes) -> None:
        """Take a map or an image."""


class _StoppedError(Exception):
    """The thread was asked to stop."""


class VerdictFeed(Worker):
    """Follows the station's verdicts without a gap."""

    def __init__(self, publish: str, control: str | None, receiver: Receiver, *, key: Key | None = None) -> None:
        super().__init__("station")
        self._publish, self._control, self._key, self._receiver = publish, control, key, receiver
        self._clock: StationClock | None = None
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Ask the thread to end."""
        self._stopping.set()

    def work(self) -> None:
        """Follow until asked to stop."""
        while not self._stopping.is_set():
            try:
                self._follow()
            except _StoppedError:
                return
            except ClientError:
                self._stopping.wait(RETRY_S)

    def _follow(self) -> None:
        receiver = self._receiver
        with Client(
            self._publish,
            self._control,
            key=self._key,
            on_event=receiver.event,
            on_state=self._take_state,
            on_wait=self._check,
        ) as client:
            for verdict in client.follow():
                self._check()
                receiver.verdict(shown_verdict(verdict, clock_ms(), self._clock))

    def _take_state(self, state: dict[str, Any]) -> None:
        self._clock = StationClock(state["at"], clock_ms())
        self._receiver.state(state)

    def _check(self) -> None:
        self.answer()
        if self._stopping.is_set():
            raise _StoppedError


class PictureFeed(Worker):
    """Receives maps always, and images while a page is open: the station encodes images only while somebody subscribes."""

    def __init__(self, publish: str, receiver: Receiver, wanted: Callable[[], bool], *, key: Key | None = None) -> None:
        super().__init__("pictures")
        self._publish, self._key, self._receiver, self._wanted = publish, key, receiver, wanted
        self._stopping = threading.Event()

    def stop(self) -> None:
        """Ask the thread to end."""
        self._stopping.set()

    def work(self) -> None:
        """Receive until asked to stop."""
        with zmq.Context() as context, context.socket(zmq.SUB) as socket:
            socket.linger = 0
            socket.rcvhwm = 32
            socket.reconnect_ivl, socket.reconnect_ivl_max = 50, 500
            socket.subscribe(b"mask.")
            connect(socket, self._publish, self._key)
            subscribed = False
            while not self._stopping.is_set():
                self.answer()
                if subscribed is not self._wanted():
                    subscribed = not subscribed
                    socket.setsockopt(zmq.SUBSCRIBE if subscribed else zmq.UNSUBSCRIBE, b"image.")
                if socket.poll(POLL_MS):
                    self._take(socket.recv_multipart())

    def _take(self, parts: list[bytes]) -> None:
        kind = next((kind for topic, kind in TOPICS.items() if parts[0].startswith(topic)), None)
        if kind is None or len(parts) != 3:
            return
        try:
            header = json.loads(parts[1])
            str(header["journal_id"]), int(header["seq"]), str(header["camera"]), dict(header["region"])
        except (ValueError, KeyError, TypeError, RecursionError):
            return  # not a station's message
        self._receiver.picture(header, kind, parts[2])


def wait_for(workers: tuple[Worker, ...], timeout_s: float) -> None:
    """Wait for the threads to end."""
    end = time.monotonic() + timeout_s
    for worker in workers:
        worker.join(end - time.monotonic())
