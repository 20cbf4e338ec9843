"""Maps the tags of the handshake to those of a Logix controller: the tables of docs/plc-logix.md. Pure functions.

All of them are members of one tag. Bits are in a DINT, which the controller reads and writes at once.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from anosegd.bridge.config import LOGIX_TEXT_LENGTH
from anosegd.bridge.encoding import STATUS_BITS, utf8
from anosegd.bridge.exchange import POLLED_BITS, Value

LARGEST = 0x7FFF_FFFF
UNSIGNED = ("settings", "result_settings")
"""Checksums, which fill all 32 bits of their DINT."""

_NUMBERS = (
    "error_code",
    "result_number",
    "results_waiting",
    "outcome",
    "reason",
    "defects",
    "score",
    "threshold",
    "age_ms",
    "result_settings",
    "station_state",
    "map_version",
    "settings",
    "passed",
    "failed",
    "unknown",
    "late",
    "discarded",
    "triggers",
    "trigger_errors",
    "overruns",
    "min_ms",
    "mean_ms",
    "max_ms",
)


class Member(NamedTuple):
    """A member of one of the two structures. `kind` is DINT, REAL or STRING; the first one has `bits`."""

    name: str
    kind: str
    bits: tuple[str, ...] = ()


class Write(NamedTuple):
    """One value for one tag. `kind` is DINT, REAL or SINT; a list of SINT fills the array that begins there."""

    tag: str
    kind: str
    value: int | float | list[int]


CONTROLS = (Member("bits", "DINT", POLLED_BITS), Member("part_id", "STRING"), Member("recipe", "STRING"))
OUTPUTS = (
    Member("bits", "DINT", STATUS_BITS),
    *(Member(name, "REAL" if name in ("score", "threshold") else "DINT") for name in _NUMBERS),
    *(Member(name, "STRING") for name in ("part_id", "result_recipe", "recipe")),
)


@dataclass(frozen=True)
class TagMap:
    """The map of one configuration. `tag` is the tag that has all members, such as `AnoSeg` or `Program:Main.AnoSeg`."""

    tag: str

    @property
    def control(self) -> str:
        """The tag of the control bits."""
        return f"{self.tag}.control.bits"

    @property
    def status(self) -> str:
        """The tag of the status bits."""
        return f"{self.tag}.status.bits"

    @property
    def version(self) -> str:
        """The tag of the map version."""
        return f"{self.tag}.status.map_version"

    def length_of(self, text: str) -> str:
        """Return the tag of the length of a text that the PLC writes."""
        return f"{self.tag}.control.{text}.LEN"

    def data_of(self, text: str) -> str:
        """Return the tag of the first character of a text that the PLC writes."""
        return f"{self.tag}.control.{text}.DATA[0]"

    @property
    def kinds(self) -> dict[str, str]:
        """All tags that are read or written, with DINT, REAL or SINT."""
        found: dict[str, str] = {}
        for part, members in (("control", CONTROLS), ("status", OUTPUTS)):
            for member in members:
                name = f"{self.tag}.{part}.{member.name}"
                if member.kind == "STRING":
                    found |= {f"{name}.LEN": "DINT", f"{name}.DATA[0]": "SINT"}
                else:
                    found[name] = member.kind
        return found

    def writes(self, values: Mapping[str, Value], changed: Collection[str]) -> list[Write]:
        """Return the writes for the changed values: the characters of texts first, then numbers and lengths."""
        texts: list[Write] = []
        numbers: list[Write] = []
        for member in OUTPUTS:
            if member.name not in changed:
                continue
            tag, value = f"{self.tag}.status.{member.name}", values[member.name]
            if isinstance(value, str):
                data = utf8(value, LOGIX_TEXT_LENGTH)
                if data:
                    texts.append(Write(f"{tag}.DATA[0]", "SINT", [_signed(byte, 8) for byte in data]))
                numbers.append(Write(f"{tag}.LEN", "DINT", len(data)))
            elif member.kind == "REAL":
                numbers.append(Write(tag, "REAL", float(value)))
            else:
                numbers.append(Write(tag, "DINT", _dint(int(value), member.name)))
        return [*texts, *numbers]

    def declaration(self) -> str:
        """Return the data types as an L5X file, to import into the controller's project."""
        lines = [
            '<?xml version="1.0" encoding="UTF-8" standalone="yes"?>',
            '<RSLogix5000Content SchemaRevision="1.0" TargetName="AnoSeg" TargetType="DataType" ContainsContext="true">',
            '<Controller Use="Context" Name="AnoSeg">',
            '<DataTypes Use="Context">',
            *_data_type("AnoSegControl", CONTROLS, "Context"),
            *_data_type("AnoSegStatus", OUTPUTS, "Context"),
            *_data_type("AnoSeg", (Member("control", "AnoSegControl"), Member("status", "AnoSegStatus")), "Target"),
            "</DataTypes>",
            "</Controller>",
            "</RSLogix5000Content>",
        ]
        return "\n".join(lines) + "\n"


def text_of(data: Sequence[int], length: int) -> str:
    """Return the text that a PLC stores as these characters and this length."""
    raw = bytes(character & 0xFF for character in data[: max(0, length)])
    return raw.partition(b"\0")[0].decode("utf-8", "replace")


def _data_type(name: str, members: Sequence[Member], use: str) -> Iterator[str]:
    yield f'<DataType Use="{use}" Name="{name}" Family="NoFamily" Class="User">'
    yield "<Members>"
    for member in members:
        radix = {"DINT": "Binary" if member.bits else "Decimal", "REAL": "Float"}.get(member.kind, "NullType")
        head = f'<Member Name="{member.name}" DataType="{member.kind}" Dimension="0" Radix="{radix}"'
        head += ' Hidden="false" ExternalAccess="Read/Write"'
        if not member.bits:
            yield f"{head}/>"
            continue
        named = ", ".join(f"{n} {bit}" for n, bit in enumerate(member.bits))
        yield f"{head}><Description><![CDATA[{named}]]></Description></Member>"
    yield "</Members>"
    yield "</DataType>"


def _dint(value: int, name: str) -> int:
    return _signed(value, 32) if name in UNSIGNED else min(max(value, 0), LARGEST)


def _signed(value: int, bits: int) -> int:
    return value - (1 << bits) if value >> (bits - 1) else value
