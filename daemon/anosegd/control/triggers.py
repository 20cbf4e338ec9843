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
from anosegd.control.requests import TriggerRequest
from anosegd.journal import Journal, JournalError
from anosegd.outcome import Unknown
from anosegd.part import Part
from anosegd.publish import Publisher

REMEMBERED = 2000
"""Requests that are remembered by their id, so that a request that is sent again makes no second part."""
Accepted = dict[str, Any]
"""The answer to a trigger: part_id, triggered_at, and durable (whether the trigger survives a crash)."""
Answer = Callable[[Accepted], None]


class _Request:
    """A trigger that carried a request id. Any thread.

    Args:
        camera: The camera that was triggered.
        accepted: The answer.
        noted: Whether the answer is final: the journal has recorded the trigger, or cannot.
    """

    def __init__(self, camera: str, accepted: Accepted, *, noted: bool = False) -> None:
        self.camera, self.accepted = camera, accepted
        self._lock = threading.Lock()
        self._waiting: list[Answer] | None = None if noted else []

    def is_same(self, camera: str, part_id: str | None) -> bool:
        """Whether a request for this camera and part can be a repetition of this one."""
        return camera == self.camera and part_id in (None, self.accepted["part_id"])

    def answer_when_noted(self, answer: Answer) -> None:
        """Repeat the answer, as soon as it is final."""
        with self._lock:
            if self._waiting is not None:
                self._waiting.append(answer)
                return
        answer(self.accepted)

    def noted(self) -> None:
        """The answer is final."""
        with self._lock:
            waiting, self._waiting = self._waiting or [], None
        for answer in waiting:
            answer(self.accepted)


class Triggers:
    """Hands triggers to the cameras. `accept` runs on the control socket's thread, everything else on the main thread.

    Attributes:
        open: Whether parts are inspected at the moment.
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
        self._requests: OrderedDict[str, _Request] = OrderedDict()

    def set_cameras(self, cameras: Iterable[CameraSupervisor]) -> None:
        """Replace the cameras. When this returns, triggers reach only the new cameras."""
        with self._accepting:
            self._cameras = {camera.name: camera for camera in cameras}

    def begin(self) -> None:
        """Accept triggers from now on."""
        self._recall_requests()
        self.open = True

    def close(self) -> None:
        """Refuse triggers from now on. When this returns, every accepted trigger has reached its camera."""
        locked = self._accepting.acquire(timeout=1.0)  # bounded: the journal's disk may hold up a trigger
        self.open = False
        if locked:
            self._accepting.release()

    def accept(self, asked: TriggerRequest, answer: Answer) -> None:
        """Take a trigger. The camera captures the part while the trigger is being noted.

        Args:
            asked: The request. A request id that was sent before makes no part, and its answer is repeated. A part id is a
                label: the same one again is another part.
            answer: Called once, on any thread.

        Raises:
            ValueError: There is no such camera, it does not wait for triggers, nothing is inspected at the moment, or the
                request id was used for another trigger.
        """
        with self._accepting:
            self._accept(asked, answer)

    def _accept(self, asked: TriggerRequest, answer: Answer) -> None:
        name, part_id, request_id = asked.camera, asked.part_id, asked.request_id
        at_ns, at_wall_ns = time.monotonic_ns(), time.time_ns()
        if name not in self._cameras:
            raise ValueError(f"there is no camera '{name}'; there are: {', '.join(self._cameras)}")
        waiting = [camera.name for camera in self._cameras.values() if camera.waits_for_triggers]
        if name not in waiting:
            raise ValueError(f"camera '{name}' waits for no triggers; these do: {', '.join(waiting) or 'none'}")
        if not self.open:
            raise ValueError("the station does not inspect now")
        if request_id is not None and (known := self._requests.get(request_id)) is not None:
            if not known.is_same(name, part_id):
                what = f"camera '{known.camera}', part '{known.accepted['part_id']}'"
                raise ValueError(f"request id '{request_id}' was used before, for {what}: give each request its own")
            known.answer_when_noted(answer)  # sent again because the answer was lost: a second image might show the next part
            return
        part_id = part_id or f"{name}-{self._run_id[:8]}-{next(self._count)}"
        accepted: Accepted = {"part_id": part_id, "triggered_at": wire.utc(at_wall_ns), "durable": False}
        request = _Request(name, accepted)
        request.answer_when_noted(answer)
        if request_id is not None:
            self._remember(request_id, request)

        def noted(error: Exception | None) -> None:
            accepted["durable"] = error is None
            request.noted()

        number = None
        if self._journal is None:
            request.noted()
        else:
            try:
                number = self._journal.accept(
                    name, part_id, at_wall_ns, noted, request_id=request_id, recipe=asked.recipe
                ).number
                if self._journal.hang is not None:  # its sender must not wait until the disk answers
                    request.noted()
            except JournalError:  # the part is inspected without the journal; answer and verdict both say so
                request.noted()
        self._cameras[name].trigger(Trigger(part_id, at_ns, at_wall_ns, number, asked.recipe))

    def _remember(self, request_id: str, request: _Request) -> None:
        self._requests[request_id] = request
        if len(self._requests) > REMEMBERED:
            self._requests.popitem(last=False)

    def _recall_requests(self) -> None:
        """Remember the requests of earlier runs: their senders may not have received the answer."""
        earlier = self._journal.take_requests() if self._journal is not None else []
        with self._accepting:
            for trigger in earlier:
                if trigger.request_id is not None and trigger.request_id not in self._requests:
                    answer = {"part_id": trigger.part_id, "triggered_at": wire.utc(trigger.at_ns), "durable": True}
                    self._remember(trigger.request_id, _Request(trigger.camera, answer, noted=True))

    def answer_owed(self) -> None:
        """Answer the triggers that an earlier run accepted and a crash left open: UNKNOWN: restart.

        Call it often: a journal that could not be opened at the start may be opened later.
        """
        self._recall_requests()
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
                recipe_asked=trigger.recipe,
                settings=camera.config if camera is not None else None,
            )
            self._publisher.open_as_unknown(part, Unknown("restart", "the daemon ended before this part was inspected"))
        if owed:
            logs.warning("triggers.unanswered", count=len(owed), verdict="UNKNOWN: restart")
