"""A camera before a part that stands still is alive; one whose stamps stop, or that repeats one frame, is not. Real RTSP."""

import os
import signal
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from stress.real_cameras import Rtsp as MovingRtsp
from stress.still_scenes import Rtsp
from support.anosegd_line import Daemon, Line
from support.mjpeg_camera import mjpeg_server, noisy

from anosegd.client import Client

pytestmark = pytest.mark.skipif(bool(reason := MovingRtsp.missing()), reason=reason)

H264 = ("--quantizer", "28", "--key")
TRIGGERED = "policy: every\n  trigger: {kind: software, within_ms: 1000}"
KNOWN_S = 4.5
"""After this long the stamps of a new connection are used."""


@pytest.fixture
def rtsp(tmp_path: Path) -> Iterator[Callable[..., Rtsp]]:
    """Starts RTSP cameras before a still part."""
    started: list[Rtsp] = []

    def start(*options: str) -> Rtsp:
        started.append(camera := Rtsp(*options))
        camera.start(tmp_path)
        return camera

    yield start
    for camera in started:
        camera.stop()


class Station:
    """A line with a control socket."""

    def __init__(self, line: Line, sockets: Path) -> None:
        self.line, self.control = line, f"ipc://{sockets}/ctl"

    def start(self, *cameras: tuple[str, Rtsp, str]) -> Daemon:
        """Run a daemon with these cameras: name, camera and what else the configuration says."""
        text = "".join(
            f"{name}:\n  source: {camera.source}\n  open_timeout_s: 20\n  {more}\n" for name, camera, more in cameras
        )
        more = f"control: {{endpoint: '{self.control}'}}\njournal: {{path: verdicts.db}}"
        daemon = self.line.run(self.line.config(text, more=more))
        self.line.listener.wait_for_state(lambda s: all(c["state"] == "running" for c in s["cameras"].values()))
        return daemon

    def trigger(self, camera: str, part_id: str) -> dict[str, Any]:
        """Trigger a part and wait for its verdict."""
        with Client(self.line.endpoint, self.control) as client:
            client.request("trigger", camera=camera, part_id=part_id)
        return self.line.listener.wait_for(lambda m: m.topic.startswith("verdict.") and m.header["part_id"] == part_id).header

    def passes_soon(self, camera: str) -> None:
        """Trigger parts until one is PASS: the camera is known."""
        for i in range(40):
            if self.trigger(camera, f"{camera}-first-{i}")["outcome"] == "PASS":
                return
            time.sleep(0.25)
        raise AssertionError(f"{camera} is not inspected")

    def unknown(self) -> list[dict[str, Any]]:
        return [v for v in self.line.listener.verdicts if v["outcome"] == "UNKNOWN" and v["reason"] != "shutdown"]


@pytest.fixture
def station(line: Line, tmp_path_factory: pytest.TempPathFactory) -> Station:
    return Station(line, tmp_path_factory.mktemp("c"))


def outcome(verdict: dict[str, Any]) -> str:
    return str(verdict["reason"] or verdict["outcome"])


def seconds(text: str) -> float:
    return datetime.fromisoformat(text.replace("Z", "+00:00")).timestamp()


@pytest.mark.parametrize("key", ["30", "250", "600"])
def test_a_living_camera_before_a_still_part_is_not_frozen(station: Station, rtsp: Callable[..., Rtsp], key: str) -> None:
    """Equal frames are no new parts and are counted. Nothing is UNKNOWN, nothing restarts, and a note says that it is still."""
    daemon = station.start(("eye", rtsp(*H264, key), ""))
    first = station.line.listener.wait_for_verdicts(1)[0]
    state = station.line.listener.wait_for_state(
        lambda s: s["cameras"]["eye"]["repeated"] > 200 and (key != "600" or s["cameras"]["eye"]["note"])
    )
    eye = state["cameras"]["eye"]
    assert daemon.terminate() == 0
    assert first["outcome"] == "PASS"
    assert station.unknown() == []
    assert (eye["state"], eye["restarts"], eye["counts"]["unknown"]) == ("running", 0, 0)
    assert (eye["note"] or "").startswith("the picture stands still" if key == "600" else "")
    assert eye["frames"] < eye["repeated"]  # a repeated frame is no part


def test_triggered_parts_that_look_alike(station: Station, rtsp: Callable[..., Rtsp]) -> None:
    """A part whose frame equals that of the part before is UNKNOWN, unless repeats are allowed. The camera stays."""
    camera = rtsp(*H264, "250")
    daemon = station.start(("strict", camera, TRIGGERED), ("easy", camera, TRIGGERED + "\n  repeats: allowed"))
    station.passes_soon("strict")
    station.passes_soon("easy")
    assert outcome(station.trigger("strict", "S2")) == "repeated_frame"
    assert [outcome(station.trigger("easy", f"E{i}")) for i in range(3)] == ["PASS"] * 3
    state = station.line.listener.wait_for_state(lambda s: True)
    assert [c["restarts"] for c in state["cameras"].values()] == [0, 0]
    assert daemon.terminate() == 0


def test_stamps_that_stop_are_a_frozen_camera(station: Station, rtsp: Callable[..., Rtsp]) -> None:
    """Pictures with a sensor's noise go on, but their stamps do not: UNKNOWN at once, then lost; inspected again afterwards."""
    camera = rtsp("--codec", "mjpeg")
    daemon = station.start(("free", camera, ""), ("trig", camera, TRIGGERED + "\n  stall_timeout_s: 20"))
    station.passes_soon("trig")
    time.sleep(KNOWN_S)
    assert outcome(station.trigger("trig", "living")) == "PASS"
    camera.freeze("stamps stopped")
    time.sleep(0.4)
    frozen = station.trigger("trig", "frozen")
    state = station.line.listener.wait_for_state(lambda s: s["cameras"]["free"]["state"] == "lost")
    assert outcome(frozen) == "repeated_frame"
    assert "time stamp" in frozen["detail"]
    assert "the same time stamp for" in state["cameras"]["free"]["last_error"]
    camera.thaw()
    station.line.listener.wait_for(lambda m: m.topic == "verdict.free" and m.header["outcome"] == "PASS")
    assert daemon.terminate() == 0
    reasons = {outcome(v) for v in station.line.listener.verdicts if v["camera"] == "free"}
    assert reasons <= {"PASS", "repeated_frame", "shutdown"}


def test_a_repeated_frame_under_advancing_stamps(station: Station, rtsp: Callable[..., Rtsp]) -> None:
    """In free run it is no part and is counted. A triggered part is UNKNOWN at once: MJPEG's frames are coded by themselves."""
    camera = rtsp("--codec", "mjpeg")
    daemon = station.start(("free", camera, ""), ("trig", camera, TRIGGERED))
    station.passes_soon("trig")
    camera.freeze("one frame repeated")
    time.sleep(0.4)
    assert outcome(station.trigger("trig", "frozen")) == "repeated_frame"
    before = station.line.listener.wait_for_state(lambda s: s["cameras"]["free"]["repeated"] > 5)["cameras"]["free"]
    after = station.line.listener.wait_for_state(lambda s: s["cameras"]["free"]["repeated"] > 60)["cameras"]["free"]
    assert daemon.terminate() == 0
    assert after["frames"] == before["frames"]
    assert (after["state"], after["restarts"], after["counts"]["unknown"]) == ("running", 0, 0)


@pytest.mark.parametrize("jump", ["4", "-4"])
def test_stamps_that_jump_are_reported_and_not_used(station: Station, rtsp: Callable[..., Rtsp], jump: str) -> None:
    """Log and note give the reason; meanwhile frames are told by how long they take, and parts are inspected all the same."""
    camera = rtsp("--codec", "mjpeg")
    daemon = station.start(("trig", camera, TRIGGERED))
    station.passes_soon("trig")
    time.sleep(KNOWN_S)
    by_stamp = station.trigger("trig", "by stamp")
    camera._say(f"jump {jump}")
    direction = "ahead" if jump == "4" else "back"
    station.line.listener.wait_for_state(lambda s: f"jumped {direction} by" in (s["cameras"]["trig"]["note"] or ""))
    otherwise = station.trigger("trig", "otherwise")
    assert daemon.terminate() == 0
    assert [outcome(by_stamp), outcome(otherwise)] == ["PASS", "PASS"]
    assert seconds(by_stamp["triggered_at"]) <= seconds(by_stamp["captured_at"]) < seconds(by_stamp["read_at"])
    assert otherwise["captured_at"] == otherwise["read_at"]
    (ignored,) = [e for e in daemon.events if e["event"] == "stamps.ignored"]
    assert f"jumped {direction} by" in ignored["reason"]
    assert "before the part was in place" not in str(station.unknown())


def test_the_part_in_front_of_the_camera_at_the_trigger_is_judged(station: Station, rtsp: Callable[..., Rtsp]) -> None:
    """The capture process is held up, and meanwhile the part goes and a defective one comes.

    The frames that waited in the buffer have stamps, so each part is judged by its own.
    """
    camera = rtsp("--codec", "mjpeg")
    daemon = station.start(("trig", camera, TRIGGERED.replace("1000", "300") + "\n  stall_timeout_s: 20"))
    station.passes_soon("trig")
    time.sleep(KNOWN_S)
    (pid,) = daemon.capture_pids()
    os.kill(pid, signal.SIGSTOP)
    with Client(station.line.endpoint, station.control) as client:
        client.request("trigger", camera="trig", part_id="good")
        time.sleep(0.5)
        camera._say("bad")
        time.sleep(0.3)
        client.request("trigger", camera="trig", part_id="bad")
        time.sleep(0.4)
    os.kill(pid, signal.SIGCONT)
    listener = station.line.listener
    listener.wait_for(lambda m: m.header.get("part_id") == "bad")
    verdicts = {v["part_id"]: v for v in listener.verdicts if v["part_id"] in ("good", "bad")}
    assert daemon.terminate() == 0
    assert {part: outcome(v) for part, v in verdicts.items()} == {"good": "PASS", "bad": "FAIL"}
    assert seconds(verdicts["good"]["read_at"]) - seconds(verdicts["good"]["captured_at"]) > 0.5


def test_without_stamps_capture_is_arrival(line: Line) -> None:
    """An MJPEG stream over HTTP has no stamps: both times are equal, and the note says so."""
    with mjpeg_server(0) as port:
        daemon = line.run(line.config(f"eye:\n  source: {{kind: url, url: 'http://127.0.0.1:{port}/'}}\n"))
        line.listener.wait_for_state(lambda s: "it gives no time stamps" in (s["cameras"]["eye"]["note"] or ""))
        verdict = line.listener.wait_for_verdicts(len(line.listener.verdicts) + 1)[-1]
        assert daemon.terminate() == 0
    assert verdict["captured_at"] == verdict["read_at"]


def test_repeats_are_allowed_without_stamps_too(station: Station) -> None:
    """A stream that shows one picture: in free run one part, at triggers as many as there are, and no restart."""
    with mjpeg_server(0, lambda i: noisy(0)) as port:
        source = f"  source: {{kind: url, url: 'http://127.0.0.1:{port}/'}}\n  open_timeout_s: 20\n  repeats: allowed\n  "
        more = f"control: {{endpoint: '{station.control}'}}\njournal: {{path: verdicts.db}}"
        daemon = station.line.run(station.line.config(f"free:\n{source}\ntrig:\n{source}{TRIGGERED}\n", more=more))
        station.line.listener.wait_for_state(lambda s: all(c["state"] == "running" for c in s["cameras"].values()))
        station.passes_soon("trig")
        assert [outcome(station.trigger("trig", f"T{i}")) for i in range(3)] == ["PASS"] * 3
        state = station.line.listener.wait_for_state(lambda s: s["cameras"]["free"]["repeated"] > 100)
        assert daemon.terminate() == 0
    assert [c["restarts"] for c in state["cameras"].values()] == [0, 0]
    assert len([v for v in station.line.listener.verdicts if v["camera"] == "free"]) <= 1
    assert station.unknown() == []
