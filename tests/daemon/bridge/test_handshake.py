"""The handshake between a station and a PLC: what each event does, and what holds whatever happens in whatever order."""

from collections.abc import Callable
from dataclasses import replace
from typing import get_args

from hypothesis import settings, strategies
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from anosegd import wire
from anosegd.bridge.handshake import Handshake, Heartbeat, Judged, RecipeRequest, Settings, TriggerRequest
from anosegd.bridge.heard_station import HEARTBEAT_S, SILENT_S
from anosegd.bridge.messages import heartbeat_of
from anosegd.bridge.tags import REASONS, Controls, ErrorCode, Outcome, Result
from anosegd.publish import publisher

BEAT = Heartbeat(run_id="run", at_s=0.0, state="ContinuousExecution", last_seq=1, frames=1, recipe="bolt", settings=7)
PASS = Result(outcome="PASS", score=0.1)


class Line:
    """A handshake with a clock. The station's clock is the same one."""

    def __init__(self, *, triggered: bool = True, capacity: int = 4, window_s: float = 0.2, mirror: bool = False) -> None:
        self.now = 100.0
        options = Settings(triggered=triggered, window_s=window_s, capacity=capacity, mirror=mirror)
        self.model = Handshake(options, self.now)
        self.controls = Controls()
        self.seq = 1  # of the last verdict sent

    def wait(self, seconds: float) -> None:
        self.now += seconds
        self.model.tick(self.now)

    def beat(self, **changed: object) -> None:
        self.model.heartbeat(self.now, replace(BEAT, **{"at_s": self.now, "last_seq": self.seq, **changed}))  # type: ignore[arg-type]

    def write(self, **changed: object) -> None:
        self.controls = replace(self.controls, **changed)  # type: ignore[arg-type]
        self.model.write(self.now, self.controls)

    def open(self) -> None:
        self.beat()
        self.wait(1.0)
        self.beat()
        self.write(enable=False)
        self.write(enable=True)
        assert self.outputs.enabled

    def verdict(self, part_id: str, triggered_at: str | None, result: Result = PASS, **changed: object) -> None:
        self.seq += not changed.get("replayed")
        judged = Judged(
            run_id="run",
            replayed=False,
            seq=self.seq,
            sequence=self.seq,
            part_id=part_id,
            triggered_at=triggered_at,
            since_s=self.now,
            result=result,
        )
        self.model.verdict(self.now, replace(judged, **changed))  # type: ignore[arg-type]

    def trigger(self, part_id: str = "4711") -> TriggerRequest:
        """Trigger as a PLC does; return what is asked of the station."""
        self.write(trigger=True, part_id=part_id)
        assert self.outputs.trigger_acknowledge
        self.write(trigger=False)
        (request,) = self.model.take_requests()
        assert isinstance(request, TriggerRequest)
        return request

    @property
    def outputs(self):  # type: ignore[no-untyped-def]
        return self.model.outputs


def test_every_reason_has_a_number() -> None:
    """A PLC can tell all reasons of a verdict from one another."""
    assert set(get_args(wire.Reason)) <= set(REASONS)
    assert len(set(REASONS.values())) == len(REASONS)


def test_the_heartbeat_is_the_stations() -> None:
    """Two heartbeats of silence are two of the station's."""
    assert HEARTBEAT_S == publisher.HEARTBEAT_S


def test_a_part_is_triggered_judged_and_acknowledged() -> None:
    """The whole of one part's handshake, from ready to ready."""
    line = Line()
    line.open()
    assert line.outputs.trigger_ready
    request = line.trigger()
    assert line.outputs.busy
    line.model.trigger_answered(line.now, request.number, "4711", "t1")
    line.wait(0.05)
    line.verdict("4711", "t1")
    out = line.outputs
    assert (out.result_valid, out.result_toggle, out.result_number) == (True, True, 1)
    assert (out.result.outcome, round(out.result.age_ms)) == ("PASS", 50)
    line.write(result_acknowledge=True)
    assert (line.outputs.result_valid, line.outputs.result) == (False, Result())
    line.write(result_acknowledge=False)
    assert (line.outputs.trigger_ready, line.outputs.busy, line.outputs.result_toggle) == (True, False, True)
    assert line.outputs.statistics.passed == 1


def test_a_verdict_may_overtake_the_answer_to_its_trigger() -> None:
    """The two come over different sockets."""
    line = Line()
    line.open()
    request = line.trigger()
    line.verdict("4711", "t1")
    assert not line.outputs.result_valid
    line.model.trigger_answered(line.now, request.number, "4711", "t1")
    assert line.outputs.result.outcome == "PASS"


def test_a_result_that_reaches_the_plc_too_late_is_unknown_late() -> None:
    """A bridge that polls says when the PLC can read it: the window begins where the bridge began to read the trigger."""
    line = Line(window_s=0.2)
    line.open()
    line.model.write(line.now, replace(line.controls, trigger=True, part_id="1"), since=line.now - 0.15)
    (request,) = line.model.take_requests()
    line.model.trigger_answered(line.now, request.number, "1", "t1")
    line.verdict("1", "t1")
    line.model.deliver(line.now)
    assert line.outputs.result.outcome == "PASS"
    line.now += 0.06
    line.model.deliver(line.now)
    out = line.outputs
    assert (out.result_valid, out.result_number) == (True, 1)
    assert (out.result.outcome, out.result.reason, round(out.result.age_ms)) == ("UNKNOWN", "late", 210)
    counts = out.statistics
    assert (counts.passed, counts.unknown, counts.late, round(counts.min_ms), round(counts.max_ms)) == (0, 1, 1, 210, 210)
    line.model.deliver(line.now)
    assert line.outputs.statistics == counts


def test_a_result_that_waited_for_the_plc_has_the_window_for_its_delivery() -> None:
    """It was the PLC that did not want it earlier."""
    line = Line(window_s=0.2)
    line.open()
    for part_id in ("1", "2"):
        request = line.trigger(part_id)
        line.model.trigger_answered(line.now, request.number, part_id, f"t{part_id}")
        line.verdict(part_id, f"t{part_id}")
    line.wait(1.0)
    line.beat()
    line.write(result_acknowledge=True)
    line.write(result_acknowledge=False)
    line.now += 0.1
    line.model.deliver(line.now)
    assert (line.outputs.result_number, line.outputs.result.outcome) == (2, "PASS")
    line.now += 0.11
    line.model.deliver(line.now)
    assert (line.outputs.result_number, line.outputs.result.reason) == (2, "late")


def test_another_part_of_the_same_name_is_not_the_triggered_one() -> None:
    """A part id is a label: only the trigger's time makes the verdict its own."""
    line = Line()
    line.open()
    request = line.trigger()
    line.model.trigger_answered(line.now, request.number, "4711", "t2")
    line.verdict("4711", "t1")
    line.verdict("4711", None)
    assert not line.outputs.result_valid
    line.verdict("4711", "t2", Result(outcome="FAIL"))
    assert line.outputs.result.outcome == "FAIL"


def test_what_is_not_there_in_time_is_unknown_late() -> None:
    """The verdict that comes after the window changes nothing, and is not the next part's."""
    line = Line(window_s=0.1)
    line.open()
    request = line.trigger("1")
    line.model.trigger_answered(line.now, request.number, "1", "t1")
    line.wait(0.1)
    assert (line.outputs.result.outcome, line.outputs.result.reason, line.outputs.result.part_id) == ("UNKNOWN", "late", "1")
    line.verdict("1", "t1")
    assert line.outputs.result.outcome == "UNKNOWN"
    line.write(result_acknowledge=True)
    line.write(result_acknowledge=False)
    assert not line.outputs.result_valid


def test_a_trigger_that_is_not_answered_in_time_is_unknown_refused() -> None:
    """However short the window is: the PLC learns that the station's control socket is dead, and sees no ready any more."""
    line = Line(window_s=0.05)
    line.open()
    request = line.trigger("1")
    line.wait(0.05)
    assert (line.outputs.result.reason, line.outputs.error_code) == ("refused", ErrorCode.TRIGGER_REFUSED)
    line.model.trigger_refused(line.now, request.number)
    assert line.outputs.statistics.trigger_errors == 1
    assert line.outputs.trigger_ready
    line.model.control_answers(line.now, answers=False)
    assert (line.outputs.trigger_ready, line.outputs.enabled) == (False, True)
    line.write(enable=False)
    line.write(enable=True)
    assert (line.outputs.trigger_ready, line.outputs.error_code) == (False, ErrorCode.NONE)
    line.model.control_answers(line.now, answers=True)
    assert line.outputs.trigger_ready


def test_a_bridge_with_another_trigger_mode_than_its_camera_stays_closed() -> None:
    """All triggers would be refused, or no part would come. A mirror of a camera that a PLC triggers is right."""
    for triggered, waits, mirror, opens in (
        (True, False, False, False),
        (False, True, False, False),
        (False, True, True, True),
        (True, None, False, True),
        (False, None, False, True),
    ):
        line = Line(triggered=triggered, mirror=mirror)
        for _ in range(2):
            line.wait(1.0)
            line.beat(camera_waits=waits)
        line.write(enable=False)
        line.write(enable=True)
        assert line.outputs.enabled is opens
        assert line.outputs.error_code is (ErrorCode.NONE if opens else ErrorCode.TRIGGER_MODE)
    line = Line()
    line.open()
    line.beat(camera_waits=False)  # a reload has changed the camera
    assert (line.outputs.enabled, line.outputs.error_code) == (False, ErrorCode.TRIGGER_MODE)


def test_parts_that_others_trigger_are_noticed() -> None:
    """Not the bridge's own ones, whether late or not, those from before its start, or any while an answer is missing."""
    line = Line(window_s=0.1)
    line.open()
    first = line.trigger("1")
    line.verdict("2", "t2")
    line.model.trigger_answered(line.now, first.number, "1", "t1")
    line.wait(0.2)
    line.write(enable=False)
    line.verdict("1", "t1")
    line.verdict("3", "t3", since_s=90.0)
    line.verdict("4", None)
    line.verdict("5", "t5", replayed=True)
    assert line.model.other_triggers == 0
    line.verdict("6", "t6")
    assert line.model.other_triggers == 1


def test_a_verdict_of_a_camera_with_its_own_trigger_is_late_by_its_age() -> None:
    """A verdict that was under way for too long is UNKNOWN: late, even though nobody waited for it."""
    line = Line(triggered=False)
    line.open()
    line.wait(1.0)
    line.verdict("1", None, since_s=line.now - 0.19)
    assert line.outputs.result.outcome == "PASS"
    line.write(result_acknowledge=True)
    line.write(result_acknowledge=False)
    line.verdict("2", None, since_s=line.now - 0.21)
    assert (line.outputs.result.outcome, line.outputs.result.reason) == ("UNKNOWN", "late")


def test_a_clock_that_is_wrong_does_not_make_verdicts_late() -> None:
    """Only the difference of the clocks' courses counts, not what they show."""
    line = Line(triggered=False)
    ahead = 5000.0
    for _ in range(3):
        line.wait(1.0)
        line.model.heartbeat(line.now + 0.001, replace(BEAT, at_s=line.now + ahead))
    line.write(enable=False)
    line.write(enable=True)
    line.wait(0.5)
    line.verdict("1", None, since_s=line.now + ahead - 0.1)
    assert line.outputs.result.outcome == "PASS"


def test_a_clock_that_is_set_closes_the_handshake_where_order_counts() -> None:
    """A new part could look older than the opening, and the next part's PASS would be taken for its result.

    After the PLC has opened the handshake again, the first part gets its own result, in time.
    """
    for step_s in (-3600.0, -0.2, 0.2, 3600.0):
        line = Line(triggered=False)
        line.open()
        for n in range(2):
            line.wait(1.0)
            line.beat(at_s=line.now + step_s, started_s=step_s)
            assert line.outputs.enabled is (n > 0)
            assert line.outputs.error_code is (ErrorCode.NONE if n else ErrorCode.VERDICT_LOST)
            line.write(enable=False)
            line.write(enable=True)
        line.wait(0.05)
        line.verdict("1", None, replace(PASS, part_id="1"), since_s=line.now - 0.02 + step_s)
        assert (line.outputs.result.part_id, line.outputs.result.outcome) == ("1", "PASS")
        assert round(line.outputs.result.age_ms) == 20


def test_a_clock_that_is_set_leaves_other_handshakes_open() -> None:
    """With triggers, the identity says whose result it is; a mirror may lose a part. The next result counts as in time."""
    line = Line()
    line.open()
    line.beat(at_s=line.now - 3600.0, started_s=-3600.0)
    assert (line.outputs.enabled, line.outputs.error_code) == (True, ErrorCode.NONE)
    line = Line(triggered=False, mirror=True)
    line.open()
    line.wait(0.5)
    line.beat(at_s=line.now - 3600.0, started_s=-3600.0)
    line.verdict("1", None, since_s=line.now - 3600.0)
    assert (line.outputs.enabled, line.outputs.result.outcome) == (True, "PASS")


def test_a_part_from_the_future_closes_the_handshake_where_order_counts() -> None:
    """The station's clock was set forward after the last heartbeat: the part may be from before the opening."""
    for mirror in (False, True):
        line = Line(triggered=False, mirror=mirror)
        line.open()
        line.verdict("1", None, since_s=line.now + 3600.0)
        assert line.outputs.enabled is mirror
        assert line.outputs.result_valid is mirror
        assert line.outputs.error_code is (ErrorCode.NONE if mirror else ErrorCode.VERDICT_LOST)


def test_a_heartbeat_that_is_late_or_early_does_not_close_the_handshake() -> None:
    """The network may delay one, and the next one is on time again: no clock was set."""
    line = Line(triggered=False)
    line.open()
    line.wait(2.0)
    for late_s in (1.0, 0.0, 0.0, 2.0, 1.0, 0.0):
        line.beat(at_s=line.now - late_s)
        assert (line.outputs.enabled, line.outputs.error_code) == (True, ErrorCode.NONE)
        line.wait(1.0)
    line.verdict("1", None, since_s=line.now - 0.1)
    assert line.outputs.result.outcome == "PASS"


def test_a_heartbeat_shows_whether_the_stations_clock_was_set() -> None:
    """Its time against its uptime: the two go on together, however late the heartbeat arrives."""
    state = {"run_id": "run", "state": "Ready", "last_seq": 0, "cameras": {}}
    started = [
        heartbeat_of({**state, "at": at, "uptime_s": uptime_s}, "top").started_s
        for at, uptime_s in (
            ("2026-11-27T06:00:01.250000Z", 10.0),
            ("2026-11-27T06:00:02.250000Z", 11.0),
            ("2026-11-27T05:00:03.250000Z", 12.0),
        )
    ]
    assert [round(later - started[0], 3) for later in started] == [0.0, 0.0, -3600.0]


def test_parts_from_before_the_opening_get_no_result() -> None:
    """A part that was captured before the PLC raised `enable` is not one that it waits for."""
    line = Line(triggered=False)
    line.open()
    line.wait(0.01)
    line.verdict("old", None, since_s=line.now - 0.02)
    assert not line.outputs.result_valid
    line.verdict("new", None)
    assert line.outputs.result_valid


def test_replayed_verdicts_drive_nothing() -> None:
    """Neither with triggers nor without."""
    for triggered in (True, False):
        line = Line(triggered=triggered)
        line.open()
        if triggered:
            request = line.trigger()
            line.model.trigger_answered(line.now, request.number, "4711", "t1")
        line.verdict("4711", "t1", replayed=True)
        assert not line.outputs.result_valid


def test_a_silent_station_takes_the_result_away() -> None:
    """After two heartbeats: result_valid falls, the outcome reads UNKNOWN, and nothing old comes back with the station."""
    line = Line(triggered=False)
    line.open()
    line.verdict("1", None)
    line.verdict("2", None)
    line.wait(SILENT_S + 0.01)
    out = line.outputs
    assert (out.online, out.enabled, out.result_valid, out.result.outcome) == (False, False, False, "UNKNOWN")
    assert out.error_code is ErrorCode.STATION_SILENT
    number = out.result_number
    for _ in range(3):
        line.beat()
        line.wait(1.0)
    assert (line.outputs.online, line.outputs.enabled, line.outputs.result_valid) == (True, False, False)
    line.write(enable=False)
    line.write(enable=True)
    assert (line.outputs.enabled, line.outputs.result_valid, line.outputs.result_number) == (True, False, number)


def test_a_restarted_station_closes_the_handshake() -> None:
    """Even if it was silent for less than two heartbeats."""
    line = Line()
    line.open()
    line.trigger()
    line.beat(run_id="another")
    assert (line.outputs.enabled, line.outputs.busy) == (False, False)
    assert line.outputs.error_code is ErrorCode.STATION_RESTARTED


def test_heartbeats_that_were_queued_do_not_bring_the_station_back() -> None:
    """A bridge that was suspended gets them all at once; they say nothing about now."""
    line = Line()
    line.open()
    line.now += 30
    for ago in range(30, 0, -1):
        line.model.heartbeat(line.now, replace(BEAT, at_s=line.now - ago))
    assert not line.outputs.online
    line.wait(1.0)
    line.beat()
    assert line.outputs.online


def test_a_bridge_that_was_restarted_opens_only_after_enable_was_low() -> None:
    """A PLC that keeps writing `enable` reads first that the handshake is closed."""
    line = Line()
    line.beat()
    line.wait(1.0)
    line.beat()
    line.write(part_id="4711")
    assert not line.outputs.idle  # `enable` is low only because nobody has written it yet
    line.write(enable=True, result_acknowledge=True, trigger=True)
    assert not line.outputs.enabled
    assert not line.outputs.idle
    line.write(enable=False, result_acknowledge=False, trigger=False)
    assert line.outputs.idle
    line.write(enable=True)
    assert line.outputs.enabled


def test_a_plc_that_was_restarted_gets_no_old_result() -> None:
    """It lowers `enable` first, and what was shown to it before is gone."""
    line = Line(triggered=False)
    line.open()
    line.verdict("1", None)
    line.verdict("2", None)
    line.controls = Controls(enable=False)
    line.write()
    assert (line.outputs.result_valid, line.outputs.results_waiting) == (False, 0)
    line.write(enable=True)
    assert not line.outputs.result_valid
    assert line.outputs.statistics.discarded == 1


def test_the_next_result_waits_for_both_edges_of_the_acknowledge() -> None:
    """A poll that is lost between two results cannot make the PLC miss that there are two."""
    line = Line(triggered=False)
    line.open()
    line.verdict("1", None)
    line.verdict("2", None)
    assert line.outputs.results_waiting == 1
    line.write(result_acknowledge=True)
    line.wait(1.0)
    assert (line.outputs.result_valid, line.outputs.results_waiting) == (False, 1)
    line.write(result_acknowledge=False)
    assert (line.outputs.result.part_id, line.outputs.result_toggle) == ("", False)
    assert line.outputs.result_number == 2


def test_unread_results_are_an_overrun() -> None:
    """Dropping one of them would give the next one to the wrong part: the handshake closes instead."""
    line = Line(triggered=False, capacity=2)
    line.open()
    for n in range(3):
        line.verdict(f"{n}", None)
    out = line.outputs
    assert (out.overrun, out.enabled, out.result_valid, out.error_code) == (True, False, False, ErrorCode.OVERRUN)
    line.write(enable=False)
    assert (line.outputs.overrun, line.outputs.error_code) == (False, ErrorCode.NONE)


def test_a_lost_verdict_closes_the_handshake_where_order_counts() -> None:
    """With triggers the part is UNKNOWN: late; without, nobody knows whose verdict was lost."""
    events: list[Callable[[Line], None]] = [
        lambda line: line.model.verdict_lost(line.now),
        lambda line: line.verdict("2", None, seq=3),
        lambda line: line.model.other_verdict(line.now, 4),
        lambda line: line.beat(last_seq=2),
    ]
    for triggered in (False, True):
        for event in events:
            line = Line(triggered=triggered)
            line.open()
            event(line)
            assert line.outputs.enabled is triggered
            assert not line.outputs.result_valid
            assert triggered or line.outputs.error_code is ErrorCode.VERDICT_LOST


def test_numbers_of_other_cameras_are_no_gap() -> None:
    """A station counts the verdicts of all its cameras."""
    line = Line(triggered=False)
    line.open()
    line.model.other_verdict(line.now, 2)
    line.beat(last_seq=2)
    line.verdict("1", None, seq=3)
    assert line.outputs.result_valid


def test_a_verdict_that_others_have_overtaken_is_the_result_of_its_trigger() -> None:
    """At its deadline, the verdict of another camera is sent before this one, which waits for the journal."""
    line = Line()
    line.open()
    request = line.trigger()
    line.model.trigger_answered(line.now, request.number, "4711", "t1")
    line.model.other_verdict(line.now, 3)
    line.verdict("4711", "t1", seq=2)
    assert (line.outputs.result.outcome, line.outputs.error_code) == ("PASS", ErrorCode.NONE)


def test_a_verdict_that_others_have_overtaken_closes_the_handshake_once_where_order_counts() -> None:
    """Nobody knows whose number is missing. When it comes, the PLC has opened the handshake again.

    Then no number is missing, and the part is from before the opening, whatever the clocks say.
    """
    line = Line(triggered=False)
    line.open()
    line.model.other_verdict(line.now, 4)
    assert (line.outputs.enabled, line.outputs.error_code) == (False, ErrorCode.VERDICT_LOST)
    line.wait(0.1)
    line.write(enable=False)
    line.write(enable=True)
    line.verdict("old", None, seq=2, sequence=2)
    assert not line.outputs.result_valid
    line.model.other_verdict(line.now, 3)
    line.beat(last_seq=4)
    line.verdict("new", None, replace(PASS, part_id="new"), seq=5, sequence=3)
    assert (line.outputs.enabled, line.outputs.error_code, line.outputs.result.part_id) == (True, ErrorCode.NONE, "new")
    line.model.other_verdict(line.now, 3)  # a second time: it is no number that was skipped
    assert not line.outputs.enabled


def test_the_first_verdict_of_a_run_can_be_missed() -> None:
    """Before it, no number says what comes next; but the camera's first part has number 1."""
    for sequence in (1, 2):
        line = Line(triggered=False)
        line.seq = 0
        line.open()
        line.verdict("1", None, seq=1000, sequence=sequence)
        assert line.outputs.result_valid is (sequence == 1)


def test_a_part_without_a_verdict_closes_the_handshake_where_order_counts() -> None:
    """Policy `latest` displaces a part: the next one's PASS must not be taken for it. A mirror loses only that part."""
    events: list[Callable[[Line], None]] = [
        lambda line: line.verdict("3", None, sequence=4),
        lambda line: line.beat(dropped=1),
    ]
    for settings_of in ({"triggered": False}, {"triggered": True}, {"triggered": False, "mirror": True}):
        for event in events:
            line = Line(**settings_of)  # type: ignore[arg-type]
            line.open()
            line.verdict("1", None)
            assert line.outputs.enabled
            event(line)
            closes = settings_of == {"triggered": False}
            assert line.outputs.enabled is not closes
            assert line.outputs.error_code is (ErrorCode.VERDICT_LOST if closes else ErrorCode.NONE)
            assert not closes or not line.outputs.result_valid


def test_a_part_without_a_verdict_before_the_first_that_is_seen_closes_the_handshake() -> None:
    """A bridge that comes to a running station knows the number of the camera's last part."""
    for sequence in (4, 5, 6, 7):
        line = Line(triggered=False)
        line.beat(frames=5)
        line.open()
        line.verdict("1", None, sequence=sequence)
        assert line.outputs.enabled is (sequence <= 6)


def test_parts_that_were_missing_before_the_opening_close_nothing_later() -> None:
    """The numbers go on from the last verdict that was seen, open or not; and a count counts only when it rises."""
    line = Line(triggered=False)
    line.open()
    line.verdict("1", None)
    line.verdict("3", None, sequence=4)
    line.beat(dropped=1)
    line.write(enable=False)
    line.write(enable=True)
    line.verdict("4", None, sequence=5)
    line.beat(dropped=1)
    assert (line.outputs.enabled, line.outputs.result.outcome) == (True, "PASS")


def test_a_part_of_an_earlier_run_is_no_result_where_order_counts() -> None:
    """A station answers the triggers that a crash left open when its journal is back, with sequence 0."""
    line = Line(triggered=False)
    line.open()
    line.verdict("1", None)
    line.verdict("old", None, Result(reason="restart"), sequence=0)
    line.verdict("2", None, sequence=3)
    assert (line.outputs.enabled, line.outputs.results_waiting) == (True, 1)


def test_a_lost_camera_closes_the_handshake_where_order_counts() -> None:
    """It misses parts meanwhile. The handshake opens when it runs again; a loss between two heartbeats shows in the count."""
    for lost in ({"camera_runs": False}, {"restarts": 1}):
        line = Line(triggered=False)
        line.open()
        line.verdict("1", None)
        line.beat(**lost)
        assert (line.outputs.enabled, line.outputs.result_valid) == (False, False)
        assert (line.outputs.online, line.outputs.error_code) == (True, ErrorCode.CAMERA_LOST)
        line.write(enable=False)
        line.write(enable=True)
        assert line.outputs.enabled is ("restarts" in lost)
        line.beat(restarts=1)
        assert line.outputs.enabled is True
    for others in ({"triggered": True}, {"triggered": False, "mirror": True}):
        line = Line(**others)  # type: ignore[arg-type]
        line.open()
        line.beat(camera_runs=False)
        assert line.outputs.enabled


def test_a_trigger_that_cannot_be_carried_out_gets_a_result() -> None:
    """Refused by the station, or raised while it was not ready: the part is UNKNOWN, and the PLC's order stays right."""
    line = Line()
    line.open()
    request = line.trigger("1")
    line.model.trigger_refused(line.now, request.number)
    assert (line.outputs.result.reason, line.outputs.error_code) == ("refused", ErrorCode.TRIGGER_REFUSED)
    line.beat(camera_runs=False)
    assert not line.outputs.trigger_ready
    line.write(trigger=True, part_id="2")
    assert line.outputs.trigger_acknowledge
    assert line.model.take_requests() == []
    line.write(trigger=False, result_acknowledge=True)
    line.write(result_acknowledge=False)
    assert (line.outputs.result.reason, line.outputs.result.part_id) == ("not_ready", "2")


def test_a_trigger_that_was_high_before_the_opening_is_none() -> None:
    """It must rise while the handshake is open."""
    line = Line()
    line.beat()
    line.wait(1.0)
    line.beat()
    line.write(enable=False, trigger=True)
    line.write(enable=True)
    line.write()
    assert (line.outputs.enabled, line.outputs.trigger_acknowledge) == (True, False)
    assert line.model.take_requests() == []


def test_where_there_are_recipes_the_handshake_opens_only_once_one_was_written() -> None:
    """A bridge that was restarted has forgotten the name; without it, parts of another product would pass."""
    for has_recipes in (False, True):
        line = Line()
        for _ in range(2):
            line.beat(has_recipes=has_recipes)
            line.wait(1.0)
        line.beat(has_recipes=has_recipes)
        line.write(enable=False, recipe=None)
        line.write(enable=True)
        assert line.outputs.enabled is not has_recipes
        assert line.outputs.error_code == (ErrorCode.RECIPE_NOT_WRITTEN if has_recipes else ErrorCode.NONE)
    line.write(recipe="")
    assert line.outputs.enabled
    line.write(trigger=True)
    (request,) = line.model.take_requests()
    assert isinstance(request, TriggerRequest)
    assert request.recipe == ""


def test_a_recipe_is_changed_and_refused() -> None:
    """Acknowledged when the station has answered; no trigger meanwhile."""
    line = Line()
    line.open()
    assert line.outputs.recipe == "bolt"
    for accepted in (True, False):
        line.write(recipe_change=True, recipe="nut")
        (request,) = line.model.take_requests()
        assert isinstance(request, RecipeRequest)
        assert (request.recipe, line.outputs.busy, line.outputs.trigger_ready) == ("nut", True, False)
        line.model.recipe_answered(line.now, request.number, accepted=accepted)
        out = line.outputs
        assert (out.recipe_acknowledge, out.recipe_refused, out.busy, out.trigger_ready) == (True, not accepted, False, True)
        line.write(recipe_change=False)
        assert not line.outputs.recipe_acknowledge


def test_a_recipe_is_acknowledged_only_if_the_plc_still_asks_for_it() -> None:
    """The PLC asks for one, gives up, and asks for another: the answer to the first is none to the second.

    The write that lowers `recipe_change` may be lost.
    """
    for lost in (False, True):
        line = Line()
        line.open()
        line.write(recipe_change=True, recipe="nut")
        (first,) = line.model.take_requests()
        if not lost:
            line.write(recipe_change=False)
        line.write(recipe_change=True, recipe="cap")
        assert line.model.take_requests() == []
        line.model.recipe_answered(line.now, first.number, accepted=True)
        assert (line.outputs.recipe_acknowledge, line.outputs.busy, line.outputs.trigger_ready) == (False, True, False)
        (second,) = line.model.take_requests()
        assert isinstance(second, RecipeRequest)
        assert second.recipe == "cap"
        line.model.recipe_answered(line.now, second.number, accepted=True)
        assert (line.outputs.recipe_acknowledge, line.outputs.recipe_refused) == (True, False)
        assert line.outputs.trigger_ready


def test_a_recipe_that_the_plc_no_longer_asks_for_is_not_acknowledged() -> None:
    """Nor refused: both would be taken for the answer to the next request."""
    for accepted in (True, False):
        line = Line()
        line.open()
        line.write(recipe_change=True, recipe="nut")
        (request,) = line.model.take_requests()
        line.write(recipe_change=False)
        line.model.recipe_answered(line.now, request.number, accepted=accepted)
        assert (line.outputs.recipe_acknowledge, line.outputs.recipe_refused) == (False, False)
        assert (line.outputs.busy, line.outputs.error_code) == (False, ErrorCode.NONE)


def test_a_part_of_another_recipe_is_unknown_where_the_camera_triggers() -> None:
    """As long as the PLC names one, also if the result has waited. An UNKNOWN keeps its reason."""
    for wanted, result, expected in (
        ("", PASS, ("PASS", "")),
        ("nut", replace(PASS, recipe="nut"), ("PASS", "")),
        ("nut", replace(PASS, recipe="bolt"), ("UNKNOWN", "recipe")),
        ("nut", Result(outcome="FAIL"), ("UNKNOWN", "recipe")),
        ("nut", Result(reason="review", recipe="bolt"), ("UNKNOWN", "review")),
    ):
        line = Line(triggered=False)
        line.open()
        line.write(recipe=wanted)
        line.verdict("1", None, result)
        assert (line.outputs.result.outcome, line.outputs.result.reason) == expected
    line = Line(triggered=False)
    line.open()
    line.verdict("1", None, replace(PASS, recipe="bolt"))
    line.verdict("2", None, replace(PASS, recipe="bolt"))
    line.write(recipe="nut", result_acknowledge=True)
    line.write(result_acknowledge=False)
    assert (line.outputs.result.outcome, line.outputs.result.reason) == ("UNKNOWN", "recipe")


def test_the_numbers_begin_again_with_a_toggle() -> None:
    """After 65,534 comes 1: the number fits a register, and its lowest bit always changes."""
    line = Line(triggered=False)
    line.open()
    before = 0
    for n in range(65_600):
        if n % 1000 == 0:
            line.beat()
        line.verdict("", None)
        assert line.outputs.result_toggle is (before % 2 == 0)
        before = line.outputs.result_number
        assert 0 < before <= 65_534
        line.write(result_acknowledge=True)
        line.write(result_acknowledge=False)


# ---- in any order


class AnyOrder(RuleBasedStateMachine):
    """Events in any order, with any delays between them."""

    def __init__(self) -> None:
        super().__init__()
        self.line = Line(capacity=3)
        self.asked: list[TriggerRequest] = []
        self.answered: dict[str, TriggerRequest] = {}
        self.fresh: dict[str, Outcome] = {}
        self.n = 0
        self.before = self.line.outputs
        self.shown: list[str] = []

    @rule(seconds=strategies.sampled_from((0.0, 0.01, 0.1, 0.2, 0.9, 1.0, 3.0)))
    def wait(self, seconds: float) -> None:
        self.line.wait(seconds)

    @rule(run=strategies.sampled_from(("run", "run", "run", "other")), runs=strategies.booleans())
    def beat(self, run: str, runs: bool) -> None:
        self.line.beat(run_id=run, camera_runs=runs)

    @rule()
    def open(self) -> None:
        line = self.line
        opening = (
            line.beat,
            lambda: line.wait(1.0),
            line.beat,
            lambda: line.write(enable=False),
            lambda: line.write(enable=True, trigger=False, result_acknowledge=False),
        )
        for event in opening:
            event()
            self.holds()

    @rule(enable=strategies.booleans(), trigger=strategies.booleans(), acknowledge=strategies.booleans())
    def write(self, enable: bool, trigger: bool, acknowledge: bool) -> None:
        self.n += 1
        self.line.write(enable=enable, trigger=trigger, result_acknowledge=acknowledge, part_id=f"{self.n}")

    @rule()
    def take_requests(self) -> None:
        self.asked += [request for request in self.line.model.take_requests() if isinstance(request, TriggerRequest)]

    @precondition(lambda self: self.asked)
    @rule(pick=strategies.integers(0, 9), accepted=strategies.booleans())
    def answer(self, pick: int, accepted: bool) -> None:
        request = self.asked.pop(pick % len(self.asked))
        if accepted:
            self.line.model.trigger_answered(self.line.now, request.number, request.part_id, f"at {request.number}")
            self.answered[request.part_id] = request
        else:
            self.line.model.trigger_refused(self.line.now, request.number)

    @precondition(lambda self: self.answered)
    @rule(pick=strategies.integers(0, 9), outcome=strategies.sampled_from(("PASS", "FAIL")), replayed=strategies.booleans())
    def verdict(self, pick: int, outcome: Outcome, replayed: bool) -> None:
        part_id = sorted(self.answered)[pick % len(self.answered)]
        if not replayed:
            self.fresh.setdefault(part_id, outcome)
        at = f"at {self.answered[part_id].number}"
        self.line.verdict(part_id, at, Result(outcome=outcome, part_id=part_id), replayed=replayed)

    @rule()
    def write_again(self) -> None:
        before = replace(self.line.outputs, result=Result())
        self.line.write()
        assert replace(self.line.outputs, result=Result()) == before

    @invariant()
    def holds(self) -> None:
        out, before = self.line.outputs, self.before
        assert out.result_toggle is (out.result_number % 2 == 1)
        if not out.enabled:
            assert not out.result_valid
            assert not out.trigger_ready
        if not out.result_valid:
            assert out.result == Result()
        if out.result_number != before.result_number:
            assert out.result_number == before.result_number + 1
            assert out.result_valid
            if out.result.outcome != "UNKNOWN":
                assert self.fresh[out.result.part_id] == out.result.outcome
                assert out.result.age_ms <= (self.line.now - 100.0) * 1000
            assert out.result.part_id not in self.shown
            self.shown.append(out.result.part_id)
            assert [int(part) for part in self.shown] == sorted(int(part) for part in self.shown)
        assert self.line.model.due > self.line.now
        self.before = out


TestAnyOrder = AnyOrder.TestCase
TestAnyOrder.settings = settings(max_examples=150, stateful_step_count=40, deadline=None)
