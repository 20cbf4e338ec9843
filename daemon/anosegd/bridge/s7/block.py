"""Maps the tags to the bytes of a data block: the tables of docs/plc-s7.md. Pure functions.

The block is not optimised, so every value has a fixed offset. First comes what the PLC writes, then what the bridge writes.
Numbers are big endian. A STRING[n] has a byte with its maximum length, a byte with its length, and n bytes of text.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

from anosegd.bridge.config import S7Config
from anosegd.bridge.encoding import STATUS_BITS, utf8
from anosegd.bridge.exchange import POLLED_BITS, Seen, Value

FORMATS = {"INT": ">h", "DINT": ">i", "DWORD": ">I", "REAL": ">f"}
LARGEST = {"INT": 0x7FFF, "DINT": 0x7FFF_FFFF, "DWORD": 0xFFFF_FFFF}

_NUMBERS: tuple[tuple[str, str], ...] = (
    ("error_code", "INT"),
    ("result_number", "DINT"),
    ("results_waiting", "INT"),
    ("outcome", "INT"),
    ("reason", "INT"),
    ("defects", "DINT"),
    ("score", "REAL"),
    ("threshold", "REAL"),
    ("age_ms", "DINT"),
    ("result_settings", "DWORD"),
    ("station_state", "INT"),
    ("map_version", "INT"),
    ("settings", "DWORD"),
    ("passed", "DINT"),
    ("failed", "DINT"),
    ("unknown", "DINT"),
    ("late", "DINT"),
    ("discarded", "DINT"),
    ("triggers", "DINT"),
    ("trigger_errors", "DINT"),
    ("overruns", "DINT"),
    ("min_ms", "DINT"),
    ("mean_ms", "DINT"),
    ("max_ms", "DINT"),
)


class Field(NamedTuple):
    """A value in the block. `kind` is INT, DINT, DWORD, REAL, STRING[n], or BITS: one bit for each of `bits`, in two bytes."""

    name: str
    offset: int
    kind: str
    bits: tuple[str, ...] = ()

    @property
    def size(self) -> int:
        """Bytes, with the padding to an even number."""
        return _size(self.kind)

    @property
    def length(self) -> int:
        """The maximum length of a STRING."""
        return int(self.kind[len("STRING[") : -1])


class WrongBlockError(Exception):
    """The bytes are not those of this map. The text is for people."""


@dataclass(frozen=True)
class Block:
    """The map of one configuration."""

    config: S7Config

    @cached_property
    def controls(self) -> tuple[Field, ...]:
        """What the PLC writes."""
        texts = (("part_id", self.config.part_id_length), ("recipe", self.config.recipe_length))
        return tuple(_placed([("control", "BITS"), *((name, f"STRING[{length}]") for name, length in texts)], 0, POLLED_BITS))

    @cached_property
    def outputs(self) -> tuple[Field, ...]:
        """What the bridge writes."""
        texts = (
            ("part_id", self.config.part_id_length),
            ("result_recipe", self.config.recipe_length),
            ("recipe", self.config.recipe_length),
        )
        fields = [("status", "BITS"), *_NUMBERS, *((name, f"STRING[{length}]") for name, length in texts)]
        return tuple(_placed(fields, _end(self.controls), STATUS_BITS))

    @property
    def status_at(self) -> int:
        """Offset of the status bits, with which the outputs begin."""
        return self.outputs[0].offset

    @cached_property
    def polled(self) -> int:
        """Bytes that each poll reads: the controls, and the outputs up to `map_version`."""
        return next(field.offset + field.size for field in self.outputs if field.name == "map_version")

    @property
    def size(self) -> int:
        """Bytes of the block."""
        return _end(self.outputs)

    def check(self, data: bytes) -> None:
        """Check that a block's bytes have this map, by the maximum lengths of its texts.

        Raises:
            WrongBlockError: They do not.
        """
        for field in (*self.controls, *self.outputs):
            if field.kind.startswith("STRING") and data[field.offset] != field.length:
                raise WrongBlockError(f"there is no {field.kind} at offset {field.offset} ({field.name})")

    def seen(self, data: bytes) -> Seen:
        """Return what the first `polled` bytes of the block mean."""
        control, part_id, recipe = self.controls
        return Seen(
            control=int.from_bytes(data[control.offset : control.offset + 2], "little"),
            status=int.from_bytes(data[self.status_at : self.status_at + 2], "little"),
            map_version=int.from_bytes(data[self.polled - 2 : self.polled], "big"),
            part_id=_text_of(data, part_id),
            recipe=_text_of(data, recipe).rstrip(),
        )

    def values(self, values: Mapping[str, Value]) -> bytes:
        """Return the bytes behind the status."""
        fields = self.outputs[1:]
        data = bytearray(self.size - fields[0].offset)
        for field in fields:
            encoded = _encoded(values[field.name], field)
            at = field.offset - fields[0].offset
            data[at : at + len(encoded)] = encoded
        return bytes(data)

    def declaration(self) -> str:
        """Return the source of the block in SCL, to import into the PLC's project."""
        lines = ['DATA_BLOCK "AnoSeg"', "{ S7_Optimized_Access := 'FALSE' }", "VERSION : 0.1", "NON_RETAIN", "   STRUCT"]
        for name, fields in (("control", self.controls), ("status", self.outputs)):
            lines.append(f"      {name} : STRUCT")
            for field in fields:
                lines += [f"         {bit} : Bool;" for bit in field.bits]
                if not field.bits:
                    kind = f"String{field.kind[6:]}" if field.kind.startswith("STRING") else _SCL[field.kind]
                    lines.append(f"         {field.name} : {kind};")
            lines.append("      END_STRUCT;")
        return "\n".join([*lines, "   END_STRUCT;", "BEGIN", "END_DATA_BLOCK", ""])


_SCL = {"INT": "Int", "DINT": "DInt", "DWORD": "DWord", "REAL": "Real"}


def status_bytes(word: int) -> bytes:
    """Return the bytes of the status bits: the first eight of them are in the first byte."""
    return word.to_bytes(2, "little")


def _encoded(value: Value, field: Field) -> bytes:
    if isinstance(value, str):
        data = utf8(value, field.length)
        return bytes((field.length, len(data))) + data
    if field.kind == "REAL":
        return struct.pack(">f", value)
    return struct.pack(FORMATS[field.kind], min(max(int(value), 0), LARGEST[field.kind]))


def _text_of(data: bytes, field: Field) -> str:
    begin = field.offset + 2
    length = min(data[field.offset + 1], field.length)
    return data[begin : begin + length].partition(b"\0")[0].decode("utf-8", "replace")


def _placed(fields: Sequence[tuple[str, str]], offset: int, bits: tuple[str, ...]) -> Iterator[Field]:
    for name, kind in fields:
        yield Field(name, offset, kind, bits if kind == "BITS" else ())
        offset += _size(kind)


def _size(kind: str) -> int:
    if kind == "BITS":
        return 2
    if kind in FORMATS:
        return struct.calcsize(FORMATS[kind])
    length = int(kind[len("STRING[") : -1])
    return length + 2 + length % 2


def _end(fields: Sequence[Field]) -> int:
    return fields[-1].offset + fields[-1].size
