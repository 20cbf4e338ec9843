"""Reads and writes the data block with python-snap7. Runs on the thread `plc`.

The protocol has no keys and no encryption. It works only where the PLC permits PUT/GET access.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager

from snap7.client import Client
from snap7.error import S7ConnectionError, S7Error, S7TimeoutError

from anosegd.bridge.config import S7Config
from anosegd.bridge.exchange import Seen, Value
from anosegd.bridge.polling import PlcError
from anosegd.bridge.s7.block import Block, WrongBlockError, status_bytes

TIMEOUT_S = 2.0
"""How long an answer may take once the connection is up; python-snap7 waits for 5 s until then."""


class S7Memory:
    """A data block of one PLC."""

    def __init__(self, config: S7Config) -> None:
        self._config = config
        self._block = Block(config)
        self._client = Client()
        # Its lines are about lost connections: `bridge.plc_lost` reports those.
        logging.getLogger("snap7").setLevel(logging.CRITICAL)

    @property
    def place(self) -> str:
        """Which PLC, and which block."""
        return f"S7 {self._config.plc}, DB{self._config.db}"

    def connect(self) -> None:
        """Connect.

        Raises:
            PlcError: The PLC cannot be reached.
        """
        config = self._config
        host, port = config.address
        with _errors(f"check that s7.rack and s7.slot ({config.rack} and {config.slot}) are those of the CPU"):
            self._client.connect(host, config.rack, config.slot, port)
            connection = self._client.connection
            assert connection is not None
            assert connection.socket is not None
            connection.socket.settimeout(TIMEOUT_S)

    def checks(self) -> Sequence[Callable[[], None]]:
        """Return the call that checks that the block has the map of the bridge."""
        return (self._check,)

    def _check(self) -> None:
        config = self._config
        with _errors(
            f"check that DB{config.db} exists, has at least {self._block.size} bytes and no optimized access, "
            "and that the CPU permits PUT/GET access"
        ):
            data = self._client.db_read(config.db, 0, self._block.size)
        try:
            self._block.check(bytes(data))
        except WrongBlockError as error:
            raise PlcError(f"DB{config.db} does not have the bridge's map: {error}; nothing was written to it") from error

    def read(self) -> Seen:
        """Read the controls, the status and the map version. Long texts take more than one request.

        Raises:
            PlcError: The PLC does not answer, or refuses.
        """
        with _errors():
            return self._block.seen(bytes(self._client.db_read(self._config.db, 0, self._block.polled)))

    def write_status(self, word: int) -> None:
        """Write the two bytes of the status.

        Raises:
            PlcError: The PLC does not answer, or refuses.
        """
        with _errors():
            self._client.db_write(self._config.db, self._block.status_at, bytearray(status_bytes(word)))

    def write_values(self, values: dict[str, Value], changed: frozenset[str]) -> None:
        """Write everything behind the status. A large block takes more than one request.

        Raises:
            PlcError: The PLC does not answer, or refuses.
        """
        with _errors():
            self._client.db_write(self._config.db, self._block.status_at + 2, bytearray(self._block.values(values)))

    def close(self) -> None:
        """Disconnect."""
        self._client.disconnect()


@contextmanager
def _errors(hint: str = "") -> Iterator[None]:
    try:
        yield
    except (S7ConnectionError, S7TimeoutError, OSError) as error:
        raise PlcError(str(error)) from error
    except S7Error as error:
        raise PlcError(f"{error}: {hint}" if hint else str(error)) from error
