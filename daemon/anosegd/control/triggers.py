"""Software triggers: each accepted one is noted in the journal, handed to its camera, and answered by a verdict."""

from __future__ import annotations

import itertools
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from anosegd import logs, wire
from anosegd.cameras.supervisor import Camera, Trigger
from anosegd.journal import Journal, JournalError
from anosegd.part import Part
from anosegd.publish.publisher import Publisher

REMEMBERED = 2000
"""So many part ids are remembered, so that a trigger sent twice is one part."""
Told = dict[str, Any]
"""What whoever triggered is told: part_id, triggered_at, durable (whether a crash would not forget it)."""


class Triggers:
    """accept: the control socket's thread. answer_owed: the main thread, when the engine is proved.

    open: whether parts are inspected now; set by the station.
    """

    def __init__(self, cameras: Iterable[Camera], journal: Journal | None, publisher: Publisher, run_id: str) -> None:
        self.open = False
        self._cameras: dict[str, Camera] = {}
        self._handing_on = threading.Lock()
        self.set_cameras(cameras)
        self._journal = journal
        self._publisher = publisher
        self._run_id = run_id
        self._count = itertools.count(1)
        self._known: OrderedDict[tuple[str, str], Told] = OrderedDict()

    def set_cameras(self, cameras: Iterable[Camera]) -> None:
        """Triggers go to these from now on; once this returns, none goes to another. Main thread."""
        with self._handing_on:
            self._cameras = {camera.name: camera for camera in cameras}

    def close(self) -> None:
        """Refuse triggers from now on; once this returns, those that were accepted are with their cameras. Main thread."""
        handed_on = self._handing_on.acquire(timeout=1.0)  # not for ever: one may be held up by the journal's disk
        self.open = False
        if handed_on:
            self._handing_on.release()

    def accept(self, name: str, part_id: str | None, answer: Callable[[Told], None]) -> None:
        """Take a trigger; the camera is at it while it is being noted. `answer` is called once, on whichever thread. A part id
        that was triggered before is that part: it is answered as then, and makes no other.

        Raises:
            ValueError: there is no such camera, or it does not wait for triggers, or nothing is inspected now.
        """
        with self._handing_on:
            self._accept(name, part_id, answer)

    def _accept(self, name: str, part_id: str | None, answer: Callable[[Told], None]) -> None:
        at_ns, at_wall_ns = time.monotonic_ns(), time.time_ns()
        waiting = [camera.name for camera in self._cameras.values() if camera.waits_for_triggers]
        if name not in waiting:
            raise ValueError(f"camera '{name}' waits for no triggers; these do: {', '.join(waiting) or 'none'}")
        if not self.open:
            raise ValueError("the station does not inspect now")
        part_id = part_id or f"{name}-{self._run_id[:8]}-{next(self._count)}"
        if (known := self._known.get((name, part_id))) is not None:
            answer(known)  # asked again, because the answer was lost: a second picture might show the next part
            return
        told: Told = {"part_id": part_id, "triggered_at": wire.utc(at_wall_ns), "durable": False}
        self._known[name, part_id] = told
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)

        def noted(error: Exception | None) -> None:
            told["durable"] = error is None
            answer(told)

        number = None
        if self._journal is None:
            answer(told)
        else:
            try:
                number = self._journal.accept(name, part_id, at_wall_ns, noted).number
            except JournalError:  # it goes on without the journal, as a verdict does, and both say so
                answer(told)
        self._cameras[name].trigger(Trigger(part_id, at_ns, at_wall_ns, number))

    def answer_owed(self) -> None:
        """The parts that an earlier run accepted, and a crash left unanswered, become UNKNOWN: restart. Often: a journal that
        could not be opened at the start may be later."""
        owed = self._journal.take_owed() if self._journal is not None else []
        for trigger in owed:
            now_ns = time.monotonic_ns()
            camera = self._cameras.get(trigger.camera)
            part = Part(
                camera=trigger.camera,
                sequence=0,
                part_id=trigger.part_id,
                captured_ns=None,
                captured_wall_ns=None,
                triggered_ns=now_ns,
                triggered_wall_ns=trigger.at_ns,
                trigger=trigger.number,
                settings=camera.config if camera is not None else None,
            )
            self._publisher.answer_owed(part)
        if owed:
            logs.warning("triggers.unanswered", count=len(owed), verdict="UNKNOWN: restart")
