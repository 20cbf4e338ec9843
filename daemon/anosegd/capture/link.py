"""Receives free slots and triggers from the daemon, and sends reports. Runs in the capture process."""

from __future__ import annotations

import socket
from collections import deque

from anosegd.capture.protocol import MAX_BYTES, FromCapture, Job, Release, TakeFrame, Tick, ToCapture, decode_to_capture, encode
from anosegd.capture.readable import readable

TICK_S = 0.2


class DaemonGoneError(Exception):
    """The daemon has closed its end of the socket, or asks this process to end."""


class Link:
    """Exchanges messages with the daemon. Only the main thread uses it.

    Attributes:
        free: Slots that may be written.
        triggers: Triggers that have come and have no frame yet, oldest first.
    """

    def __init__(self, link: socket.socket) -> None:
        self._socket = link
        self.free: list[int] = []
        self.triggers: deque[TakeFrame] = deque()

    def receive_job(self) -> Job:
        """Wait for the first message."""
        job = self._receive(timeout_s=None)
        assert isinstance(job, Job), "the daemon sends the job first"
        self.free = list(range(job.slots))
        return job

    def take_messages(self, timeout_s: float) -> None:
        """Take all messages that have come, waiting up to timeout_s for the first."""
        message = self._receive(timeout_s)
        while message is not None:
            if isinstance(message, Release):
                self.free.append(message.slot)
            elif isinstance(message, TakeFrame):
                self.triggers.append(message)
            message = self._receive(timeout_s=0)

    def send(self, message: FromCapture) -> None:
        """Report to the daemon."""
        self._socket.send(encode(message))

    def tick(self) -> None:
        """Report that this process is alive."""
        self.send(Tick())

    def _receive(self, timeout_s: float | None) -> ToCapture | None:
        if not readable([self._socket.fileno()], timeout_s):
            return None
        data = self._socket.recv(MAX_BYTES)
        if not data:
            raise DaemonGoneError
        message: ToCapture = decode_to_capture(data)
        return message
