"""Models the handshake between a station and a PLC. No sockets, no threads and no clock: events come in with their time.

A handshake opens when `enable` rises. It closes when the PLC lowers `enable` or is lost, the station falls silent or restarts,
the camera's trigger no longer fits the bridge's (TRIGGER_MODE), or too many results are left unread. If only their order says
which result belongs to which part, it also closes when a verdict is lost, a part gets none, the camera is lost, or the clock of
the station is set.

While the handshake is open, every part gets exactly one result, in order. When it closes, everything under way is forgotten:
the PLC rejects each part for which it has no result. The handshake opens again only after the PLC has lowered `enable` and
raised it again. So PLC and bridge agree on where they are, whichever of them was restarted.
"""

from __future__ import annotations

from collections import deque
from dataclasses import replace

from anosegd.bridge.events import Heartbeat, Judged, RecipeRequest, Request, TriggerRequest
from anosegd.bridge.handshake_data import Part, Settings, counted, not_counted, rejected
from anosegd.bridge.heard_station import HEARTBEAT_S, SILENT_S, HeardStation
from anosegd.bridge.recipe_change import RecipeChange
from anosegd.bridge.tags import Controls, ErrorCode, Outputs, Result, Statistics

__all__ = ["Handshake", "Heartbeat", "Judged", "RecipeRequest", "Request", "Settings", "TriggerRequest"]

LAST_NUMBER = 65_534
"""Even, so that the toggle changes when the numbers begin again."""
TRIGGERS_KNOWN = 256
"""How many triggers of this bridge are remembered, to recognise the verdicts of other clients' triggers."""


class Handshake:
    """Takes events and gives `outputs`. Every event carries `now`, monotonic seconds, and the times never fall.

    Attributes:
        other_triggers: Counts the camera's parts that another client has triggered, or whose trigger got no answer.
    """

    def __init__(self, settings: Settings, now: float) -> None:
        self.other_triggers = 0
        self._settings = settings
        self._started = now
        self._now = now
        self._controls = Controls()
        self._armed = False  # the PLC's last word before it raised `enable` was to lower it
        self._opened: float | None = None
        self._parts: deque[Part] = deque()
        self._early: dict[tuple[str, str], Judged] = {}  # verdicts that overtook the answer to their trigger
        self._taken_one = False  # a verdict of this opening: later ones are not of parts from before it
        self._number = 0  # of requests
        self._result_number = 0
        self._valid = False
        self._deliver_by = 0.0  # when the result that is shown becomes late
        self._uncounted = Statistics()  # the statistics before that result was counted
        self._trigger_acknowledge = False
        self._overrun = False
        self._error = ErrorCode.NONE
        self._recipe = RecipeChange()
        self._statistics = Statistics()
        self._requests: list[Request] = []
        self._unanswered: set[int] = set()  # the numbers of triggers
        self._triggered: deque[tuple[str, str]] = deque(maxlen=TRIGGERS_KNOWN)
        self._answers = True  # the station answers requests
        self._station = HeardStation(now)

    # ---- events

    def tick(self, now: float) -> None:
        """Let time pass. To be called at `due`, or earlier."""
        self._now = now
        silent_at = self._station.silent_at
        if silent_at is not None and now > silent_at:
            self._lose_station(ErrorCode.STATION_SILENT)
        for part in self._parts:
            if part.result is None and now >= part.since + self._settings.window_s:
                if self._settings.triggered and part.triggered_at is None:
                    self._fail_trigger(part, "refused", ErrorCode.TRIGGER_REFUSED)
                else:
                    part.result = Result(reason="late", part_id=part.part_id)
        self._go_on()

    def heartbeat(self, now: float, beat: Heartbeat) -> None:
        """Take a heartbeat of the station."""
        self.tick(now)
        if self._station.is_other_run(beat.run_id):
            self._lose_station(ErrorCode.STATION_RESTARTED)
        missed = self._station.hear(now, beat)
        if missed is not ErrorCode.NONE:
            self._miss_part(missed)
        if self._opened is not None and self._mode_differs:
            self._close(ErrorCode.TRIGGER_MODE)
        if self._station.take_last_number(beat.last_seq):
            self._lose_verdict()
        self._go_on()

    def verdict(self, now: float, judged: Judged) -> None:
        """Take a verdict of the camera. A replayed one changes nothing."""
        self.tick(now)
        if judged.replayed or self._station.beat is None:
            return
        if self._station.is_other_run(judged.run_id):
            self._lose_station(ErrorCode.STATION_RESTARTED)
            return
        was_skipped = self._station.was_skipped(judged.seq)
        if self._station.take_number(judged.seq):
            self._lose_verdict()
        if judged.sequence:
            if self._station.take_part(judged.sequence):
                self._miss_part(ErrorCode.VERDICT_LOST)
        elif not self._settings.triggered:
            return
        self._notice_other_trigger(judged)
        if self._opened is None:
            return
        if was_skipped and self._by_order:
            return  # The handshake closed when the number was skipped. So the part is from before the opening.
        if not self._settings.triggered:
            self._take_part(judged)
        elif judged.triggered_at is not None:
            key = (judged.part_id, judged.triggered_at)
            part = next((part for part in self._parts if (part.part_id, part.triggered_at) == key), None)
            if part is not None:
                part.result = part.result or judged.result
            elif any(part.triggered_at is None and part.result is None for part in self._parts):
                self._early[key] = judged
                if len(self._early) > self._settings.capacity:
                    del self._early[next(iter(self._early))]
        self._go_on()

    def other_verdict(self, now: float, seq: int) -> None:
        """Take note of the number of another camera's verdict."""
        self.tick(now)
        if self._station.take_number(seq):
            self._lose_verdict()

    def verdict_lost(self, now: float) -> None:
        """Take note that a verdict did not arrive, or cannot be read."""
        self.tick(now)
        self._lose_verdict()

    def trigger_answered(self, now: float, number: int, part_id: str, triggered_at: str) -> None:
        """Take the station's answer to a trigger: the verdict will have this part id and this time."""
        self.tick(now)
        self._unanswered.discard(number)
        self._triggered.append((part_id, triggered_at))
        part = next((part for part in self._parts if part.number == number), None)
        if part is not None and part.result is None:
            part.part_id, part.triggered_at = part_id, triggered_at
            if (judged := self._early.pop((part_id, triggered_at), None)) is not None:
                part.result = judged.result
        self._go_on()

    def trigger_refused(self, now: float, number: int) -> None:
        """Take the station's refusal of a trigger."""
        self.tick(now)
        self._unanswered.discard(number)
        part = next((part for part in self._parts if part.number == number), None)
        if part is not None and part.result is None:
            self._fail_trigger(part, "refused", ErrorCode.TRIGGER_REFUSED)
        self._go_on()

    def control_answers(self, now: float, *, answers: bool) -> None:
        """Take note of whether the station answers requests. While it does not, no trigger can be taken."""
        self.tick(now)
        self._answers = answers
        if not answers and self._settings.triggered and self._opened is not None:
            self._error = ErrorCode.TRIGGER_REFUSED
        self._go_on()

    def recipe_answered(self, now: float, number: int, *, accepted: bool) -> None:
        """Take the end of a recipe change: `accepted` if the recipe is in force."""
        self.tick(now)
        refused = self._recipe.refused
        next_request = self._recipe.answer(
            number, accepted=accepted, controls=self._controls, online=self._station.online, number=self._number + 1
        )
        self._go_on_with_recipe(next_request, refused_before=refused)

    def write(self, now: float, controls: Controls, *, since: float | None = None) -> None:
        """Take what the PLC has written: all of it, changed or not.

        Args:
            now: The time.
            controls: What it has written.
            since: When the bridge began to read it; the window of a trigger begins then. None: now.
        """
        self.tick(now)
        before, self._controls = self._controls, controls
        was_open = self._opened is not None
        if controls.enable is False:
            if was_open:
                self._close(ErrorCode.NONE)
            self._armed, self._overrun, self._error = True, False, ErrorCode.NONE
        self._go_on()
        if was_open and self._opened is not None and self._settings.triggered:
            if controls.trigger and not before.trigger:
                self._take_trigger(now if since is None else since)
            elif not controls.trigger:
                self._trigger_acknowledge = False
        refused = self._recipe.refused
        request = self._recipe.write(before, controls, online=self._station.online, number=self._number + 1)
        self._go_on_with_recipe(request, refused_before=refused)

    def deliver(self, now: float) -> None:
        """Take note that the PLC can read the shown result only from now on. This may make it UNKNOWN: late.

        A result that waited has the whole window for its delivery, because it was the PLC that was not ready for it earlier.
        """
        self.tick(now)
        if not self._valid or now < self._deliver_by:
            return
        part = self._parts[0]
        assert part.result is not None
        late = rejected(part.result, "late")
        if late is not part.result:
            part.result = replace(late, age_ms=(now - part.seen_at) * 1000)
            self._statistics = counted(not_counted(self._statistics, self._uncounted), part.result)

    def plc_lost(self, now: float) -> None:
        """Close the handshake and forget what the PLC wrote: it cannot be reached, has stopped, or has lost its memory."""
        self.tick(now)
        self._controls, self._armed = Controls(), False
        self._recipe.withdraw()
        if self._opened is not None:
            self._close(ErrorCode.PLC_LOST)
        self._go_on()

    # ---- what follows

    @property
    def outputs(self) -> Outputs:
        """What the PLC reads now."""
        station, parts, valid = self._station.beat, self._parts, self._valid
        return Outputs(
            heartbeat=int((self._now - self._started) / HEARTBEAT_S) % 2 == 1,
            online=self._station.online,
            idle=self._armed and self._opened is None,
            enabled=self._opened is not None,
            trigger_ready=self._can_trigger and not self._controls.trigger and not self._trigger_acknowledge,
            trigger_acknowledge=self._trigger_acknowledge,
            busy=self._recipe.busy or any(part.result is None for part in parts),
            result_valid=valid,
            result_toggle=self._result_number % 2 == 1,
            result_number=self._result_number,
            results_waiting=sum(part.result is not None for part in parts) - valid,
            overrun=self._overrun,
            recipe_acknowledge=self._recipe.acknowledged,
            recipe_refused=self._recipe.refused,
            error_code=self._error,
            station_state="" if station is None else station.state,
            recipe="" if station is None else station.recipe,
            settings=0 if station is None else station.settings,
            result=(parts[0].result if valid else None) or Result(),
            statistics=self._statistics,
        )

    @property
    def due(self) -> float:
        """When `tick` must be called, at the latest."""
        times = [part.since + self._settings.window_s for part in self._parts if part.result is None]
        if self._station.silent_at is not None:
            times.append(self._station.silent_at + 0.001)
        beats = int((self._now - self._started) / HEARTBEAT_S) + 1
        return min(*times, self._started + beats * HEARTBEAT_S) if times else self._started + beats * HEARTBEAT_S

    def take_requests(self) -> list[Request]:
        """Return the requests to send to the station since the last call."""
        requests, self._requests = self._requests, []
        return requests

    @property
    def _can_open(self) -> bool:
        """Whether the station inspects; where only the order counts, a camera that does not run would miss parts."""
        station = self._station
        runs = station.beat is not None and station.beat.camera_runs
        return station.online and (runs or not self._by_order)

    @property
    def _mode_differs(self) -> bool:
        """Whether the camera waits for triggers that nobody would send, or the PLC's triggers would all be refused."""
        waits = None if self._station.beat is None else self._station.beat.camera_waits
        return waits is not None and waits is not self._settings.triggered and not self._settings.mirror

    @property
    def _by_order(self) -> bool:
        """Whether only their order says which result belongs to which part."""
        return not self._settings.triggered and not self._settings.mirror

    @property
    def _can_trigger(self) -> bool:
        return (
            self._settings.triggered
            and self._opened is not None
            and self._station.online
            and self._station.beat is not None
            and self._station.beat.camera_runs
            and self._answers
            and not self._recipe.busy
            and len(self._parts) < self._settings.capacity
        )

    def _go_on(self) -> None:
        """Open the handshake if it may open, and show the next result if there is one and the PLC is ready for it."""
        controls = self._controls
        if self._opened is None and controls.enable and self._armed and self._can_open:
            if self._mode_differs:
                self._error = ErrorCode.TRIGGER_MODE
            elif controls.recipe is None and self._station.beat is not None and self._station.beat.has_recipes:
                self._error = ErrorCode.RECIPE_NOT_WRITTEN
            else:
                self._armed, self._opened, self._taken_one = False, self._now, False
        if self._valid and controls.result_acknowledge:
            self._valid = False
            self._parts.popleft()
        shown = self._parts[0] if self._parts else None
        if shown is not None and shown.result is not None and not self._valid and not controls.result_acknowledge:
            if not self._settings.triggered and controls.recipe not in (None, "", shown.result.recipe):
                shown.result = rejected(shown.result, "recipe")  # a trigger asks for the recipe itself
            age_ms = max(0.0, self._now - shown.seen_at) * 1000
            shown.result = replace(shown.result, age_ms=age_ms)
            self._valid = True
            self._deliver_by = (self._now if shown.waited else shown.seen_at) + self._settings.window_s
            self._uncounted = self._statistics
            self._result_number = self._result_number % LAST_NUMBER + 1
            self._statistics = counted(self._statistics, shown.result)
        for part in self._parts:
            part.waited = part.waited or (part.result is not None and not (self._valid and part is self._parts[0]))

    def _close(self, error: ErrorCode) -> None:
        """Close the handshake and forget what was under way."""
        self._opened, self._armed = None, False
        self._discard(len(self._parts) - self._valid)
        self._valid = self._trigger_acknowledge = False
        self._parts.clear()
        self._early.clear()
        self._unanswered -= {request.number for request in self._requests}
        self._requests = [request for request in self._requests if isinstance(request, RecipeRequest)]
        if error is not ErrorCode.NONE:
            self._error = error

    def _lose_verdict(self) -> None:
        """Close the handshake, unless the PLC triggers the parts."""
        if not self._settings.triggered and self._opened is not None:
            self._close(ErrorCode.VERDICT_LOST)

    def _miss_part(self, error: ErrorCode) -> None:
        """Close the handshake where a part that gets no verdict, or whose verdict is ignored, would shift all later results."""
        if self._by_order and self._opened is not None:
            self._close(error)

    def _lose_station(self, error: ErrorCode) -> None:
        self._station.forget()
        if self._opened is not None:
            self._close(error)

    def _take_trigger(self, seen_at: float) -> None:
        self._statistics = replace(self._statistics, triggers=self._statistics.triggers + 1)
        if len(self._parts) >= self._settings.capacity:
            self._run_over()
            return
        can_trigger = self._can_trigger
        self._number += 1
        part = Part(self._number, self._now, seen_at, self._controls.part_id)
        self._parts.append(part)
        self._trigger_acknowledge = True
        if can_trigger:
            self._requests.append(TriggerRequest(part.number, part.part_id, self._controls.recipe or ""))
            self._unanswered.add(part.number)
        else:
            self._fail_trigger(part, "not_ready", ErrorCode.TRIGGER_NOT_READY)

    def _fail_trigger(self, part: Part, reason: str, error: ErrorCode) -> None:
        part.result = Result(reason=reason, part_id=part.part_id)
        self._error = error
        self._statistics = replace(self._statistics, trigger_errors=self._statistics.trigger_errors + 1)

    def _notice_other_trigger(self, judged: Judged) -> None:
        """Count a part that was triggered while this bridge runs, but not by it."""
        since = self._station.since(judged)
        if not self._settings.triggered or judged.triggered_at is None or self._unanswered or since is None:
            return
        is_own = (judged.part_id, judged.triggered_at) in self._triggered
        if not is_own and since > self._started:
            self.other_triggers += 1

    def _go_on_with_recipe(self, request: RecipeRequest | None, *, refused_before: bool) -> None:
        """Send the request, note a refusal, and go on."""
        if request is not None:
            self._number = request.number
            self._requests.append(request)
        if self._recipe.refused and not refused_before:
            self._error = ErrorCode.RECIPE_REFUSED
        self._go_on()

    def _take_part(self, judged: Judged) -> None:
        """Take the verdict of a part that the PLC did not trigger."""
        since = self._station.since(judged)
        assert self._opened is not None
        assert since is not None
        if self._by_order and since > self._now + SILENT_S:  # the station's clock was set since its last heartbeat
            self._close(ErrorCode.VERDICT_LOST)
            return
        since = min(self._now, since)
        if since < self._opened and not self._taken_one:
            return  # The PLC opened the handshake after this part. Verdicts are in the order of capture.
        self._taken_one = True
        if len(self._parts) >= self._settings.capacity:
            self._run_over()
            return
        is_late = self._now - since > self._settings.window_s
        result = rejected(judged.result, "late") if is_late else judged.result
        self._parts.append(Part(0, since, since, judged.part_id, result=result))

    def _run_over(self) -> None:
        """Close the handshake because the PLC leaves too many results unread."""
        self._statistics = replace(self._statistics, overruns=self._statistics.overruns + 1)
        self._discard(1)
        self._close(ErrorCode.OVERRUN)
        self._overrun = True

    def _discard(self, parts: int) -> None:
        self._statistics = replace(self._statistics, discarded=self._statistics.discarded + parts)
