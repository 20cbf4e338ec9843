"""Defines what a station sends. Pure data. Any thread."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any, NamedTuple


class Cursor(NamedTuple):
    """Marks a place in a station's verdicts: everything up to and including `seq` of this journal has been processed."""

    journal_id: str
    seq: int


class Event(NamedTuple):
    """A change in the stream.

    Attributes:
        kind: One of
            `up`, `down`: heartbeats arrive, or have stopped;
            `journal_changed`: the station began a new journal; verdicts left in the old one cannot be fetched any more;
            `missed`: numbers that did not come in their turn, to a client that cannot ask for them. One that a verdict of
                another camera has overtaken may still come;
            `gone`: numbers that the journal deleted before they were read;
            `void`: numbers without a verdict, left by a restart or a failed commit.
        detail: An explanation for people.
        first, last: The numbers concerned; 0 if there are none.
    """

    kind: str
    detail: str
    first: int = 0
    last: int = 0


class Verdict(dict[str, Any]):
    """A verdict's header as published.

    Attributes:
        replayed: It came from the journal. A replayed verdict must never drive a PLC output.
        mark: What a person said about it, as an answer to `marks`; None if nobody has, and for a verdict that is new.
    """

    def __init__(self, header: dict[str, Any], *, replayed: bool, mark: dict[str, Any] | None = None) -> None:
        super().__init__(header)
        self.replayed = replayed
        self.mark = mark

    @property
    def cursor(self) -> Cursor | None:
        """Where to continue after this verdict: `follow(after=verdict.cursor)`. None if the verdict is not durable."""
        return Cursor(self["journal_id"], self["seq"]) if self.get("durable") else None


def with_marks(page: dict[str, Any]) -> Iterator[Verdict]:
    """Yield the verdicts in an answer to `replay`, each with its mark."""
    marks = {mark["seq"]: mark for mark in page.get("marks", ())}
    for header in page["verdicts"]:
        yield Verdict(header, replayed=True, mark=marks.get(header["seq"]))


class Picture(NamedTuple):
    """A picture or an anomaly map that was published.

    Attributes:
        header: The message's header. `journal_id` and `seq` say which verdict it belongs to.
        data: JPEG of a picture, PNG of a map.
    """

    header: dict[str, Any]
    data: bytes


def parse(parts: list[bytes]) -> tuple[bytes, dict[str, Any], str, int] | None:
    """Topic, header, journal id and (last) seq of a message; None if it is not a station's message."""
    with contextlib.suppress(ValueError, KeyError, TypeError, IndexError):
        header = json.loads(parts[1])
        seq = header["last_seq"] if parts[0] == b"state" else header["seq"]
        return parts[0], header, str(header["journal_id"]), int(seq)
    return None
