"""Defines what a kind of bridge is: a protocol that a PLC speaks. Everything runs on the event loop's thread."""

from __future__ import annotations

from typing import Protocol

from anosegd.bridge.tags import Controls, Outputs


class Handle(Protocol):
    """What a kind may ask of the bridge."""

    def write(self, controls: Controls, *, since: float | None = None) -> None:
        """Take what the PLC has written: all of it. The bridge began to read it at `since`, monotonic seconds; None: now."""

    def deliver(self) -> None:
        """Take note that the PLC can read a new result only from now on. Calls `show` if that makes the result late."""

    def plc_lost(self) -> None:
        """Take note that the PLC cannot be reached, or was restarted or replaced. For kinds that notice this."""

    def refresh(self) -> None:
        """Let time pass in the handshake, before something is read. It calls `show` if anything has changed."""


class Kind(Protocol):
    """One protocol. It maps `Outputs` to what the PLC reads, and what the PLC writes to `Controls`.

    Attributes:
        listens: Whether it is a server; otherwise it is a client of the PLC or broker.
    """

    listens: bool

    @property
    def place(self) -> str:
        """Where a PLC finds it, for people."""

    async def start(self, handle: Handle) -> None:
        """Begin to serve.

        Raises:
            AnosegError: It cannot.
        """

    def show(self, outputs: Outputs) -> None:
        """Let the PLC read these outputs from now on."""

    async def stop(self) -> None:
        """End."""
