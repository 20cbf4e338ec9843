"""docs/plc.md is the map that the bridge serves."""

import json
import re
from typing import get_args

from support.documentation import DOCS, table

from anosegd.bridge.config import ModbusConfig
from anosegd.bridge.encoding import CONTROL_BITS, STATES, STATUS_BITS
from anosegd.bridge.modbus import RegisterMap
from anosegd.bridge.mqtt.payloads import result_of, state_of
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


def test_messages_of_the_mirror_equal_the_code() -> None:
    """The names in the JSON of each topic."""
    documented = {
        row[0].strip("`").rpartition("/")[2]: re.findall(r"`(\w+)`", row[2])
        for row in table(PAGE, "Mirror results at an MQTT broker")
    }
    made = {"state": state_of(Outputs()), "result": result_of(Outputs())}
    assert documented == {name: list(json.loads(payload)) for name, payload in made.items()}
