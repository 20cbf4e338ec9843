"""What polling does about a PLC that is replaced, refuses writes or is slow, and about a library that fails or hangs."""

import asyncio
import subprocess
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import msgspec
import pytest

from anoseg_engines.errors import PublishError
from anosegd.bridge import polling
from anosegd.bridge.config import BridgeConfig, Target
from anosegd.bridge.encoding import STATUS_BITS
from anosegd.bridge.exchange import Seen, Value
from anosegd.bridge.handshake import Handshake, Heartbeat, Judged, Settings, TriggerRequest
from anosegd.bridge.polling import PlcError, PollingKind
from anosegd.bridge.service import Bridge
from anosegd.bridge.station_link import VerdictFeed
from anosegd.bridge.tags import OUTCOMES, REASONS, Controls, Outputs, Result
from anosegd.commands import bridge as bridge_command
from anosegd.systemd import Notifier

VALID, ENABLED, IDLE = (1 << STATUS_BITS.index(name) for name in ("result_valid", "enabled", "idle"))


class Plc:
    """The memory of a PLC. Its program copies the heartbeat."""

    place = "a PLC"

    def __init__(self) -> None:
        self.connects = 0
        self.control, self.status, self.values = 0, 0, dict[str, Value]()
        self.writes: list[int | dict[str, Value]] = []
        self.refuses_writes = False
        self.request_s = 0.0
        self.part_id = ""
        self.beat: int | None = None

    def connect(self) -> None:
        self.connects += 1

    def checks(self) -> list[Callable[[], None]]:
        return []

    def read(self) -> Seen:
        time.sleep(self.request_s)
        control = self.control & 0b1111 | (self.status & 1 if self.beat is None else self.beat) << 4
        version = int(self.values.get("map_version", 0))
        return Seen(control=control, status=self.status, map_version=version, part_id=self.part_id, recipe="")

    def write_status(self, word: int) -> None:
        self._write()
        self.status = word
        self.writes.append(word)

    def write_values(self, values: dict[str, Value], changed: frozenset[str]) -> None:
        self._write()
        self.values.update(values)
        self.writes.append(values)

    def close(self) -> None:
        pass

    def _write(self) -> None:
        time.sleep(self.request_s)
        if self.refuses_writes:
            raise PlcError("writing is not permitted")


class Station:
    """What polling asks of the bridge."""

    def __init__(self) -> None:
        self.written: list[Controls] = []
        self.read_s: list[float] = []
        self.lost = 0

    def write(self, controls: Controls, *, since: float | None = None) -> None:
        self.written.append(controls)
        assert since is not None
        self.read_s.append(time.monotonic() - since)

    def deliver(self) -> None:
        pass

    def plc_lost(self) -> None:
        self.lost += 1

    def refresh(self) -> None:
        raise AssertionError


def run(plc: Plc, test: Callable[[PollingKind, Station], Awaitable[None]]) -> Station:
    """Poll the PLC while the test runs."""

    async def serve() -> Station:
        station, kind = Station(), PollingKind(plc, 0.005)
        await kind.start(station)
        try:
            await test(kind, station)
        finally:
            await kind.stop()
        return station

    return asyncio.run(serve())


async def until(condition: Callable[[], bool]) -> None:
    give_up_at = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < give_up_at
        await asyncio.sleep(0.005)


@pytest.mark.parametrize("change", ["status", "cleared"])
def test_a_memory_that_was_replaced_is_checked_before_it_is_written(change: str) -> None:
    """Another block may be where the bridge's was: it connects again, which checks the map, and writes nothing before that."""
    plc = Plc()
    writes_before_the_check: list[object] = []

    def connect() -> None:
        plc.connects += 1
        if plc.connects == 2:
            writes_before_the_check.extend(plc.writes)

    plc.connect = connect  # type: ignore[method-assign]

    async def replace_it(kind: PollingKind, station: Station) -> None:
        kind.show(Outputs(online=True) if change == "status" else Outputs())
        await until(lambda: "map_version" in plc.values)
        await asyncio.sleep(0.1)
        plc.writes.clear()
        plc.status, plc.values = 0, {}
        await until(lambda: "map_version" in plc.values)

    station = run(plc, replace_it)
    assert (plc.connects, station.lost, writes_before_the_check) == (2, 1, [])


def test_a_plc_that_can_be_read_and_not_written_fills_no_log(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """The pauses between attempts grow, the log says once why, and never that the PLC is connected."""
    monkeypatch.setattr(polling, "RETRY_S", 0.02)
    plc = Plc()
    plc.refuses_writes = True

    async def wait(kind: PollingKind, station: Station) -> None:
        await asyncio.sleep(1.0)

    caplog.set_level("INFO", "anosegd")
    run(plc, wait)
    assert 3 <= plc.connects <= 7
    assert [record.getMessage() for record in caplog.records if record.name == "anosegd"] == ["bridge.plc_lost"]


class Judging:
    """A station that passes each part 20 ms after its trigger: the handshake itself, and the clock."""

    def __init__(self, window_s: float) -> None:
        now = time.monotonic()
        self.model = Handshake(Settings(triggered=True, window_s=window_s, capacity=4), now - 1)
        self.kind: PollingKind | None = None
        self.lost = 0
        for at_s in (now - 1, now):
            self.model.heartbeat(at_s, replace(BEAT, at_s=at_s))

    def _show(self) -> None:
        assert self.kind is not None
        self.kind.show(self.model.outputs)

    def write(self, controls: Controls, *, since: float | None = None) -> None:
        self.model.write(time.monotonic(), controls, since=since)
        for request in self.model.take_requests():
            assert isinstance(request, TriggerRequest)
            self.model.trigger_answered(time.monotonic(), request.number, request.part_id, "t")
            asyncio.get_running_loop().call_later(0.02, self._judge, request.part_id)
        self._show()

    def _judge(self, part_id: str) -> None:
        result = Result(outcome="PASS", part_id=part_id)
        self.model.verdict(time.monotonic(), replace(VERDICT, part_id=part_id, result=result))
        self._show()

    def deliver(self) -> None:
        self.model.deliver(time.monotonic())
        self._show()

    def plc_lost(self) -> None:
        self.lost += 1
        self.model.plc_lost(time.monotonic())
        self._show()

    def refresh(self) -> None:
        raise AssertionError


BEAT = Heartbeat(run_id="r", at_s=0.0, state="ContinuousExecution", last_seq=0)
VERDICT = Judged(run_id="r", replayed=False, seq=1, sequence=1, part_id="", triggered_at="t", since_s=0.0, result=Result())


def results(request_s: float, window_s: float) -> tuple[list[tuple[Value, Value]], int]:
    """What a PLC that takes so long for each request reads of one part, outcome and reason, and how often it was lost."""
    plc = Plc()
    found: list[tuple[Value, Value]] = []

    async def serve() -> int:  # the program lowers `enable`, raises it, and then the trigger; from then on, requests are slow
        station, kind = Judging(window_s), PollingKind(plc, 0.005)
        station.kind = kind
        await kind.start(station)
        try:
            beats = 0
            end = time.monotonic() + 8
            while time.monotonic() < end and not found and station.lost < 2:
                beats += 1
                plc.beat = beats // 10 % 2
                if plc.status & ENABLED:
                    plc.request_s = request_s
                    plc.control |= 2
                    plc.part_id = "4711"
                elif plc.status & IDLE or plc.control == 1:
                    plc.control = 1
                else:
                    plc.control = 0
                if plc.status & VALID:
                    found.append((plc.values["outcome"], plc.values["reason"]))
                await asyncio.sleep(0.02)
        finally:
            await kind.stop()
        return station.lost

    lost = asyncio.run(serve())
    return found, lost


@pytest.mark.parametrize(
    ("request_s", "window_s", "read"),
    [(0.0, 2.0, (OUTCOMES["PASS"], 0)), (0.12, 0.3, (OUTCOMES["UNKNOWN"], REASONS["late"]))],
)
def test_the_window_ends_when_the_plc_can_read_the_result(request_s: float, window_s: float, read: tuple[int, int]) -> None:
    """It begins with the read that finds the trigger: two reads and the values take longer than the shorter window."""
    assert results(request_s, window_s)[0] == [read]


def test_a_trigger_counts_from_the_beginning_of_the_read_that_finds_it() -> None:
    """The texts are read again after it."""
    plc = Plc()

    async def trigger(kind: PollingKind, station: Station) -> None:
        await until(lambda: "map_version" in plc.values)
        plc.beat = 0
        await asyncio.sleep(0.05)
        plc.beat, plc.request_s = 1, 0.1
        await until(lambda: bool(station.written))
        plc.control = 2
        await until(lambda: station.written[-1].trigger)

    assert run(plc, trigger).read_s[-1] >= 0.2


def test_a_plc_that_is_too_slow_is_lost() -> None:
    """Reading and writing take more than a second: it gets no result at all."""
    found, lost = results(0.4, window_s=0.3)
    assert found == []
    assert lost


class SlowAtFirst(Plc):
    """A PLC that takes long to write all values at once."""

    def __init__(self) -> None:
        super().__init__()
        self.reads = 0

    def read(self) -> Seen:
        self.reads += 1
        return super().read()

    def write_values(self, values: dict[str, Value], changed: frozenset[str]) -> None:
        if not self.values:
            time.sleep(polling.CYCLE_S + 0.1)
        super().write_values(values, changed)


def test_the_first_write_of_all_values_may_take_longer() -> None:
    """No result waits for it. A PLC that is fast enough for each result would otherwise never be connected."""
    plc = SlowAtFirst()

    async def until_it_is_polled(kind: PollingKind, station: Station) -> None:
        await until(lambda: plc.reads >= 3)

    assert (run(plc, until_it_is_polled).lost, plc.connects) == (0, 1)


def test_any_failure_of_polling_ends_the_bridge(tmp_path: Path) -> None:
    """An OSError is no exception: to the bridge, one alone would be that of a connection."""

    class Failing(PollingKind):
        async def _stay_connected(self, handle: object) -> None:
            raise OSError("no more threads")

    target = Target(camera="a", publish=f"ipc://{tmp_path}/p", control=None, key=None, window_s=1.0)

    async def serve() -> int:
        bridge = Bridge(Failing(Plc(), 0.02), target, Settings(triggered=False, window_s=1.0, capacity=1), Notifier())
        return await asyncio.wait_for(bridge.run(), 20)

    with pytest.raises(PublishError, match="polling the PLC failed: OSError: no more threads"):
        asyncio.run(serve())


class Hanging:
    """A memory whose first read does not return in time."""

    place = "a PLC"

    def __init__(self) -> None:
        self.released = threading.Event()

    def connect(self) -> None:
        pass

    def checks(self) -> list[Callable[[], None]]:
        return []

    def read(self) -> Seen:
        self.released.wait()
        raise ZeroDivisionError("a fault of the library")

    def write_status(self, word: int) -> None:
        pass

    def write_values(self, values: dict[str, Value], changed: frozenset[str]) -> None:
        pass

    def close(self) -> None:
        pass


def test_a_call_that_hangs_ends_the_bridge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It cannot be ended in its thread: exit code 1, and systemd starts another bridge."""
    monkeypatch.setattr(polling, "CALL_S", 0.2)
    memory = Hanging()
    target = Target(camera="a", publish=f"ipc://{tmp_path}/p", control=None, key=None, window_s=1.0)

    async def serve() -> int:
        kind = PollingKind(memory, 0.02)
        try:
            return await Bridge(kind, target, Settings(triggered=False, window_s=1.0, capacity=1), Notifier()).run()
        finally:
            memory.released.set()

    with pytest.raises(PublishError, match="has not ended for"):
        asyncio.run(serve())


HANGING = """
import sys, threading
from anosegd.bridge import polling
from anosegd.commands import bridge
from anosegd.cli import main

class Hanging:
    place = "a PLC"
    def connect(self):
        {hang}

polling.CALL_S = 0.2
bridge._kind = lambda *_: polling.PollingKind(Hanging(), 0.02)
main()
"""


@pytest.mark.parametrize("hang", ["threading.Event().wait()", "while True: pass"])
def test_the_process_ends_although_a_call_hangs(tmp_path: Path, hang: str) -> None:
    """A peer that sends byte by byte keeps python-snap7 waiting, an answer can make pylogix loop: exit code 1 in seconds."""
    config = tmp_path / "bridge.yaml"
    config.write_text(f"camera: a\nstation: {{publish: 'ipc://{tmp_path}/p', control: 'ipc://{tmp_path}/c'}}\n")
    done = subprocess.run(
        [sys.executable, "-c", HANGING.format(hang=hang), "bridge", "modbus", str(config)],
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 1, done.stderr
    assert "a request to the PLC has not ended for 0.2 s" in done.stderr


def test_the_checks_of_a_slow_plc_take_longer_than_a_call_may(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is a call of its own: a controller with many tags is connected."""
    monkeypatch.setattr(polling, "CALL_S", 1.5)
    plc = Plc()
    checked: list[int] = []

    def check(number: int) -> None:
        time.sleep(0.25)
        checked.append(number)

    plc.checks = lambda: [partial(check, number) for number in range(8)]  # type: ignore[method-assign]

    async def wait(kind: PollingKind, station: Station) -> None:
        await until(lambda: "map_version" in plc.values)

    run(plc, wait)
    assert (plc.connects, checked) == (1, list(range(8)))


def bridge_at(tmp_path: Path, plc: Plc) -> Bridge:
    target = Target(camera="a", publish=f"ipc://{tmp_path}/p", control=None, key=None, window_s=1.0)
    return Bridge(PollingKind(plc, 0.02), target, Settings(triggered=False, window_s=1.0, capacity=1), Notifier())


def test_a_text_that_is_not_utf8_is_said_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Its part id would come back changed, and nobody would know why."""
    plc = Plc()
    plc.part_id = b"Stra\xdfe".decode("utf-8", "replace")

    async def serve() -> None:
        bridge = bridge_at(tmp_path, plc)
        serving = asyncio.create_task(bridge.run())
        for _ in range(3):
            await until(lambda: plc.status & 1 == 0)
            await until(lambda: plc.status & 1 == 1)
            plc.part_id += "x"
        bridge._stopping.set()
        await serving

    asyncio.run(serve())
    assert [record.getMessage() for record in caplog.records].count("bridge.text_not_utf8") == 1


def test_the_names_of_recipes_that_do_not_fit_are_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """A STRING of a Logix controller has 82 characters, which no configuration changes."""
    assert bridge_command._recipe_length("logix", BridgeConfig(camera="a")) == 82
    for can_be_set, hint in (
        (True, "set recipe_length to 84 or more, or give the recipe a shorter name"),
        (False, "give the recipe a shorter name"),
    ):
        caplog.clear()
        target = Target(camera="a", publish=f"ipc://{tmp_path}/p", control=None, key=None, window_s=1.0, recipe_length=82)
        feed = VerdictFeed(msgspec.structs.replace(target, recipe_length_can_be_set=can_be_set), lambda change: None)
        feed._check_names(["x" * 82, "x" * 83])
        (record,) = caplog.records
        assert hint == record.fields["hint"]  # type: ignore[attr-defined]
