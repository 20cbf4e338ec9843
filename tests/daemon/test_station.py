"""The station when one of its own threads fails. It runs in this process, so that a test can cause the failure."""

import os
import socket
import threading
import time
from pathlib import Path

import cv2
import msgspec
import pytest
from support.anosegd_line import Line
from support.tiny_bundle import good_part, write_tiny_bundle

from anoseg_engines.errors import ConfigError, EngineError, PublishError
from anoseg_engines.loading import load_engine
from anoseg_engines.placement import InputSpec
from anoseg_engines.runtimes.openvino_network import CompiledNetwork, Networks
from anosegd import logs
from anosegd.config import load_config
from anosegd.heartbeat import SILENT_S
from anosegd.inspection.inspector import Inspector
from anosegd.inspection.loaded_engines import LoadedEngine, engine_name
from anosegd.inspection.queue import InspectionQueue
from anosegd.part import Frame, Part
from anosegd.publish.masks import MaskEncoder
from anosegd.reload import Reloaded
from anosegd.station import End, Station
from anosegd.systemd import Notifier

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
