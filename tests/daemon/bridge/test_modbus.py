"""A whole bridge between a real station and Modbus masters: a plain socket, mbpoll and modbus-serial."""

import json
import os
import shutil
import signal
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from support.anosegd_line import LIMIT_S, Line, run_anosegd, wait_until
from support.bridge_process import Bridged, BridgeProcess
from support.made_once import made_once
from support.plc import (
    ENABLED,
    FAIL,
    HEARTBEAT,
    IDLE,
    ONLINE,
    PASS,
    READY,
    RECIPE_DONE,
    TAKEN,
    VALID,
    ModbusError,
    Plc,
    Registers,
    Seen,
    text_of,
)
from support.plc import registers_of as text_registers

from anosegd.bridge.tags import ErrorCode
from anosegd.client import Client


@pytest.fixture
def registers(bridged: Bridged) -> Iterator[Registers]:
    """A master of a bridge whose station is not there."""
    bridged.start_bridge()
    master = Registers(bridged.port)
    yield master
    master.close()


def wait_for_bit(master: Registers, bit: int, value: bool = True) -> None:
    wait_until(lambda: master.read_bits(bit, 1)[0] is value, f"status bit {bit} is {value}")


def opened(bridged: Bridged) -> Registers:
    """Open the handshake."""
    master = Registers(bridged.port)
    wait_for_bit(master, ONLINE)
    master.write(0, [0])
    master.write(0, [1])
    wait_for_bit(master, READY)
    return master


def test_parts_are_triggered_and_acted_on_by_their_own_results(bridged: Bridged) -> None:
    """Twenty parts of a good and a bad kind in turn, through the program that docs/plc.md describes."""
    bridged.start_station()
    bridge = bridged.start_bridge()
    acted: list[tuple[str, str]] = []
    plc = Plc(bridged.port, lambda part, action, seen: acted.append((part, action)), gate_s=LIMIT_S)
    offered = 0
    give_up_at = time.monotonic() + LIMIT_S
    while len(acted) < 20:
        assert time.monotonic() < give_up_at, bridge.log
        plc.cycle()
        if offered < 20 and plc.free:
            offered += 1
            plc.offer(f"part-{offered}")
    plc.close()
    assert acted == [(f"part-{n}", "pass" if n % 2 else "reject") for n in range(1, 21)]
    assert bridge.terminate() == 0
    events = [event["event"] for event in bridge.events if event["event"] != "bridge.waiting"]  # on a busy machine
    assert events[:3] == ["bridge.listening", "bridge.station_heard", "bridge.opened"]


def test_a_station_that_is_killed_takes_the_result_away(bridged: Bridged) -> None:
    """result_valid falls and the outcome reads UNKNOWN; the next station's life begins with nothing."""
    bridged.start_station()
    bridged.start_bridge()
    master = Registers(bridged.port)
    wait_for_bit(master, ONLINE)
    master.write(0, [0])
    master.write(0, [1])
    wait_for_bit(master, READY)
    master.write(0, [3, *text_registers("4711")])
    wait_for_bit(master, TAKEN)
    master.write(0, [1])
    wait_for_bit(master, VALID)
    assert master.read(4, 1) == [1]
    number = master.read(2, 1)
    bridged.line.daemons[-1].process.send_signal(signal.SIGKILL)
    wait_for_bit(master, ONLINE, False)
    assert master.read_bits(0, 16)[ENABLED : ENABLED + 7] == [False] * 5 + [bool(number[0] % 2), False]
    assert master.read(4, 1) == [0]
    bridged.start_station()
    wait_for_bit(master, ONLINE)
    assert master.read_bits(VALID, 1) == [False]
    assert master.read(2, 1) == number
    master.close()


def test_the_recipe_is_changed_and_asked_for(bridged: Bridged) -> None:
    """By the PLC: done, refused; and a part for which it asks for another recipe is not judged."""
    bridged.start_station(f"recipes: {{lid: {{bundle: '{bridged.line.store}', cameras: {{eye: {{}}}}}}}}")
    bridge = bridged.start_bridge()
    master = Registers(bridged.port)
    wait_for_bit(master, ONLINE)
    master.write(0, [0])
    master.write(0, [1])
    for name, refused in (("lid", False), ("nut", True)):
        master.write(17, text_registers(name))
        master.write_bit(3, True)
        wait_for_bit(master, RECIPE_DONE)
        assert master.read_bits(RECIPE_DONE + 1, 1) == [refused], bridge.log
        master.write_bit(3, False)
        assert master.read_bits(RECIPE_DONE, 2) == [False, False]
        wait_until(lambda: text_of(master.read(72, 16)) == "lid", "the recipe is in the heartbeat")
    for name, reason in (("nut", 15), ("lid", 0)):
        master.write(17, text_registers(name))
        wait_for_bit(master, READY)
        master.write_bit(1, True)
        wait_for_bit(master, VALID)
        assert master.read(5, 1) == [reason]
        assert text_of(master.read(56, 16)) == "lid"
        assert master.read(10, 2) == master.read(14, 2) != [0, 0]
        master.write(0, [5])
        master.write(0, [1])
    master.close()


def test_a_bridge_without_a_station_waits_and_says_so(bridged: Bridged) -> None:
    """The PLC sees that the station is not there; its own heartbeat goes on."""
    bridge = bridged.start_bridge()
    master = Registers(bridged.port)
    master.write(0, [0])
    master.write(0, [1])
    assert master.read_bits(ONLINE, 3) == [False, True, False]
    for value in (True, False):
        wait_for_bit(master, HEARTBEAT, value)
    bridge.wait_for("bridge.waiting")
    assert "check that it is running" in bridge.log
    bridged.start_station()
    wait_for_bit(master, ENABLED)
    master.close()


def test_a_camera_that_the_station_does_not_have_is_said(bridged: Bridged) -> None:
    """A PLC would wait without an end, and nobody would know why."""
    config = bridged.write_config()
    config.write_text(config.read_text().replace("camera: eye", "camera: eve"))
    bridge = BridgeProcess(config)
    bridged.bridges.append(bridge)
    bridged.start_station()
    bridge.wait_for("bridge.no_such_camera")
    (said,) = [event for event in bridge.events if event["event"] == "bridge.no_such_camera"]
    assert (said["camera"], said["cameras"]) == ("eve", "eye")


def test_a_reload_closes_the_handshake_only_if_the_station_restarts(bridged: Bridged) -> None:
    """Another threshold of the camera leaves it open; another name of the station restarts it."""
    bridged.start_station()
    bridged.start_bridge()
    config = bridged.line.folder / "station.yaml"
    master = opened(bridged)
    for old, new in (("policy: every", "score_threshold: 0.6, policy: every"), ("station: test-station", "station: other")):
        config.write_text(config.read_text().replace(old, new, 1))
        done = run_anosegd("reload", str(config))
        assert done.returncode == 0, done.stderr
    wait_for_bit(master, ENABLED, False)
    # A station that takes longer than two seconds to restart, as on a busy machine, was silent before it had restarted.
    assert master.read(1, 1)[0] in (ErrorCode.STATION_SILENT, ErrorCode.STATION_RESTARTED)
    assert bridged.bridges[-1].log.count("bridge.closed") == 1
    master.close()


def test_what_keeps_a_plc_waiting_is_said(bridged: Bridged) -> None:
    """A bridge for a camera with its own trigger, a second bridge, an empty recipe, and requests that nobody answers."""
    bridged.start_station()
    bridge = bridged.start_bridge(more="trigger: camera")
    master = Registers(bridged.port)
    wait_for_bit(master, ONLINE)
    master.write(0, [0])
    master.write(0, [1])
    wait_until(lambda: master.read(1, 1) == [11], "the error code of the trigger mode")
    assert master.read_bits(ENABLED, 1) == [False]
    bridge.wait_for("bridge.not_opened")
    bridge.close()
    master.close()

    bridge = bridged.start_bridge()
    master = opened(bridged)
    master.write_bit(3, True)
    wait_for_bit(master, RECIPE_DONE)
    bridge.wait_for("the PLC must write the name before")
    with Client(bridged.line.endpoint, bridged.control, request_timeout_s=LIMIT_S) as client:
        client.trigger("eye", part_id="of another client")
    bridge.wait_for("bridge.other_trigger")
    bridge.close()
    master.close()

    bridged.control += "-nobody"
    bridge = bridged.start_bridge(window_ms=200)
    master = opened(bridged)
    master.write(0, [3])
    wait_for_bit(master, VALID)
    assert [master.read(1, 1), master.read(5, 1)] == [[6], [101]]
    master.write(0, [5])
    master.write(0, [1])
    bridge.wait_for("bridge.control_silent")
    wait_for_bit(master, READY, False)
    master.close()


@pytest.mark.parametrize(
    "write",
    [
        struct.pack(">BHH", 5, 2, 0),
        struct.pack(">BHHBB", 15, 1, 3, 1, 0),
        struct.pack(">BHHH", 22, 0, 0xFFFB, 0),  # and, or
    ],
    ids=["one coil", "three coils", "masked"],
)
def test_a_bridge_that_was_restarted_does_not_take_other_bits_for_enable(bridged: Bridged, write: bytes) -> None:
    """The PLC has `enable` high and writes another bit first: the handshake opens only when `enable` was lowered."""
    bridged.start_station()
    bridged.start_bridge()
    master = opened(bridged)
    master.close()
    bridged.bridges[-1].close()
    bridged.start_bridge()
    master = Registers(bridged.port)
    wait_for_bit(master, ONLINE)
    master.ask(write)
    assert master.read_bits(IDLE, 2) == [False, False]
    master.write_bit(0, True)
    assert master.read_bits(IDLE, 2) == [False, False]
    master.write_bit(0, False)
    assert master.read_bits(IDLE, 2) == [True, False]
    master.write_bit(0, True)
    wait_for_bit(master, ENABLED)
    master.close()


@pytest.mark.parametrize(
    "write",
    [
        struct.pack(">BHH", 5, 0, 0),
        struct.pack(">BHHBB", 15, 0, 3, 1, 0),
        struct.pack(">BHHH", 22, 0, 0xFFFE, 0),  # and, or
        struct.pack(">BHH", 6, 0, 0),
    ],
    ids=["one coil", "three coils", "masked", "the whole register"],
)
def test_whoever_writes_a_low_enable_has_lowered_it(registers: Registers, write: bytes) -> None:
    """Also right after the start, where it was low already."""
    assert registers.read_bits(IDLE, 1) == [False]
    registers.ask(write)
    assert registers.read_bits(IDLE, 1) == [True]


def test_every_function_code_works(registers: Registers) -> None:
    """Bits and registers, singly, together, masked, and read and written in one request."""
    assert registers.read_bits(0, 16, function=1) == [False] * 16
    assert len(registers.read(0, 88)) == 88
    assert registers.read(1000, 88, function=3)[12:] == registers.read(12, 76)
    registers.write_bit(1, True)
    assert registers.read(0, 1, function=3) == [2]
    registers.ask(struct.pack(">BHH", 6, 0, 4))
    assert registers.read_bits(0, 4, function=1) == [False, False, True, False]
    registers.ask(struct.pack(">BHHBB", 15, 0, 4, 1, 0b1000))
    assert registers.read(0, 1, function=3) == [8]
    registers.ask(struct.pack(">BHHH", 22, 0, 0xFFF3, 0x0004))  # and, or
    assert registers.read(0, 1, function=3) == [4]
    answer = registers.ask(struct.pack(">BHHHHBHH", 23, 1, 2, 1, 2, 4, 0x3437, 0x3131))
    assert answer == struct.pack(">BHH", 4, 0x3437, 0x3131)
    assert registers.read(1, 2, function=3) == [0x3437, 0x3131]


def test_what_is_not_there_is_refused(registers: Registers) -> None:
    """Addresses without a meaning, outputs that a PLC would write, and functions that there are none of."""
    for pdu in (
        struct.pack(">BHH", 4, 88, 1),
        struct.pack(">BHH", 4, 80, 9),
        struct.pack(">BHH", 3, 33, 1),
        struct.pack(">BHH", 2, 0, 40),
        struct.pack(">BHH", 6, 1000, 1),
        struct.pack(">BHH", 5, 20, 0xFF00),
        b"\x63",
        struct.pack(">BHH", 8, 4, 0),  # "force listen only mode"
        b"\x2b\x0e\x01\x00",
        b"\x11",
    ):
        with pytest.raises(ModbusError):
            registers.ask(pdu)
    assert len(registers.read(0, 1)) == 1


def test_requests_in_one_packet_are_all_answered(registers: Registers) -> None:
    """Some masters send the next request before they have the answer."""
    frame = struct.pack(">HHHBBHH", 7, 0, 6, 1, 4, 12, 2)
    registers.socket.sendall(frame * 5)
    assert registers._take(5 * 13) == struct.pack(">HHHBBBHH", 7, 0, 7, 1, 4, 4, 0, 1) * 5


def test_only_those_who_are_named_may_connect(bridged: Bridged) -> None:
    """The connection of anybody else is closed, and the log names the address."""
    bridge = bridged.start_bridge(modbus=", clients: [192.0.2.1]")
    master = Registers(bridged.port)
    with pytest.raises(OSError):  # noqa: PT011 - closed or reset
        master.read(0, 1)
    master.close()
    bridge.wait_for("its address is not in modbus.clients")


def test_a_client_that_does_not_read_costs_nothing(registers: Registers, bridged: Bridged) -> None:
    """Its connection is closed before its answers fill the memory; others are served."""
    greedy = Registers(bridged.port)
    greedy.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    frame = struct.pack(">HHHBBHH", 7, 0, 6, 1, 4, 0, 88)

    def ask_more() -> bool:
        try:
            greedy.socket.sendall(frame * 20)
        except OSError:
            return True
        assert len(registers.read(0, 1)) == 1
        return False

    wait_until(ask_more, "the connection is closed")
    greedy.close()
    assert len(registers.read(0, 1)) == 1


def test_rubbish_ends_its_connection_only(registers: Registers, bridged: Bridged) -> None:
    """A web browser, a frame that is too long, one that is cut off."""
    for rubbish in (
        b"GET / HTTP/1.1\r\n\r\n",
        b"\0\1\0\0\xff\xff\1\3",
        b"\0\1\0\0\0\1\1",
        b"\0\1\0\0\0\2\1\x80",
        os.urandom(300),
    ):
        other = Registers(bridged.port)
        other.socket.sendall(rubbish)
        other.close()
        assert len(registers.read(0, 1)) == 1
    assert "Traceback" not in bridged.bridges[-1].log


def test_the_key_that_the_station_does_not_know(bridged: Bridged, tmp_path: Path) -> None:
    """The bridge waits, and says which key may be the reason; the key's secret is nowhere."""
    key = tmp_path / "plc.key"
    key.write_text(json.dumps({"kind": "client", "name": "plc", "public": "a" * 40, "secret": "b" * 40, "station": "c" * 40}))
    key.chmod(0o600)
    bridge = bridged.start_bridge("--key", str(key))
    bridge.wait_for("bridge.waiting")
    assert "refuses the key plc" in bridge.log
    assert "bbbb" not in bridge.log


def test_a_key_that_is_not_marked_for_control_triggers_nothing(line: Line) -> None:
    """The PLC gets UNKNOWN, the log says which key is missing what; with the right key, the same part is judged."""
    folder = line.folder
    (folder / "clients").mkdir()
    assert run_anosegd("keygen", "station", str(folder / "station.key")).returncode == 0
    for name, more in (("screen", ()), ("plc", ("--control",))):
        where = ("--station", folder / "station.key", "--clients", folder / "clients", "--out", folder / f"{name}.key")
        assert run_anosegd("keygen", "client", name, *map(str, where), *more).returncode == 0
    bridged = Bridged(line)
    try:
        bridged.start_station("keys: {station: station.key, clients: clients}")
        for name, reason in (("screen", 101), ("plc", 0)):
            bridge = bridged.start_bridge("--key", str(folder / f"{name}.key"))
            master = Registers(bridged.port)
            wait_for_bit(master, ONLINE)
            master.write(0, [0])
            master.write(0, [1])
            wait_for_bit(master, READY)
            master.write(0, [3])
            wait_for_bit(master, VALID)
            assert master.read(4, 2) == [int(reason == 0), reason], bridge.log
            master.close()
            assert bridge.terminate() == 0
        assert "the key screen may listen and read; trigger needs a key" in bridge.log
    finally:
        for bridge in bridged.bridges:
            bridge.close()


# ---- strangers


def mbpoll(port: int, *arguments: str) -> str:
    """Run mbpoll once. -0: addresses count from 0; -1: read once."""
    command = ["mbpoll", "-m", "tcp", "-0", "-1", "-q", "-p", str(port), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=LIMIT_S)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def mbpoll_read(port: int, kind: int, address: int, count: int) -> list[int]:
    printed = mbpoll(port, "-t", str(kind), "-r", str(address), "-c", str(count), "127.0.0.1")
    return [int(line.split()[1]) for line in printed.splitlines() if line.startswith("[")]


@pytest.mark.skipif(shutil.which("mbpoll") is None, reason="no mbpoll here (apt install mbpoll)")
def test_mbpoll_triggers_a_part_and_reads_its_result(bridged: Bridged) -> None:
    """The worked example of docs/plc.md."""
    bridged.start_station()
    bridged.start_bridge()
    port = bridged.port

    def bit(number: int) -> bool:
        return bool(mbpoll_read(port, 1, number, 1)[0])

    wait_until(lambda: bit(ONLINE), "the station is heard")
    mbpoll(port, "-t", "0", "-r", "0", "127.0.0.1", "0")
    assert bit(IDLE)
    mbpoll(port, "-t", "0", "-r", "0", "127.0.0.1", "1")
    assert bit(ENABLED)
    wait_until(lambda: bit(READY), "ready")
    mbpoll(port, "-t", "4", "-r", "1", "127.0.0.1", *map(str, text_registers("4711")))
    mbpoll(port, "-t", "0", "-r", "1", "127.0.0.1", "1")
    assert bit(TAKEN)
    mbpoll(port, "-t", "0", "-r", "1", "127.0.0.1", "0")
    wait_until(lambda: bit(VALID), "the result is there")
    assert bit(PASS)
    assert not bit(FAIL)
    assert mbpoll_read(port, 3, 40, 2) == text_registers("4711", 2)
    assert mbpoll_read(port, 4, 1040, 2) == text_registers("4711", 2)
    mbpoll(port, "-t", "0", "-r", "2", "127.0.0.1", "1")
    assert not bit(VALID)


SCRIPT = """
const ModbusRTU = require("modbus-serial");
const master = new ModbusRTU();
const bit = async (n) => (await master.readDiscreteInputs(n, 1)).data[0];
const until = async (n, value = true) => { while (await bit(n) !== value) await new Promise(r => setTimeout(r, 20)); };
(async () => {
  await master.connectTCP("127.0.0.1", { port: +process.argv[1] });
  master.setID(1);
  master.setTimeout(5000);
  await until(1);
  await master.writeRegister(0, 0);
  await master.writeRegister(0, 1);
  const outcomes = [];
  for (let n = 0; n < 4; n++) {
    await until(4);
    await master.writeRegisters(0, [3, 0x3730 + n, ...Array(15).fill(0)]);
    await until(5);
    await master.writeCoil(1, false);
    await until(7);
    const all = await Promise.all([master.readInputRegisters(0, 88), master.readHoldingRegisters(1000, 88)]);
    outcomes.push([all[0].data[4], all[1].data[40]]);
    await master.writeCoil(2, true);
    await until(7, false);
    await master.writeCoil(2, false);
  }
  console.log(JSON.stringify(outcomes));
  process.exit(0);
})().catch(error => { console.error(error); process.exit(1); });
"""


@pytest.fixture(scope="session")
def modbus_serial(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with npm's modbus-serial. Skips the test where it cannot be installed."""
    if shutil.which("npm") is None or shutil.which("node") is None:
        pytest.skip("no Node here")

    def make(folder: Path) -> None:
        subprocess.run(
            ["npm", "install", "--prefix", ".", "--no-audit", "--no-fund", "--ignore-scripts", "modbus-serial@8"],
            cwd=folder,
            capture_output=True,
            timeout=200,
        )

    folder = made_once(tmp_path_factory, "modbus-serial", make)
    if not (folder / "node_modules" / "modbus-serial").exists():
        pytest.skip("modbus-serial cannot be installed here")
    return folder


def test_modbus_serial_triggers_parts_and_reads_their_results(bridged: Bridged, modbus_serial: Path) -> None:
    """npm's library, which sends several requests at once."""
    bridged.start_station()
    bridged.start_bridge()
    done = subprocess.run(
        ["node", "-e", SCRIPT, "--", str(bridged.port)],
        cwd=modbus_serial,
        capture_output=True,
        text=True,
        timeout=LIMIT_S,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [[1 + n % 2, 0x3730 + n] for n in range(4)]


def test_the_plc_of_the_tests_can_be_wrong() -> None:
    """The PLC that the tests use reports what it saw: it does not pass what it has no result of."""
    acted: list[tuple[str, str, Seen | None]] = []
    plc = Plc(1, lambda *what: acted.append(what))
    plc._step = 2
    plc.offer("1")
    plc.cycle()
    assert acted == [("1", "reject", None)]


HAL = """[MB2HAL_INIT]
INIT_DEBUG=1
VERSION=1.1
HAL_MODULE_NAME=mb2hal
SLOWDOWN=0.0
TOTAL_TRANSACTIONS=3
[TRANSACTION_00]
LINK_TYPE=tcp
TCP_IP=127.0.0.1
TCP_PORT={port}
MB_SLAVE_ID=1
FIRST_ELEMENT=0
NELEMENTS=16
MAX_UPDATE_RATE=50.0
MB_TX_CODE=fnct_02_read_discrete_inputs
MB_RESPONSE_TIMEOUT_MS=500
MB_BYTE_TIMEOUT_MS=500
HAL_TX_NAME=status
DEBUG=1
[TRANSACTION_01]
MB_TX_CODE=fnct_04_read_input_registers
FIRST_ELEMENT=0
NELEMENTS=56
HAL_TX_NAME=outputs
DEBUG=1
[TRANSACTION_02]
MB_TX_CODE=fnct_15_write_multiple_coils
FIRST_ELEMENT=0
NELEMENTS=3
HAL_TX_NAME=control
DEBUG=1
"""


@pytest.mark.skipif(shutil.which("mb2hal") is None, reason="no mb2hal here (apt install linuxcnc-uspace)")
def test_linuxcnc_triggers_a_part_and_reads_its_result(bridged: Bridged) -> None:
    """mb2hal, LinuxCNC's Modbus master: it reads and writes in a cycle, as a PLC does."""
    (bridged.line.folder / "mb2hal.ini").write_text(HAL.format(port=bridged.port))
    bridged.start_station()
    bridged.start_bridge()
    hal = subprocess.Popen(
        ["halrun", "-s"], cwd=bridged.line.folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert hal.stdin is not None
    other = Registers(bridged.port)  # looks on: halrun prints nothing before its end

    def tell(command: str) -> None:
        assert hal.stdin is not None
        hal.stdin.write(command.encode() + b"\n")
        hal.stdin.flush()

    try:
        tell("loadusr -W mb2hal config=mb2hal.ini")
        wait_for_bit(other, ONLINE)
        wait_for_bit(other, IDLE)
        tell("setp mb2hal.control.00.bit 1")
        wait_for_bit(other, READY)
        tell("setp mb2hal.control.01.bit 1")
        wait_for_bit(other, VALID)
        time.sleep(1)
        tell("getp mb2hal.status.07.bit")
        tell("getp mb2hal.outputs.04.int")
        tell("setp mb2hal.control.02.bit 1")
        wait_for_bit(other, VALID, False)
        printed, _ = hal.communicate(b"exit\n", timeout=LIMIT_S)
        assert printed.split() == [b"TRUE", b"1"]
    finally:
        other.close()
        if hal.poll() is None:
            hal.kill()
            hal.communicate()
            subprocess.run(["halrun", "-U"], capture_output=True, timeout=LIMIT_S)
