"""A whole bridge between a real station and a PLC that it polls, whose memory is a stranger's server in a process of its own.

For a Siemens PLC that is the C++ Snap7 server, for a Rockwell controller cpppo's EtherNet/IP server.
"""

import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
from support.anosegd_line import LIMIT_S, wait_until
from support.bridge_process import Bridged, BridgeProcess, free_port
from support.logix_plc import MAP, LogixPlc, server_of
from support.plc import ENABLED, HEARTBEAT, IDLE, ONLINE, PASS, READY, RECIPE_DONE, TAKEN, VALID, PolledPlc
from support.s7_plc import BLOCK, S7Plc, initial, library_of

from anosegd.bridge.encoding import STATUS_BITS
from anosegd.bridge.tags import REASONS, ErrorCode
from anosegd.client import Client

ENABLE, TRIGGER, ACKNOWLEDGE, RECIPE_CHANGE = 1, 2, 4, 8
ERROR = STATUS_BITS.index("error")


class Site:
    """A station, a bridge and a PLC whose program is the test."""

    def __init__(self, bridged: Bridged, plc: type[S7Plc] | type[LogixPlc], server: Path) -> None:
        self.bridged, self._plc, self._server = bridged, plc, server
        self.port = free_port()
        self.plc: Any = None

    def start_plc(self, **memory: Any) -> Any:
        self.plc = self._plc(self._server, self.port, **memory)
        return self.plc

    def start_bridge(self, *, window_ms: int = 20_000) -> BridgeProcess:
        config = self.bridged.write_config(self._plc.config(self.port), window_ms=window_ms)
        bridge = BridgeProcess(config, kind=self._plc.kind)
        self.bridged.bridges.append(bridge)
        return bridge

    def bit(self, number: int, control: int = 0, part_id: str | None = None) -> bool:
        """Run one cycle of a program that copies the heartbeat and writes these controls; return a status bit."""
        status = self.plc.status()
        self.plc.write(control | (status >> HEARTBEAT & 1) << 4, part_id)
        return bool(status >> number & 1)

    def wait(self, number: int, control: int, value: bool = True, part_id: str | None = None) -> None:
        wait_until(lambda: self.bit(number, control, part_id) is value, f"status bit {number} is {value}")

    def open(self) -> None:
        self.wait(IDLE, 0)
        self.wait(READY, ENABLE)

    def judge(self, part_id: str) -> None:
        """Trigger a part until its result is shown; again if the handshake closes meanwhile, as on a busy machine."""
        self.wait(READY, ENABLE)

        def is_shown() -> bool:
            if not self.bit(ENABLED, ENABLE | TRIGGER, part_id):
                self.open()
            return self.bit(VALID, ENABLE | TRIGGER, part_id)

        wait_until(is_shown, f"the result of {part_id}")

    def trigger_stopped(self, number: int, part_id: str) -> Popen[str]:
        """Stop the station and trigger a part until a status bit is set. Return the station's process, still stopped.

        Does it again if the handshake closes first, as on a busy machine.
        """
        station = self.bridged.line.daemons[-1].process
        self.open()
        station.send_signal(signal.SIGSTOP)

        def is_set() -> bool:
            if self.bit(number, ENABLE | TRIGGER, part_id):
                return True
            if not self.bit(ENABLED, ENABLE | TRIGGER, part_id):
                station.send_signal(signal.SIGCONT)
                self.open()
                station.send_signal(signal.SIGSTOP)
            return False

        wait_until(is_set, f"status bit {number} with a stopped station")
        return station

    def close(self) -> None:
        if self.plc is not None:
            self.plc.kill()


def site_of(kind: str, bridged: Bridged, tmp_path_factory: pytest.TempPathFactory) -> Site:
    if kind == "s7":
        return Site(bridged, S7Plc, library_of(tmp_path_factory))
    return Site(bridged, LogixPlc, server_of(tmp_path_factory))


@pytest.fixture(params=["s7", "logix"])
def site(request: pytest.FixtureRequest, bridged: Bridged, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    made = site_of(request.param, bridged, tmp_path_factory)
    yield made
    made.close()


s7, logix = (pytest.mark.parametrize("site", [kind], indirect=True) for kind in ("s7", "logix"))


def hold(site: Site, seconds: float, control: int, check: Callable[[], None]) -> None:
    """Let the program run on with these controls, and look in each cycle."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        site.bit(ONLINE, control)
        check()


def test_parts_are_triggered_and_acted_on_by_their_own_results(site: Site) -> None:
    """Parts of a good and a bad kind in turn, through the program of docs/plc-s7.md and docs/plc-logix.md."""
    site.bridged.start_station()
    plc = site.start_plc()
    parts = 20 if plc.kind == "s7" else 6  # cpppo's server is slow
    bridge = site.start_bridge()
    acted: list[tuple[str, str, str]] = []
    program = PolledPlc(
        plc, lambda part, action, seen: acted.append((part, action, seen.part_id if seen else "nothing")), gate_s=LIMIT_S
    )
    offered = 0
    give_up_at = time.monotonic() + LIMIT_S
    while len(acted) < parts:
        assert time.monotonic() < give_up_at, bridge.log
        program.cycle()
        if offered < parts and program.free:
            offered += 1
            program.offer(f"part-{offered}")
    assert [part for part, _, _ in acted] == [f"part-{n}" for n in range(1, parts + 1)]
    if "bridge.closed" not in bridge.log:
        assert acted == [(f"part-{n}", "pass" if n % 2 else "reject", f"part-{n}") for n in range(1, parts + 1)]
        assert (plc.number("passed"), plc.number("failed"), plc.number("result_number")) == (parts // 2, parts // 2, parts)
    with Client(site.bridged.line.endpoint, site.bridged.control, request_timeout_s=LIMIT_S) as client:
        judged = {verdict["part_id"]: verdict["outcome"] for verdict in client.replay(1)}
    for part, action, seen in acted:  # on a busy machine, the handshake may close: then what has no result is a reject
        by_result = (part, "pass" if judged.get(part) == "PASS" else "reject")
        assert (seen, action) in (by_result, ("nothing", "reject"))
    assert bridge.terminate() == 0
    assert plc.status() == 0  # a bridge that ends says so


def test_a_late_verdict_drives_nothing(site: Site) -> None:
    """The part of a station that does not answer is UNKNOWN when the window is over; what it says later is no result."""
    site.bridged.start_station()
    plc = site.start_plc()
    site.start_bridge(window_ms=300)
    site.trigger_stopped(VALID, "slow").send_signal(signal.SIGCONT)
    part_id, reason, _ = plc.result()
    assert not site.bit(PASS, ENABLE)
    if site.bit(ENABLED, ENABLE):  # on a busy machine, the station was stopped for so long that the handshake closed
        assert (part_id, reason in (REASONS["refused"], REASONS["late"])) == ("slow", True)  # answered before the stop, or not
    site.wait(VALID, ENABLE | ACKNOWLEDGE, value=False)
    number = plc.number("result_number")

    def nothing_new() -> None:
        assert plc.number("result_number") == number

    hold(site, 1.0, ENABLE, nothing_new)
    if not site.bit(READY, ENABLE):
        site.open()
    site.wait(VALID, ENABLE | TRIGGER, part_id="next")
    assert plc.result()[0] == "next"


def test_the_recipe_is_changed_and_asked_for(site: Site) -> None:
    """By the PLC: done, refused; and a part for which it asks for another recipe is not judged. It must write a name first."""
    site.bridged.start_station(f"recipes: {{lid: {{bundle: '{site.bridged.line.store}', cameras: {{eye: {{}}}}}}}}")
    plc = site.start_plc()
    site.start_bridge()
    site.wait(IDLE, 0)
    site.wait(ERROR, ENABLE)
    assert plc.number("error_code") == ErrorCode.RECIPE_NOT_WRITTEN
    plc.write_text("recipe", "lid")
    site.open()
    for name, refused in (("lid", False), ("nut", True)):
        plc.write_text("recipe", name)
        site.wait(RECIPE_DONE, ENABLE | RECIPE_CHANGE)
        assert site.bit(RECIPE_DONE + 1, ENABLE | RECIPE_CHANGE) is refused
        site.wait(RECIPE_DONE, ENABLE, value=False)
    for name, reason in (("nut", REASONS["recipe"]), ("lid", 0)):
        plc.write_text("recipe", name)
        site.judge(name)
        assert plc.result()[:2] == (name, reason)
        site.wait(VALID, ENABLE | ACKNOWLEDGE, value=False)


def test_a_bridge_that_is_killed_shows_nothing_of_an_old_part(site: Site) -> None:
    """The next bridge takes the result away, and opens only after the PLC has lowered `enable`."""
    site.bridged.start_station()
    plc = site.start_plc()
    site.start_bridge().wait_for("bridge.plc_connected")
    site.open()
    site.wait(VALID, ENABLE | TRIGGER, part_id="4711")
    site.bridged.bridges[-1].close()
    assert plc.status() >> VALID & 1
    site.start_bridge()
    site.wait(VALID, ENABLE | TRIGGER, value=False)

    def closed() -> None:
        assert not plc.status() & (1 << VALID | 1 << ENABLED | 1 << TAKEN)

    hold(site, 3.0, ENABLE | TRIGGER, closed)
    site.open()
    site.wait(VALID, ENABLE | TRIGGER, part_id="4712")
    assert plc.result()[0] == "4712"
    assert plc.number("result_number") == 1


def test_a_plc_that_is_killed_gets_nothing_of_an_old_part(site: Site) -> None:
    """Its memory begins with the declared values, while the bridge has a part under way."""
    site.bridged.start_station()
    site.start_plc()
    bridge = site.start_bridge()
    station = site.trigger_stopped(TAKEN, "4711")
    site.plc.kill()
    bridge.wait_for("bridge.plc_lost")
    station.send_signal(signal.SIGCONT)
    plc = site.start_plc()

    def nothing() -> None:
        assert not plc.status() >> VALID & 1

    hold(site, 3.0, ENABLE | TRIGGER, nothing)  # its program may remember that it has a part in place
    assert not site.bit(ENABLED, 0)
    site.open()
    site.wait(VALID, ENABLE | TRIGGER, part_id="4712")
    assert plc.result()[0] == "4712"
    assert plc.number("discarded") == 1


def test_a_program_that_stands_still_is_a_lost_plc(site: Site) -> None:
    """Its memory can be read, as that of a PLC in STOP, but the heartbeat is not copied: the handshake closes."""
    site.bridged.start_station()
    plc = site.start_plc()
    bridge = site.start_bridge()
    site.open()
    site.wait(VALID, ENABLE | TRIGGER, part_id="4711")
    wait_until(lambda: not plc.status() >> ENABLED & 1, "closed")
    assert not plc.status() >> VALID & 1
    wait_until(lambda: plc.number("error_code") == ErrorCode.PLC_LOST, "the error code")  # written after the bits fell
    bridge.wait_for("has not copied the heartbeat bit")
    site.wait(HEARTBEAT, ENABLE)
    assert not site.bit(ENABLED, ENABLE)
    site.open()


@s7
def test_another_block_is_left_alone(site: Site) -> None:
    """The bridge writes nothing to a block that has other texts, or is too small, and says what it found."""
    other = bytes(range(256)) * 2
    plc = site.start_plc(data=other)
    bridge = site.start_bridge()
    bridge.wait_for("there is no STRING[32] at offset 2 (part_id); nothing was written to it")
    assert plc.read() == other[: BLOCK.size]
    plc.kill()
    site.start_plc(data=initial()[:-2])
    bridge.wait_for("has at least 258 bytes and no optimized access")


@logix
def test_another_tag_is_left_alone(site: Site) -> None:
    """The bridge writes nothing where a tag is missing or has another type, and says which."""
    kinds = dict(MAP.kinds)
    del kinds["AnoSeg.status.overruns"]
    plc = site.start_plc(kinds=kinds)
    bridge = site.start_bridge()
    bridge.wait_for("AnoSeg.status.overruns: Path ")
    assert (plc.status(), plc.number("map_version")) == (0, 0)
    plc.kill()
    site.start_plc(kinds=MAP.kinds | {"AnoSeg.status.score": "DINT"})
    bridge.wait_for("AnoSeg.status.score must be a REAL")


def test_a_plc_that_comes_later_is_found(site: Site) -> None:
    """Until then, the bridge says once that it finds no PLC, and keeps looking."""
    bridge = site.start_bridge()
    bridge.wait_for("bridge.plc_lost")
    site.start_plc()
    bridge.wait_for("bridge.plc_connected")
    assert bridge.log.count("bridge.plc_lost") == 1
    assert bridge.terminate() == 0


class Stranger:
    """Listens where the PLC should be. It answers each connection with the same bytes, and closes it or leaves it open."""

    def __init__(self, port: int, answer: bytes, *, closes: bool) -> None:
        self._listener = socket.create_server(("127.0.0.1", port))
        self._answer, self._closes = answer, closes
        self._peers: list[socket.socket] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                peer, _ = self._listener.accept()
            except OSError:
                return
            self._peers.append(peer)
            peer.sendall(self._answer)
            if self._closes:
                peer.close()

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()
        for peer in self._peers:
            peer.close()


CUT_OFF = b"\x65\0\x04\x10" + bytes(20)
"""The head of an EtherNet/IP answer whose contents never come."""


@pytest.mark.parametrize(("answer", "closes"), [(bytes(range(256)), True), (CUT_OFF, True), (b"", False)])
def test_what_is_no_plc_costs_nothing(site: Site, answer: bytes, closes: bool) -> None:
    """Rubbish, an answer that is cut off, and silence: the bridge says so, goes on, and ends when it is asked to."""
    stranger = Stranger(site.port, answer, closes=closes)
    try:
        bridge = site.start_bridge()
        bridge.wait_for("bridge.plc_lost")
    finally:
        stranger.close()
    site.start_plc()
    bridge.wait_for("bridge.plc_connected")
    assert bridge.terminate() == 0
    assert "Traceback" not in bridge.log
