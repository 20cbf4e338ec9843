"""Serves the registers over Modbus TCP, with pymodbus. Everything runs on the event loop's thread.

Modbus has no keys and no encryption: who reaches the address may read and write. `clients` of the configuration names who may
connect; the machine's firewall must do the rest.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import time
from contextvars import ContextVar
from functools import partial
from typing import Any

from pymodbus import FramerType
from pymodbus.constants import ExcCodes
from pymodbus.pdu import ModbusPDU
from pymodbus.pdu.register_message import MaskWriteRegisterRequest
from pymodbus.server import ModbusTcpServer
from pymodbus.server.requesthandler import ServerRequestHandler
from pymodbus.simulator import DataType, SimData, SimDevice

from anosegd import logs
from anosegd.bridge.config import ModbusConfig
from anosegd.bridge.encoding import WORD, bits_of, status_bits, word_of
from anosegd.bridge.kind import Handle
from anosegd.bridge.listener import open_listener
from anosegd.bridge.modbus.registers import MIRROR, RegisterMap
from anosegd.bridge.tags import Outputs

MAX_CLIENTS = 128
"""One more, and the connection that has been silent for longest is closed."""
IDLE_S = 60.0
"""A connection without a whole request for this long is closed."""
MBAP = 6
"""Bytes of a frame up to and with its length."""
MAX_FRAME = 260
ERROR = 0x80
"""The bit that makes a function code one of an error."""
MAX_WAITING = 16 * MAX_FRAME
"""Bytes of requests that a client may send before it has taken the answers."""
FUNCTIONS = (1, 2, 3, 4, 5, 6, 15, 16, 22, 23)
"""The others that pymodbus knows could change how it serves, and no PLC needs them."""
ANY_UNIT = 0
"""The server answers requests to every unit number."""


class ModbusServer:
    """Is the kind `modbus`."""

    listens = True

    def __init__(self, config: ModbusConfig) -> None:
        self._config = config
        self._map = RegisterMap(config)
        self._handle: Handle | None = None
        self._server: _Server | None = None
        self._listener: socket.socket | None = None
        self._outputs = [0] * self._map.n_outputs
        self._status = 0
        self._controls = [0] * self._map.n_controls
        self._written_at: set[int] = set()  # since the start; 0 only if `enable`, bit 0 of that register, was written
        self._sweeping: asyncio.Task[None] | None = None

    @property
    def place(self) -> str:
        """Where a PLC finds it."""
        return f"Modbus TCP {self._config.listen}"

    async def start(self, handle: Handle) -> None:
        """Begin to serve.

        Raises:
            PublishError: Another program uses the address.
            ConfigError: This machine has no such address, or this user may not use the port.
        """
        self._handle = handle
        # Its lines are about what anybody may send: `_Peer` counts that.
        logging.getLogger("pymodbus.logging").setLevel(logging.CRITICAL)
        if not self._config.is_loopback:
            logs.warning(
                "bridge.open_to_network",
                listen=self._config.listen,
                clients=", ".join(self._config.clients) or "everyone",
                hint="Modbus has no keys: whoever reaches this address can read and write",
            )
        self._listener = open_listener(self._config.address, "modbus.listen")
        self._server = _Server(self._device(), self._config)
        self._server.call_create = partial(
            asyncio.get_running_loop().create_server, self._server.handle_new_connection, sock=self._listener
        )
        await self._server.serve_forever(background=True)
        self._sweeping = asyncio.get_running_loop().create_task(self._server.sweep())

    def show(self, outputs: Outputs) -> None:
        """Let the PLC read these outputs from now on."""
        self._outputs = self._map.registers_of(outputs)
        self._status = word_of(status_bits(outputs))

    async def stop(self) -> None:
        """End."""
        if self._sweeping is not None:
            self._sweeping.cancel()
        if self._server is not None:
            await self._server.shutdown()

    def _device(self) -> SimDevice:
        """Return the registers as pymodbus wants them: coils, discrete inputs, holding and input registers."""
        bits = [SimData(0, values=[False] * WORD, datatype=DataType.BITS)]
        holding = [
            SimData(0, count=self._map.n_controls, values=0, datatype=DataType.REGISTERS),
            SimData(MIRROR, count=self._map.n_outputs, values=0, datatype=DataType.REGISTERS, readonly=True),
        ]
        inputs = [SimData(0, count=self._map.n_outputs, values=0, datatype=DataType.REGISTERS)]
        return SimDevice(ANY_UNIT, (list(bits), list(bits), holding, inputs), action=self._access)

    async def _access(
        self,
        function: int,
        start: int,
        address: int,
        count: int,
        registers: list[int],
        values: list[int] | list[bool] | None,
    ) -> ExcCodes | None:
        """Take a write, or fill pymodbus's registers before they are read. Called for each request."""
        assert self._handle is not None
        if values is not None:
            return self._written(function, address, values)
        self._handle.refresh()
        if function in (1, 5, 15):
            registers[0] = self._controls[0]
        elif function == 2:
            registers[0] = self._status
        elif function == 4:
            registers[: len(self._outputs)] = self._outputs
        else:
            registers[: len(self._controls)] = self._controls
            registers[MIRROR : MIRROR + len(self._outputs)] = self._outputs
        return None

    def _written(self, function: int, address: int, values: list[int] | list[bool]) -> ExcCodes | None:
        assert self._handle is not None
        without_enable = function == 22 and address == 0 and bool(_and_mask.get() & 1)
        if function in (5, 15):
            if address + len(values) > WORD:
                return ExcCodes.ILLEGAL_ADDRESS
            without_enable = address > 0
            bits = bits_of(self._controls[0])
            bits[address : address + len(values)] = [bool(value) for value in values]
            address, values = 0, [word_of(bits)]
        self._controls[address : address + len(values)] = [int(value) for value in values]
        # After a restart of the bridge, a write of other bits must not count as a PLC that lowers `enable`.
        self._written_at.update(range(address + without_enable, address + len(values)))
        self._handle.write(self._map.controls_of(self._controls, self._written_at))
        return None


_and_mask: ContextVar[int] = ContextVar("and_mask", default=0)
"""Of the mask write that is being carried out: a bit that is 1 here keeps its value."""


class _MaskWrite(MaskWriteRegisterRequest):  # type: ignore[misc]
    """Also hands over the mask. pymodbus hands over only the register's new value, which does not say what was written."""

    async def datastore_update(self, context: Any, device_id: int) -> ModbusPDU:
        """Carry out the request. pymodbus does this in a task of its own, so no other request sees this mask."""
        _and_mask.set(self.and_mask)
        return await super().datastore_update(context, device_id)


class _Server(ModbusTcpServer):  # type: ignore[misc] # `follow_imports` in pyproject.toml
    """Limits who may connect, how many, and for how long without a request."""

    def __init__(self, device: SimDevice, config: ModbusConfig) -> None:
        super().__init__(device, framer=FramerType.SOCKET, address=config.address)
        self.decoder.pdu_table = {code: kinds for code, kinds in self.decoder.pdu_table.items() if code in FUNCTIONS}
        self.decoder.register(_MaskWrite)
        self.config = config
        self.peers: set[_Peer] = set()
        self.refused = logs.Throttle("bridge.client_refused")

    def callback_new_connection(self) -> ServerRequestHandler:
        """Make the handler of a connection."""
        return _Peer(self)

    async def sweep(self) -> None:
        """Close connections that have been silent for too long, once a second, until cancelled."""
        while True:
            await asyncio.sleep(1.0)
            now = time.monotonic()
            for peer in [peer for peer in self.peers if now - peer.asked_at > IDLE_S]:
                peer.drop("it has sent no request for a minute")

    def admit(self, peer: _Peer) -> None:
        """Let a client in, or close its connection."""
        host = peer.host
        if host is None or not self.config.may_connect(host):
            peer.drop("its address is not in modbus.clients")
            return
        self.peers.add(peer)
        if len(self.peers) > MAX_CLIENTS:
            min(self.peers, key=lambda peer: peer.asked_at).drop(f"more than {MAX_CLIENTS} connections")


class _Peer(ServerRequestHandler):  # type: ignore[misc]
    """One connection. It hands whole frames to pymodbus one by one: of several at once, pymodbus would lose all but one."""

    def __init__(self, server: _Server) -> None:
        super().__init__(server, None, None, None)
        self._owner = server
        self._unread = b""
        self._answering = False
        self._function = 0
        self.asked_at = time.monotonic()
        self.host: str | None = None

    def connection_made(self, transport: Any) -> None:
        """Take a new connection."""
        super().connection_made(transport)
        peer = transport.get_extra_info("peername")
        self.host = None if peer is None else str(peer[0])
        self._owner.admit(self)

    def connection_lost(self, exc: Exception | None) -> None:
        """Take note that the connection has ended."""
        self._owner.peers.discard(self)
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Take bytes from the client."""
        self._unread += data
        if len(self._unread) > MAX_WAITING:
            self.drop("it sends more and more requests without waiting for the answers")
        self._go_on()

    def pause_writing(self) -> None:
        """End the connection of a client that does not take its answers."""
        self.drop("it does not read the answers that it gets")

    def resume_writing(self) -> None:
        """Nothing waits for this: the connection was closed."""

    def server_send(self, pdu: Any, addr: Any) -> None:
        """Send an answer, and go on with the next request."""
        if self.transport is not None:
            if pdu.function_code == ERROR:  # pymodbus does not say which function it does not know
                pdu.function_code |= self._function
            super().server_send(pdu, addr)
        self._answering = False
        self._go_on()

    def drop(self, why: str) -> None:
        """Close the connection at once."""
        self._owner.peers.discard(self)
        self._unread = b""
        if self.transport is not None:
            self._owner.refused.warning(client=self.host, why=why)
            self.transport.abort()

    def _go_on(self) -> None:
        """Hand the next whole frame to pymodbus, if there is one and the one before is answered."""
        if self._answering or len(self._unread) < MBAP or self.transport is None or self.transport.is_closing():
            return
        length = MBAP + int.from_bytes(self._unread[4:6], "big")
        if self._unread[2:4] != b"\0\0" or not MBAP + 2 <= length <= MAX_FRAME:
            self.drop("it does not speak Modbus TCP")
            return
        if len(self._unread) < length:
            return
        frame, self._unread = self._unread[:length], self._unread[length:]
        self.asked_at = time.monotonic()
        self._answering, self._function = True, frame[MBAP + 1]
        self.recv_buffer = b""
        try:
            super().data_received(frame)
        except Exception as error:  # noqa: BLE001 - pymodbus must not fail on anything that a client sends
            self.drop(f"it sent a request that cannot be decoded ({type(error).__name__})")
            return
        if self.last_pdu is None and self._answering:
            self.drop("it sent a request that cannot be decoded")
