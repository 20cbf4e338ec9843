"""Defines the tags: what a PLC reads (`Outputs`) and writes (`Controls`), and the numbers that stand for words."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal

Outcome = Literal["UNKNOWN", "PASS", "FAIL"]

OUTCOMES: dict[Outcome, int] = {"UNKNOWN": 0, "PASS": 1, "FAIL": 2}
"""Numbers of the outcomes. UNKNOWN is 0: memory that was cleared never reads as PASS."""

REASONS: dict[str, int] = {
    "unreadable": 1,
    "overrun": 2,
    "repeated_frame": 3,
    "image_size": 4,
    "image_quality": 5,
    "review": 6,
    "camera_lost": 7,
    "deadline": 8,
    "engine": 9,
    "region": 10,
    "journal": 11,
    "shutdown": 12,
    "restart": 13,
    "paused": 14,
    "recipe": 15,
    "late": 100,
    "refused": 101,
    "not_ready": 102,
}
"""Numbers of the reasons for UNKNOWN: those of a verdict, and from 100 on those of the bridge itself."""
OTHER_REASON = 99
"""A reason of a newer station, which this bridge does not know."""


class ErrorCode(IntEnum):
    """Says what went wrong last. Lowering `enable` clears it."""

    NONE = 0
    STATION_SILENT = 1
    STATION_RESTARTED = 2
    VERDICT_LOST = 3
    OVERRUN = 4
    TRIGGER_NOT_READY = 5
    TRIGGER_REFUSED = 6
    RECIPE_REFUSED = 7
    CAMERA_LOST = 8
    RECIPE_NOT_WRITTEN = 9
    PLC_LOST = 10
    TRIGGER_MODE = 11


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What a PLC learns about one part. The default is what it reads while there is no result.

    Attributes:
        outcome: PASS, FAIL or UNKNOWN.
        reason: Why the outcome is UNKNOWN, a key of `REASONS` or a newer station's word; empty for another outcome.
        part_id: The part's label.
        defects: Number of defects in the verdict.
        score, threshold: As in the verdict; 0 if the part was not inspected.
        recipe: The recipe that judged.
        settings: The first 32 bits of the checksum of the station's settings.
        age_ms: From the trigger, or else from capture, until the PLC could read the result.
    """

    outcome: Outcome = "UNKNOWN"
    reason: str = ""
    part_id: str = ""
    defects: int = 0
    score: float = 0.0
    threshold: float = 0.0
    recipe: str = ""
    settings: int = 0
    age_ms: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Statistics:
    """Counts since the bridge started.

    Attributes:
        passed, failed, unknown: Results that were shown to the PLC.
        late: Those among them that are UNKNOWN: late.
        discarded: Parts of which the PLC got no result because the handshake was reset.
        triggers: Triggers that were taken.
        trigger_errors: Those among them that the station refused, or for which it was not ready.
        overruns: How often the PLC left too many results unread.
        min_ms, mean_ms, max_ms: `Result.age_ms` of the results that were shown.
    """

    passed: int = 0
    failed: int = 0
    unknown: int = 0
    late: int = 0
    discarded: int = 0
    triggers: int = 0
    trigger_errors: int = 0
    overruns: int = 0
    min_ms: float = 0.0
    mean_ms: float = 0.0
    max_ms: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Outputs:
    """What a PLC reads.

    Attributes:
        heartbeat: Changes every second while the bridge runs.
        online: The station is heard, and inspects.
        idle: The handshake is at rest: `enable` was low, and may be raised.
        enabled: The handshake is open: every part from now on gets exactly one result, in order.
        trigger_ready: A trigger will be taken.
        trigger_acknowledge: The trigger was taken: its part will get a result.
        busy: A part is being inspected, or a recipe is being changed.
        result_valid: `result` is that of the oldest part whose result was not acknowledged.
        result_toggle: Changes with each result. It means something only while `enabled` is high.
        result_number: Counts the results, 1 to 65534 and then 1 again; odd while `result_toggle` is high.
        results_waiting: Results behind the one that is shown.
        overrun: The PLC left too many results unread, which closed the handshake.
        recipe_acknowledge: The recipe change has ended.
        recipe_refused: It has failed, or no answer came and another recipe is in force; `recipe` says which one.
        error_code: What went wrong last.
        station_state: The state of OPC 40100-1; empty while the station is not heard.
        recipe: The recipe that the camera's next part is judged by.
        settings: The first 32 bits of the checksum of the station's settings now.
        result: The result; the default while `result_valid` is low.
        statistics: Counts.
    """

    heartbeat: bool = False
    online: bool = False
    idle: bool = False
    enabled: bool = False
    trigger_ready: bool = False
    trigger_acknowledge: bool = False
    busy: bool = False
    result_valid: bool = False
    result_toggle: bool = False
    result_number: int = 0
    results_waiting: int = 0
    overrun: bool = False
    recipe_acknowledge: bool = False
    recipe_refused: bool = False
    error_code: ErrorCode = ErrorCode.NONE
    station_state: str = ""
    recipe: str = ""
    settings: int = 0
    result: Result = field(default_factory=Result)
    statistics: Statistics = field(default_factory=Statistics)


@dataclass(frozen=True, slots=True, kw_only=True)
class Controls:
    """What a PLC writes. Writing the same again changes nothing.

    Attributes:
        enable: Open the handshake; low closes it, and every part that has no result yet gets none. None: never written. The
            bridge forgets it when it is restarted, and must not take that for low.
        trigger: A part is in place; raised while `trigger_ready` is high, lowered after `trigger_acknowledge`.
        part_id: The label of that part; empty lets the station choose one.
        result_acknowledge: The result was used; raised while `result_valid` is high, lowered after that has fallen.
        recipe_change: Change to `recipe`; raised, and lowered after `recipe_acknowledge`.
        recipe: The recipe's name. If it is not empty, a trigger asks for it, too: judged by another one, the part is UNKNOWN.
            None: never written. A bridge that was restarted must not take that for a PLC that wants any recipe.
    """

    enable: bool | None = None
    trigger: bool = False
    part_id: str = ""
    result_acknowledge: bool = False
    recipe_change: bool = False
    recipe: str | None = ""
