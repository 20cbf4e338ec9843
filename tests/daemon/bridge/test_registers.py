"""The map of registers and bits: what a PLC reads and writes."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anosegd.bridge.config import ModbusConfig
from anosegd.bridge.encoding import CONTROL_BITS, STATUS_BITS, bits_of, status_bits, word_of
from anosegd.bridge.modbus import RegisterMap
from anosegd.bridge.tags import Controls, ErrorCode, Outputs, Result, Statistics

SHOWN = Outputs(
    online=True,
    enabled=True,
    result_valid=True,
    result_number=7,
    error_code=ErrorCode.OVERRUN,
    settings=0x12345678,
    recipe="Schraube",
    result=Result(outcome="FAIL", part_id="4711", defects=3, score=0.8712, threshold=0.43, age_ms=99.6),
    statistics=Statistics(passed=0x10002),
)


def value(registers: list[int], map_: RegisterMap, name: str) -> list[int]:
    field = next(field for field in map_.outputs if field.name == name)
    return registers[field.address : field.address + field.registers]


def test_values_are_where_the_map_says() -> None:
    """Numbers, scaled ones, 32-bit ones and texts."""
    map_ = RegisterMap(ModbusConfig())
    registers = map_.registers_of(SHOWN)
    assert len(registers) == map_.n_outputs <= 125  # one request reads them all
    numbers = ("result_number", "outcome", "defects", "score", "threshold", "age_ms", "error_code")
    assert [value(registers, map_, name) for name in numbers] == [[7], [2], [3], [8712], [4300], [100], [4]]
    assert value(registers, map_, "settings") == [0x1234, 0x5678]
    assert value(registers, map_, "passed") == [1, 2]
    assert value(registers, map_, "part_id")[:3] == [0x3437, 0x3131, 0]
    bits = dict(zip(STATUS_BITS, bits_of(registers[0]), strict=True))
    assert {name for name, bit in bits.items() if bit} == {"online", "enabled", "result_valid", "result_fail", "error"}


def test_orders_can_be_changed() -> None:
    """Byte order concerns texts, word order concerns 32-bit numbers."""
    map_ = RegisterMap(ModbusConfig(byte_order="little", word_order="little"))
    registers = map_.registers_of(SHOWN)
    assert value(registers, map_, "settings") == [0x5678, 0x1234]
    assert value(registers, map_, "part_id")[:2] == [0x3734, 0x3131]


def test_cleared_memory_is_not_pass() -> None:
    """Registers that were never filled, and a result that is not there, read as UNKNOWN."""
    map_ = RegisterMap(ModbusConfig())
    assert value([0] * map_.n_outputs, map_, "outcome") == [0]
    registers = map_.registers_of(Outputs())
    assert value(registers, map_, "outcome") == [0]
    assert not status_bits(Outputs())[STATUS_BITS.index("result_pass")]


def test_a_text_is_cut_between_two_characters() -> None:
    """A part id of umlauts that is too long stays UTF-8."""
    map_ = RegisterMap(ModbusConfig(part_id_length=4))
    text = map_.registers_of(Outputs(result_valid=True, result=Result(part_id="aüü")))
    assert value(text, map_, "part_id") == [0x61C3, 0xBC00]


def test_a_reason_of_a_newer_station_has_a_number() -> None:
    """It is not taken for no reason."""
    map_ = RegisterMap(ModbusConfig())
    assert value(map_.registers_of(Outputs(result=Result(reason="brand_new"))), map_, "reason") == [99]


@pytest.mark.parametrize("order", ["big", "little"])
@given(
    bits=st.lists(st.booleans(), min_size=4, max_size=4),
    part_id=st.text(st.characters(exclude_characters="\0", exclude_categories=("Cs",)), max_size=8),
)
def test_what_a_plc_writes_is_read_again(order: str, bits: list[bool], part_id: str) -> None:
    """Bits and texts come through, in both byte orders; spaces that fill a text up are not part of it."""
    map_ = RegisterMap(ModbusConfig(byte_order=order))  # type: ignore[arg-type]
    data = part_id.encode().ljust(32, b"\0")
    words = [int.from_bytes(data[n : n + 2], order) for n in range(0, 32, 2)]  # type: ignore[arg-type]
    registers = [word_of(bits), *words, *[0] * 16]
    found = map_.controls_of(registers, range(map_.n_controls))
    assert [getattr(found, name) for name in CONTROL_BITS] == bits
    assert found.part_id == part_id.rstrip()
    assert map_.controls_of(registers, ()).enable is None
    assert map_.controls_of(registers, range(17)).recipe is None
    assert found.recipe == ""


def test_rubbish_is_some_text() -> None:
    """A PLC may write anything."""
    map_ = RegisterMap(ModbusConfig())
    assert isinstance(map_.controls_of([0xFFFF] * map_.n_controls, range(map_.n_controls)), Controls)
