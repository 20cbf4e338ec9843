"""What passes between the handshake and a PLC that is polled: the order of writes, and which of the PLC's words count."""

import random
from collections import deque
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from anosegd.bridge.encoding import MAP_VERSION, STATUS_BITS, bits_of, word_of
from anosegd.bridge.exchange import POLLED_BITS, STILL_S, Image, Seen, StatusWrite, ValuesWrite, Watch, replaced, writes
from anosegd.bridge.handshake import Handshake, Heartbeat, Judged, Settings, TriggerRequest
from anosegd.bridge.tags import Controls, ErrorCode, Outcome, Outputs, Result

HEARTBEAT = 1 << POLLED_BITS.index("heartbeat")
ENABLE = 1 << POLLED_BITS.index("enable")


def shown(number: int, outcome: Outcome, waiting: int = 0) -> Outputs:
    return Outputs(
        enabled=True,
        result_valid=True,
        results_waiting=waiting,
        result_toggle=number % 2 == 1,
        result_number=number,
        result=Result(outcome=outcome, part_id=f"part {number}"),
    )


OUTPUTS = st.one_of(
    st.builds(shown, st.integers(1, 6), st.sampled_from(["PASS", "FAIL", "UNKNOWN"])),
    st.builds(Outputs, enabled=st.booleans(), heartbeat=st.booleans(), result_number=st.integers(0, 6)),
)


class Memory:
    """A PLC's memory, at which its program looks after every write and in the middle of one."""

    def __init__(self, status: int, values: dict[str, object]) -> None:
        self.status, self.values = status, values
        self.looks: list[tuple[int, dict[str, object]]] = []

    def take(self, before: Image | None, now: Image) -> None:
        for write in writes(before, now):
            if isinstance(write, StatusWrite):
                self.status = write.word
                self.look()
                continue
            for name in write.changed:
                self.values[name] = write.values[name]
                self.look()
        assert (self.status, self.values) == (now.status, dict(now.values))

    def look(self) -> None:
        self.looks.append((self.status, dict(self.values)))


@given(st.lists(OUTPUTS, min_size=1, max_size=8), st.booleans())
def test_a_plc_never_reads_a_result_beside_values_of_another(outputs: list[Outputs], known: bool) -> None:
    """Whenever `result_valid` is high, every value is that of one result that the handshake has shown."""
    first = Image.of(shown(5, "PASS"))
    memory = Memory(first.status, dict(first.values))
    before = first if known else None
    images = [Image.of(each) for each in outputs]
    for now in images:
        memory.take(before, now)
        before = now
    whole = [image.values for image in (first, *images)]
    toggled = {(image.status >> STATUS_BITS.index("result_toggle") & 1, image.values["part_id"]) for image in (first, *images)}
    for status, values in memory.looks:
        bits = dict(zip(STATUS_BITS, bits_of(status), strict=True))
        if bits["result_valid"]:
            assert values in whole
            assert (bits["result_toggle"], values["part_id"]) in toggled
            assert bits["result_pass"] == (values["outcome"] == 1)
        else:
            assert not bits["result_pass"]
            assert not bits["result_fail"]


def test_only_what_differs_is_written() -> None:
    """A heartbeat is one write; a new result is the values, then the status; the next one takes the first away before."""
    idle, beat = Image.of(Outputs()), Image.of(Outputs(heartbeat=True))
    assert writes(idle, idle) == []
    assert writes(idle, beat) == [StatusWrite(1)]
    assert [type(write).__name__ for write in writes(idle, Image.of(shown(1, "PASS")))] == ["ValuesWrite", "StatusWrite"]
    kinds = [type(write).__name__ for write in writes(Image.of(shown(1, "PASS")), Image.of(shown(2, "FAIL")))]
    assert kinds == ["StatusWrite", "ValuesWrite", "StatusWrite"]


def test_a_result_stays_valid_while_another_one_waits_behind_it() -> None:
    """A PLC that saw `result_valid` fall and rise would act on the same result twice."""
    now = Image.of(shown(1, "PASS", waiting=1))
    assert writes(Image.of(shown(1, "PASS")), now) == [ValuesWrite(now.values, frozenset(("results_waiting",)))]


def seen(control: int, status: int = 0) -> Seen:
    return Seen(control=control, status=status, map_version=MAP_VERSION, part_id="", recipe="")


def test_controls_count_only_while_the_program_runs() -> None:
    """Not before its heartbeat bit has changed, and not after it has stood still."""
    watch = Watch()
    assert watch.loss(0.0, seen(ENABLE)) is None
    assert watch.news(seen(ENABLE)) is None
    assert watch.loss(1.0, seen(ENABLE | HEARTBEAT)) is None
    assert watch.news(seen(ENABLE | HEARTBEAT)) == Controls(enable=True, recipe=None)
    assert watch.news(seen(ENABLE | HEARTBEAT)) is None  # nothing new
    assert watch.loss(1.0 + STILL_S, seen(HEARTBEAT)) is None
    assert "heartbeat" in str(watch.loss(1.1 + STILL_S, seen(HEARTBEAT)))
    assert watch.loss(1.2 + STILL_S, seen(HEARTBEAT)) is None  # it was said
    assert watch.news(seen(HEARTBEAT)) is None
    assert watch.loss(9.0, seen(ENABLE)) is None
    assert watch.news(seen(ENABLE)) == Controls(enable=True, recipe=None)


def test_a_memory_that_the_bridge_did_not_write_is_a_lost_plc() -> None:
    """It was loaded again, or another bridge writes to it; also if it was cleared while no status bit was high."""
    low, high = Image.of(Outputs()), Image.of(Outputs(enabled=True))
    assert replaced(seen(0), None) is None
    assert replaced(seen(0, high.status), high) is None
    assert "status word" in str(replaced(seen(0, 0), high))
    assert replaced(seen(0, 0), low) is None
    assert "map_version" in str(replaced(replace(seen(0, 0), map_version=0), low))


def test_an_empty_recipe_counts_as_not_written() -> None:
    """A PLC that was restarted has forgotten the name: where a station has recipes, the handshake stays closed."""
    watch = Watch()
    watch.loss(0.0, seen(0))
    watch.loss(0.1, seen(HEARTBEAT))
    controls = watch.news(seen(HEARTBEAT))
    assert controls is not None
    model = Handshake(Settings(triggered=True, window_s=1.0, capacity=4), 0.0)
    for now in (0.0, 1.0, 2.0):
        model.heartbeat(now, Heartbeat(run_id="r", at_s=now, state="ContinuousExecution", last_seq=0, has_recipes=True))
    model.write(2.0, controls)
    model.write(2.1, replace(controls, enable=True))
    assert (model.outputs.enabled, model.outputs.error_code) == (False, ErrorCode.RECIPE_NOT_WRITTEN)
    named = watch.news(replace(seen(HEARTBEAT | ENABLE), recipe="lid"))
    assert named is not None
    model.write(2.2, named)
    assert model.outputs.enabled


def test_texts_are_read_again_when_a_bit_rises() -> None:
    """The heartbeat is no reason, nor a bit that stays or falls."""
    watch = Watch()
    assert watch.raised(seen(ENABLE))
    watch.loss(0.0, seen(ENABLE))
    assert not watch.raised(seen(ENABLE | HEARTBEAT))
    assert not watch.raised(seen(0))
    assert watch.raised(seen(ENABLE | 2))


def opened() -> Handshake:
    model = Handshake(Settings(triggered=True, window_s=1.0, capacity=4), 0.0)
    for now in (0.0, 1.0, 2.0):
        model.heartbeat(now, Heartbeat(run_id="r", at_s=now, state="ContinuousExecution", last_seq=0))
    model.write(2.0, Controls(enable=False))
    model.write(2.1, Controls(enable=True))
    assert model.outputs.enabled
    return model


def test_a_lost_plc_closes_the_handshake() -> None:
    """What it had raised counts no more, and `enable` must fall before the handshake opens again."""
    model = opened()
    model.write(2.2, Controls(enable=True, trigger=True, part_id="1"))
    assert model.outputs.trigger_acknowledge
    model.plc_lost(2.3)
    outputs = model.outputs
    assert (outputs.enabled, outputs.idle, outputs.error_code) == (False, False, ErrorCode.PLC_LOST)
    assert outputs.statistics.discarded == 1
    model.write(2.4, Controls(enable=True, trigger=True, part_id="1"))
    assert not model.outputs.enabled
    model.write(2.5, Controls(enable=False))
    assert (model.outputs.idle, model.outputs.error_code) == (True, ErrorCode.NONE)
    model.write(2.6, Controls(enable=True))
    assert model.outputs.enabled


def test_a_recipe_that_a_lost_plc_asked_for_is_not_acknowledged_to_the_next() -> None:
    """After a PLC was lost, an answer to its earlier request does not answer the next one."""
    model = opened()
    model.write(2.2, Controls(enable=True, recipe="a", recipe_change=True))
    number = model.take_requests()[0].number
    model.recipe_answered(2.3, number, accepted=True)
    assert model.outputs.recipe_acknowledge
    model.plc_lost(2.4)
    model.write(2.5, Controls(enable=False, recipe="b", recipe_change=True))
    assert not model.outputs.recipe_acknowledge
    assert [request.recipe for request in model.take_requests()] == ["b"]


class Program:
    """The program of docs/plc-s7.md with up to three open parts. It acts on each, and notes what it read."""

    def __init__(self) -> None:
        self.control, self.part_id = 0, ""
        self.open: deque[str] = deque()
        self.acted: list[tuple[str, object, bool]] = []
        self.n = 0

    def cycle(self, status: int, values: dict[str, object], *, offers: bool) -> None:
        bits = dict(zip(STATUS_BITS, bits_of(status), strict=True))
        control = dict(zip(POLLED_BITS, bits_of(self.control), strict=False))
        control["heartbeat"] = bits["heartbeat"]
        control["enable"] = bits["idle"] or bits["enabled"]
        if bits["result_valid"] and not control["result_acknowledge"]:
            self.acted.append((self.open.popleft(), values["part_id"], bits["result_pass"]))
            control["result_acknowledge"] = True
        elif not bits["result_valid"]:
            control["result_acknowledge"] = False
        if control["trigger"] and bits["trigger_acknowledge"]:
            control["trigger"] = False
        elif offers and bits["trigger_ready"] and not control["trigger"] and len(self.open) < 3:
            self.n += 1
            self.part_id = f"part {self.n}"
            self.open.append(self.part_id)
            control["trigger"] = True
        self.control = word_of([control[name] for name in POLLED_BITS])


@pytest.mark.parametrize("seed", range(8))
def test_every_part_is_acted_on_once_by_its_own_result(seed: int) -> None:
    """The handshake, the writes and the program in virtual time, with cycles of the program between any two writes."""
    chance = random.Random(seed)
    model = Handshake(Settings(triggered=True, window_s=60.0, capacity=4), 0.0)
    program, watch, before, now, beat, seq = Program(), Watch(), None, 0.0, 0.0, 0
    memory: tuple[int, dict[str, object]] = (0, {"part_id": ""})
    judged: list[tuple[float, Judged]] = []
    while len(program.acted) < 300:
        assert now < 5_000
        now += chance.uniform(0.001, 0.03)
        if now >= beat:
            beat += 1.0
            model.heartbeat(now, Heartbeat(run_id="r", at_s=now, state="ContinuousExecution", last_seq=seq))
        model.tick(now)
        seen = Seen(control=program.control, status=memory[0], map_version=MAP_VERSION, part_id=program.part_id, recipe="")
        assert replaced(seen, before) is None
        assert watch.loss(now, seen) is None
        if (controls := watch.news(seen)) is not None:
            model.write(now, controls)
        for request in model.take_requests():
            assert isinstance(request, TriggerRequest)
            model.trigger_answered(now, request.number, request.part_id, "t")
            outcome: Outcome = "PASS" if int(request.part_id[5:]) % 2 else "FAIL"
            result = Result(outcome=outcome, part_id=request.part_id)
            key = {"run_id": "r", "part_id": request.part_id, "triggered_at": "t"}
            verdict = Judged(**key, replayed=False, seq=0, sequence=0, since_s=now, result=result)
            due = max(now + chance.uniform(0, 0.1), judged[-1][0] if judged else 0.0)
            judged.append((due, verdict))
        for _ in range(chance.randint(0, 2)):  # between the bridge's read and its writes
            program.cycle(*memory, offers=True)
        while judged and judged[0][0] <= now:
            seq += 1
            model.verdict(now, replace(judged.pop(0)[1], seq=seq, sequence=seq))
        image = Image.of(model.outputs)
        for write in writes(before, image):
            memory = (write.word, memory[1]) if isinstance(write, StatusWrite) else (memory[0], dict(write.values))
            for _ in range(chance.randint(0, 3)):
                program.cycle(*memory, offers=chance.random() < 0.5)
        before = image
    assert program.acted[:300] == [(f"part {n}", f"part {n}", n % 2 == 1) for n in range(1, 301)]
