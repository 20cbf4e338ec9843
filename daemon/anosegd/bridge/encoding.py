"""Turns the tags into bits, numbers and texts, as far as this is the same for every PLC. Pure functions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import get_args

from anosegd.bridge.tags import OTHER_REASON, OUTCOMES, REASONS, Outputs
from anosegd.wire import StationState

MAP_VERSION = 1
STATES = {"": 0, **{state: n for n, state in enumerate(get_args(StationState), 1)}}
"""Numbers of the station's states; 0 while it is not heard."""

STATUS_BITS = (
    "heartbeat",
    "online",
    "idle",
    "enabled",
    "trigger_ready",
    "trigger_acknowledge",
    "busy",
    "result_valid",
    "result_toggle",
    "result_pass",
    "result_fail",
    "overrun",
    "recipe_acknowledge",
    "recipe_refused",
    "error",
    "spare",
)
CONTROL_BITS = ("enable", "trigger", "result_acknowledge", "recipe_change")
WORD = 16


def status_bits(outputs: Outputs) -> list[bool]:
    """Return the status bits in the order of `STATUS_BITS`."""
    derived = {
        "result_pass": outputs.result_valid and outputs.result.outcome == "PASS",
        "result_fail": outputs.result_valid and outputs.result.outcome == "FAIL",
        "error": outputs.error_code != 0,
        "spare": False,
    }
    return [derived[name] if name in derived else bool(getattr(outputs, name)) for name in STATUS_BITS]


def values_of(outputs: Outputs) -> dict[str, float | str]:
    """Return all values except the status bits, by name. All numbers except `score` and `threshold` are whole."""
    result, statistics = outputs.result, outputs.statistics
    return {
        "error_code": int(outputs.error_code),
        "result_number": outputs.result_number,
        "results_waiting": outputs.results_waiting,
        "outcome": OUTCOMES[result.outcome],
        "reason": REASONS.get(result.reason, OTHER_REASON) if result.reason else 0,
        "defects": result.defects,
        "score": result.score,
        "threshold": result.threshold,
        "age_ms": round(result.age_ms),
        "result_settings": result.settings,
        "station_state": STATES.get(outputs.station_state, 0),
        "map_version": MAP_VERSION,
        "settings": outputs.settings,
        "passed": statistics.passed,
        "failed": statistics.failed,
        "unknown": statistics.unknown,
        "late": statistics.late,
        "discarded": statistics.discarded,
        "triggers": statistics.triggers,
        "trigger_errors": statistics.trigger_errors,
        "overruns": statistics.overruns,
        "min_ms": round(statistics.min_ms),
        "mean_ms": round(statistics.mean_ms),
        "max_ms": round(statistics.max_ms),
        "part_id": result.part_id,
        "result_recipe": result.recipe,
        "recipe": outputs.recipe,
    }


def word_of(bits: Sequence[bool]) -> int:
    """Return up to 16 bits as a word, the first one as the lowest bit."""
    return sum(bit << n for n, bit in enumerate(bits))


def bits_of(word: int) -> list[bool]:
    """Return the 16 bits of a word, the lowest one first."""
    return [bool(word >> n & 1) for n in range(WORD)]


def utf8(text: str, length: int) -> bytes:
    """Return a text's bytes, cut between two characters to at most `length`."""
    return text.encode("utf-8", "replace")[:length].decode("utf-8", "ignore").encode()
