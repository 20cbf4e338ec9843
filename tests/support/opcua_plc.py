"""A PLC for tests that speaks OPC UA with asyncua's client, and runs the program of docs/plc-opcua.md."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from typing import Any

from asyncua import ua
from asyncua.sync import Client
from support.plc import Plc, Seen

from anosegd.bridge.encoding import CONTROL_BITS, STATUS_BITS, word_of

PREFIX = "ns=2;s="
TIMEOUT_S = 5.0


class OpcUaPlc(Plc):
    """The program in a PLC that is a client of the bridge. One request reads all, one writes all."""

    def __init__(self, port: int, act: Callable[[str, str, Seen | None], None], *, gate_s: float = 3.0) -> None:
        super().__init__(port, act, gate_s=gate_s)
        self._client: Client | None = None
        self._read_nodes: list[Any] = []
        self._write_nodes: list[Any] = []

    @staticmethod
    def config(port: int) -> str:
        """Return the section of a bridge's configuration."""
        return f"opcua: {{listen: '127.0.0.1:{port}', anonymous: true}}\n"

    def cycle(self) -> None:
        """Read, think, write."""
        try:
            if self._client is None:
                self._connect()
            assert self._client is not None
            *bits, part_id, reason, age_ms = self._client.read_values(self._read_nodes)
            self._think(Seen(word_of([bit is True for bit in bits]), str(part_id or ""), int(reason or 0), int(age_ms or 0)))
            control = [self._step > 0, self._trigger, self._acknowledge]
            self._client.write_values(self._write_nodes, [self._part_id, *control])
        except (OSError, AssertionError, ua.UaError, TimeoutError) as error:
            del error
            self._lose()
            if self._step:
                self._give_up()

    def close(self) -> None:
        self._give_up()
        self._lose()

    def _connect(self) -> None:
        client = Client(f"opc.tcp://127.0.0.1:{self._port}", timeout=TIMEOUT_S, watchdog_intervall=60)
        self._client = client
        client.connect()
        names = [*(name for name in STATUS_BITS if name != "spare"), "part_id", "reason", "age_ms"]
        self._read_nodes = [client.get_node(f"{PREFIX}Outputs.{name}") for name in names]
        self._write_nodes = [client.get_node(f"{PREFIX}Inputs.{name}") for name in ("part_id", *CONTROL_BITS[:3])]

    def _lose(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            with contextlib.suppress(Exception):
                client.disconnect()
            with contextlib.suppress(Exception):
                client.tloop.stop()
