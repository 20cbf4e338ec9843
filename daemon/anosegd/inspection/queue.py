"""Keeps the frames that wait for inspection, in one queue for each camera. The inspector takes from the queues in turn.

The policy decides what happens when frames come faster than they are inspected. Camera threads put frames in; the inspector's
thread takes them out.
"""

from __future__ import annotations

from collections import deque
from threading import Condition
from typing import Protocol

from anosegd.capture.config import Policy
from anosegd.part import Frame


class Running(Protocol):
    """Describes work that goes on elsewhere."""

    @property
    def done(self) -> bool:
        """Whether it has ended."""
        ...


class CameraQueue:
    """Frames of one camera that wait for inspection, oldest first. The camera's thread puts, the inspector takes.

    `latest`: one waits, a newer one replaces it. `every`: `capacity` wait, the next one is refused. `wait`: as many wait as
    there are slots; then the source has to wait.

    Args:
        policy: The camera's.
        capacity: How many may wait under policy `every`.
        arrived: Shared by all cameras: guards their queues, and wakes the inspector.
    """

    def __init__(self, policy: Policy, capacity: int, arrived: Condition) -> None:
        self.policy = policy
        self.capacity = 1 if policy == "latest" else capacity
        self._arrived = arrived
        self._waiting: deque[Frame] = deque()

    def put(self, frame: Frame) -> Frame | None:
        """Add a frame; returns the one that finds no room, which the caller reports and releases."""
        with self._arrived:
            displaced: Frame | None = None
            if self.policy != "wait" and len(self._waiting) >= self.capacity:
                if self.policy == "every":
                    return frame
                displaced = self._waiting.popleft()
            self._waiting.append(frame)
            self._arrived.notify()
            return displaced

    def take(self) -> Frame | None:
        """Return the oldest frame, which the caller then owns. The caller holds `arrived`."""
        return self._waiting.popleft() if self._waiting else None

    def __len__(self) -> int:
        return len(self._waiting)


class InspectionQueue:
    """The queues of all cameras. Each has its turn, so that a fast camera cannot starve the others."""

    def __init__(self) -> None:
        self._arrived = Condition()
        self._queues: list[CameraQueue] = []
        self._retired: list[CameraQueue] = []
        self._turn = 0

    def add(self, policy: Policy, capacity: int) -> CameraQueue:
        """Make a camera's queue. Main thread."""
        queue = CameraQueue(policy, capacity, self._arrived)
        with self._arrived:
            self._queues.append(queue)
        return queue

    def retire(self, queue: CameraQueue) -> None:
        """Take no more frames into this queue. The frames that wait are still inspected. Main thread."""
        with self._arrived:
            self._retired.append(queue)

    def take(self, timeout_s: float) -> Frame | None:
        """Return the next frame, or None if none came in time."""
        with self._arrived:
            if not any(self._queues):
                self._forget_retired()
                self._arrived.wait(timeout_s)
            for _ in self._queues:
                self._turn = (self._turn + 1) % len(self._queues)
                if frame := self._queues[self._turn].take():
                    return frame
            return None

    @property
    def ahead(self) -> bool:
        """Whether `take_ahead` would return a frame."""
        with self._arrived:
            return self._next_ahead() is not None

    def take_ahead(self) -> Frame | None:
        """Return the next frame, if it may be prepared while another one is inspected.

        Return None if no frame waits, or if a camera with policy `latest` has its turn: a newer frame may replace its frame.
        """
        with self._arrived:
            turn = self._next_ahead()
            if turn is None:
                return None
            self._turn = turn
            return self._queues[turn].take()

    def wait(self, running: Running, *, ahead: bool) -> None:
        """Wait until `running` is done. With `ahead`, also stop when `take_ahead` would return a frame. See `wake`."""
        with self._arrived:
            self._arrived.wait_for(lambda: running.done or (ahead and self._next_ahead() is not None))

    def wake(self) -> None:
        """Make `wait` check whether `running` is done. Any thread."""
        with self._arrived:
            self._arrived.notify()

    @property
    def empty(self) -> bool:
        """Whether no frame waits."""
        with self._arrived:
            return not any(self._queues)

    def _next_ahead(self) -> int | None:
        n = len(self._queues)
        waiting = ((self._turn + k) % n for k in range(1, n + 1) if len(self._queues[(self._turn + k) % n]))
        turn = next(waiting, None)
        return None if turn is None or self._queues[turn].policy == "latest" else turn

    def _forget_retired(self) -> None:
        """Remove retired queues, which are all empty now."""
        self._queues = [queue for queue in self._queues if queue not in self._retired]
        self._retired.clear()
