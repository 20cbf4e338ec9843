"""The map of the data block, byte by byte."""

import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st
from support.s7_plc import initial

from anosegd.bridge.config import S7Config
from anosegd.bridge.exchange import Image
from anosegd.bridge.s7 import Block
from anosegd.bridge.s7.block import Field, WrongBlockError, status_bytes
from anosegd.bridge.tags import ErrorCode, Outputs, Result

BLOCK = Block(S7Config())


def field(name: str, block: Block = BLOCK) -> Field:
    return next(field for field in block.outputs if field.name == name)


def test_values_are_big_endian_and_where_the_map_says() -> None:
    """Whole numbers, fractions and texts."""
    shown = Outputs(
        result_valid=True,
        result_number=65_534,
        error_code=ErrorCode.OVERRUN,
        settings=0xF2345678,
        recipe="Schraube",
        result=Result(outcome="FAIL", part_id="4711", defects=3, score=0.875),
    )
    image = Image.of(shown)
    data = bytes(BLOCK.status_at) + status_bytes(image.status) + BLOCK.values(image.values)
    assert len(data) == BLOCK.size
    read = {
        name: struct.unpack_from(kind, data, field(name).offset)[0]
        for name, kind in (
            ("error_code", ">h"),
            ("result_number", ">i"),
            ("outcome", ">h"),
            ("score", ">f"),
            ("settings", ">I"),
        )
    }
    assert read == {"error_code": 4, "result_number": 65_534, "outcome": 2, "score": 0.875, "settings": 0xF2345678}
    at = field("part_id").offset
    assert data[at : at + 8] == b"\x20\x044711\0\0"
    assert data[BLOCK.status_at] == 0b1000_0000  # result_valid
    assert data[BLOCK.status_at + 1] == 0b0100_0100  # error, result_fail


def test_numbers_that_are_too_large_stay_the_largest() -> None:
    """A number never begins again at 0."""
    values = Image.of(Outputs(result=Result(defects=2**40, reason="late"), result_number=-1)).values
    data = BLOCK.values(values)
    first = BLOCK.outputs[1].offset
    assert data[field("defects").offset - first :][:4] == b"\x7f\xff\xff\xff"
    assert data[field("result_number").offset - first :][:4] == bytes(4)


@given(st.text(max_size=40), st.integers(1, 254))
def test_texts_are_s7_strings(text: str, length: int) -> None:
    """Greatest length, length, then at most so many bytes, cut between two characters; and read as they were written."""
    block = Block(S7Config(recipe_length=length))
    data = block.values(Image.of(Outputs(recipe=text)).values)
    at = field("recipe", block).offset - block.outputs[1].offset
    assert data[at] == length
    stored = data[at + 2 : at + 2 + data[at + 1]]
    assert text.encode("utf-8", "replace").startswith(stored)
    assert stored.decode() == text[: len(stored.decode())]
    controls = bytearray(initial(block))
    offset = block.controls[2].offset
    controls[offset : offset + 2 + len(stored)] = bytes((length, len(stored))) + stored
    assert block.seen(bytes(controls)).recipe == stored.partition(b"\0")[0].decode().rstrip()


def test_blanks_at_the_end_belong_to_a_part_id() -> None:
    """The text has its length, and a PLC compares all of it. A recipe's name has none."""
    data = bytearray(initial())
    for field in BLOCK.controls[1:]:
        data[field.offset + 1 : field.offset + 6] = b"\x04a b "
    seen = BLOCK.seen(bytes(data))
    assert (seen.part_id, seen.recipe) == ("a b ", "a b")


def test_control_bits_are_in_the_first_byte() -> None:
    """enable is bit 0.0, heartbeat is bit 0.4."""
    seen = BLOCK.seen(b"\x11" + initial()[1:])
    assert {name for name, bit in seen.bits.items() if bit} == {"enable", "heartbeat"}


def test_a_block_that_is_not_the_bridges_is_recognized() -> None:
    """By the greatest lengths of its texts: another map would be overwritten."""
    BLOCK.check(initial())
    for data in (bytes(BLOCK.size), initial(Block(S7Config(part_id_length=40)))):
        with pytest.raises(WrongBlockError, match="no STRING"):
            BLOCK.check(data)


@pytest.mark.parametrize("lengths", [(32, 32), (1, 254), (33, 7)])
def test_the_declaration_has_the_same_order_and_even_offsets(lengths: tuple[int, int]) -> None:
    """A block that is not optimized puts every value that is larger than a byte at an even offset."""
    block = Block(S7Config(part_id_length=lengths[0], recipe_length=lengths[1]))
    fields = (*block.controls, *block.outputs)
    assert all(field.offset % 2 == 0 for field in fields)
    names = [bit for field in fields for bit in (field.bits or (field.name,))]
    declared = [line.split(" : ") for line in block.declaration().splitlines() if line.endswith(";") and " : " in line]
    assert [name.strip() for name, _ in declared] == names
    assert f"String[{lengths[1]}];" in [kind for _, kind in declared]
