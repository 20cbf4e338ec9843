"""The station when one of its own threads fails. It runs in this process, so that a test can cause the failure."""

import socket
import threading
import time
from pathlib import Path

import cv2
import pytest
from support.anosegd_line import Line
from support.tiny_bundle import good_part

from anoseg_engines.engine import Engine
from anoseg_engines.errors import ConfigError
from anoseg_engines.loading import load_engine
from anosegd.config import load_config
from anosegd.heartbeat import SILENT_S
from anosegd.inspection.inspector import Inspector, engine_name
from anosegd.inspection.queue import InspectionQueue
from anosegd.part import Frame, Part
from anosegd.publish.masks import MaskEncoder
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

    def broken(self: Inspector, engine: object, frame: Frame) -> None:
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

    def refuse(self: Inspector, engine: Engine, frame: Frame, *, start: bool) -> None:
        silent_s.append(self.silent_s)
        time.sleep(0.01)

    monkeypatch.setattr(Inspector, "_prepare", refuse)
    monkeypatch.setattr(InspectionQueue, "take_ahead", lambda _: part if len(silent_s) < 60 else None)
    engine = load_engine(station._heartbeat.bundle, runtime="cpu", threads=2)
    station._inspector.answer()
    station._inspector._inspect_concurrently(engine, part)
    engine.close()
    assert len(silent_s) == 60
    assert max(silent_s) < 0.5
