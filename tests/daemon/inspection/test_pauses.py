"""Pausing the inspection, with the real daemon: `anosegd pause` and `resume`."""

import time
from pathlib import Path
from typing import Any

import pytest
from support.anosegd_line import Daemon, Line, run_anosegd, wait_until

from anosegd.client import Client, RefusedError
from anosegd.inspection import pauses as pauses_module
from anosegd.inspection.pauses import PauseRequest, Pauses
from anosegd.journal import Journal, JournalConfig
from anosegd.worker import Asker

CAMERAS = """
top: {source: {kind: demo, fps: 20}, policy: every}
hand: {source: {kind: demo, fps: 20}, trigger: {kind: software}, policy: every, deadline_ms: 2000}
"""


class Station:
    """A line with a camera that inspects every frame, and one that waits for triggers."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.control = line.endpoint.replace("pub", "control")
        journal = line.folder / "verdicts.db"
        self.config = line.config(CAMERAS, more=f"control: {{endpoint: '{self.control}'}}\njournal: {{path: '{journal}'}}")

    def start(self) -> Daemon:
        daemon = self.line.run(self.config)
        self.line.listener.wait_for_state(
            lambda state: all(camera["state"] == "running" for camera in state["cameras"].values()) and bool(state["cameras"])
        )
        return daemon

    def ask(self, *arguments: str) -> str:
        done = run_anosegd(arguments[0], str(self.config), *arguments[1:])
        assert done.returncode == 0, done.stderr
        return done.stdout

    def next_verdict(self, camera: str, captured_from: str = "") -> dict[str, Any]:
        return self.line.listener.wait_for(
            lambda m: (
                m.topic == f"verdict.{camera}"
                and (m.header["captured_at"] or m.header["triggered_at"] or m.header["committed_at"]) > captured_from
            )
        ).header

    def health(self, camera: str, *, paused: bool) -> dict[str, Any]:
        state = self.line.listener.wait_for_state(lambda state: (state["cameras"][camera]["pause"] is not None) is paused)
        return {**state["cameras"][camera], "state": state["state"], "detail": state["detail"]}

    def changes(self) -> list[tuple[str, str | None, str, str]]:
        with self.client() as client:
            return [(c["kind"], c["camera"], c["who"], c["why"]) for c in client.changes()]

    def client(self) -> Client:
        return Client(self.line.endpoint, self.control)


@pytest.fixture
def station(line: Line) -> Station:
    return Station(line)


def test_every_part_of_a_pause_is_unknown(station: Station) -> None:
    """Frames and triggers are UNKNOWN: paused until the pause is ended; state, status, log and journal say who paused what."""
    daemon = station.start()
    assert "top" in station.ask("pause", "--minutes", "30", "--who", "Anna", "--why", "cleaning")
    found = station.health("top", paused=True)
    assert (found["state"], found["detail"]) == ("Ready", "paused: every part is UNKNOWN")
    assert (found["pause"]["who"], found["pause"]["why"]) == ("Anna", "cleaning")
    assert 1700 < found["pause"]["left_s"] <= 1800
    verdict = station.next_verdict("top", found["pause"]["since"])
    assert (verdict["outcome"], verdict["reason"], verdict["detail"]) == (
        "UNKNOWN",
        "paused",
        "the inspection is paused: cleaning",
    )
    assert (verdict["score"], verdict["durable"]) == (None, True)
    with station.client() as client:
        client.request("trigger", camera="hand", part_id="4711")
    answered = station.next_verdict("hand")
    assert (answered["part_id"], answered["reason"]) == ("4711", "paused")
    assert answered["captured_at"] is None  # it waited for no frame
    assert "paused until" in station.ask("status")

    assert "inspecting again: hand" in station.ask("resume", "--who", "Ben", "--camera", "hand")
    assert station.health("hand", paused=False)["state"] == "ContinuousExecution"
    with station.client() as client:
        client.request("trigger", camera="hand", part_id="4712")
    assert station.next_verdict("hand")["score"] is not None
    assert station.next_verdict("top")["reason"] == "paused"
    station.ask("resume", "--who", "Ben")
    station.health("top", paused=False)
    wait_until(lambda: station.next_verdict("top")["score"] is not None, "it inspects again")
    assert "nothing was paused" in station.ask("resume", "--who", "Ben")

    with station.client() as client, pytest.raises(RefusedError, match="there is no camera 'side'; there are: top, hand"):
        client.pause(5, who="Anna", camera="side")
    assert station.changes() == [
        ("pause", None, "Anna", "cleaning"),
        ("resume", "hand", "Ben", ""),
        ("resume", None, "Ben", ""),
    ]
    assert "paused until" in station.ask("changes")
    events = [(event["event"], event["who"]) for event in daemon.events if event["event"].startswith("pause.")]
    assert events == [("pause.begun", "Anna"), ("pause.ended", "Ben"), ("pause.ended", "Ben")]


def test_a_restart_inspects_again(station: Station) -> None:
    """A station that was killed in a pause inspects when it starts again, and the journal has the end of the pause."""
    daemon = station.start()
    with station.client() as client:
        client.pause(60, who="Anna", camera="top")
    assert station.health("top", paused=True)["state"] == "ContinuousExecution"  # the other camera inspects
    run_id = station.line.listener.wait_for_state(lambda state: True)["run_id"]
    daemon.process.kill()
    daemon.wait()
    station.line.run(station.config)
    # A part that was under way at the kill is UNKNOWN: restart, in the new run.
    first = station.line.listener.wait_for(
        lambda m: m.topic == "verdict.top" and m.header["run_id"] != run_id and m.header["reason"] != "restart"
    ).header
    assert first["score"] is not None, first
    wait_until(lambda: len(station.changes()) == 2, "the end of the pause is noted")
    assert station.changes() == [("pause", "top", "Anna", ""), ("resume", "top", "", "the station was started again")]


def test_it_ends_by_itself() -> None:
    """A pause whose time is over pauses nothing, also before the main thread has noticed."""
    pauses = Pauses(None)
    answers: list[Any] = []
    pauses.ask(PauseRequest("top", 1 / 60, Asker("Anna"), answers.append))
    assert pauses.look_after(["top", "side"])
    assert answers[0]["cameras"] == ["top"]
    assert (pauses.of("top") is not None, pauses.of("side")) == (True, None)
    time.sleep(1.01)
    assert pauses.of("top") is None
    assert pauses.look_after(["top", "side"])
    assert not pauses.look_after(["top", "side"])


def test_a_pause_of_all_holds_for_cameras_that_come_later() -> None:
    """A camera that a reload adds is paused with the others. Each can be inspected again by itself, and all together."""
    pauses = Pauses(None)
    answers: list[Any] = []

    def ask(camera: str | None, minutes: float | None) -> None:
        pauses.ask(PauseRequest(camera, minutes, Asker("Anna"), answers.append))
        assert pauses.look_after(["top", "side"])

    ask(None, 60)
    assert pauses.of("added") is not None
    ask("top", None)
    assert (pauses.of("top"), pauses.of("side") is None, pauses.of("added") is None) == (None, False, False)
    ask(None, None)
    assert [pauses.of(camera) for camera in ("top", "side", "added")] == [None, None, None]
    ask("top", 60)
    assert pauses.of("added") is None
    assert [answer["cameras"] for answer in answers] == [["side", "top"], ["top"], ["side"], ["top"]]


class Clock:
    """The monotonic clock by which pauses end."""

    now = 1000.0

    def monotonic(self) -> float:
        return self.now

    def time_ns(self) -> int:
        return time.time_ns()


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr(pauses_module, "time", clock)
    return clock


def test_a_camera_inspects_when_its_own_pause_ends_within_a_pause_of_all(clock: Clock) -> None:
    """Its own pause has replaced the pause of all, which goes on for the other cameras and returns for none."""
    pauses = Pauses(None)
    for camera, minutes in ((None, 60), ("side", 5)):
        pauses.ask(PauseRequest(camera, minutes, Asker("Anna"), lambda _: None))
        assert pauses.look_after(["top", "side"])
    clock.now += 6 * 60
    assert pauses.of("side") is None
    assert pauses.look_after(["top", "side"])
    assert not pauses.look_after(["top", "side"])
    assert pauses.of("side") is None  # as before the main thread had noticed
    assert pauses.of("top") is not None


def test_a_restart_notes_the_end_of_a_pause_that_was_longer_than_the_pause_of_all(tmp_path: Path, clock: Clock) -> None:
    """The end of a pause of all is no end of a camera's own pause that has replaced it."""
    journal = Journal.open(JournalConfig(path=str(tmp_path / "verdicts.db")))
    reader = journal.reader()

    def noted() -> list[tuple[str, str | None, str]]:
        return [(change.kind, change.camera, change.why) for change in reader.changes(10)]

    try:
        pauses = Pauses(journal)
        for camera, minutes in ((None, 5), ("side", 60)):
            pauses.ask(PauseRequest(camera, minutes, Asker("Anna"), lambda _: None))
            assert pauses.look_after(["top", "side"])
        clock.now += 6 * 60
        assert pauses.look_after(["top", "side"])
        assert (pauses.of("top"), pauses.of("side") is None) == (None, False)
        wait_until(lambda: len(noted()) == 3, "the end of the pause of all is noted")
        Pauses(journal).end_earlier()  # as the station does when it has started again
        wait_until(lambda: len(noted()) > 3, "the end of the other pause is noted")
        assert noted()[2:] == [("resume", None, "its time is over"), ("resume", "side", "the station was started again")]
    finally:
        reader.close()
        assert journal.close()
