"""Polls a PLC's memory. It is the same for every kind that is a client.

The event loop's thread decides (`exchange.py`); the calls that wait for the PLC run one after another on a thread of their own,
`plc`. A lost connection closes the handshake: what the PLC has read of the last writes is not known.
"""

from __future__ import annotations

import asyncio
import contextlib
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from functools import partial
from queue import SimpleQueue
from typing import Any, Protocol, TypeVar

from anosegd import logs
from anosegd.bridge.exchange import RESULT_VALUES, VALID, Image, Seen, StatusWrite, Value, Watch, replaced, writes
from anosegd.bridge.kind import Handle
from anosegd.bridge.tags import Outputs

T = TypeVar("T")

RETRY_S = 0.5
LONGEST_RETRY_S = 8.0
"""Pauses between attempts to connect grow up to this. Only a connection that has lasted this long makes them short again."""
CYCLE_S = 1.0
"""A PLC for which reading and writing take longer counts as lost, because the age of its signals is not known."""
STOP_S = 2.0
CALL_S = 30.0
"""A call that takes longer hangs, or the PLC answers byte by byte. This ends the bridge, and systemd starts it again."""


class PlcError(Exception):
    """The PLC cannot be reached, or refuses a request. The text is for people."""


class Memory(Protocol):
    """The memory of a PLC. Every call waits for the PLC, for a few seconds at most, and raises `PlcError`."""

    @property
    def place(self) -> str:
        """Which PLC, and where in its memory."""

    def connect(self) -> None:
        """Connect. Writes nothing."""

    def checks(self) -> Sequence[Callable[[], None]]:
        """The calls that check, one after another, that the memory has the map of the bridge. They write nothing."""

    def read(self) -> Seen:
        """Read what the PLC has written, and the status word. The control word is read first, or at the same time."""

    def write_status(self, word: int) -> None:
        """Write the status word, in one request."""

    def write_values(self, values: dict[str, Value], changed: frozenset[str]) -> None:
        """Write the values, at least the changed ones."""

    def close(self) -> None:
        """Disconnect, if connected. Raises nothing."""


class _Calls(threading.Thread):
    """Makes calls one after another. A daemon thread: a call that hangs does not keep the process from ending."""

    def __init__(self) -> None:
        super().__init__(name="plc", daemon=True)
        self._waiting: SimpleQueue[tuple[Future[Any], Callable[[], Any]] | None] = SimpleQueue()

    def submit(self, call: Callable[[], T]) -> Future[T]:
        """Have a call made."""
        future: Future[T] = Future()
        self._waiting.put((future, call))
        return future

    def end(self) -> None:
        """End after the calls that wait."""
        self._waiting.put(None)

    def run(self) -> None:
        """Make the calls."""
        while (waiting := self._waiting.get()) is not None:
            future, call = waiting
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(call())
            except Exception as error:  # noqa: BLE001 - the caller gets it
                future.set_exception(error)


class PollingKind:
    """Polls a PLC's memory, and keeps it up to date."""

    listens = False

    def __init__(self, memory: Memory, poll_s: float) -> None:
        self._memory, self._poll_s = memory, poll_s
        self._outputs = Outputs()
        self._changed = asyncio.Event()
        self._calls = _Calls()
        self._hangs = False
        self._task: asyncio.Task[None] | None = None
        self._connected = False
        self._said = ""  # why the PLC is lost, as the log has it already
        self._still = logs.Throttle("bridge.plc_lost")

    @property
    def place(self) -> str:
        """Which PLC the bridge serves."""
        return self._memory.place

    async def start(self, handle: Handle) -> None:
        """Begin to look for the PLC."""
        self._calls.start()
        self._task = asyncio.get_running_loop().create_task(self._stay_connected(handle))
        self._task.add_done_callback(_report_failure)

    def show(self, outputs: Outputs) -> None:
        """Let the PLC read these outputs from now on."""
        self._outputs = outputs
        self._changed.set()

    async def stop(self) -> None:
        """Lower all status bits in the PLC, and end."""
        if self._task is None:
            return
        self._task.cancel()
        await asyncio.wait((self._task,))
        last_calls: list[Callable[[], None]] = [self._memory.close]
        if self._connected:
            last_calls.insert(0, partial(self._memory.write_status, 0))
        for call in () if self._hangs else last_calls:
            with contextlib.suppress(PlcError, RuntimeError, asyncio.TimeoutError):
                await asyncio.wait_for(self._call(call), STOP_S)
        self._calls.end()

    async def _stay_connected(self, handle: Handle) -> None:
        """Connect to the PLC again and again, until cancelled."""
        pause_s = RETRY_S
        while True:
            began = 0.0
            try:
                await self._call(self._memory.connect)
                for check in self._memory.checks():
                    await self._call(check)
                self._connected, began = True, time.monotonic()
                await self._exchange(handle)
            except PlcError as error:
                why = str(error)
            if self._connected and time.monotonic() - began > LONGEST_RETRY_S:
                pause_s = RETRY_S
            self._connected = False
            handle.plc_lost()
            with contextlib.suppress(PlcError):
                await self._call(self._memory.close)
            if why != self._said:
                logs.warning("bridge.plc_lost", plc=self.place, why=why)
                self._said = why
            await asyncio.sleep(pause_s)
            pause_s = min(pause_s * 2, LONGEST_RETRY_S)

    async def _exchange(self, handle: Handle) -> None:
        """Read and write until the connection is lost.

        Raises:
            PlcError: It is lost.
        """
        watch, written = Watch(), None
        memory = self._memory
        while True:
            began = time.monotonic()
            seen = await self._call(memory.read)
            if watch.raised(seen):
                again = await self._call(memory.read)
                seen = replace(seen, part_id=again.part_id, recipe=again.recipe)
            if why := replaced(seen, written):
                raise PlcError(why)  # nothing more is written until the map has been checked again
            _check_time(began)
            if why := watch.loss(time.monotonic(), seen):
                self._still.warning(plc=self.place, why=why)
                handle.plc_lost()
            if controls := watch.news(seen):
                handle.write(controls, since=began)
            self._changed.clear()
            is_first, written = written is None, await self._write(handle, written, began)
            if is_first:  # all values, which may take long; the handshake is closed, and so no result can be late
                logs.info("bridge.plc_connected", plc=self.place)
                self._said = ""
            else:
                _check_time(began)
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), self._poll_s)

    async def _write(self, handle: Handle, before: Image | None, began: float) -> Image:
        """Bring the memory up to date; return what it has now. A result that changes meanwhile does not become valid.

        Args:
            handle: Is asked whether a result is late before it becomes valid.
            before: What the memory has; None if that is not known.
            began: When this cycle began.

        Raises:
            PlcError: The PLC is lost.
        """
        now = Image.of(self._outputs)
        status = 0 if before is None else before.status
        for write in writes(before, now):
            if not isinstance(write, StatusWrite):
                await self._call(partial(self._memory.write_values, dict(write.values), write.changed))
                continue
            if write.word & ~status & VALID:
                _check_time(began)
                handle.deliver()
                if not _is_same_result(now, Image.of(self._outputs)):
                    return Image(status, now.values)
            await self._call(partial(self._memory.write_status, write.word))
            status = write.word
        return now

    async def _call(self, call: Callable[[], T]) -> T:
        """Make a call that waits for the PLC, on the thread `plc`.

        Raises:
            PlcError: The PLC cannot be reached, or its answer cannot be used.
            RuntimeError: The call hangs.
        """
        done = asyncio.wrap_future(self._calls.submit(call))
        try:
            await asyncio.wait((done,), timeout=CALL_S)
            if not done.done():
                self._hangs = True
                raise RuntimeError(f"{self.place}: a request to the PLC has not ended for {CALL_S:g} s")
        finally:
            done.cancel()  # nobody waits for it any more; this changes nothing once it is done
        try:
            return done.result()
        except PlcError:
            raise
        except Exception as error:  # no library may end the bridge, whatever a PLC answers
            raise PlcError(f"an unexpected answer ({type(error).__name__}: {error})") from error


def _check_time(began: float) -> None:
    """Check that a cycle that began then has not taken too long.

    Raises:
        PlcError: It has taken too long.
    """
    if (took := time.monotonic() - began) > CYCLE_S:
        raise PlcError(
            f"one round of reading and writing took {took:.1f} s; the limit is {CYCLE_S:g} s: check network and PLC load"
        )


def _is_same_result(one: Image, other: Image) -> bool:
    return bool(other.status & VALID) and all(one.values[name] == other.values[name] for name in RESULT_VALUES)


def _report_failure(task: asyncio.Task[None]) -> None:
    """Hand an error of the task to the loop's handler, which ends the bridge."""
    if not task.cancelled() and (error := task.exception()) is not None:
        failure = RuntimeError(f"polling the PLC failed: {type(error).__name__}: {error}")
        failure.__cause__ = error  # an OSError alone would count as one of a connection, which ends nothing
        task.get_loop().call_exception_handler({"message": "polling the PLC failed", "exception": failure})
