"""Notes each software trigger in the journal and hands it to its camera. A verdict always follows.

After a crash, the next start answers the triggers that have no verdict, with UNKNOWN: restart. Triggers are accepted on the
control thread; everything else runs on the main thread.
"""

from __future__ import annotations

import itertools
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterable
from typing import Any

from anosegd import logs, wire
from anosegd.cameras import CameraSupervisor, Trigger
from anosegd.journal import Journal, JournalError
from anosegd.outcome import Unknown
from anosegd.part import Part
from anosegd.publish import Publisher

REMEMBERED = 2000
"""Part ids that are remembered, so that a trigger that is sent twice makes one part."""
Accepted = dict[str, Any]
"""The answer to a trigger: part_id, triggered_at, and durable (whether the trigger survives a crash)."""


class Triggers:
    """Hands triggers to the cameras. `accept` runs on the control socket's thread, everything else on the main thread.

    Attributes:
        open: Whether parts are inspected at the moment. Set by the station.
    """

    def __init__(self, cameras: Iterable[CameraSupervisor], journal: Journal | None, publisher: Publisher, run_id: str) -> None:
        self.open = False
        self._cameras: dict[str, CameraSupervisor] = {}
        self._accepting = threading.Lock()
        self.set_cameras(cameras)
        self._journal = journal
        self._publisher = publisher
        self._run_id = run_id
        self._count = itertools.count(1)
        self._known: OrderedDict[tuple[str, str], Accepted] = OrderedDict()

    def set_cameras(self, cameras: Iterable[CameraSupervisor]) -> None:
        """Replace the cameras. When this returns, triggers reach only the new cameras."""
        with self._accepting:
            self._cameras = {camera.name: camera for camera in cameras}

    def close(self) -> None:
        """Refuse triggers from now on. When this returns, every accepted trigger has reached its camera."""
        locked = self._accepting.acquire(timeout=1.0)  # bounded: the journal's disk may hold up a trigger
        self.open = False
        if locked:
            self._accepting.release()

    def accept(self, name: str, part_id: str | None, answer: Callable[[Accepted], None]) -> None:
        """Take a trigger. The camera captures the part while the trigger is being noted.

        Args:
            name: The camera.
            part_id: The part's name. If it was triggered before, no part is made and the first answer is repeated.
            answer: Called once, on any thread.

        Raises:
            ValueError: There is no such camera, it does not wait for triggers, or nothing is inspected at the moment.
        """
        with self._accepting:
            self._accept(name, part_id, answer)

    def _accept(self, name: str, part_id: str | None, answer: Callable[[Accepted], None]) -> None:
        at_ns, at_wall_ns = time.monotonic_ns(), time.time_ns()
        waiting = [camera.name for camera in self._cameras.values() if camera.waits_for_triggers]
        if name not in waiting:
            raise ValueError(f"camera '{name}' waits for no triggers; these do: {', '.join(waiting) or 'none'}")
        if not self.open:
            raise ValueError("the station does not inspect now")
        part_id = part_id or f"{name}-{self._run_id[:8]}-{next(self._count)}"
        if (known := self._known.get((name, part_id))) is not None:
            answer(known)  # repeated because the answer was lost: a second image might show the next part
            return
        accepted: Accepted = {"part_id": part_id, "triggered_at": wire.utc(at_wall_ns), "durable": False}
        self._known[name, part_id] = accepted
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)

        def noted(error: Exception | None) -> None:
            accepted["durable"] = error is None
            answer(accepted)

        number = None
        if self._journal is None:
            answer(accepted)
        else:
            try:
                number = self._journal.accept(name, part_id, at_wall_ns, noted).number
            except JournalError:  # the part is inspected without the journal; answer and verdict both say so
                answer(accepted)
        self._cameras[name].trigger(Trigger(part_id, at_ns, at_wall_ns, number))

    def answer_owed(self) -> None:
        """Answer the triggers that an earlier run accepted and a crash left open: UNKNOWN: restart.

        Call it often: a journal that could not be opened at the start may be opened later.
        """
        owed = self._journal.take_owed() if self._journal is not None else []
        for trigger in owed:
            camera = self._cameras.get(trigger.camera)
            part = Part(
                camera=trigger.camera,
                sequence=0,
                part_id=trigger.part_id,
                triggered_ns=time.monotonic_ns(),
                triggered_wall_ns=trigger.at_ns,
                trigger=trigger.number,
                settings=camera.config if camera is not None else None,
            )
            self._publisher.open_as_unknown(part, Unknown("restart", "the daemon ended before this part was inspected"))
        if owed:
            logs.warning("triggers.unanswered", count=len(owed), verdict="UNKNOWN: restart")
