"""Verdicts that wait for a real journal, whose file is locked: order, deadlines, failed commits."""

import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import pytest
from support.journal_tools import close_journals, config, eventually, open_journal, read_all, writing_blocked

from anoseg_engines.judgement import Inspection, Judgement
from anoseg_engines.placement import InputSpec, Placement, Region
from anosegd import wire
from anosegd.capture.config import DemoSource
from anosegd.config import CameraConfig, Config, EngineConfig
from anosegd.journal import Journal
from anosegd.journal import journal as journal_module
from anosegd.journal import queue as journal_queue
from anosegd.outcome import Inspected, Outcome, Unknown
from anosegd.part import Part
from anosegd.publish import commits as commits_module
from anosegd.publish.commits import Commits
from anosegd.publish.verdict import verdict_of

ENGINE = wire.EngineName(name="tiny", version=1, digest="0" * 64, runtime="none")
CONFIG = Config(engine=EngineConfig(bundle="none"), cameras={"a": CameraConfig(source=DemoSource(), deadline_ms=1)})


class Bench:
    """Commits on a real journal, in the role of the publisher."""

    def __init__(self, journal: Journal, on_failure: Literal["unknown", "continue"] = "unknown") -> None:
        self.journal = journal
        self.answers = threading.Semaphore(0)
        self.late: list[Part] = []
        self.headers: dict[int, wire.Verdict] = {}
        self._verdicts: list[wire.Verdict] = []
        self.commits = Commits(
            journal,
            on_failure=on_failure,
            send=self.send,
            late=self.late.append,
            wake=self.answers.release,
        )

    def send(self, verdict: wire.Verdict, *_: object) -> None:
        self.headers[verdict.seq] = verdict
        self._verdicts.append(verdict)

    def add(self, part: Part, outcome: Outcome) -> None:
        verdict_id = self.commits.next_id()
        verdict = verdict_of(part, outcome, verdict_id, station=CONFIG.station, run_id="r", engine=ENGINE, durable=True)
        self.commits.add(part, outcome, verdict)

    def wait_for_answers(self, n: int) -> None:
        """Wait until the journal has answered n verdicts."""
        for _ in range(n):
            assert self.answers.acquire(timeout=20)

    def sent(self) -> list[tuple[int, str, str | None, bool]]:
        """Send the verdicts that are due."""
        self.commits.send_due()
        return self.taken()

    def sent_at_the_end(self) -> list[tuple[int, str, str | None, bool]]:
        self.commits.send_all()
        return self.taken()

    def taken(self) -> list[tuple[int, str, str | None, bool]]:
        verdicts, self._verdicts = self._verdicts, []
        return [(v.seq, v.outcome, v.reason, v.durable) for v in verdicts]

    def kept(self) -> dict[int, str]:
        return {seq: e.outcome for seq, e in read_all(self.journal).entries.items()}


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    yield open_journal(config(tmp_path / "journal.db"))
    close_journals()


def part(sequence: int, *, deadline_s: float | None = None, camera: str = "a", trigger: int | None = None) -> Part:
    now = time.monotonic_ns()
    return Part(
        camera=camera,
        sequence=sequence,
        part_id=f"a{sequence}",
        captured_ns=now,
        captured_wall_ns=time.time_ns(),
        deadline_ns=None if deadline_s is None else now + round(deadline_s * 1e9),
        trigger=trigger,
    )


def passed() -> Inspected:
    now = time.monotonic_ns()
    placement = Placement.of(InputSpec(8, 8), Region(0, 0, 8, 8))
    return Inspected(
        Judgement("PASS", 0.1, 0.5, ()), Inspection(0.1, np.zeros((8, 8), np.float32), 1), placement, ENGINE, now, now
    )


def test_verdicts_of_several_cameras_are_sent_in_the_order_of_their_numbers(journal: Journal) -> None:
    """Also when the journal has committed all of them at once."""
    bench = Bench(journal)
    for sequence, camera in enumerate("aababb"):
        bench.add(part(sequence, camera=camera), passed())
    bench.wait_for_answers(6)
    assert [seq for seq, *_ in bench.sent()] == [1, 2, 3, 4, 5, 6]


def test_nobody_reads_a_verdict_before_it_is_sent(journal: Journal) -> None:
    """If the deadline passes between commit and sending, the verdict is sent and kept as UNKNOWN; nobody reads PASS."""
    bench = Bench(journal)
    bench.add(part(1, deadline_s=0.2), passed())
    bench.wait_for_answers(1)
    assert (journal.stats().last_committed, bench.kept()) == (1, {})
    time.sleep(0.25)
    assert bench.sent() == [(1, "UNKNOWN", "deadline", False)]
    eventually(lambda: bench.kept() == {1: "UNKNOWN"})


def test_a_verdict_in_time_is_sent_as_it_was_committed(journal: Journal) -> None:
    """It is sent when it is committed, as durable; then readers have it."""
    bench = Bench(journal)
    with writing_blocked(journal.path):
        bench.add(part(1, deadline_s=60), passed())
        assert bench.sent() == []
    bench.wait_for_answers(1)
    assert bench.sent() == [(1, "PASS", None, True)]
    assert bench.kept() == {1: "PASS"}
    assert not bench.commits


def test_a_refused_verdict_keeps_its_place(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
    """If too many wait, the journal refuses the next one at once; it is still sent after those before it."""
    monkeypatch.setattr(journal_queue, "MAX_WAITING", 2)
    bench = Bench(journal)
    with writing_blocked(journal.path):
        for i in (1, 2, 3):
            bench.add(part(i), passed())
        assert bench.sent() == []
    bench.wait_for_answers(2)
    assert bench.sent() == [(1, "PASS", None, True), (2, "PASS", None, True), (3, "UNKNOWN", "journal", False)]


@pytest.mark.parametrize(
    ("on_failure", "in_time"), [("unknown", ("UNKNOWN", "journal", False)), ("continue", ("PASS", None, False))]
)
def test_a_failed_commit_and_a_deadline(
    journal: Journal, on_failure: Literal["unknown", "continue"], in_time: tuple[str, str | None, bool]
) -> None:
    """In time the verdict is sent as configured; past its deadline it is UNKNOWN in any case."""
    bench = Bench(journal, on_failure)
    with writing_blocked(journal.path):
        late = part(2, deadline_s=0.3)
        bench.add(part(1), passed())
        bench.add(late, passed())
        bench.wait_for_answers(2)
    eventually(lambda: time.monotonic_ns() > (late.deadline_ns or 0))
    first, second = bench.sent()
    assert first == (1, *in_time)
    assert second[:2] == (2, "UNKNOWN")
    assert second[3] is False
    if on_failure == "continue":
        assert second[2] == "deadline"


def test_a_deadline_does_not_wait_for_the_journal(journal: Journal) -> None:
    """While nothing can be committed, a part past its deadline is sent as UNKNOWN, and later kept as that."""
    bench = Bench(journal)
    with writing_blocked(journal.path):
        bench.add(part(1, deadline_s=0.1), passed())
        time.sleep(0.15)
        assert bench.sent() == [(1, "UNKNOWN", "deadline", False)]
    bench.wait_for_answers(1)
    assert bench.sent() == []  # the journal's answer comes to one that has gone
    eventually(lambda: bench.kept() == {1: "UNKNOWN"})


class HangingDisk:
    """The journal's writes wait, and neither succeed nor fail, until `answer`."""

    def __init__(self, journal: Journal, monkeypatch: pytest.MonkeyPatch) -> None:
        self._answers, self._hangs = threading.Event(), threading.Event()
        self._write = journal._writer._store.write  # type: ignore[union-attr]
        monkeypatch.setattr(journal._writer._store, "write", self.write)
        monkeypatch.setattr(journal_module, "HANGS_AFTER_S", 3600)  # the tests set those limits that are to pass
        monkeypatch.setattr(commits_module, "COMMIT_LIMIT_S", 3600)

    def write(self, *arguments: object, **more: object) -> None:
        self._hangs.set()
        self._answers.wait(120)
        self._write(*arguments, **more)  # type: ignore[arg-type]

    def wait_until_it_hangs(self) -> None:
        assert self._hangs.wait(20)

    def answer(self) -> None:
        self._answers.set()


@pytest.fixture
def hanging_disk(journal: Journal, monkeypatch: pytest.MonkeyPatch) -> Iterator[HangingDisk]:
    disk = HangingDisk(journal, monkeypatch)
    yield disk
    disk.answer()  # before the journal is closed


@pytest.mark.parametrize(("on_failure", "outcome"), [("unknown", ("UNKNOWN", "journal")), ("continue", ("PASS", None))])
def test_a_disk_that_hangs_holds_no_verdict_back(
    journal: Journal,
    hanging_disk: HangingDisk,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    on_failure: Literal["unknown", "continue"],
    outcome: tuple[str, str | None],
) -> None:
    """Those that wait go out once the hang is noticed, later ones at once. The journal later keeps what was sent."""
    caplog.set_level("INFO", "anosegd")
    bench = Bench(journal, on_failure)
    bench.add(part(1), passed())
    hanging_disk.wait_until_it_hangs()
    for sequence in (2, 3):
        bench.add(part(sequence), passed())
    assert bench.sent() == []
    assert journal.stats().working
    monkeypatch.setattr(journal_module, "HANGS_AFTER_S", 0.3)
    sent: list[tuple[int, str, str | None, bool]] = []
    eventually(lambda: sent.extend(bench.sent()) or sent)
    assert sent == [(seq, *outcome, False) for seq in (1, 2, 3)]
    bench.add(part(4), passed())
    assert bench.sent() == [(4, *outcome, False)]
    assert not bench.commits
    stats = journal.stats()
    assert not stats.working
    assert "has not answered" in (stats.last_error or "")
    if on_failure == "unknown":
        assert "has not answered" in (bench.headers[4].detail or "")
    monkeypatch.setattr(journal_module, "HANGS_AFTER_S", 3600)
    hanging_disk.answer()
    bench.wait_for_answers(4)
    assert bench.sent() == []
    assert journal.stats().working
    eventually(lambda: bench.kept() == dict.fromkeys((1, 2, 3, 4), outcome[0]))
    events = [record.getMessage() for record in caplog.records]
    assert [event for event in events if event in ("journal.hung", "journal.answers")] == ["journal.hung", "journal.answers"]


def test_a_deadline_does_not_wait_for_other_cameras(journal: Journal, hanging_disk: HangingDisk) -> None:
    """At its deadline, a verdict is sent before that of another camera, which has a lower number and waits for the journal."""
    bench = Bench(journal)
    bench.add(part(1, camera="a"), passed())
    bench.add(part(1, camera="b", deadline_s=0.1), passed())
    time.sleep(0.15)
    assert bench.sent() == [(2, "UNKNOWN", "deadline", False)]
    hanging_disk.answer()
    bench.wait_for_answers(2)
    assert bench.sent() == [(1, "PASS", None, True)]


def test_a_verdict_waits_for_its_commit_for_a_limited_time(
    journal: Journal, hanging_disk: HangingDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A disk that is only slow makes no verdict wait longer than the limit. If it is committed later, it is kept as UNKNOWN."""
    bench = Bench(journal)
    bench.add(part(1), passed())
    assert bench.sent() == []
    monkeypatch.setattr(commits_module, "COMMIT_LIMIT_S", 0.3)
    limit_ns = bench.commits.next_deadline_ns()
    assert limit_ns is not None
    eventually(lambda: time.monotonic_ns() > limit_ns)
    assert bench.sent() == [(1, "UNKNOWN", "journal", False)]
    assert bench.commits.next_deadline_ns() is None
    hanging_disk.answer()
    bench.wait_for_answers(1)
    eventually(lambda: bench.kept() == {1: "UNKNOWN"})


def test_a_long_hang_fills_no_memory(journal: Journal, hanging_disk: HangingDisk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Verdicts that the journal refuses, because too many wait, do not queue behind one that it never answers."""
    monkeypatch.setattr(journal_queue, "MAX_WAITING", 3)
    bench = Bench(journal)
    bench.add(part(1), passed())
    hanging_disk.wait_until_it_hangs()
    monkeypatch.setattr(journal_module, "HANGS_AFTER_S", 0.3)
    eventually(lambda: journal.hang is not None)
    for sequence in range(2, 12):
        bench.add(part(sequence), passed())
        assert bench.sent()[-1] == (sequence, "UNKNOWN", "journal", False)
        assert not bench.commits
    assert len(journal._queue) <= 3
    assert len(journal._amends) <= 3


def noted_trigger(journal: Journal) -> int:
    """A trigger that the journal has recorded."""
    noted = threading.Event()
    trigger = journal.accept("a", "a1", 1, lambda error: noted.set())
    assert noted.wait(20)
    return trigger.number


def owed_after_a_restart(journal: Journal) -> list[int]:
    """The triggers that the next start would answer with UNKNOWN: restart."""
    assert journal.close(20)
    return [trigger.number for trigger in open_journal(config(journal.path)).take_owed()]


@pytest.mark.parametrize("on_failure", ["unknown", "continue"])
@pytest.mark.parametrize("sent", ["after the answer", "at the deadline", "at the end"])
def test_a_trigger_whose_verdict_is_not_stored_is_answered_once(
    journal: Journal, on_failure: Literal["unknown", "continue"], sent: str
) -> None:
    """Its commit fails, before the verdict is sent or after: the next start owes no second verdict."""
    bench = Bench(journal, on_failure)
    triggered = part(1, trigger=noted_trigger(journal), deadline_s=0.01 if sent == "at the deadline" else None)
    with writing_blocked(journal.path):
        bench.add(triggered, passed())
        if sent == "after the answer":
            bench.wait_for_answers(1)
            assert len(bench.sent()) == 1
        else:
            eventually(lambda: sent == "at the end" or time.monotonic_ns() > (triggered.deadline_ns or 0))
            assert len(bench.sent_at_the_end() if sent == "at the end" else bench.sent()) == 1
            bench.wait_for_answers(1)
        assert journal.stats().failures > 0
    assert owed_after_a_restart(journal) == []


def test_a_trigger_whose_verdict_the_journal_refuses_is_answered_once(
    journal: Journal, hanging_disk: HangingDisk, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The verdict is refused at once, and its trigger still waits to be recorded: the next start owes no second verdict."""
    monkeypatch.setattr(journal_queue, "MAX_WAITING", 2)
    monkeypatch.setattr(journal_queue, "MAX_COMMIT", 1)
    bench = Bench(journal)
    for sequence in (1, 2):
        bench.add(part(sequence), passed())
    eventually(lambda: len(journal._queue) == 1)  # the other one is being committed
    noted = threading.Event()
    trigger = journal.accept("a", "a3", 1, lambda error: noted.set()).number
    bench.add(part(3, trigger=trigger, camera="b"), passed())
    assert bench.sent() == [(3, "UNKNOWN", "journal", False)]
    hanging_disk.answer()
    assert noted.wait(20)
    assert owed_after_a_restart(journal) == []


def test_a_trigger_is_owed_a_verdict_until_one_was_sent(journal: Journal) -> None:
    """If the daemon ends after the failed commit, but before the verdict is sent, the next start sends one."""
    bench = Bench(journal)
    number = noted_trigger(journal)
    with writing_blocked(journal.path):
        bench.add(part(1, trigger=number), passed())
        bench.wait_for_answers(1)
    assert owed_after_a_restart(journal) == [number]


def test_the_end_sends_all_that_wait(journal: Journal) -> None:
    """Results that the journal has not answered are sent as UNKNOWN. If they are committed later, they are kept as that."""
    bench = Bench(journal)
    with writing_blocked(journal.path):
        bench.add(part(1), passed())
        assert bench.sent_at_the_end() == [(1, "UNKNOWN", "journal", False)]
    eventually(lambda: bench.kept() == {1: "UNKNOWN"})


def test_the_end_keeps_the_order_of_numbers(journal: Journal) -> None:
    """Verdicts of several cameras that are sent without the journal's answer go out in the order of their numbers too."""
    bench = Bench(journal)
    with writing_blocked(journal.path):
        for sequence, camera in enumerate("aababb"):
            bench.add(part(sequence, camera=camera), passed())
        assert [seq for seq, *_ in bench.sent_at_the_end()] == [1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("outcome", ["result", "overrun"])
@pytest.mark.parametrize("deadline_s", [None, 0.1])
def test_the_journal_keeps_the_header_that_was_sent(
    journal: Journal, outcome: Literal["result", "overrun"], deadline_s: float | None
) -> None:
    """Also if the verdict was sent before the journal answered: only `durable` differs, which is true in the journal."""
    bench = Bench(journal)
    with writing_blocked(journal.path):
        bench.add(part(1, deadline_s=deadline_s), passed() if outcome == "result" else Unknown("overrun"))
        time.sleep(0.15)
        bench.sent_at_the_end()
    eventually(lambda: bool(bench.kept()))
    kept = msgspec.json.decode(read_all(journal).entries[1].header, type=wire.Verdict)
    assert bench.headers[1].durable is False
    assert kept == msgspec.structs.replace(bench.headers[1], durable=True)
