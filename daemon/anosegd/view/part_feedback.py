"""Feedback: people say whether verdicts are right, or take it back. Each change is one request to the station."""

from __future__ import annotations

from typing import Any

import msgspec

from anosegd.view.change import Change
from anosegd.view.station_requests import StationRequests


class Feedback(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is said about parts.

    Attributes:
        journal_id, seqs: The parts' verdicts.
        mark: What is said.
        comment: In the person's words; may be empty.
    """

    journal_id: str
    seqs: list[int]
    mark: str
    comment: str = ""


class UndoFeedback(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Takes feedback back.

    Attributes:
        journal_id: The journal in which it was noted.
        change: The number of the change; None takes the person's last one.
    """

    journal_id: str
    change: int | None = None


async def _feedback(station: StationRequests, who: str, values: Feedback) -> dict[str, Any]:
    answer = await station.ask("feedback", who=who, **msgspec.structs.asdict(values))
    return {"change": answer["change"], "seqs": answer["seqs"]}


async def _undo(station: StationRequests, who: str, values: UndoFeedback) -> dict[str, Any]:
    answer = await station.ask("undo_feedback", who=who, **msgspec.structs.asdict(values))
    return {"change": answer["change"], "seqs": answer["seqs"]}


FEEDBACK = Change("feedback", "mark", Feedback, _feedback)
UNDO_FEEDBACK = Change("undo_feedback", "mark", UndoFeedback, _undo)
