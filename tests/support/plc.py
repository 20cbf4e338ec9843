"""A PLC for tests: speaks Modbus TCP with nothing but a socket, and runs the program of docs/plc.md.

As a program, `plc.py PORT PARTS`, it triggers parts and prints the outcome of each.
"""

from __future__ import annotations

import socket
import struct
import sys
import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple, Protocol

STATUS, RESULT = 0, 40
HEARTBEAT, ONLINE, IDLE, ENABLED, READY, TAKEN, BUSY, VALID, TOGGLE, PASS, FAIL, OVERRUN, RECIPE_DONE = range(13)

STILL_S = 3.0
"""A heartbeat that has not changed for so long counts as lost."""


class ModbusError(Exception):
    """The server answered with an exception code."""


class Registers:
    """One connection to a Modbus server."""

    def __init__(self, port: int, *, timeout_s: float = 5.0, host: str = "127.0.0.1") -> None:
        self.socket = socket.create_connection((host, port), timeout=timeout_s)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._n = 0

    def ask(self, pdu: bytes, unit: int = 1) -> bytes:
        """Send one request; return what follows the function code in the answer."""
        self._n = (self._n + 1) & 0xFFFF
        self.socket.sendall(struct.pack(">HHHB", self._n, 0, len(pdu) + 1, unit) + pdu)
        number, protocol, length, _ = struct.unpack(">HHHB", self._take(7))
        answer = self._take(length - 1)
        assert (number, protocol) == (self._n, 0)
        if answer[0] & 0x80:
            assert answer[0] == pdu[0] | 0x80
            raise ModbusError(f"exception {answer[1]}")
        assert answer[0] == pdu[0]
        return answer[1:]

    def read(self, address: int, count: int, *, function: int = 4) -> list[int]:
        """Read registers: input registers (4) or holding registers (3)."""
        data = self.ask(struct.pack(">BHH", function, address, count))
        return list(struct.unpack(f">{count}H", data[1:]))

    def read_bits(self, address: int, count: int, *, function: int = 2) -> list[bool]:
        """Read discrete inputs (2) or coils (1)."""
        data = self.ask(struct.pack(">BHH", function, address, count))[1:]
        return [bool(data[n // 8] >> n % 8 & 1) for n in range(count)]

    def write(self, address: int, values: list[int]) -> None:
        """Write holding registers."""
        head = struct.pack(">BHHB", 16, address, len(values), 2 * len(values))
        self.ask(head + struct.pack(f">{len(values)}H", *values))

    def write_bit(self, address: int, value: bool) -> None:
        """Write one coil."""
        self.ask(struct.pack(">BHH", 5, address, 0xFF00 if value else 0))

    def close(self) -> None:
        self.socket.close()

    def _take(self, n: int) -> bytes:
        data = b""
        while len(data) < n:
            more = self.socket.recv(n - len(data))
            if not more:
                raise ConnectionError("the server closed the connection")
            data += more
        return data


def text_of(registers: list[int]) -> str:
    return struct.pack(f">{len(registers)}H", *registers).partition(b"\0")[0].decode()


def registers_of(text: str, n: int = 16) -> list[int]:
    return list(struct.unpack(f">{n}H", text.encode().ljust(2 * n, b"\0")))


class Seen(NamedTuple):
    """What the PLC read in one cycle."""

    status: int
    part_id: str
    reason: int
    age_ms: int

    def bit(self, number: int) -> bool:
        return bool(self.status >> number & 1)


class Plc:
    """The program of docs/plc.md: opens the handshake, triggers parts, and acts on each once. Tells parts apart by order."""

    def __init__(self, port: int, act: Callable[[str, str, Seen | None], None], *, gate_s: float = 3.0) -> None:
        """Prepare.

        Args:
            port: Where the bridge listens.
            act: Called once for each part that was given to `offer`, with its id, `pass` or `reject`, and what was read.
            gate_s: A part without a result for this long is rejected, and the handshake is opened again.
        """
        self._port, self._act, self._gate_s = port, act, gate_s
        self._registers: Registers | None = None
        self._step = 0
        self._open: deque[tuple[str, float]] = deque()
        self._waiting: str | None = None
        self._part_id = ""
        self._trigger = self._acknowledge = False

    @property
    def free(self) -> bool:
        """Whether a part may be put in front of the camera."""
        return self._step == 2 and self._waiting is None and not self._trigger and len(self._open) < 4

    @property
    def open_parts(self) -> int:
        return len(self._open) + (self._waiting is not None)

    def offer(self, part_id: str) -> None:
        """Put a part in front of the camera."""
        assert self.free
        self._waiting = part_id

    def cycle(self) -> None:
        """Read, think, write."""
        try:
            if self._registers is None:
                self._registers = Registers(self._port, timeout_s=1.0)
            seen = self._read(self._registers)
            self._think(seen)
            control = (self._step > 0) | self._trigger << 1 | self._acknowledge << 2
            self._registers.write(0, [control, *registers_of(self._part_id)])
        except (OSError, AssertionError):
            if self._registers is not None:
                self._registers.close()
            self._registers = None
            if self._step:
                self._give_up()

    def close(self) -> None:
        self._give_up()
        if self._registers is not None:
            self._registers.close()

    def _read(self, registers: Registers) -> Seen:
        values = registers.read(0, 56)
        return Seen(values[STATUS], text_of(values[RESULT : RESULT + 16]), values[5], values[9])

    def _think(self, seen: Seen) -> None:
        if self._step == 2 and (not seen.bit(ENABLED) or (self._open and time.monotonic() > self._open[0][1])):
            self._give_up()
        if self._step == 0 and seen.bit(IDLE):
            self._step = 1
        elif self._step == 1 and seen.bit(ENABLED):
            self._step = 2
        elif self._step == 1 and not seen.bit(IDLE):
            self._step = 0
        if self._step != 2:
            return
        if seen.bit(VALID) and not self._acknowledge:
            self._acknowledge = True
            part_id = self._open.popleft()[0] if self._open else "?"
            self._act(part_id, "pass" if seen.bit(PASS) else "reject", seen)
        elif not seen.bit(VALID):
            self._acknowledge = False
        if self._trigger and seen.bit(TAKEN):
            self._trigger = False
        elif self._waiting is not None and seen.bit(READY) and not self._trigger:
            self._trigger, self._part_id = True, self._waiting
            self._open.append((self._waiting, time.monotonic() + self._gate_s))
            self._waiting = None

    def _give_up(self) -> None:
        for part_id, _ in self._open:
            self._act(part_id, "reject", None)
        if self._waiting is not None:
            self._act(self._waiting, "reject", None)
        self._open.clear()
        self._waiting = None
        self._step = 0
        self._trigger = self._acknowledge = False


class Memory(Protocol):
    """The memory of a PLC whose bridge is a client."""

    def status(self) -> int:
        """The status word."""

    def result(self) -> tuple[str, int, int]:
        """Part id, reason and age of the result that is shown."""

    def write(self, control: int, part_id: str | None = None) -> None:
        """Write the part id, if there is one, then the control bits."""


class PolledPlc(Plc):
    """The same program in a PLC that the bridge polls: it also copies the heartbeat, and misses it when it stands still.

    It writes what has changed: in a PLC that costs nothing, but here each write is a request to a server that may be slow.
    """

    def __init__(self, memory: Memory, act: Callable[[str, str, Seen | None], None], *, gate_s: float = 3.0) -> None:
        super().__init__(0, act, gate_s=gate_s)
        self._memory = memory
        self._beat, self._beat_at = False, time.monotonic()
        self._written: tuple[int, str] | None = None

    def cycle(self) -> None:
        """Read, think, write."""
        status = self._memory.status()  # first: `result_valid` says that the result is whole
        shown = status >> VALID & 1 and not self._acknowledge  # and not read before
        seen = Seen(status, *self._memory.result()) if shown else Seen(status, "", 0, 0)
        if seen.bit(HEARTBEAT) != self._beat:
            self._beat, self._beat_at = seen.bit(HEARTBEAT), time.monotonic()
        if self._step and time.monotonic() > self._beat_at + STILL_S:
            self._give_up()
        self._think(seen)
        control = (self._step > 0) | self._trigger << 1 | self._acknowledge << 2 | self._beat << 4
        if self._written is None or self._part_id != self._written[1]:
            self._memory.write(control, self._part_id)
        elif control != self._written[0]:
            self._memory.write(control)
        self._written = control, self._part_id


def main(port: int, parts: int, *, limit_s: float = 60.0) -> int:
    """Trigger parts, one after another, and print part id and outcome of each; 1 if they take too long."""
    done: list[str] = []

    def act(part_id: str, action: str, seen: Seen | None) -> None:
        outcome = (
            "none" if seen is None else "PASS" if seen.bit(PASS) else "FAIL" if seen.bit(FAIL) else f"UNKNOWN {seen.reason}"
        )
        done.append(f"{part_id} {outcome}")

    plc = Plc(port, act, gate_s=limit_s)
    give_up_at = time.monotonic() + limit_s
    offered = 0
    while len(done) < parts and time.monotonic() < give_up_at:
        plc.cycle()
        if plc.free and plc.open_parts == 0 and offered < parts:
            offered += 1
            plc.offer(f"part-{offered}")
        time.sleep(0.005)
    plc.close()
    print("\n".join(done))
    return int(len(done) < parts)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
