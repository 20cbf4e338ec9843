"""Hand-off of frames from one camera to the inspector: what happens when they come faster than they are inspected."""

from __future__ import annotations

from collections import deque
from threading import Condition

from anoseg_engines.engine import Inference
from anosegd.capture.config import Policy
from anosegd.part import Frame


class Handoff:
    """Frames of one camera that wait for inspection, oldest first.

    latest: one waits, a newer one takes its place. every: `capacity` wait, the next has to go. wait: as many as there are
    slots; the source is held up by that. The camera's thread puts, the inspector takes.

    arrived: one condition for all cameras, on which the inspector sleeps; it guards the queue too.
    """

    def __init__(self, policy: Policy, capacity: int, arrived: Condition) -> None:
        self.policy = policy
        self.capacity = 1 if policy == "latest" else capacity
        self._arrived = arrived
        self._waiting: deque[Frame] = deque()

    def put(self, frame: Frame) -> Frame | None:
        """Hand over a frame; returns the one that has to go instead: it is the caller's to account for and release."""
        with self._arrived:
            gone: Frame | None = None
            if self.policy != "wait" and len(self._waiting) >= self.capacity:
                if self.policy == "every":
                    return frame
                gone = self._waiting.popleft()
            self._waiting.append(frame)
            self._arrived.notify()
            return gone

    def take(self) -> Frame | None:
        """The oldest waiting frame, which is then the taker's. The caller holds `arrived`."""
        return self._waiting.popleft() if self._waiting else None

    def __len__(self) -> int:
        return len(self._waiting)


class Intake:
    """All cameras' hand-offs as the inspector sees them: each camera in turn, so that a fast one cannot starve the others."""

    def __init__(self) -> None:
        self.arrived = Condition()
        self._handoffs: list[Handoff] = []
        self._retired: list[Handoff] = []
        self._turn = 0

    def add(self, policy: Policy, capacity: int) -> Handoff:
        """Make a camera's hand-off. Main thread."""
        handoff = Handoff(policy, capacity, self.arrived)
        with self.arrived:
            self._handoffs.append(handoff)
        return handoff

    def retire(self, handoff: Handoff) -> None:
        """No more frames come here; those that wait are inspected still. Main thread."""
        with self.arrived:
            self._retired.append(handoff)

    def take(self, timeout_s: float) -> Frame | None:
        """The next frame, None if none came in time."""
        with self.arrived:
            if not any(self._handoffs):
                self._forget_retired()
                self.arrived.wait(timeout_s)
            for _ in self._handoffs:
                self._turn = (self._turn + 1) % len(self._handoffs)
                if frame := self._handoffs[self._turn].take():
                    return frame
            return None

    @property
    def ahead(self) -> bool:
        """Whether `take_ahead` would give a frame."""
        with self.arrived:
            return self._next_ahead() is not None

    def take_ahead(self) -> Frame | None:
        """A frame that may be prepared while another is inspected: the next in turn, which no newer one is going to replace.

        None: nothing waits, or it is the turn of a camera with policy `latest`, whose frame is taken when it is inspected.
        """
        with self.arrived:
            turn = self._next_ahead()
            if turn is None:
                return None
            self._turn = turn
            return self._handoffs[turn].take()

    def wait(self, running: Inference, *, ahead: bool) -> None:
        """Until that part is done, as `wake` tells; with `ahead` also until `take_ahead` would give a frame."""
        with self.arrived:
            self.arrived.wait_for(lambda: running.done or (ahead and self._next_ahead() is not None))

    def wake(self) -> None:
        """What `wait` waits for may hold now. Any thread."""
        with self.arrived:
            self.arrived.notify()

    def _next_ahead(self) -> int | None:
        n = len(self._handoffs)
        waiting = ((self._turn + k) % n for k in range(1, n + 1) if len(self._handoffs[(self._turn + k) % n]))
        turn = next(waiting, None)
        return None if turn is None or self._handoffs[turn].policy == "latest" else turn

    def _forget_retired(self) -> None:
        """Nothing waits anywhere."""
        self._handoffs = [handoff for handoff in self._handoffs if handoff not in self._retired]
        self._retired.clear()

    @property
    def empty(self) -> bool:
        """Whether no frame waits."""
        with self.arrived:
            return not any(self._handoffs)
