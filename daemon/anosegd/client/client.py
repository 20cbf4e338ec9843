"""Defines the client of one station: its verdicts, its pictures and its commands. Belongs to one thread."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

from .commands import Commands
from .connection import Connection
from .key import Key
from .messages import Cursor, Event, Picture, Verdict
from .pictures import pictures
from .stream import VerdictStream


class Client(Commands):
    """A subscriber to one station, which can also command it."""

    def __init__(
        self,
        publish: str = "tcp://127.0.0.1:5570",
        control: str | None = "tcp://127.0.0.1:5571",
        *,
        key: Key | None = None,
        on_event: Callable[[Event], None] | None = None,
        on_state: Callable[[dict[str, Any]], None] | None = None,
        on_wait: Callable[[], None] | None = None,
        down_after_s: float = 3.0,
        request_timeout_s: float = 2.0,
    ) -> None:
        """Prepare; connections are opened when they are needed.

        Args:
            publish: Endpoint where the station publishes.
            control: Endpoint where it answers requests. With None, gaps are reported as `missed` events.
            key: This client's key, where the station asks for one; see `Key.read`.
            on_event: Called with each `Event`, on the caller's thread.
            on_state: Called with each heartbeat, on the caller's thread.
            on_wait: Called at least ten times a second while the client waits, on the caller's thread.
            down_after_s: Without a heartbeat for this long the station counts as down. It sends one every second.
            request_timeout_s: How long one request may wait for its answer.
        """
        connection = Connection(control, key, timeout_s=request_timeout_s, on_wait=on_wait or (lambda: None))
        super().__init__(connection)
        self._publish, self._key = publish, key
        self._stream = VerdictStream(
            connection,
            publish,
            key,
            on_event=on_event or (lambda event: None),
            on_state=on_state or (lambda state: None),
            down_after_s=down_after_s,
        )

    def __enter__(self) -> Client:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the sockets. A `follow` that still runs ends with an error."""
        self._connection.close()

    def replay(self, first: int, last: int | None = None) -> Iterator[Verdict]:
        """Yield committed verdicts from the journal in order, up to `last` or the newest.

        Raises:
            ClientError: The station does not answer.
        """
        return self._stream.replay(first, last)

    def follow(
        self, *, consumer: str | None = None, after: Cursor | None = None, first: int | None = None, idle_s: float | None = None
    ) -> Iterator[Verdict]:
        """Yield verdicts in order and fill gaps from the journal, through restarts of station and network.

        Without a control socket, they come in the order in which the station sends them. This is the order of their numbers,
        except where a verdict was sent at its deadline while another camera's verdict, with a lower number, waited for the
        journal. Without `consumer`, `after` and `first` it starts with the next verdict.

        Args:
            consumer: Start after the last verdict that this named consumer acknowledged. The station remembers it; a new
                consumer starts with the oldest verdict kept.
            after: Start after this cursor.
            first: Start at this number.
            idle_s: End after this long without a verdict; None never ends.
        """
        return self._stream.follow(consumer=consumer, after=after, first=first, idle_s=idle_s)

    def pictures(
        self, camera: str, *, topic: Literal["image", "mask"] = "image", idle_s: float | None = None
    ) -> Iterator[Picture]:
        """Yield the newest picture, or anomaly map, of a camera's parts as they are published. Older ones are passed over.

        Args:
            camera: Name of the camera.
            topic: `image` for the pictures, `mask` for the anomaly maps.
            idle_s: End after this long without one; None never ends.
        """
        name = f"{topic}.{camera}".encode()
        return pictures(self._connection, self._publish, self._key, topic=name, idle_s=idle_s)
