"""Maps the tags to registers and bits: the table of docs/plc.md. Pure functions.

Addresses count from 0, as they are sent. Outputs are input registers, and for a master that reads holding registers only, also
holding registers from MIRROR on; their first word has the status bits, which are discrete inputs, too. What a PLC writes are
holding registers; their first word has the control bits, which are coils, too.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from anosegd.bridge.config import ModbusConfig
from anosegd.bridge.encoding import CONTROL_BITS, WORD, bits_of, status_bits, utf8, values_of, word_of
from anosegd.bridge.tags import Controls, Outputs

MIRROR = 1000
TEXTS = 40
"""Where the texts of the outputs begin."""


class Field(NamedTuple):
    """A value in registers. `kind` is bits, uint16, uint32 or text."""

    name: str
    address: int
    registers: int
    kind: str


_NUMBERS: tuple[tuple[str, str], ...] = (
    ("status", "bits"),
    ("error_code", "uint16"),
    ("result_number", "uint16"),
    ("results_waiting", "uint16"),
    ("outcome", "uint16"),
    ("reason", "uint16"),
    ("defects", "uint16"),
    ("score", "uint16"),
    ("threshold", "uint16"),
    ("age_ms", "uint16"),
    ("result_settings", "uint32"),
    ("station_state", "uint16"),
    ("map_version", "uint16"),
    ("settings", "uint32"),
    ("passed", "uint32"),
    ("failed", "uint32"),
    ("unknown", "uint32"),
    ("late", "uint32"),
    ("discarded", "uint32"),
    ("triggers", "uint32"),
    ("trigger_errors", "uint32"),
    ("overruns", "uint32"),
    ("min_ms", "uint16"),
    ("mean_ms", "uint16"),
    ("max_ms", "uint16"),
)


@dataclass(frozen=True)
class RegisterMap:
    """The map of one configuration."""

    config: ModbusConfig

    @property
    def outputs(self) -> tuple[Field, ...]:
        """What a PLC reads, by address among the input registers."""
        texts = (
            ("part_id", self.config.part_id_length),
            ("result_recipe", self.config.recipe_length),
            ("recipe", self.config.recipe_length),
        )
        return (*_placed(_NUMBERS, 0), *_placed([(name, f"text {length}") for name, length in texts], TEXTS))

    @property
    def controls(self) -> tuple[Field, ...]:
        """What a PLC writes, by address among the holding registers."""
        texts = (("part_id", self.config.part_id_length), ("recipe", self.config.recipe_length))
        return tuple(_placed([("control", "bits"), *((name, f"text {length}") for name, length in texts)], 0))

    @property
    def n_outputs(self) -> int:
        """How many input registers there are."""
        return _end(self.outputs)

    @property
    def n_controls(self) -> int:
        """How many holding registers a PLC writes."""
        return _end(self.controls)

    def registers_of(self, outputs: Outputs) -> list[int]:
        """Return the input registers."""
        values = values_of(outputs)
        scaled = {name: round(float(values[name]) * 10_000) for name in ("score", "threshold")}
        values |= {"status": word_of(status_bits(outputs)), **scaled}
        registers = [0] * self.n_outputs
        for field in self.outputs:
            registers[field.address : field.address + field.registers] = self._encoded(values[field.name], field)
        return registers

    def controls_of(self, registers: Sequence[int], written: Collection[int]) -> Controls:
        """Return what the holding registers mean.

        Args:
            registers: Those that a PLC writes.
            written: The addresses that it has written since the bridge started. That of the control bits is among them only
                if `enable` was written: a PLC may also write the other bits alone.
        """
        fields = {field.name: registers[field.address : field.address + field.registers] for field in self.controls}
        addresses = {field.name: field.address for field in self.controls}
        bits = dict(zip(CONTROL_BITS, bits_of(fields["control"][0]), strict=False))
        return Controls(
            enable=bits["enable"] if addresses["control"] in written else None,
            trigger=bits["trigger"],
            part_id=self._text_of(fields["part_id"]),
            result_acknowledge=bits["result_acknowledge"],
            recipe_change=bits["recipe_change"],
            recipe=self._text_of(fields["recipe"]) if addresses["recipe"] in written else None,
        )

    def _encoded(self, value: float | str, field: Field) -> list[int]:
        if isinstance(value, str):
            return self._text(value, field.registers)
        if field.registers == 1:
            return [min(max(int(value), 0), 0xFFFF)]
        halves = [int(value) >> WORD & 0xFFFF, int(value) & 0xFFFF]
        return halves if self.config.word_order == "big" else halves[::-1]

    def _text(self, text: str, registers: int) -> list[int]:
        """Return UTF-8 bytes, cut between two characters, with NUL behind them."""
        data = utf8(text, registers * 2).ljust(registers * 2, b"\0")
        return [int.from_bytes(data[n : n + 2], self.config.byte_order) for n in range(0, len(data), 2)]

    def _text_of(self, registers: Sequence[int]) -> str:
        data = b"".join(register.to_bytes(2, self.config.byte_order) for register in registers)
        return data.partition(b"\0")[0].decode("utf-8", "replace").rstrip()


def _placed(fields: Sequence[tuple[str, str]], address: int) -> Iterator[Field]:
    for name, kind in fields:
        kind, _, length = kind.partition(" ")
        registers = int(length) // 2 if length else 2 if kind == "uint32" else 1
        yield Field(name, address, registers, kind)
        address += registers


def _end(fields: Sequence[Field]) -> int:
    return fields[-1].address + fields[-1].registers
