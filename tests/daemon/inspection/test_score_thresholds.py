"""Moving a camera's score threshold, with the real daemon: `anosegd set-threshold` and the configuration."""

import dataclasses
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import msgspec
import pytest
from support.anosegd_line import Daemon, Line, run_anosegd
from support.tiny_bundle import bad_part, good_part, tiny_draft

from anoseg_engines.bundle_writer import write_bundle
from anoseg_trainer.thresholds import withheld
from anosegd.client import Client, RefusedError
from anosegd.wire import utc

LOOP = "line: {policy: wait, source: {kind: folder, path: images, loop: true, fps: 40}}"
GOOD_SCORE = 0.0625
JOURNAL = "journal: {path: verdicts.db}"


class Station:
    """A line that shows nine good parts and a bad one in turn, with a control socket."""

    def __init__(self, line: Line, sockets: Path, store: Path) -> None:
        self.line, self.control, self.store = line, f"ipc://{sockets}/ctl", store
        (line.folder / "images").mkdir()
        for i in range(10):
            cv2.imwrite(str(line.folder / "images" / f"{i}.png"), good_part() if i else bad_part())

    def start(self, cameras: str = LOOP, more: str = JOURNAL) -> Daemon:
        more = f"control: {{endpoint: '{self.control}'}}\n{more}"
        self.config = self.line.config(cameras, more=more, store=self.store / "1")
        return self.start_again()

    def start_again(self) -> Daemon:
        runs = {v["run_id"] for v in self.line.listener.verdicts}
        daemon = self.line.run(self.config)
        self.line.listener.wait_for(lambda m: m.topic == "verdict.line" and m.header["run_id"] not in runs)
        return daemon

    def ask(self, command: str, *arguments: str) -> str:
        """What a command prints that must succeed."""
        done = run_anosegd(command, str(self.config), *arguments)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def set(self, value: str, why: str = "scratches pass") -> str:
        return self.ask("set-threshold", "line", value, "--who", "Anna", "--why", why)

    def refused(self, *arguments: str) -> str:
        done = run_anosegd("set-threshold", str(self.config), *arguments, "--who", "Anna", "--why", "test")
        assert done.returncode != 0
        return done.stderr

    def next_verdict(self, captured_from: str = "") -> dict[str, Any]:
        """The next verdict of a good part that was captured at this moment or later; without one, from now on."""
        captured_from = captured_from or utc(time.time_ns())  # a part under way may have been judged with what was before
        while self.line.listener.take(0) is not None:
            pass
        header = self.line.listener.wait_for(
            lambda m: (
                m.topic == "verdict.line"
                and not m.header["source"].endswith("0.png")
                and m.header["captured_at"] >= captured_from
            )
        ).header
        assert header["score"] == GOOD_SCORE
        return header

    def decides(self, captured_from: str = "") -> tuple[float, str, str]:
        """Threshold, who chose it, and what became of a good part."""
        verdict = self.next_verdict(captured_from)
        return verdict["threshold"], verdict["threshold_from"], verdict["outcome"]

    def health(self) -> dict[str, Any]:
        while self.line.listener.take(0) is not None:
            pass
        return dict(self.line.listener.wait_for_state(lambda s: True)["cameras"]["line"])

    def changes(self) -> list[dict[str, Any]]:
        return [json.loads(text) for text in self.ask("changes", "--json").splitlines()]


@pytest.fixture
def station(line: Line, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Station]:
    store = tmp_path / "store" / "tiny"
    write_bundle(store, tiny_draft())
    write_bundle(store, dataclasses.replace(tiny_draft(), score_threshold=0.4))
    return Station(line, tmp_path_factory.mktemp("c"), store)


def test_a_person_moves_the_threshold_and_it_stays(station: Station) -> None:
    """It decides from the next part on, also after a crash, until it is set back; the journal says who, when and why."""
    daemon = station.start()
    assert station.decides() == (0.5, "calibration", "PASS")
    assert station.health()["note"] is None
    said = station.set("0.05")
    assert said.startswith("set-threshold: line is FAIL from 0.05 (set by Anna) on; before, from 0.5 (calibrated)\n")
    assert "what the calibration promises about good parts does not hold, and more good parts are rejected" in said
    assert station.decides() == (0.05, "person", "FAIL")
    daemon.process.kill()
    daemon.wait()
    station.start_again()
    assert station.decides() == (0.05, "person", "FAIL")
    health = station.health()
    assert (health["threshold"]["value"], health["threshold"]["who"], health["threshold"]["calibrated"]) == (0.05, "Anna", 0.5)
    assert "threshold 0.05 set by Anna, calibrated 0.5" in health["note"]
    assert station.set("calibrated", why="as trained") == (
        "set-threshold: line is FAIL from 0.5 (calibrated) on; before, from 0.05 (set by Anna)\n"
    )
    assert station.decides() == (0.5, "calibration", "PASS")
    assert [(c["kind"], c["camera"], c["old"], c["new"], c["who"], c["why"]) for c in station.changes()] == [
        ("threshold", "line", "0.5 calibration", "0.05 person", "Anna", "scratches pass"),
        ("threshold", "line", "0.05 person", "0.5 calibration", "Anna", "as trained"),
    ]


def test_status_says_what_past_parts_show(station: Station) -> None:
    """Where the calibration promises nothing, it counts which past parts of this camera and bundle would be rejected."""
    station.start(LOOP.replace("loop: true, fps: 40", "loop: false, fps: null"))
    station.line.listener.wait_for_verdicts(10)
    assert "would" not in station.ask("status")
    station.set("0.05")
    said = " ".join(station.ask("status").split())
    assert "line: threshold 0.05 rejects 10 of the last 10 parts (100.0%) in the journal, since" in said
    assert "; 0.5 rejects 1" in said
    assert "line: Anna set the threshold at" in said
    assert "in the journal 10: 9 PASS, 1 FAIL, 0 UNKNOWN, since" in said


def test_the_configurations_threshold(station: Station) -> None:
    """`score_threshold` counts before the calibration, and what a person sets counts before both."""
    station.start(LOOP.replace("{policy", "{score_threshold: 0.06, policy"))
    assert station.decides() == (0.06, "configuration", "FAIL")
    assert "threshold 0.06 from the configuration, calibrated 0.5" in station.health()["note"]
    assert "threshold 0.06 from the configuration, calibrated 0.5" in run_anosegd("check", str(station.config)).stdout
    station.set("0.9")
    assert station.decides() == (0.9, "person", "PASS")
    assert "more defects pass" in station.health()["note"]
    station.set("calibrated")
    assert station.decides() == (0.06, "configuration", "FAIL")
    station.config.write_text(station.config.read_text().replace("score_threshold: 0.06, ", ""))
    station.ask("reload")
    # Parts that the camera of before had captured are judged by its settings.
    assert station.decides(utc(time.time_ns())) == (0.5, "calibration", "PASS")


def test_a_change_of_the_configuration_is_noted(station: Station) -> None:
    """At a start and at a reload, with the old and the new value, once; not while a person's threshold decides."""

    def configure(old: str, new: str) -> None:
        station.config.write_text(station.config.read_text().replace(old, new))

    def rows() -> list[tuple[str, ...]]:
        return [(c["old"], c["new"], c["who"], c["why"]) for c in station.changes()]

    daemon = station.start(LOOP.replace("{policy", "{score_threshold: 0.06, policy"))
    first = ("0.5 calibration", "0.06 configuration", "configuration", "read at a start")
    assert rows() == [first]
    assert daemon.terminate() == 0
    daemon = station.start_again()
    station.ask("reload")
    assert rows() == [first]
    configure("0.06", "0.07")
    station.ask("reload")
    second = ("0.06 configuration", "0.07 configuration", "configuration", "read at a reload")
    assert rows() == [first, second]
    station.set("0.9")
    configure("score_threshold: 0.07, ", "")
    station.ask("reload")
    assert daemon.terminate() == 0
    configure("policy: wait", "policy: wait, score_threshold: 0.2")
    daemon = station.start_again()
    station.set("calibrated", why="enough")
    assert rows()[2:] == [
        ("0.07 configuration", "0.9 person", "Anna", "scratches pass"),
        ("0.9 person", "0.2 configuration", "Anna", "enough"),
    ]
    assert daemon.terminate() == 0
    configure(", score_threshold: 0.2", "")
    station.start_again()
    table = " ".join(station.ask("changes").split())
    assert "0.06 configured" in table
    assert "0.5 calibrated" in table
    assert rows()[4:] == [("0.2 configuration", "0.5 calibration", "configuration", "read at a start")]


def test_where_nothing_was_promised_no_promise_is_lost(station: Station) -> None:
    """`status` and `set-threshold` say that the calibration promised nothing."""
    draft = tiny_draft()
    nothing = msgspec.structs.replace(draft.calibration, guarantee=withheld(12))
    write_bundle(station.store, dataclasses.replace(draft, calibration=nothing))
    station.start()
    station.ask("swap", "--bundle", str(station.store / "3"))
    said = station.set("0.05")
    assert "the calibration promised nothing about good parts, and more good parts are rejected" in said
    assert "does not hold" not in said
    status = " ".join(station.ask("status").split())
    assert "the calibration promised nothing about good parts" in status
    assert "does not hold" not in status


def test_it_belongs_to_the_bundle(station: Station) -> None:
    """Another bundle's scores cannot be compared: it judges by its own threshold. Swaps are noted with who, from and to."""
    station.start()
    station.set("0.05")
    digest = station.next_verdict()["engine"]["digest"]
    station.ask("swap", "--bundle", str(station.store / "2"), "--who", "Ben", "--why", "new light")
    assert station.decides() == (0.4, "calibration", "PASS")
    other = station.next_verdict()["engine"]["digest"]
    station.ask("rollback", "--who", "Ben")
    assert station.decides() == (0.05, "person", "FAIL")
    assert [(c["kind"], c["camera"], c["old"], c["new"], c["who"], c["why"]) for c in station.changes()[1:]] == [
        ("swap", None, f"tiny/1 {digest}", f"tiny/2 {other}", "Ben", "new light"),
        ("rollback", None, f"tiny/2 {other}", f"tiny/1 {digest}", "Ben", ""),
    ]
    table = station.ask("changes")
    assert "0.05 person" in " ".join(table.split())


def test_a_start_with_another_bundle_is_noted(station: Station) -> None:
    """After a restart that changes the bundle, the journal says from which one to which, without a name."""
    daemon = station.start()
    assert daemon.terminate() == 0
    station.config.write_text(station.config.read_text().replace(str(station.store / "1"), str(station.store / "2")))
    daemon = station.start_again()
    assert [(c["kind"], c["old"][:6], c["new"][:6], c["who"]) for c in station.changes()] == [("start", "tiny/1", "tiny/2", "")]
    assert daemon.terminate() == 0
    station.start_again()
    assert len(station.changes()) == 1


def test_what_is_refused(station: Station) -> None:
    """No such camera, no threshold, nobody who asks: one line says what is wrong, and nothing changes."""
    station.start()
    assert "there is no camera 'side'; there are: line" in station.refused("side", "0.3")
    for value in ("0", "1.5", "nan", "inf", "x", "50%"):
        assert f"'{value}' is not a threshold" in station.refused("line", value)
    done = run_anosegd("set-threshold", str(station.config), "line", "0.3", "--who", " ", "--why", "x")
    assert (done.returncode, "say it in words" in done.stderr) == (2, True)
    with Client(station.line.endpoint, station.control) as client:
        for who, value in (("", 0.3), ("Anna", 0.0), ("Anna", 1.5)):
            with pytest.raises(RefusedError) as caught:
                client.set_threshold("line", value, who=who, why="x")
            assert caught.value.code == "bad_request"
        assert client.changes() == []
    assert station.decides() == (0.5, "calibration", "PASS")


@pytest.mark.parametrize(
    ("cameras", "more", "said"),
    [
        (LOOP, "", "without a journal nobody could see who set a threshold"),
        (LOOP.replace("{policy", "{rules: [{name: w}], policy"), JOURNAL, "has region rules, which alone decide"),
    ],
    ids=["no journal", "rules"],
)
def test_where_nobody_can_set_it(station: Station, cameras: str, more: str, said: str) -> None:
    """Without a journal, and where rules decide, the request is refused and says what to do instead."""
    station.start(cameras, more)
    assert said in station.refused("line", "0.3")


def test_a_threshold_that_cannot_be_kept_is_not_used(station: Station) -> None:
    """If the file beside the journal cannot be written, the old threshold goes on deciding and the reason is printed."""
    station.start()
    (station.line.folder / "verdicts.db.thresholds.new").mkdir()
    assert "the threshold cannot be kept" in station.refused("line", "0.05")
    assert station.decides() == (0.5, "calibration", "PASS")
    assert station.changes() == []


def test_a_damaged_file_is_not_passed_over(station: Station) -> None:
    """Nobody knows what was set, so the daemon does not judge by another threshold: exit code 2, and what to do."""
    daemon = station.start()
    station.set("0.05")
    assert daemon.terminate() == 0
    (station.line.folder / "verdicts.db.thresholds").write_bytes(b'{"settings": [{')
    daemon = station.line.run(station.config)
    assert daemon.wait() == 2
    assert "the thresholds that were set by hand cannot be read" in daemon.log
    (station.line.folder / "verdicts.db.thresholds").write_bytes(b'{"schema_version": 2, "settings": {}}')
    daemon = station.line.run(station.config)
    assert daemon.wait() == 2
    assert "a file of version 2; this program reads versions up to 1" in daemon.log
