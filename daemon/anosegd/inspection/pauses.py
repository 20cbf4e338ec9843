"""Knows which cameras a person has paused, and until when. Every part of a paused camera is UNKNOWN: paused.

A pause ends by itself. It is kept in memory only, so a station that starts again inspects again. `Pauses.of` and `ask`
may be called on any thread, everything else runs on the main thread.
"""

from __future__ import annotations

import queue
import time
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Any

from anosegd import logs, wire
from anosegd.inspection.change_notes import note_change
from anosegd.journal import Change, ChangeKind, Journal, JournalError
from anosegd.outcome import Unknown
from anosegd.worker import NOBODY, Asker

INSPECTING = "inspecting"
RECENT_CHANGES = 200
"""How far back a start looks for pauses that an earlier run did not end."""
Answer = Callable[[dict[str, Any] | str], None]
"""Takes the fields of an answer, or the text of a refusal."""


@dataclass(frozen=True, slots=True, eq=False)
class Pause:
    """Describes one pause.

    Attributes:
        camera: The camera that was to be paused; None if all were.
        asker: Who asked for it, and why.
        since_ns, until_ns: Unix times at which it began and will end.
        ends_at: Monotonic time at which it ends. A clock that is set does not change its length.
    """

    camera: str | None
    asker: Asker
    since_ns: int
    until_ns: int
    ends_at: float

    @property
    def left_s(self) -> float:
        """Seconds until it ends by itself."""
        return max(0.0, self.ends_at - time.monotonic())

    @property
    def unknown(self) -> Unknown:
        """The outcome of every part meanwhile."""
        # Without the person's name: verdicts are kept longer than names (`journal.keep_names_days`).
        return Unknown("paused", "the inspection is paused" + (f": {self.asker.why}" if self.asker.why else ""))

    @property
    def in_words(self) -> str:
        """As the journal notes it."""
        return f"paused until {wire.utc(self.until_ns)}"

    @property
    def shown(self) -> wire.Pause:
        """As the heartbeat has it."""
        return wire.Pause(
            since=wire.utc(self.since_ns),
            until=wire.utc(self.until_ns),
            left_s=round(self.left_s, 1),
            who=self.asker.who,
            why=self.asker.why,
        )


@dataclass(frozen=True, slots=True)
class PauseRequest:
    """A request to pause a camera, or all of them.

    Attributes:
        camera: The camera; None for all.
        minutes: How long; None ends the pause.
        asker: Who asks, and why.
        answer: Called once.
    """

    camera: str | None
    minutes: float | None
    asker: Asker
    answer: Answer


class Pauses:
    """Holds the pauses by camera.

    Args:
        journal: Where pauses are noted; None for a station without one.
    """

    def __init__(self, journal: Journal | None) -> None:
        self._journal = journal
        # By camera; under None the pause of all, which holds for cameras without an entry: also for those that a reload adds.
        # A camera that is inspected meanwhile has the entry None, for instance after a pause of its own: that one has replaced
        # the pause of all. Replaced, never changed: any thread reads it.
        self._paused: dict[str | None, Pause | None] = {}
        self._requests: queue.SimpleQueue[PauseRequest] = queue.SimpleQueue()

    def of(self, camera: str) -> Pause | None:
        """Return the pause of a camera; None if it is inspected. Any thread."""
        paused = self._paused
        pause = paused.get(camera, paused.get(None))
        return None if pause is None or pause.left_s <= 0 else pause

    def ask(self, request: PauseRequest) -> None:
        """Request a pause, or its end. Any thread."""
        self._requests.put(request)

    def look_after(self, cameras: Collection[str]) -> bool:
        """Carry out requests, and end the pauses whose time is over. Called often.

        Args:
            cameras: The names of the cameras.

        Returns:
            Whether a camera is now paused or inspected that was not before.
        """
        changed = self._end_those_that_are_over()
        while not self._requests.empty():
            changed |= self._carry_out(self._requests.get_nowait(), cameras)
        return changed

    def end_earlier(self) -> None:
        """Note in the journal that the pauses of an earlier run are over: the station has started, and inspects."""
        if self._journal is None:
            return
        reader = self._journal.reader()
        try:
            changes = reader.changes(RECENT_CHANGES)
        except JournalError as error:
            logs.warning("change.not_noted", error=str(error))
            return
        finally:
            reader.close()
        for change in _without_end(changes):
            self._note("resume", change.camera, change.new, INSPECTING, Asker(why="the station was started again"))

    def close(self) -> None:
        """Refuse requests that still wait."""
        while not self._requests.empty():
            self._requests.get_nowait().answer("the daemon is ending")

    def _carry_out(self, request: PauseRequest, cameras: Collection[str]) -> bool:
        if request.camera is not None and request.camera not in cameras:
            request.answer(f"there is no camera '{request.camera}'; there are: {', '.join(cameras)}")
            return False
        names = list(cameras) if request.camera is None else [request.camera]
        before = {name: pause for name in names if (pause := self.of(name)) is not None}
        old = ", ".join(dict.fromkeys(pause.in_words for pause in before.values())) or INSPECTING
        if request.minutes is None:
            self._paused = {} if request.camera is None else {**self._paused, request.camera: None}
            if not before:
                request.answer({"cameras": []})
                return False
            done = {"cameras": sorted(before)}
            self._note("resume", request.camera, old, INSPECTING, request.asker, lambda _: request.answer(done))
            return True
        seconds, now_ns = request.minutes * 60, time.time_ns()
        pause = Pause(request.camera, request.asker, now_ns, now_ns + round(seconds * 1e9), time.monotonic() + seconds)
        self._paused = {None: pause} if request.camera is None else {**self._paused, request.camera: pause}
        begun = {"cameras": sorted(names), "until": wire.utc(pause.until_ns)}
        self._note("pause", request.camera, old, pause.in_words, request.asker, lambda _: request.answer(begun))
        return True

    def _end_those_that_are_over(self) -> bool:
        over = [pause for pause in self._paused.values() if pause is not None and pause.left_s <= 0]
        if not over:
            return False
        # Without its entry, a camera would be paused again by the pause of all.
        self._paused = {name: None if pause in over else pause for name, pause in self._paused.items()}
        for pause in over:
            self._note("resume", pause.camera, pause.in_words, INSPECTING, NOBODY._replace(why="its time is over"))
        return True

    def _note(
        self,
        kind: ChangeKind,
        camera: str | None,
        old: str,
        new: str,
        asker: Asker,
        done: Callable[[bool], None] = lambda noted: None,
    ) -> None:
        """Log a change, and have it noted. A journal that fails prevents no pause, because paused parts count as rejects."""
        change = Change(time.time_ns(), kind, camera, old, new, asker.who, asker.why)
        event = {"camera": camera or "all", "old": old, "new": new, "who": asker.who, "why": asker.why}
        if kind == "pause":
            logs.warning("pause.begun", **event)
        else:
            logs.info("pause.ended", **event)
        if self._journal is None:
            done(False)
        else:
            note_change(self._journal, change, done)


def _without_end(changes: Iterable[Change]) -> list[Change]:
    """Return the pauses among these changes, the oldest first, whose end is not noted."""
    found: dict[str | None, Change] = {}
    for change in changes:
        if change.kind == "pause":
            if change.camera is None:
                found.clear()
            found[change.camera] = change
        elif change.kind == "resume" and change.camera is None:
            # `old` names the pauses that ended. If the time of a pause of all is over, a camera's own pause may go on.
            found = {camera: pause for camera, pause in found.items() if pause.new not in change.old}
        elif change.kind == "resume":
            found.pop(change.camera, None)
    return list(found.values())
