"""Makes the messages that the mirror publishes: the tables of docs/plc.md. Pure functions."""

from __future__ import annotations

import json
from dataclasses import asdict

from anosegd.bridge.tags import ErrorCode, Outputs


def state_of(outputs: Outputs) -> bytes:
    """Return the retained message about the station."""
    return _json(
        {
            "online": outputs.online,
            "enabled": outputs.enabled,
            "station_state": outputs.station_state,
            "error": outputs.error_code.name.lower(),
            "recipe": outputs.recipe,
            "settings": f"{outputs.settings:08x}",
        }
    )


def result_of(outputs: Outputs) -> bytes:
    """Return the message about the result that is shown."""
    result = outputs.result
    return _json(
        {
            "number": outputs.result_number,
            **asdict(result),
            "settings": f"{result.settings:08x}",
            "age_ms": round(result.age_ms, 1),
            "statistics": {name: round(value, 1) for name, value in asdict(outputs.statistics).items()},
        }
    )


def _json(content: dict[str, object]) -> bytes:
    return json.dumps(content, ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace")


LOST = state_of(Outputs(error_code=ErrorCode.STATION_SILENT))
"""What the broker publishes when the bridge is lost."""
