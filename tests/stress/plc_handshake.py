"""The handshake of `anosegd bridge` against a model PLC in virtual time: 100,000 parts, random timing, lost polls and restarts.

    python tests/stress/plc_handshake.py

The station, the bridge and the PLC are restarted at random, and the bridge is suspended at times. Messages are lost, late and
repeated. A camera with a trigger of its own is lost at times and misses parts, and some of its parts get no verdict. The PLC
changes the recipe, and at times gives up before the answer. It follows docs/plc.md and tells parts apart by their order alone.

What must hold: no part is acted on twice or by another part's result. None passes that was not judged PASS in time, and by the
recipe that the PLC has written. A recipe that is acknowledged and not refused is in force.
"""

from __future__ import annotations

import argparse
import heapq
import itertools
import random
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field, replace

from anosegd.bridge.handshake import Handshake, Heartbeat, Judged, RecipeRequest, Settings, TriggerRequest
from anosegd.bridge.tags import Controls, Outcome, Outputs, Result

WINDOW_S = 0.2
TRAVEL_S = 1.2
"""From the camera to the gate, where a part without a result is rejected."""
STATION_CLOCK_S = 1_000_000.0
"""The station's clock is ahead of the bridge's by this."""
RECIPES = ("bolt", "nut", "cap")
DOWN_AFTER_S = 1.0
"""A PLC that could not read for this long takes the bridge for down."""


@dataclass(slots=True, kw_only=True)
class Part:
    """A part on the belt. `judged` is what the station found; `action` what the PLC did."""

    name: str
    truth: Outcome
    at_camera: float
    judged: Outcome | None = None
    action: str | None = None
    by: Result | None = None


@dataclass(slots=True)
class Report:
    """What happened. `wrong` must be empty."""

    parts: int = 0
    wrong: list[str] = field(default_factory=list)
    counts: Counter[str] = field(default_factory=Counter)


class World:
    """Virtual time: runs what is due, in order."""

    def __init__(self, seed: int, *, triggered: bool) -> None:
        self.random = random.Random(seed)
        self.triggered = triggered
        self.now = 0.0
        self.report = Report()
        self._due: list[tuple[float, int, Callable[[], None]]] = []
        self._order = itertools.count()
        self.station, self.bridge, self.plc = Station(self), Bridge(self), Plc(self)

    def after(self, delay_s: float, what: Callable[[], None]) -> None:
        heapq.heappush(self._due, (self.now + delay_s, next(self._order), what))

    def between(self, low: float, high: float) -> float:
        return self.random.uniform(low, high)

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability

    def run(self, parts: int) -> Report:
        for part in (self.station, self.bridge, self.plc):
            part.start()
        self._restart_later()
        while self.report.parts < parts:
            self.now, _, what = heapq.heappop(self._due)
            what()
        self.plc.end()
        return self.report

    def _restart_later(self) -> None:
        self.after(self.between(1, 40), self._restart)

    def _restart(self) -> None:
        kinds = [self.station.restart, self.bridge.restart, self.plc.restart, self.bridge.suspend]
        if not self.triggered:
            kinds.append(self.station.lose_camera)
        what = self.random.choice(kinds)
        self.report.counts[what.__qualname__] += 1
        what()
        self._restart_later()


class Station:
    """Judges parts and publishes; a restart forgets everything but what it owes."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.run = 0
        self.up = False
        self.seq = self.last_sent = self.sequence = 0
        self.parts: dict[str, Part] = {}
        self.camera_up = self.camera_runs = True  # whether it gives frames, and whether the station says so
        self.restarts = self.dropped = 0
        self.recipe = RECIPES[0]
        self._changed_at = 0.0  # the last change of the recipe; one after the other
        self._owed: list[tuple[Part, str]] = []
        self._old: deque[Judged] = deque(maxlen=50)

    def start(self) -> None:
        self.run += 1
        self.up = True
        self.seq += self.world.random.randrange(1, 100)  # numbers that were reserved and not used
        self.last_sent = self.sequence = 0
        self.camera_up = self.camera_runs = True
        self.restarts = self.dropped = 0
        self._beat(self.run)
        for part, triggered_at in self._owed:  # live verdicts, as a station sends them after a crash
            self._publish(part, triggered_at, Result(reason="restart", part_id=part.name), self.run, 0)
        self._owed = []

    def restart(self) -> None:
        if self.up:
            self.up = False
            self.world.after(self.world.between(0.1, 6), self.start)

    def change_recipe(self, name: str, answer: Callable[[bool], None]) -> None:
        """A request: carried out after a while, unless the station is down by then."""
        world, run = self.world, self.run
        self._changed_at = max(self._changed_at, world.now) + (world.between(0.05, 0.5) if world.chance(0.7) else 3)

        def change() -> None:
            done = self.up and run == self.run and not world.chance(0.1)
            if done:
                self.recipe = name
            answer(done)

        world.after(self._changed_at - world.now, change)

    def lose_camera(self) -> None:
        """Lose the camera. The station notices it a little later, and says so."""
        world, run = self.world, self.run
        if not self.up or not self.camera_up:
            return
        self.camera_up = False

        def set_state(*, runs: bool) -> None:
            if self.up and run == self.run:
                self.restarts += not runs
                self.camera_up = self.camera_runs = runs
                self._say(run)

        noticed_s = world.between(0, 1)
        world.after(noticed_s, lambda: set_state(runs=False))
        world.after(noticed_s + world.between(0.1, 4), lambda: set_state(runs=True))

    def _say(self, run: int) -> None:
        beat = Heartbeat(
            run_id=str(run),
            at_s=self.world.now + STATION_CLOCK_S,
            state="ContinuousExecution",
            last_seq=self.last_sent,
            camera_runs=self.camera_runs,
            frames=self.sequence,
            restarts=self.restarts,
            dropped=self.dropped,
        )
        self.world.bridge.receive(lambda model, now: model.heartbeat(now, beat))

    def _beat(self, run: int) -> None:
        world = self.world
        if not self.up or run != self.run:
            return
        if not world.chance(0.005):
            self._say(run)
        if world.chance(0.05) and self._old:
            old = world.random.choice(self._old)
            repeated = replace(old, replayed=True)
            world.after(0.001, lambda: world.bridge.deliver(lambda model, now: model.verdict(now, repeated)))
        world.after(1.0 + world.between(0, 0.02), lambda: self._beat(run))

    def trigger(self, name: str, answer: Callable[[str | None, str], None]) -> None:
        """A request: `answer` gets the part id and the time, or None for a refusal."""
        world = self.world
        if not self.up:
            world.after(1.0, lambda: answer(None, ""))  # no answer
            return
        if world.chance(0.005):
            world.after(0.002, lambda: answer(None, ""))
            return
        triggered_at = f"{world.now:.6f}"
        part = self.parts[name]
        if world.chance(0.005):
            world.after(1.0, lambda: answer(None, ""))  # the answer is lost, the trigger is not
        else:
            world.after(world.between(0.001, 0.01), lambda: answer(name, triggered_at))
        self.capture(part, triggered_at)

    def capture(self, part: Part, triggered_at: str | None) -> None:
        world, run = self.world, self.run
        if not self.up:
            return
        if not self.camera_up and triggered_at is None:
            world.report.counts["not captured"] += 1
            return
        self.sequence += 1
        sequence = self.sequence
        if triggered_at is None and world.chance(0.005):
            self.dropped += 1
            world.report.counts["dropped"] += 1
            return
        since, recipe = world.now + STATION_CLOCK_S, self.recipe
        owed = (part, triggered_at or "")
        if triggered_at is not None:
            self._owed.append(owed)

        def judge() -> None:
            if not self.up or run != self.run:
                return
            if owed in self._owed:
                self._owed.remove(owed)
            part.judged = part.truth
            reason = "review" if part.truth == "UNKNOWN" else ""
            result = Result(outcome=part.truth, reason=reason, part_id=part.name, recipe=recipe)
            self._publish(part, triggered_at, result, run, sequence, since)

        # In the order of capture: the engine is one queue.
        slow = world.chance(0.01)
        ready = max(world.now + (world.between(0.15, 0.5) if slow else world.between(0.0005, 0.12)), self._last_ready + 0.0001)
        self._last_ready = ready
        world.after(ready - world.now, judge)

    _last_ready = 0.0

    def _publish(
        self, part: Part, triggered_at: str | None, result: Result, run: int, sequence: int, since: float | None = None
    ) -> None:
        world = self.world
        self.seq += 1
        self.last_sent = self.seq
        judged = Judged(
            run_id=str(run),
            replayed=False,
            seq=self.seq,
            sequence=sequence,
            part_id=part.name,
            triggered_at=triggered_at,
            since_s=world.now + STATION_CLOCK_S if since is None else since,
            result=result,
        )
        self._old.append(judged)
        if world.chance(0.002):
            return  # lost
        world.bridge.receive(lambda model, now: model.verdict(now, judged))


class Bridge:
    """Runs the real model; a restart loses its memory, and a suspension delays its events."""

    def __init__(self, world: World) -> None:
        self.world = world
        self.model: Handshake | None = None
        self._inbox: list[Callable[[Handshake, float], None]] | None = None  # a list while suspended
        self._arrival = 0.0  # messages of one connection do not overtake one another

    def start(self) -> None:
        self.model = Handshake(Settings(triggered=self.world.triggered, window_s=WINDOW_S, capacity=8), self.world.now)
        self._inbox = None
        self._wake(self.model)

    def restart(self) -> None:
        if self.model is not None:
            self.model = None
            self.world.after(self.world.between(0.05, 3), self.start)

    def suspend(self) -> None:
        if self.model is None or self._inbox is not None:
            return
        self._inbox = []
        model = self.model

        def resume() -> None:
            if self.model is model and self._inbox is not None:
                waiting, self._inbox = self._inbox, None
                for event in waiting:
                    self.deliver(event)

        self.world.after(self.world.between(0.1, 15), resume)

    def deliver(self, event: Callable[[Handshake, float], None]) -> None:
        if self.model is None:
            return
        if self._inbox is not None:
            self._inbox.append(event)
            return
        event(self.model, self.world.now)
        self._send()

    def receive(self, event: Callable[[Handshake, float], None]) -> None:
        """Take a message of the station's, in the order of sending, after a short while."""
        world = self.world
        self._arrival = max(self._arrival + 1e-7, world.now + world.between(0.0001, 0.003))
        world.after(self._arrival - world.now, lambda: self.deliver(event))

    def read(self) -> Outputs | None:
        if self.model is None or self._inbox is not None:
            return None
        self.model.tick(self.world.now)
        self._send()
        return self.model.outputs

    def write(self, controls: Controls) -> bool:
        if self.model is None or self._inbox is not None:
            return False
        self.deliver(lambda model, now: model.write(now, controls))
        return True

    def _wake(self, model: Handshake) -> None:
        if self.model is model:
            if self._inbox is None:
                model.tick(self.world.now)
                self._send()
            self.world.after(max(0.001, model.due - self.world.now), lambda: self._wake(model))

    def _send(self) -> None:
        world, model = self.world, self.model
        assert model is not None
        for request in model.take_requests():
            if isinstance(request, RecipeRequest):
                self._change_recipe(model, request)
                continue

            def answered(name: str | None, at: str, request: TriggerRequest = request) -> None:
                def take(found: Handshake, now: float) -> None:
                    if found is not model:
                        return  # the bridge that asked is gone
                    if name is None:
                        found.trigger_refused(now, request.number)
                    else:
                        found.trigger_answered(now, request.number, name, at)

                world.bridge.deliver(take)

            world.after(
                world.between(0.0005, 0.004),
                lambda request=request, answered=answered: world.station.trigger(request.part_id, answered),
            )

    def _change_recipe(self, model: Handshake, request: RecipeRequest) -> None:
        def take(found: Handshake, now: float, accepted: bool) -> None:
            if found is model:
                found.recipe_answered(now, request.number, accepted=accepted)

        self.world.station.change_recipe(
            request.recipe, lambda accepted: self.deliver(lambda found, now: take(found, now, accepted))
        )


class Plc:
    """Runs the program of docs/plc.md in cycles; reads and writes are lost at times."""

    def __init__(self, world: World) -> None:
        self.world = world
        self._life = 0
        self._n = 0
        self.belt: list[Part] = []  # that are not acted on yet
        self._forget()

    def _forget(self) -> None:
        self.step = 0
        self.open: deque[Part] = deque()
        self.waiting: Part | None = None  # at the camera, to be triggered
        self.trigger = self.acknowledge = False
        self.part_id = ""
        self.recipe, self.recipe_change = "", False
        self.named = ""  # the recipe that the bridge knows of
        self.give_up_at = 0.0
        self.heard_at = self.world.now

    def start(self) -> None:
        self._life += 1
        self._forget()
        self._cycle(self._life)
        self._feed(self._life)

    def restart(self) -> None:
        if self._life < 0:
            return
        life, self._life = self._life, -1

        def again() -> None:
            self._life = life
            for part in self.belt:  # it remembers none of them: what it does not know is rejected at the gate
                self._act(part, "reject", None)
            self.belt = []
            self.start()

        self.world.after(self.world.between(0.05, 3), again)

    def end(self) -> None:
        for part in self.belt:
            self._act(part, "reject", None)

    def _feed(self, life: int) -> None:
        """Parts arrive. One that is fed while the handshake is closed is rejected; without triggers, the belt waits."""
        world = self.world
        if life != self._life:
            return
        if self.step == 2 or world.triggered:
            self._n += 1
            world.report.parts += 1
            truth: Outcome = world.random.choices(("PASS", "FAIL", "UNKNOWN"), (70, 25, 5))[0]
            part = Part(name=f"{self._n}", truth=truth, at_camera=world.now)
            world.station.parts[part.name] = part
            if len(world.station.parts) > 1000:
                del world.station.parts[next(iter(world.station.parts))]
            self.belt.append(part)
            if self.step != 2:
                self._finish(part, "reject", None)
                world.report.counts["not triggered"] += 1
            elif world.triggered:
                if self.waiting is not None:
                    self._finish(self.waiting, "reject", None)
                    world.report.counts["not triggered"] += 1
                self.waiting = part
            else:
                self.open.append(part)
                world.station.capture(part, None)
        world.after(world.between(0.08, 0.4), lambda: self._feed(life))

    def _cycle(self, life: int) -> None:
        world = self.world
        if life != self._life:
            return
        outputs = None if world.chance(0.01) else world.bridge.read()
        if outputs is not None:
            self.heard_at = world.now
            self._think(outputs)
        elif world.now - self.heard_at > DOWN_AFTER_S and self.step:
            self._give_up()
        if self.step == 2 and self.open and world.now > self.open[0].at_camera + TRAVEL_S:
            world.report.counts["no result at the gate"] += 1
            self._give_up()
        if not world.chance(0.01):
            enable = self.step > 0
            delivered = world.bridge.write(
                Controls(
                    enable=enable,
                    trigger=self.trigger,
                    part_id=self.part_id,
                    result_acknowledge=self.acknowledge,
                    recipe_change=self.recipe_change,
                    recipe=self.recipe,
                )
            )
            self.named = self.recipe if delivered else self.named
        world.after(world.between(0.005, 0.03), lambda: self._cycle(life))

    def _look_after_recipe(self, outputs: Outputs) -> None:
        """Change the recipe now and then; give up after a second."""
        world = self.world
        if self.recipe_change and outputs.recipe_acknowledge:
            self.recipe_change = False
            world.report.counts["recipe refused" if outputs.recipe_refused else "recipe changed"] += 1
            if not outputs.recipe_refused and world.station.up and world.station.recipe != self.recipe:
                world.report.wrong.append(f"{world.now}: {self.recipe} is acknowledged, {world.station.recipe} is in force")
        elif self.recipe_change and world.now > self.give_up_at:
            self.recipe_change = False
            world.report.counts["recipe given up"] += 1
        elif outputs.result_valid or self.recipe_change or outputs.recipe_acknowledge:
            pass  # a result that is shown stays as it is
        elif outputs.busy or world.chance(0.001):
            self.recipe, self.recipe_change = world.random.choice(RECIPES), True
            self.give_up_at = world.now + 1

    def _think(self, outputs: Outputs) -> None:
        if not self.world.triggered:  # the rig's triggers ask for no recipe
            self._look_after_recipe(outputs)
        if self.step == 2 and not outputs.enabled:
            self.world.report.counts["closed"] += 1
            self._give_up()
        if self.step == 0 and outputs.idle:
            self.step = 1
        elif self.step == 1 and outputs.enabled:
            self.step = 2
        elif self.step == 1 and not outputs.idle:
            self.step = 0
        if self.step != 2:
            return
        if outputs.result_valid and not self.acknowledge:
            self.acknowledge = True
            if not self.open:
                self.world.report.wrong.append(f"{self.world.now}: a result without a part: {outputs.result}")
            else:
                part = self.open.popleft()
                self._finish(part, "pass" if outputs.result.outcome == "PASS" else "reject", outputs.result)
        elif not outputs.result_valid:
            self.acknowledge = False
        if self.trigger and outputs.trigger_acknowledge:
            self.trigger = False
        elif self.waiting is not None and outputs.trigger_ready and not self.trigger:
            self.trigger, self.part_id = True, self.waiting.name
            self.waiting.at_camera = self.world.now
            self.open.append(self.waiting)
            self.waiting = None

    def _give_up(self) -> None:
        """Reject what has no result, and open the handshake again."""
        for part in (*self.open, *((self.waiting,) if self.waiting else ())):
            self._finish(part, "reject", None)
        self.open.clear()
        self.waiting = None
        self.step = 0
        self.trigger = self.acknowledge = False

    def _finish(self, part: Part, action: str, by: Result | None) -> None:
        self.belt.remove(part)
        self._act(part, action, by)

    def _act(self, part: Part, action: str, by: Result | None) -> None:
        report = self.world.report
        if part.action is not None:
            report.wrong.append(f"{self.world.now}: {part} is acted on twice")
        part.action, part.by = action, by
        if by is not None:
            report.counts[f"{by.outcome} {by.reason}".strip()] += 1
            if by.part_id != part.name:
                report.wrong.append(f"{self.world.now}: {part} is acted on by another's result")
            if by.outcome != "UNKNOWN" and part.judged != by.outcome:
                report.wrong.append(f"{self.world.now}: {part} has a result that the station did not give")
        if action == "pass" and by is not None and self.named not in ("", by.recipe):
            report.wrong.append(f"{self.world.now}: {part} passes by another recipe than {self.named}")
        if action == "pass" and (by is None or by.outcome != "PASS"):
            report.wrong.append(f"{self.world.now}: {part} passes unjudged")
        report.counts[action] += 1


def run(parts: int, seed: int, *, triggered: bool) -> Report:
    """Run one belt."""
    return World(seed, triggered=triggered).run(parts)


def main() -> int:
    """Run both kinds of triggers and print what happened."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    wrong = 0
    for triggered in (True, False):
        begin = time.monotonic()
        report = run(options.parts // 2, options.seed, triggered=triggered)
        print(
            f"triggered by {'the PLC' if triggered else 'the camera'}: {report.parts} parts, {time.monotonic() - begin:.0f} s"
        )
        for what, n in sorted(report.counts.items()):
            print(f"  {what:32} {n}")
        for what in report.wrong[:10]:
            print(f"  WRONG {what}")
        wrong += len(report.wrong)
    print(f"wrong: {wrong}")
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main())
