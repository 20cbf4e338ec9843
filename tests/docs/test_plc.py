"""docs/plc.md is the map that the bridge serves."""

import json
import re
from typing import get_args

from support.documentation import DOCS, table

from anosegd.bridge.config import ModbusConfig, S7Config
from anosegd.bridge.encoding import CONTROL_BITS, STATES, STATUS_BITS
from anosegd.bridge.exchange import POLLED_BITS
from anosegd.bridge.logix import tag_map
from anosegd.bridge.modbus import RegisterMap
from anosegd.bridge.mqtt.payloads import result_of, state_of
from anosegd.bridge.opcua.variables import INPUTS, OUTPUTS
from anosegd.bridge.s7 import Block
from anosegd.bridge.tags import OTHER_REASON, OUTCOMES, REASONS, ErrorCode, Outputs
from anosegd.wire import StationState

PAGE = DOCS / "plc.md"


def test_bits_equal_the_code() -> None:
    """Status and control bits, by number."""
    for heading, names in (("Status", STATUS_BITS), ("Control", CONTROL_BITS)):
        assert [(row[0], row[1].strip("`")) for row in table(PAGE, heading)] == [(str(n), name) for n, name in enumerate(names)]


def test_registers_equal_the_code() -> None:
    """Every register with its address, with the default lengths."""
    map_ = RegisterMap(ModbusConfig())
    for heading, fields in (("Outputs", map_.outputs), ("Inputs", map_.controls)):
        documented = [(int(row[0]), int(row[1]), row[2].strip("`")) for row in table(PAGE, heading)]
        assert documented == [(field.address, field.registers, field.name) for field in fields]


def test_numbers_equal_the_code() -> None:
    """Outcomes, reasons, error codes and states."""
    reasons = {int(row[0]): row[1].split("`")[1] for row in table(PAGE, "Reasons") if "`" in row[1]}
    assert reasons == {number: name for name, number in REASONS.items()}
    assert OTHER_REASON in [int(row[0]) for row in table(PAGE, "Reasons")]
    codes = {int(row[0]): row[1].strip("`") for row in table(PAGE, "PLC error codes")}
    assert codes == {int(code): code.name for code in ErrorCode}
    states = {row[1]: int(row[0]) for row in table(PAGE, "Station states")}
    assert {state: states[state] for state in get_args(StationState)} == {state: STATES[state] for state in STATES if state}
    outcomes = next(row[3] for row in table(PAGE, "Outputs") if row[2] == "`outcome`")
    assert outcomes == ", ".join(f"{number} {name}" for name, number in OUTCOMES.items())


def test_variables_equal_the_code() -> None:
    """Every variable of OPC UA, with its type."""
    documented = [(row[0].strip("`"), row[1]) for row in table(DOCS / "plc-opcua.md", "OPC UA variables")]
    assert documented == [
        (f"{folder}.{variable.name}", variable.kind)
        for folder, variables in (("Outputs", OUTPUTS), ("Inputs", INPUTS))
        for variable in variables
    ]


def test_messages_of_the_mirror_equal_the_code() -> None:
    """The names in the JSON of each topic."""
    documented = {
        row[0].strip("`").rpartition("/")[2]: re.findall(r"`(\w+)`", row[2])
        for row in table(PAGE, "Mirror results at an MQTT broker")
    }
    made = {"state": state_of(Outputs()), "result": result_of(Outputs())}
    assert documented == {name: list(json.loads(payload)) for name, payload in made.items()}


def test_the_data_block_equals_the_code() -> None:
    """Every bit and value with its offset, with the default lengths."""
    page, block = DOCS / "plc-s7.md", Block(S7Config())
    for heading, fields in (("Written by the PLC", block.controls), ("Written by the bridge", block.outputs)):
        expected = []
        for field in fields:
            expected += [(f"{field.offset + n // 8}.{n % 8}", "BOOL", bit) for n, bit in enumerate(field.bits)]
            expected += [] if field.bits else [(f"{field.offset}.0", field.kind, field.name)]
        assert [(row[0], row[1], row[2].strip("`")) for row in table(page, heading)] == expected


def test_lines_for_a_polled_plc_use_names_of_the_code() -> None:
    """Every tag in the program of docs/plc-s7.md is in the data block."""
    block = Block(S7Config())
    names = {
        part: {bit for field in fields for bit in (field.bits or (field.name,))}
        for part, fields in (("control", block.controls), ("status", block.outputs))
    }
    page = (DOCS / "plc-s7.md").read_text(encoding="utf-8")
    used = re.findall(r'"AnoSeg"\.(control|status)\.(\w+)', page)
    assert len(used) > 20
    assert [(part, name) for part, name in used if name not in names[part]] == []
    copied = re.findall(r'#([a-z_]+) := "AnoSeg"\.status\.(\w+);', page)
    assert [(name, bit) for name, bit in copied if name != bit] == []
    assert set(re.findall(r"#([a-z_]+)\b", page.partition("```text")[2].partition("```")[0])) == {name for name, _ in copied}
    order = [name for name, _ in copied]
    assert order.index("idle") < order.index("enabled")  # when the handshake opens, both may be low in another order
    assert order.index("result_valid") < order.index("result_pass")
    assert [name for part, name in used if part == "status"] == [name for name, _ in copied]  # each bit is read once


def test_the_members_of_the_tag_equal_the_code() -> None:
    """Every member and bit of both data types, and every bit that the program uses."""
    page = DOCS / "plc-logix.md"
    for name, members in (("AnoSegControl", tag_map.CONTROLS), ("AnoSegStatus", tag_map.OUTPUTS)):
        expected = []
        for member in members:
            expected.append((member.name, member.kind, ""))
            expected += [(f"{member.name}.{n}", "BOOL", bit) for n, bit in enumerate(member.bits)]
        documented = table(page, f"Members of {name}")
        assert [(row[0].strip("`"), row[1], row[2].strip("`")) for row in documented] == expected
    lines = re.findall(r"(.*)\(\* (\w+) \*\)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    for pattern, bits, least in ((r"\bStatus\.(\d+)", STATUS_BITS, 6), (r"control\.bits\.(\d+) := 1", POLLED_BITS, 3)):
        commented = [(numbers, bit) for line, bit in lines if (numbers := re.findall(pattern, line))]
        assert len(commented) >= least
        assert [bit for numbers, bit in commented if bit not in [bits[int(n)] for n in numbers]] == []
