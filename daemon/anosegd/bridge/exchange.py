"""Decides what passes between the handshake and the memory of a PLC, for kinds that are clients of the PLC. Pure.

The PLC's program copies the heartbeat bit of the status word to its control word. A PLC that runs therefore changes that bit
once a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from anosegd.bridge.encoding import CONTROL_BITS, MAP_VERSION, STATUS_BITS, bits_of, status_bits, values_of, word_of
from anosegd.bridge.tags import Controls, Outputs

POLLED_BITS = (*CONTROL_BITS, "heartbeat")
"""The control bits of a PLC that is polled."""
STILL_S = 3.0
"""A PLC whose heartbeat bit has not changed for this long has stopped."""
STILL = f"the PLC's program has not copied the heartbeat bit for {STILL_S:g} s: check that it runs, and copies it in each cycle"
REPLACED = "the status word or map_version in the PLC has changed: the PLC was restarted, or another program writes there"

VALID = word_of([name == "result_valid" for name in STATUS_BITS])
RESULT = word_of([name in ("result_valid", "result_pass", "result_fail") for name in STATUS_BITS])
TOGGLE = word_of([name == "result_toggle" for name in STATUS_BITS])
RESULT_VALUES = frozenset(
    (
        "result_number",
        "outcome",
        "reason",
        "defects",
        "score",
        "threshold",
        "age_ms",
        "result_settings",
        "part_id",
        "result_recipe",
    )
)
"""The values that belong to one result; all others may change while it is shown."""

Value = float | str


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    """What the bridge found in the PLC's memory.

    Attributes:
        control: The word with the control bits.
        status: The word with the status bits, as the memory has it.
        map_version: As the memory has it.
        part_id, recipe: What the PLC has written there.
    """

    control: int
    status: int
    map_version: int
    part_id: str
    recipe: str

    @property
    def bits(self) -> dict[str, bool]:
        """The control bits by name."""
        return dict(zip(POLLED_BITS, bits_of(self.control), strict=False))


@dataclass(frozen=True, slots=True)
class Image:
    """What the PLC is to read: the status word, and all other values by name."""

    status: int
    values: Mapping[str, Value]

    @classmethod
    def of(cls, outputs: Outputs) -> Image:
        """Return the image of the handshake's outputs."""
        return cls(word_of(status_bits(outputs)), values_of(outputs))


@dataclass(frozen=True, slots=True)
class StatusWrite:
    """Writes the status word."""

    word: int


@dataclass(frozen=True, slots=True)
class ValuesWrite:
    """Writes values; `changed` has the names of those that differ from what the memory has."""

    values: Mapping[str, Value]
    changed: frozenset[str]


def writes(before: Image | None, now: Image) -> list[StatusWrite | ValuesWrite]:
    """Return the writes that bring a PLC's memory up to date, in their order.

    A PLC may read between any two of them. It never finds `result_valid` or a new toggle beside the values of another result:
    `result_valid` falls before the values change; it rises, and the toggle changes, after that. While a result stays,
    `result_valid` stays high: a PLC that saw it fall and rise would take the same result for the next one.

    Args:
        before: What the memory has; None if that is not known.
        now: What it is to have.
    """
    changed = frozenset(name for name, value in now.values.items() if before is None or before.values[name] != value)
    status = None if before is None else before.status
    found: list[StatusWrite | ValuesWrite] = []
    if before is None:
        status = now.status & ~RESULT
        found.append(StatusWrite(status))
    elif before.status & RESULT and changed & RESULT_VALUES:
        status = before.status & now.status & ~(RESULT | TOGGLE) | before.status & TOGGLE
        found.append(StatusWrite(status))
    if changed:
        found.append(ValuesWrite(now.values, changed))
    if status != now.status:
        found.append(StatusWrite(now.status))
    return found


def replaced(seen: Seen, written: Image | None) -> str | None:
    """Return why the memory is no longer the one that the bridge has written; None if it is.

    Args:
        seen: What was found.
        written: What the bridge wrote last; None before the first time.
    """
    if written is None or (seen.status == written.status and seen.map_version == MAP_VERSION):
        return None
    return REPLACED


@dataclass(slots=True)
class Watch:
    """Follows what a PLC writes, and notices when its program stops. One for each connection.

    Attributes:
        runs: Whether the PLC's program runs. What it has written counts only then.
    """

    runs: bool = False
    _beat: bool | None = None
    _beat_at: float = 0.0
    _still: bool = False  # reported
    _control: int = 0
    _taken: Controls | None = None

    def raised(self, seen: Seen) -> bool:
        """Whether a bit has risen. Then the texts, which the PLC writes before the bit, must be read again: they may be old."""
        return bool(seen.control & ~self._control & ~word_of([name == "heartbeat" for name in POLLED_BITS]))

    def loss(self, now: float, seen: Seen) -> str | None:
        """Take what was found at this time, in monotonic seconds; return why the PLC is lost, or None."""
        beat = seen.bits["heartbeat"]
        if beat != self._beat:
            self.runs = self._beat is not None  # the first read shows no change
            self._beat, self._beat_at, self._still = beat, now, False
        self._control = seen.control
        if not self._still and now - self._beat_at > STILL_S:
            self.runs, self._taken, self._still = False, None, True
            return STILL
        return None

    def news(self, seen: Seen) -> Controls | None:
        """Return what the PLC has written, if its program runs and that has changed.

        An empty recipe counts as not written: a restarted PLC has forgotten the name, which does not mean that any will do.
        """
        bits = seen.bits
        del bits["heartbeat"]
        controls = Controls(**bits, part_id=seen.part_id, recipe=seen.recipe or None)
        if not self.runs or controls == self._taken:
            return None
        self._taken = controls
        return controls
