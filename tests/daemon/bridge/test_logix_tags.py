"""The map of a controller's tags: which values go to which tag."""

import xml.etree.ElementTree as ET

from hypothesis import given
from hypothesis import strategies as st

from anosegd.bridge.config import LOGIX_TEXT_LENGTH
from anosegd.bridge.exchange import Image
from anosegd.bridge.logix import TagMap
from anosegd.bridge.logix.tag_map import CONTROLS, OUTPUTS, text_of
from anosegd.bridge.tags import Outputs, Result

MAP = TagMap("Program:Main.AnoSeg")
SHOWN = Outputs(
    result_valid=True,
    result_number=65_534,
    settings=0xF2345678,
    result=Result(outcome="FAIL", part_id="4711", defects=2**40, score=0.875),
)


def test_every_value_has_a_tag() -> None:
    """The handshake's values are the members of the status, without the bits."""
    values = Image.of(Outputs()).values
    assert sorted(values) == sorted(member.name for member in OUTPUTS[1:])
    assert MAP.status == "Program:Main.AnoSeg.status.bits"
    assert {MAP.control, MAP.status, MAP.length_of("recipe"), MAP.data_of("recipe")} <= set(MAP.kinds)


def test_only_changed_values_are_written_with_their_types() -> None:
    """Characters come first, then numbers and lengths; checksums fill their 32 bits, other numbers stay the largest."""
    image = Image.of(SHOWN)
    names = ("result_number", "settings", "defects", "score", "part_id", "recipe")
    writes = [
        (tag.removeprefix("Program:Main.AnoSeg.status."), kind, value) for tag, kind, value in MAP.writes(image.values, names)
    ]
    assert writes == [
        ("part_id.DATA[0]", "SINT", [0x34, 0x37, 0x31, 0x31]),
        ("result_number", "DINT", 65_534),
        ("defects", "DINT", 0x7FFF_FFFF),
        ("score", "REAL", 0.875),
        ("settings", "DINT", 0xF2345678 - 2**32),
        ("part_id.LEN", "DINT", 4),
        ("recipe.LEN", "DINT", 0),
    ]


@given(st.text(max_size=100))
def test_texts_are_read_as_they_were_written(text: str) -> None:
    """UTF-8 in signed characters, cut between two characters."""
    writes = {
        write.tag.rpartition(".")[2]: write.value for write in MAP.writes(Image.of(Outputs(recipe=text)).values, ["recipe"])
    }
    data, length = writes.get("DATA[0]", []), writes["LEN"]
    assert isinstance(data, list)
    assert isinstance(length, int)
    assert length == len(data) <= LOGIX_TEXT_LENGTH
    assert all(-128 <= character < 128 for character in data)
    whole = bytes(character & 0xFF for character in data).decode()
    assert text.startswith(whole)
    assert text_of([*data, 65, 66], length) == whole.partition("\0")[0]


def test_the_declaration_has_every_member() -> None:
    """An L5X file of three data types; the last one is the target and has the other two."""
    types = {
        each.get("Name"): [(member.get("Name"), member.get("DataType")) for member in each.iter("Member")]
        for each in ET.fromstring(MAP.declaration()).iter("DataType")
    }
    assert types == {
        "AnoSegControl": [(member.name, member.kind) for member in CONTROLS],
        "AnoSegStatus": [(member.name, member.kind) for member in OUTPUTS],
        "AnoSeg": [("control", "AnoSegControl"), ("status", "AnoSegStatus")],
    }
