"""The station when one of its own threads fails. It runs in this process, so that a test can cause the failure."""

import dataclasses
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import msgspec
import pytest
from support.anosegd_line import LIMIT_S, Line, wait_until
from support.tiny_bundle import good_part, tiny_draft, write_tiny_bundle

from anoseg_engines.bundle_writer import write_bundle
from anoseg_engines.engine import Engine
from anoseg_engines.errors import ConfigError, EngineError, PublishError
from anoseg_engines.loading import load_engine
from anoseg_engines.placement import InputSpec
from anoseg_engines.runtimes.openvino_network import CompiledNetwork, Networks
from anosegd import logs
from anosegd.config import Config, load_config
from anosegd.heartbeat import SILENT_S
from anosegd.inspection.inspector import Inspector
from anosegd.inspection.loaded_engines import LoadedEngine, engine_name
from anosegd.inspection.queue import InspectionQueue
from anosegd.inspection.swap import Swaps
from anosegd.part import Frame, Part
from anosegd.publish.masks import MaskEncoder
from anosegd.reload import Reloaded
from anosegd.station import End, Station
from anosegd.systemd import Notifier
from anosegd.worker import NOBODY

FOLDER = "top:\n  source: {kind: folder, path: images, loop: true, fps: 50}\n  policy: wait\n"


@pytest.fixture
def config(line: Line) -> Path:
    (line.folder / "images").mkdir()
    cv2.imwrite(str(line.folder / "images" / "0.png"), good_part())
    return line.config(FOLDER)


def test_death_of_the_inspector_is_an_orderly_stop(line: Line, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the inspector's thread dies of a bug, the daemon ends with exit code 1 and the remaining parts are UNKNOWN: engine."""

    def broken(self: Inspector, frame: Frame) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(Inspector, "_inspect", broken)
    end = Station(load_config(config), Notifier(), {}, lambda: load_config(config)).run()
    assert end == End(exit_code=1, stuck=False)
    line.listener.drain()
    verdicts = line.listener.verdicts
    assert verdicts
    assert {(v["outcome"], v["reason"]) for v in verdicts} == {("UNKNOWN", "engine")}
    assert line.listener.last_state()["state"] == "Halted"


def test_death_of_the_mask_encoder_is_an_orderly_stop(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Even the death of the thread that only encodes images ends the daemon."""

    def broken(self: MaskEncoder) -> None:
        raise RuntimeError("a fault of ours")

    monkeypatch.setattr(MaskEncoder, "work", broken)
    assert Station(load_config(config), Notifier(), {}, lambda: load_config(config)).run().exit_code == 1


def test_a_start_without_threads_left_ends(line: Line, config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If the inspector's thread cannot be started, the threads started before it end: nothing keeps the process alive."""
    more = f"control: {{endpoint: '{line.endpoint}-control'}}\njournal: {{path: verdicts.db}}"
    config = line.config(FOLDER, more=more)

    def refused(self: Inspector) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Inspector, "start", refused)
    before = set(threading.enumerate())
    station = Station(load_config(config), Notifier(), {}, lambda: load_config(config))
    try:
        with pytest.raises(RuntimeError, match="can't start new thread"):
            station.run()
        assert [t.name for t in threading.enumerate() if t not in before] == []
    finally:
        station._stop("failure")  # ends the threads that a failed test left


def test_a_start_without_the_image_of_the_empty_place_ends_before_it_is_ready(line: Line, config: Path) -> None:
    """If the image disappears after the check, the station is not ready yet: a reload can return to the one before."""
    config = line.config(FOLDER + "  presence: {empty: images/gone.png}\n")
    station = Station(load_config(config), Notifier(), {}, lambda: load_config(config))
    with pytest.raises(ConfigError, match=r"presence\.empty"):
        station.run()
    assert not station.ready


def test_watchdog_is_fed_only_while_threads_answer(config: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    """If the inspector or the publisher hangs, the watchdog is not fed and the state is Error. Cameras do not count."""
    path = tmp_path_factory.mktemp("n") / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(path))
        systemd.setblocking(False)
        notifier = Notifier(str(path), 30.0)
        station = Station(load_config(config), notifier, {}, lambda: load_config(config))
        station.open()
        workers = {"inspector": station._inspector, "publisher": station._publisher, "camera": station._cameras.all[0]}

        def fed(*, hangs: str | None) -> bool:
            for name, worker in workers.items():
                worker._answered_at = time.monotonic() - (SILENT_S + 1 if name == hangs else 0)
            station._watchdog_at = 0.0
            station._notify_systemd()
            told = b""
            try:
                while True:
                    told += systemd.recv(1000)
            except BlockingIOError:
                return b"WATCHDOG=1" in told

        assert fed(hangs=None)
        assert not fed(hangs="inspector")
        assert not fed(hangs="publisher")
        assert fed(hangs="camera")
        notifier.close()

        assert station._heartbeat.state()[0] == "Preoperational"
        station._inspector.engine = engine_name(station._heartbeat.bundle, "cpu")
        fed(hangs="inspector")
        assert station._heartbeat.state()[0] == "Error"


def test_an_inspector_that_refuses_part_after_part_answers(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """If every part is refused (the lamp is off) and the next one always waits, the watchdog is still fed."""
    station = Station(load_config(config), Notifier(), {}, lambda: load_config(config))
    station.open()
    part = Frame(Part(camera="top", sequence=1, part_id="", captured_ns=0, captured_wall_ns=0), good_part(), lambda: None)
    silent_s: list[float] = []

    def refuse(self: Inspector, loaded: LoadedEngine, frame: Frame, *, start: bool) -> None:
        silent_s.append(self.silent_s)
        time.sleep(0.05)

    monkeypatch.setattr(Inspector, "_prepare", refuse)
    monkeypatch.setattr(InspectionQueue, "take_ahead", lambda _: part if len(silent_s) < 60 else None)
    engine = load_engine(station._heartbeat.bundle, runtime="cpu", threads=2)
    station._inspector.answer()
    loaded = LoadedEngine.of(engine, {}, None)
    station._inspector.loaded.put("", loaded)
    station._inspector._inspect_concurrently(loaded, part)
    engine.close()
    assert len(silent_s) == 60
    assert max(silent_s) < 1.5  # all of them take 3 s


def test_a_reload_whose_file_is_gone_changes_nothing(line: Line, config: Path) -> None:
    """If the image of the empty place disappears after the check, the station goes on with its cameras and says so."""
    station = Station(load_config(config), Notifier(), {}, lambda: load_config(config))
    station.open()
    before = station._cameras.all
    changed = load_config(line.config(FOLDER + "  presence: {empty: images/gone.png}\n", name="changed.yaml"))
    answers: list[str | None] = []
    assert station._continue_with(Reloaded(changed, station._swaps.bundle, None, answers.append)) is None
    assert "presence.empty" in str(answers[0])
    assert station._cameras.all == before
    assert station._config == load_config(config)
    assert "presence.empty" in str(station._heartbeat.notice)


def test_the_reason_of_the_end_is_logged_although_a_thread_is_stuck(
    config: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """Nobody else reports it: the process ends without the thread that hangs, so `main` gets no error."""
    logs.set_up()
    station = Station(load_config(config), Notifier(), {}, lambda: load_config(config))
    station.open()
    over = threading.Event()
    station._publisher._thread = threading.Thread(target=over.wait)
    station._publisher._thread.start()
    try:
        station._inspector.failure = EngineError("CUDA failed: an illegal memory access was encountered")
        end = station._end("failure", [station._publisher, station._inspector])
    finally:
        over.set()
    assert end == End(exit_code=3, stuck=True)
    assert "illegal memory access" in capfd.readouterr().err


def test_every_thread_that_failed_is_logged(config: Path, capfd: pytest.CaptureFixture[str]) -> None:
    """`main` reports one error; the others are logged."""
    logs.set_up()
    station = Station(load_config(config), Notifier(), {}, lambda: load_config(config))
    station.open()
    station._publisher.failure, station._inspector.failure = PublishError("one reason"), EngineError("another reason")
    with pytest.raises(PublishError, match="one reason"):
        station._end("failure", [station._publisher, station._inspector])
    assert "another reason" in capfd.readouterr().err


def test_every_region_is_compiled_before_the_station_is_ready(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """No part waits for the compiler."""
    store = line.folder / "store" / "tiled"
    write_tiny_bundle(store, InputSpec(64, 64, "tile", 1.0, 0))
    (line.folder / "images").mkdir()
    cv2.imwrite(str(line.folder / "images" / "0.png"), good_part(64, 320))
    camera = "{kind: folder, path: images}, policy: wait, region: {x: 0, y: 0, height: 64, width:"
    config = line.config("".join(f"c{n}: {{source: {camera} {64 * n}}}}}\n" for n in range(2, 6)), store=store)
    compiled: list[tuple[int, bool]] = []
    compile_size = Networks._compile

    def noted(self: Networks, n: int) -> CompiledNetwork:
        compiled.append((n, station.ready))
        return compile_size(self, n)

    monkeypatch.setattr(Networks, "_compile", noted)
    loaded = msgspec.structs.replace(load_config(config), exit_when_finished=True)
    station = Station(loaded, Notifier(), dict(os.environ), lambda: loaded)
    assert station.run() == End(exit_code=0, stuck=False)
    assert sorted(compiled) == [(n, False) for n in range(1, 6)]
    line.listener.drain()
    assert [v["outcome"] for v in line.listener.verdicts] == ["PASS"] * 4


def test_a_reload_compiles_for_new_regions_before_its_cameras_start(line: Line) -> None:
    """On the reload's thread, with the engine that inspects: neither the old nor the new cameras wait for it."""
    store = line.folder / "store" / "tiled"
    write_tiny_bundle(store, InputSpec(64, 64, "tile", 1.0, 0))
    (line.folder / "images").mkdir()
    cv2.imwrite(str(line.folder / "images" / "0.png"), good_part(64, 320))
    region = "  region: {x: 0, y: 0, height: 64, width: %d}\n"
    config = load_config(line.config(FOLDER + region % 128, store=store))
    station = Station(config, Notifier(), {}, lambda: config)
    station.open()
    engine = load_engine(station._heartbeat.bundle, runtime="cpu", threads=1)
    station._inspector.add("", engine, {})
    changed = load_config(line.config(FOLDER + region % 256, store=store, name="changed.yaml"))
    assert station._load_reloaded(changed)[1] is None
    assert 4 in engine._runtime._networks.compiled  # type: ignore[attr-defined]
    engine.close()


class Changes:
    """A station that inspects no parts, in whose place the test runs the main loop's share of swaps and reloads.

    Attributes:
        answers: What was answered to whom, in this order; None for success.
        go_on: Swaps load their bundles when it is set.
        reread: What a reload reads.
    """

    def __init__(self, line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
        self.store = line.folder / "store" / "tiny"
        for threshold in (0.5, 0.4, 0.3):
            write_bundle(self.store, dataclasses.replace(tiny_draft(), score_threshold=threshold))
        self._line = line
        self.answers: dict[str, str | None] = {}
        self.go_on = threading.Event()
        config = self.config(1)
        self.reread: Callable[[], Config] = lambda: config
        load = Swaps._load

        def held(swaps: Swaps, path: Path, other_product: bool) -> Engine:
            assert self.go_on.wait(LIMIT_S)
            return load(swaps, path, other_product)

        monkeypatch.setattr(Swaps, "_load", held)
        self.station = Station(config, Notifier(), {}, lambda: self.reread())
        self.station.open()
        self.station._inspector.start()
        wait_until(lambda: self.station._inspector.engine is not None, "the engine is loaded")

    def config(self, version: int) -> Config:
        """The station's configuration with this version of the bundle."""
        return load_config(self._line.config(FOLDER, store=self.store / str(version), name=f"{version}.yaml"))

    def swap(self, version: int) -> None:
        bundle = str(self.store / str(version))
        self.station._swaps.swap(bundle, False, lambda error: self.answers.update(swap=error), NOBODY)

    def reload(self) -> None:
        self.station._reloads.ask(lambda error: self.answers.update(reload=error))

    def pass_on(self) -> None:
        """Run the main loop's share once, and again after a reload's check if there is one."""
        assert self.station._change_engines() is None
        if (check := self.station._reloads._check) is not None:
            assert check.join(LIMIT_S)
            assert self.station._change_engines() is None

    def finish(self) -> None:
        """Run the main loop's share until both are answered."""

        def answered() -> bool:
            assert self.station._change_engines() is None
            return len(self.answers) == 2

        wait_until(answered, f"both answers, not only {self.answers}")

    @property
    def inspecting(self) -> tuple[str, str, str]:
        """The bundle that inspects, the one that swaps and reloads believe to inspect, and the one that is configured."""
        in_force = self.station._inspector.in_force
        assert in_force is not None
        return in_force.engine.bundle.label, self.station._swaps.bundle.label, self.station._heartbeat.bundle.label


@pytest.fixture
def changes(line: Line, config: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Changes]:
    changes = Changes(line, monkeypatch)
    yield changes
    changes.go_on.set()
    changes.station._stop("drain")


def test_a_reload_during_a_swap_takes_the_configurations_bundle(changes: Changes) -> None:
    """It waits for the swap, and then replaces the other bundle, although the file is the same."""
    changes.swap(2)
    changes.pass_on()
    changes.reload()
    changes.pass_on()  # a check would now find that the configuration's bundle still inspects
    assert changes.answers == {}
    changes.go_on.set()
    changes.finish()
    assert changes.answers == {"swap": None, "reload": None}
    assert list(changes.answers) == ["swap", "reload"]
    assert changes.inspecting == ("tiny/1", "tiny/1", "tiny/1")


def test_a_swap_during_a_reload_comes_after_it(changes: Changes) -> None:
    """It waits for the check and for the reload's own bundle."""
    changes.go_on.set()
    changes.config(3)
    changes.reread = lambda: changes.config(3)
    changes.reload()
    assert changes.station._change_engines() is None
    assert changes.station._reloads.busy
    changes.swap(2)
    changes.finish()
    assert list(changes.answers) == ["reload", "swap"]
    assert changes.answers == {"swap": None, "reload": None}
    assert changes.inspecting == ("tiny/2", "tiny/2", "tiny/3")


@pytest.mark.parametrize("first", ["swap", "reload"])
def test_a_change_that_fails_holds_up_no_other(changes: Changes, first: str) -> None:
    """A swap without bundle, and a reload of a file that is refused: the other one is carried out."""

    def refuse() -> Config:
        raise ConfigError("the file is refused")

    if first == "swap":
        changes.swap(9)
        changes.pass_on()
        changes.reload()
    else:
        changes.reread = refuse
        changes.reload()
        assert changes.station._change_engines() is None
        changes.swap(2)
    changes.go_on.set()
    changes.finish()
    assert changes.answers.pop(first) is not None
    assert list(changes.answers.values()) == [None]
    assert changes.inspecting == (("tiny/1", "tiny/1", "tiny/1") if first == "swap" else ("tiny/2", "tiny/2", "tiny/1"))


def test_a_station_that_stops_answers_changes_that_wait(changes: Changes) -> None:
    """A reload that waits for a swap, and the swap itself."""
    changes.swap(2)
    changes.pass_on()
    changes.reload()
    changes.pass_on()
    changes.go_on.set()
    changes.station._stop("drain")
    assert set(changes.answers) == {"swap", "reload"}


STUCK = {
    "while it starts": """
def refused(self):
    threading.Thread(target=time.sleep, args=(3600,), name="hangs").start()
    raise PublishError("the socket cannot be bound")
Publisher.start = refused
""",
    "while it runs": """
def failed(self, *_):
    raise PublishError("the socket cannot be bound")
Inspector._inspect = failed
run_camera = CameraSupervisor.work
def hangs(self):
    run_camera(self)
    time.sleep(3600)
CameraSupervisor.work = hangs
""",
    "of a fault of ours": """
def failed(self):
    raise RuntimeError("the socket cannot be bound")
Station._inspect = failed
run_camera = CameraSupervisor.work
def hangs(self):
    run_camera(self)
    time.sleep(3600)
CameraSupervisor.work = hangs
""",
}
PROGRAM = """
import threading, time
from anoseg_engines.errors import PublishError
from anosegd.cameras.supervisor import CameraSupervisor
from anosegd.cli import main
from anosegd.inspection.inspector import Inspector
from anosegd.publish import Publisher
from anosegd.station import Station
{fault}
main()
"""


@pytest.mark.parametrize("fault", STUCK.values(), ids=STUCK.keys())
def test_a_daemon_with_a_stuck_thread_ends_and_says_why(line: Line, config: Path, fault: str) -> None:
    """The thread that hangs neither keeps the process alive nor hides the reason."""
    daemon = line.run(config, program=("-c", PROGRAM.format(fault=fault)))
    assert daemon.wait() == 1
    assert "the socket cannot be bound" in daemon.log
    (stuck,) = [e["threads"] for e in daemon.events if e["event"] == "daemon.stuck"]
    assert stuck in ("hangs", "camera-top")
