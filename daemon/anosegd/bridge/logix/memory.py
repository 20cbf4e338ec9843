"""Reads and writes tags of a Logix controller with pylogix. Runs on the thread `plc`.

EtherNet/IP has no keys and no encryption here: whoever reaches the controller can do what the bridge does.
"""

from __future__ import annotations

import struct
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from pylogix import PLC
from pylogix.lgx_comm import Connection

from anosegd.bridge.config import LOGIX_TEXT_LENGTH, LogixConfig
from anosegd.bridge.exchange import Seen, Value
from anosegd.bridge.logix.tag_map import TagMap, text_of
from anosegd.bridge.polling import PlcError

TIMEOUT_S = 2.0
TYPES = {"SINT": 0xC2, "DINT": 0xC4, "REAL": 0xCA}
"""The protocol's numbers of these types."""
OK = "Success"
MISSING = ": check that this tag exists, and that logix.tag and logix.slot are right"
HEADER = 24
"""Bytes of a packet's header. The third and the fourth are the length of the contents."""


class _Connection(Connection):  # type: ignore[misc]
    """Ends if the controller closes the connection in the middle of an answer, where pylogix's own would loop for ever."""

    def receive_data(self) -> bytes | None:
        """Return one whole packet, or None."""
        end = time.monotonic() + TIMEOUT_S
        try:
            header = self._exactly(HEADER, end)
            return header + self._exactly(int(struct.unpack_from("<H", header, 2)[0]), end)
        except OSError:
            return None

    def _exactly(self, n: int, end: float) -> bytes:
        data = b""
        while len(data) < n:
            more = self.Socket.recv(n - len(data))
            if not more or time.monotonic() > end:
                raise ConnectionError("the connection ended in the middle of a packet")
            data += more
        return data


class LogixMemory:
    """The tag of one controller. Each connection has a client of its own, because a pylogix client reconnects by itself."""

    def __init__(self, config: LogixConfig) -> None:
        self._config = config
        self._map = TagMap(config.tag)
        self._client: Any = None

    @property
    def place(self) -> str:
        """Which controller, and which tag."""
        return f"Logix {self._config.plc}, {self._config.tag}"

    def connect(self) -> None:
        """Make a client. It connects with the first request."""
        host, port = self._config.address
        self._client = PLC(host, slot=self._config.slot, timeout=TIMEOUT_S, port=port)
        unused, connection = self._client.conn, _Connection(self._client)
        self._client.conn = connection
        for unused_socket in (unused.Socket, unused.msg_socket, connection.msg_socket):
            unused_socket.close()

    def checks(self) -> Sequence[Callable[[], None]]:
        """Return the calls that check that all tags are there and have their types."""
        return [partial(self._check, tag, kind) for tag, kind in self._map.kinds.items()]

    def _check(self, tag: str, kind: str) -> None:
        self._checked(self._client.Read(tag), MISSING)
        known = self._client.KnownTags[tag.removesuffix("[0]")][0]
        if known != TYPES[kind]:
            raise PlcError(f"{tag} must be a {kind}: import the data type AnoSeg again; nothing was written")

    def read(self) -> Seen:
        """Read the control bits, then the texts, then the status bits.

        Raises:
            PlcError: The controller does not answer, or refuses.
        """
        names = ("part_id", "recipe")
        tags = (self._map.control, self._map.status, self._map.version, *map(self._map.length_of, names))
        answers = self._client.Read([(tag, 1, TYPES["DINT"]) for tag in tags])
        control, status, version, *lengths = (self._checked(answer) for answer in answers)
        texts = {name: self._text(name, min(length, LOGIX_TEXT_LENGTH)) for name, length in zip(names, lengths, strict=True)}
        part_id, recipe = texts["part_id"], texts["recipe"].rstrip()
        return Seen(control=control & 0xFFFF, status=status & 0xFFFF, map_version=version, part_id=part_id, recipe=recipe)

    def write_status(self, word: int) -> None:
        """Write the status bits.

        Raises:
            PlcError: The controller does not answer, or refuses.
        """
        self._checked(self._client.Write(self._map.status, word, TYPES["DINT"]))

    def write_values(self, values: dict[str, Value], changed: frozenset[str]) -> None:
        """Write the changed values: characters in a request for each text, then the others together.

        Raises:
            PlcError: The controller does not answer, or refuses.
        """
        together = []
        for tag, kind, value in self._map.writes(values, changed):
            if isinstance(value, list):
                self._checked(self._client.Write(tag, value, TYPES[kind]))
            else:
                together.append((tag, value, TYPES[kind]))
        if together:
            for answer in self._client.Write(together):
                self._checked(answer)

    def close(self) -> None:
        """Disconnect."""
        if self._client is not None:
            self._client.Close()
            self._client = None

    def _text(self, name: str, length: int) -> str:
        if length <= 0:
            return ""
        data = self._checked(self._client.Read(self._map.data_of(name), length, TYPES["SINT"]))
        return text_of(data if isinstance(data, list) else [data], length)

    def _checked(self, answer: Any, hint: str = "") -> Any:
        """Return the value of an answer.

        Args:
            answer: The answer of the library.
            hint: What to do if the controller refuses.

        Raises:
            PlcError: The answer is an error, or has no value.
        """
        if answer.Status == OK and answer.Value is not None:
            return answer.Value
        if str(answer.Status) == "Connection failure":
            raise PlcError("the controller does not answer: check logix.plc, and the network")
        raise PlcError(f"{answer.TagName}: {answer.Status}{hint}")
