"""A reload exchanges only what has changed: a camera is exchanged, added or removed while the others go on."""

import dataclasses
import itertools
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.anosegd_line import Daemon, Line, run_anosegd, wait_until
from support.tiny_bundle import write_tiny_bundle

from anosegd.client import Client

STILL = "still: {policy: wait, source: {kind: folder, path: images, loop: true, fps: 40}}"
OTHER = "other: {policy: every, deadline_ms: 2000, recipe: one, source: {kind: folder, path: images, loop: true, fps: 20}}"
CALLED = "called: {policy: every, recipe: one, trigger: {kind: software}, source: {kind: folder, path: images, loop: true}}"


class Reloaded:
    """A running line whose configuration is rewritten."""

    def __init__(self, line: Line, sockets: Path) -> None:
        self.line = line
        self.control = f"ipc://{sockets}/ctl"
        images = line.folder / "images"
        images.mkdir()
        for i in range(12):
            cv2.imwrite(str(images / f"{i:03d}.png"), np.full((32, 32, 3), 120 if i % 4 else 250, np.uint8))

    def write(self, *cameras: str) -> None:
        more = f"control: {{endpoint: '{self.control}'}}\njournal: {{path: verdicts.db}}"
        self.config = self.line.config("\n".join(cameras), more=more)

    def start(self, *cameras: str) -> Daemon:
        self.write(*cameras)
        self.daemon = self.line.run(self.config)
        self.line.listener.wait_for_state(lambda s: s["state"] == "ContinuousExecution")
        return self.daemon

    def reload(self, *cameras: str) -> None:
        self.write(*cameras)
        done = run_anosegd("reload", str(self.config))
        assert done.returncode == 0, done.stderr

    def wait_for(self, camera: str, n: int) -> None:
        """Until this camera has `n` verdicts."""
        while len(self.of(camera)) < n:
            self.line.listener.wait_for(lambda m: m.topic == f"verdict.{camera}")

    def of(self, camera: str) -> list[dict[str, object]]:
        return [v for v in self.line.listener.verdicts if v["camera"] == camera]


@pytest.fixture
def station(line: Line, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reloaded]:
    return Reloaded(line, tmp_path_factory.mktemp("c"))


def without_gap(verdicts: list[dict[str, object]]) -> bool:
    sequences = [v["sequence"] for v in verdicts]
    return sequences == list(range(sequences[0], sequences[0] + len(sequences)))


def test_one_camera_is_exchanged_and_the_other_goes_on(station: Reloaded) -> None:
    """The unchanged camera keeps its process and misses nothing. The changed one continues its numbers with the new recipe."""
    station.start(STILL, OTHER)
    station.line.listener.wait_for(lambda m: m.topic == "verdict.other")
    before = station.line.listener.verdicts[-1]
    station.reload(STILL, OTHER.replace("recipe: one", "recipe: two"))
    station.line.listener.wait_for(lambda m: m.topic == "verdict.other" and m.header["recipe"] == "two")
    station.line.listener.wait_for_verdicts(len(station.line.listener.verdicts) + 20)
    assert {v["run_id"] for v in station.line.listener.verdicts} == {before["run_id"]}  # the station is the same
    assert without_gap(station.of("still"))
    assert without_gap(station.of("other"))
    recipes = [v["recipe"] for v in station.of("other")]
    assert recipes == sorted(recipes)  # one, then two, and never back
    assert [v["seq"] for v in station.line.listener.verdicts] == sorted({v["seq"] for v in station.line.listener.verdicts})
    assert [e["camera"] for e in station.daemon.events if e["event"] == "camera.running"].count("still") == 1
    assert station.daemon.terminate() == 0


def test_cameras_come_and_go(station: Reloaded) -> None:
    """An added camera gives verdicts. A removed one gives none and leaves no threads or descriptors, after many reloads."""
    daemon = station.start(STILL)
    process = Path(f"/proc/{daemon.process.pid}")

    def used() -> tuple[int, int]:
        """Threads and descriptors of the daemon."""
        return len(list((process / "task").iterdir())), len(list((process / "fd").iterdir()))

    def exchanged() -> int:
        return sum(e["event"] == "reload.cameras" for e in daemon.events)

    for round_ in range(6):
        station.reload(STILL, OTHER)
        seen = len(station.of("other"))
        station.wait_for("other", seen + 3)
        station.reload(STILL)
        state = station.line.listener.wait_for_state(lambda s: set(s["cameras"]) == {"still"})
        assert state["state"] == "ContinuousExecution"
        # The state names the new cameras as soon as the removed one is asked to end; this is logged when it has ended.
        wait_until(lambda n=2 * round_ + 2: exchanged() == n, "the removed camera has ended")
        if round_ == 0:
            threads, descriptors = used()
    assert without_gap(station.of("still"))
    # The kernel may list a thread for a moment after it was joined.
    wait_until(lambda: used()[0] <= threads and used()[1] <= descriptors + 2, "nothing of the removed cameras is left")
    assert daemon.terminate() == 0


def test_triggers_during_a_reload_are_all_answered(station: Reloaded) -> None:
    """While a triggered camera is exchanged again and again, every accepted trigger gets exactly one verdict."""
    daemon = station.start(STILL, CALLED)
    accepted = []
    with Client(station.line.endpoint, station.control) as client:
        for i, recipe in zip(range(60), itertools.cycle(["one", "two", "three"]), strict=False):
            if i % 12 == 0:
                station.reload(STILL, CALLED.replace("recipe: one", f"recipe: {recipe}{i}"))
            accepted.append(client.request("trigger", camera="called", part_id=f"part-{i}")["part_id"])
            time.sleep(0.02)
        station.wait_for("called", len(accepted))
        while station.of("called")[-1]["outcome"] == "UNKNOWN":  # until the last one is open
            accepted.append(client.request("trigger", camera="called")["part_id"])
            station.wait_for("called", len(accepted))
            time.sleep(0.02)  # a client may send 200 requests a second
    assert sorted(str(v["part_id"]) for v in station.of("called")) == sorted(accepted)
    assert {v["outcome"] for v in station.of("called")} <= {"PASS", "FAIL", "UNKNOWN"}
    assert without_gap(station.of("called"))
    assert daemon.terminate() == 0


def test_the_answer_names_a_version_that_was_passed_over(line: Line, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Of a reload that changes nothing, one that changes the bundle, one that restarts the station, and a swap; not later."""
    store = line.folder / "store" / "tiny"
    write_tiny_bundle(store)
    line = dataclasses.replace(line, store=store)
    station = Reloaded(line, tmp_path_factory.mktemp("c"))
    station.start(STILL)
    (store / "2").symlink_to("gone")

    def said(*command: str) -> str:
        done = run_anosegd(*command)
        assert done.returncode == 0, done.stderr
        return done.stderr

    assert "2 is a link to something that does not exist; version 1 is used" in said("reload", str(station.config))
    assert "2 is a link" in said("swap", str(station.config), "--bundle", str(store))
    (store / "2").unlink()
    write_tiny_bundle(store)
    (store / "3").mkdir()
    assert "version 3 lacks manifest.json; version 2 is used" in said("reload", str(station.config))
    station.config.write_text(station.config.read_text().replace("test-station", "other-station"))
    assert "version 3 lacks manifest.json; version 2 is used" in said("reload", str(station.config))
    (store / "3").rmdir()
    assert said("reload", str(station.config)) == ""
    assert said("swap", str(station.config), "--bundle", str(store)) == ""
    assert station.daemon.terminate() == 0
