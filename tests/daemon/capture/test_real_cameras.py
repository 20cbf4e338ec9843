"""Cameras with their real protocols, a short run each; `make real-cameras` is the long run."""

import fcntl
import os
import tempfile
from collections.abc import Iterator
from datetime import datetime
from itertools import pairwise
from pathlib import Path

import pytest
from stress.real_cameras import CAMERAS, SERIAL, GigE, frozen, real_cameras
from support.anosegd_line import Line, run_anosegd

from anosegd.client import Client

here = {name: pytest.mark.skipif(bool(reason := kind.missing()), reason=reason) for name, kind in CAMERAS.items()}


@pytest.fixture(autouse=True)
def one_gige_camera() -> Iterator[None]:
    """Wait for other test runs on this machine: every GigE camera answers at the same port."""
    with (Path(tempfile.gettempdir()) / f"anoseg-gige-camera-{os.getuid()}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


@pytest.mark.parametrize("name", [pytest.param(name, marks=here[name]) for name in CAMERAS])
def test_a_camera_that_disappears_is_noticed_and_comes_back(name: str) -> None:
    """While the camera is killed no part is PASS and every trigger is answered; afterwards it is inspected again."""
    wrong = real_cameras([name], ["killed"], 1, long=False)
    assert [line for line in wrong if " after " not in line or "before" in line] == []  # the script measures how fast


@here["gige"]
def test_a_genicam_camera_is_listed_and_set_up(line: Line) -> None:
    """By id, by serial number, and by address with settings. A wrong serial number and a value out of bounds are refused."""
    camera = GigE()
    camera.start()
    try:
        cameras = (
            f"id:\n  source: {{kind: genicam, camera: Aravis-Fake-{SERIAL}, pixel_format: BayerRG8, gain: 1}}\n"
            f"serial:\n  source: {{kind: genicam, camera: {SERIAL}, pixel_format: Mono16}}\n"
            "address:\n  source: {kind: genicam, camera: 127.0.0.1, serial: OTHER}\n"
            "bounds:\n  source: {kind: genicam, camera: 127.0.0.1, gain: 99}\n"
        )
        listed = run_anosegd("cameras", process=True)  # Aravis keeps the result of a process's first search
        done = run_anosegd("cameras", str(line.config(cameras)), "--out", str(line.folder / "pictures"))
    finally:
        camera.stop()
    assert f"genicam Aravis-Fake-{SERIAL}: Aravis Fake, GigEVision at 127.0.0.1, serial {SERIAL}" in listed.stdout
    assert done.returncode == 1
    assert f"id: GenICam Aravis Fake, serial {SERIAL}, 512×512, BayerRG8: 512×512" in done.stdout, done.stderr
    assert f"serial: GenICam Aravis Fake, serial {SERIAL}, 512×512, Mono16: 512×512" in done.stdout
    assert f"is the camera {SERIAL}; source.serial: OTHER" in done.stderr
    assert "accepts a gain of 0 to 10, not 99" in done.stderr
    assert "Traceback" not in done.stderr


@here["gige"]
def test_a_camera_that_waits_for_its_trigger_is_not_lost(line: Line) -> None:
    """With hardware triggers a camera without frames stays running. When it is killed it is lost, although no frame was due."""
    camera = GigE()
    camera.start()
    try:
        source = f"{{kind: genicam, camera: Aravis-Fake-{SERIAL}, trigger_source: Line0}}"
        daemon = line.run(line.config(f"eye:\n  source: {source}\n  policy: every\n  trigger: {{kind: hardware}}\n"))
        line.listener.wait_for_state(lambda s: s["cameras"]["eye"]["state"] == "running")
        for _ in range(3):  # states come every second: twice the stall time-out
            state = line.listener.wait_for_state(lambda s: True)
        assert state["cameras"]["eye"]["state"] == "running"
    finally:
        camera.stop()
    state = line.listener.wait_for_state(lambda s: s["cameras"]["eye"]["state"] == "lost")
    assert "has dropped its connection" in state["cameras"]["eye"]["last_error"]
    assert daemon.terminate() == 0
    assert line.listener.verdicts == []


@here["gige"]
def test_a_camera_silent_for_a_moment_is_not_reopened(line: Line, tmp_path_factory: pytest.TempPathFactory) -> None:
    """It is lost, a part triggered meanwhile is UNKNOWN, and frames continue over the same connection."""
    camera = GigE()
    camera.start()
    try:
        source = f"{{kind: genicam, camera: Aravis-Fake-{SERIAL}, pixel_format: RGB8}}"
        more = "policy: every\n  trigger: {kind: software, within_ms: 500}"
        control = f"ipc://{tmp_path_factory.mktemp('c')}/ctl"
        rest = f"control: {{endpoint: '{control}'}}\njournal: {{path: verdicts.db}}"
        daemon = line.run(line.config(f"eye:\n  source: {source}\n  {more}\n", more=rest))
        line.listener.wait_for_state(lambda s: s["cameras"]["eye"]["state"] == "running")
        pids = daemon.capture_pids()
        with Client(line.endpoint, control) as client:
            client.request("trigger", camera="eye", part_id="before")
            line.listener.wait_for_verdicts(1)  # its first frame may take as long as opening it
            with frozen(camera):
                client.request("trigger", camera="eye", part_id="in between")
                line.listener.wait_for_state(lambda s: s["cameras"]["eye"]["state"] == "lost")
            line.listener.wait_for_state(lambda s: s["cameras"]["eye"]["state"] == "running")
            client.request("trigger", camera="eye", part_id="after")
            line.listener.wait_for_verdicts(3)
        assert daemon.capture_pids() == pids, daemon.log
        assert daemon.terminate() == 0
    finally:
        camera.stop()
    _, first, second = line.listener.verdicts
    assert (first["part_id"], first["outcome"], first["reason"]) == ("in between", "UNKNOWN", "camera_lost")
    assert (second["part_id"], second["reason"]) == ("after", None)


@here["gige"]
def test_frames_have_the_cameras_own_times(line: Line) -> None:
    """A frame was captured when the camera says, not when it was read, and the camera's stamps keep time."""
    camera = GigE()
    camera.start()
    try:
        daemon = line.run(line.config(f"eye:\n  source: {camera.source}\n"))
        line.listener.wait_for_verdicts(150)
        state = line.listener.wait_for_state(lambda s: True)["cameras"]["eye"]
        assert daemon.terminate() == 0
    finally:
        camera.stop()
    verdicts = [v for v in line.listener.verdicts if v["captured_at"] is not None][100:]
    captured, read = (
        [datetime.fromisoformat(v[key].replace("Z", "+00:00")) for v in verdicts] for key in ("captured_at", "read_at")
    )
    assert all(c <= r for c, r in zip(captured, read, strict=True))
    assert any(c < r for c, r in zip(captured, read, strict=True))
    steps = sorted((later - earlier).total_seconds() for earlier, later in pairwise(captured))
    assert abs(steps[len(steps) // 2] - 0.05) < 0.005  # 20 frames a second
    assert (state["state"], state["restarts"], state["note"]) == ("running", 0, None)


def test_without_aravis_the_configuration_is_refused(line: Line, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 2 and a message with the package to install. `anosegd cameras` says so too, and lists the others."""
    (line.folder / "without").mkdir()
    (line.folder / "without" / "gi.py").write_text("raise ImportError('not here')\n")
    monkeypatch.setenv("PYTHONPATH", str(line.folder / "without"), prepend=":")
    done = run_anosegd("check", str(line.config("eye:\n  source: {kind: genicam, camera: A-B-1}\n")), process=True)
    assert done.returncode == 2
    assert "cameras.eye.source: GenICam cameras need Aravis" in done.stderr
    assert "apt install gir1.2-aravis-0.8 python3-gi" in done.stderr
    assert "Traceback" not in done.stderr
    listed = run_anosegd("cameras", process=True)
    assert listed.returncode == 0
    assert "no search for GigE Vision and USB3 Vision cameras" in listed.stdout
