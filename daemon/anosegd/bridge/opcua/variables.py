"""Maps the tags to variables: the table of docs/plc-opcua.md. Pure functions."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from anosegd.bridge import encoding
from anosegd.bridge.encoding import CONTROL_BITS, STATUS_BITS, status_bits
from anosegd.bridge.tags import Controls, Outputs

MAP_VERSION = 1
LONGEST_TEXT = 120
"""Characters of a text that a client writes."""
Value = bool | int | float | str


class Variable(NamedTuple):
    """A variable. `kind` is the name of its OPC UA data type."""

    name: str
    kind: str
    of_station: bool = False
    """Whether it comes from the station: uncertain while the station is not heard."""


OUTPUTS: tuple[Variable, ...] = (
    *(Variable(name, "Boolean") for name in STATUS_BITS if name != "spare"),
    Variable("error_code", "UInt16"),
    Variable("result_number", "UInt16"),
    Variable("results_waiting", "UInt16"),
    Variable("outcome", "UInt16", True),
    Variable("outcome_text", "String", True),
    Variable("reason", "UInt16", True),
    Variable("reason_text", "String", True),
    Variable("part_id", "String", True),
    Variable("defects", "UInt16", True),
    Variable("score", "Double", True),
    Variable("threshold", "Double", True),
    Variable("age_ms", "Double", True),
    Variable("result_recipe", "String", True),
    Variable("result_settings", "UInt32", True),
    Variable("station_state", "UInt16", True),
    Variable("recipe", "String", True),
    Variable("settings", "UInt32", True),
    Variable("map_version", "UInt16"),
    Variable("passed", "UInt32"),
    Variable("failed", "UInt32"),
    Variable("unknown", "UInt32"),
    Variable("late", "UInt32"),
    Variable("discarded", "UInt32"),
    Variable("triggers", "UInt32"),
    Variable("trigger_errors", "UInt32"),
    Variable("overruns", "UInt32"),
    Variable("min_ms", "Double"),
    Variable("mean_ms", "Double"),
    Variable("max_ms", "Double"),
)
"""What a PLC reads."""
INPUTS: tuple[Variable, ...] = (
    *(Variable(name, "Boolean") for name in CONTROL_BITS),
    Variable("part_id", "String"),
    Variable("recipe", "String"),
)
"""What a PLC writes."""
LARGEST = {"UInt16": 0xFFFF, "UInt32": 0xFFFF_FFFF}


@dataclass(frozen=True, slots=True)
class Shown:
    """A value of a variable. It is uncertain while its station is not heard."""

    value: Value
    certain: bool = True


def values_of(outputs: Outputs) -> dict[str, Shown]:
    """Return the variables that a PLC reads, by name."""
    result, statistics = outputs.result, outputs.statistics
    heard = outputs.station_state != ""
    values: dict[str, Value] = {
        **dict(zip(STATUS_BITS, status_bits(outputs), strict=True)),
        **encoding.values_of(outputs),
        "map_version": MAP_VERSION,
        "outcome_text": result.outcome,
        "reason_text": result.reason,
        "age_ms": round(result.age_ms, 1),
        "min_ms": round(statistics.min_ms, 1),
        "mean_ms": round(statistics.mean_ms, 1),
        "max_ms": round(statistics.max_ms, 1),
    }
    return {
        variable.name: Shown(_fitted(values[variable.name], variable.kind), heard or not variable.of_station)
        for variable in OUTPUTS
    }


def initial_inputs() -> dict[str, Value]:
    """Return the inputs before anybody has written them."""
    return {variable.name: False if variable.kind == "Boolean" else "" for variable in INPUTS}


def controls_of(inputs: dict[str, Value], written: set[str]) -> Controls:
    """Return what the inputs mean.

    Args:
        inputs: Their values.
        written: The names of those that were written since the bridge started.
    """
    return Controls(
        enable=bool(inputs["enable"]) if "enable" in written else None,
        trigger=bool(inputs["trigger"]),
        part_id=str(inputs["part_id"]),
        result_acknowledge=bool(inputs["result_acknowledge"]),
        recipe_change=bool(inputs["recipe_change"]),
        recipe=str(inputs["recipe"]) if "recipe" in written else None,
    )


def _fitted(value: Value, kind: str) -> Value:
    return min(max(value, 0), LARGEST[kind]) if kind in LARGEST and not isinstance(value, str) else value
