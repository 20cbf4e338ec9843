"""Software and interval triggers with the real daemon: every trigger is answered, with a frame taken after it."""

import itertools
import json
import os
import signal
import threading
import time
from datetime import datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from support.anosegd_line import Daemon, Line, alive, run_anosegd, wait_until
from support.mjpeg_camera import mjpeg_server, noisy
from support.tiny_bundle import bad_part, good_part

from anosegd.client import Client, ClientError

SOFTWARE = "{kind: software, within_ms: 20000}"  # a machine under load may take long to decode a picture
TRIGGERED = f"top:\n  source: {{kind: folder, path: images, loop: true}}\n  policy: every\n  trigger: {SOFTWARE}\n"


class Triggering:
    """A line with journal and control socket whose camera waits for triggers."""

    def __init__(self, line: Line, sockets: Path) -> None:
        self.line = line
        self.control = f"ipc://{sockets}/ctl"
        (line.folder / "images").mkdir()
        for i in range(4):
            cv2.imwrite(str(line.folder / "images" / f"{i}.png"), good_part() if i % 2 else bad_part())

    def start(self, cameras: str = TRIGGERED) -> Daemon:
        more = f"control: {{endpoint: '{self.control}'}}\njournal: {{path: verdicts.db}}"
        self.config = self.line.config(cameras, more=more)
        daemon = self.line.run(self.config)
        self.line.listener.wait_for_state(lambda s: all(c["state"] in ("running", "lost") for c in s["cameras"].values()))
        return daemon

    def client(self) -> Client:
        return Client(self.line.endpoint, self.control)


@pytest.fixture
def triggering(line: Line, tmp_path_factory: pytest.TempPathFactory) -> Triggering:
    return Triggering(line, tmp_path_factory.mktemp("c"))


def named(verdicts: list[dict[str, Any]]) -> dict[str, str]:
    return {v["part_id"]: v["reason"] or v["outcome"] for v in verdicts}


def test_a_trigger_makes_a_part(triggering: Triggering) -> None:
    """Each trigger is recorded, captured, and answered with its part id and its times; without triggers there is no verdict."""
    daemon = triggering.start()
    with triggering.client() as client:
        assert client.request("trigger", camera="top", part_id="X1")["durable"] is True
        first = triggering.line.listener.wait_for_verdicts(1)[0]
        time.sleep(0.3)
        assert len(triggering.line.listener.verdicts) == 1
        client.request("trigger", camera="top", part_id="X2")
        named_by_us = client.request("trigger", camera="top")["part_id"]
    assert named(triggering.line.listener.wait_for_verdicts(3)) == {"X1": "FAIL", "X2": "PASS", named_by_us: "FAIL"}
    assert first["triggered_at"] < first["captured_at"] < first["committed_at"]
    assert 0 < first["timings_ms"]["capture"] < first["timings_ms"]["total"]
    assert run_anosegd("trigger", str(triggering.config), "--camera", "top", "--part-id", "X4").stdout == "trigger: part X4\n"
    assert triggering.line.listener.wait_for_verdicts(4)[-1]["part_id"] == "X4"
    assert daemon.terminate() == 0


def test_impossible_triggers_are_refused(triggering: Triggering) -> None:
    """Of an unknown camera, or one in free run; the message names the cameras that there are, or that wait for triggers."""
    triggering.start(TRIGGERED + "free:\n  source: {kind: folder, path: images, loop: true, fps: 5}\n  policy: wait\n")
    with triggering.client() as client:
        for name, said in (
            ("none", "there is no camera 'none'; there are: top, free"),
            ("free", "camera 'free' waits for no triggers; these do: top"),
        ):
            with pytest.raises(ClientError, match=said):
                client.request("trigger", camera=name)


def test_every_trigger_is_answered_under_load(triggering: Triggering) -> None:
    """Triggers come faster than parts are inspected: overruns are UNKNOWN, and every part has one verdict."""
    triggering.start()
    with triggering.client() as client:
        accepted = [client.request("trigger", camera="top", part_id=f"P{i}")["part_id"] for i in range(150)]
    verdicts = triggering.line.listener.wait_for_verdicts(150)
    assert [v["part_id"] for v in verdicts] == accepted
    assert {v["reason"] for v in verdicts if v["outcome"] == "UNKNOWN"} <= {"overrun"}


def test_triggers_of_a_lost_camera_are_unknown_at_once(triggering: Triggering) -> None:
    """While a camera is lost its parts are UNKNOWN: camera_lost at once, not after a time-out."""
    cameras = (
        "top:\n  source: {kind: device, device: /dev/no-such-camera}\n  policy: every\n  trigger: {kind: software}\n"
        "  open_timeout_s: 90\n"  # longer than the test waits
    )
    triggering.start(cameras)
    triggering.line.listener.wait_for_state(lambda s: s["cameras"]["top"]["state"] == "lost")
    with triggering.client() as client:
        for i in range(3):
            client.request("trigger", camera="top", part_id=f"P{i}")
    verdicts = triggering.line.listener.wait_for_verdicts(3)
    assert named(verdicts) == {"P0": "camera_lost", "P1": "camera_lost", "P2": "camera_lost"}
    assert all(v["captured_at"] is None and v["score"] is None for v in verdicts)
    assert "cannot be opened" in verdicts[0]["detail"]


def test_a_trigger_whose_frame_never_comes_is_unknown(triggering: Triggering) -> None:
    """When the capture process hangs the part is UNKNOWN as soon as that is noticed, and the next one is inspected."""
    daemon = triggering.start(TRIGGERED + "  stall_timeout_s: 1\n")
    with triggering.client() as client:
        client.request("trigger", camera="top", part_id="A")
        triggering.line.listener.wait_for_verdicts(1)
        (pid,) = daemon.capture_pids()
        os.kill(pid, signal.SIGSTOP)
        client.request("trigger", camera="top", part_id="B")
        triggering.line.listener.wait_for_verdicts(2)
        wait_until(lambda: not alive(pid), "the stuck process is gone")
        triggering.line.listener.wait_for_state(lambda s: s["cameras"]["top"]["state"] == "running")
        client.request("trigger", camera="top", part_id="C")
    outcomes = named(triggering.line.listener.wait_for_verdicts(3))
    assert outcomes["B"] == "camera_lost"
    assert outcomes["C"] in ("PASS", "FAIL")


def test_a_crash_leaves_no_trigger_unanswered(triggering: Triggering) -> None:
    """Accepted triggers without a verdict become UNKNOWN: restart in the next run, once each, as they were asked for."""
    daemon = triggering.start()
    with triggering.client() as client:
        client.request("trigger", camera="top", part_id="done")
        triggering.line.listener.wait_for_verdicts(1)
        (pid,) = daemon.capture_pids()
        os.kill(pid, signal.SIGSTOP)  # the frame does not come, so there is no verdict when the daemon is killed
        client.request("trigger", camera="top", part_id="lost-1")
        client.request("trigger", camera="top", part_id="lost-2", recipe="lid")
        daemon.process.kill()
        daemon.wait()
        again = triggering.line.run(triggering.config)
        triggering.line.listener.wait_for(lambda m: m.topic == "verdict.top" and m.header["part_id"] == "lost-2")
        assert again.terminate() == 0
        runs = {v["run_id"] for v in triggering.line.listener.verdicts}
        triggering.line.run(triggering.config)
        triggering.line.listener.wait_for_state(lambda s: s["run_id"] not in runs and s["state"] != "Preoperational")
        wait_until(lambda: "top" in client.status()["cameras"], "the third run")
        kept = [(v["part_id"], v["reason"], v["recipe_asked"]) for v in client.replay(1)]
    assert [k for k in kept if k[0].startswith("lost")] == [("lost-1", "restart", None), ("lost-2", "restart", "lid")]
    assert [k[0] for k in kept].count("done") == 1


def test_the_deadline_counts_from_the_trigger(triggering: Triggering) -> None:
    """The time until the camera delivers its frame counts; a later result is no verdict."""
    triggering.start(TRIGGERED.replace("{kind: software,", "{kind: software, delay_ms: 400,") + "  deadline_ms: 100\n")
    with triggering.client() as client:
        began = time.monotonic()
        client.request("trigger", camera="top", part_id="A")
        (verdict,) = triggering.line.listener.wait_for_verdicts(1)
        assert time.monotonic() - began < 5
        assert (verdict["outcome"], verdict["reason"]) == ("UNKNOWN", "deadline")
        assert "of the trigger" in verdict["detail"]
        time.sleep(1)  # by now the frame has come
        triggering.line.listener.drain()
    assert len(triggering.line.listener.verdicts) == 1


def test_a_live_cameras_frame_was_read_after_the_trigger(triggering: Triggering) -> None:
    """A stream runs between triggers: the part's frame is a fresh one, and a frozen stream gives none."""
    number = itertools.count()
    frozen = threading.Event()
    shown: list[int] = []

    def picture(_: int) -> np.ndarray:
        i = shown[-1] if frozen.is_set() else next(number)
        shown.append(i)
        # frames are bright (FAIL) after number 60: an old frame would be PASS
        return np.clip(noisy(i).astype(int) + (100 if i > 60 else 0), 0, 255).astype(np.uint8)

    with mjpeg_server(0, picture) as port:
        cameras = (
            f"top:\n  source: {{kind: url, url: 'http://127.0.0.1:{port}/'}}\n  policy: every\n"
            f"  trigger: {SOFTWARE}\n  open_timeout_s: 5\n  stall_timeout_s: 5\n"
        )
        daemon = triggering.start(cameras)
        with triggering.client() as client:
            client.request("trigger", camera="top", part_id="early")
            triggering.line.listener.wait_for_verdicts(1)
            wait_until(lambda: bool(shown) and shown[-1] > 120, "the stream goes on")
            client.request("trigger", camera="top", part_id="later")
            triggering.line.listener.wait_for_verdicts(2)
            frozen.set()
            time.sleep(0.5)
            client.request("trigger", camera="top", part_id="frozen")
            outcomes = named(triggering.line.listener.wait_for_verdicts(3))
        assert outcomes["later"] == "FAIL"
        assert outcomes["frozen"] == "repeated_frame"
        assert daemon.terminate() == 0


def test_interval(triggering: Triggering) -> None:
    """A part every 100 ms, even if the source could deliver more."""
    daemon = triggering.start(TRIGGERED.replace(SOFTWARE, "{kind: interval, every_ms: 100}"))
    verdicts = triggering.line.listener.wait_for_verdicts(12)
    assert daemon.terminate() == 0
    times = [datetime.fromisoformat(v["captured_at"].replace("Z", "+00:00")).timestamp() for v in verdicts]
    assert (times[-1] - times[0]) / (len(times) - 1) > 0.095


def test_a_frame_that_comes_too_late_is_not_the_parts(triggering: Triggering) -> None:
    """When the part has moved on, the frame may show the next one: the part is UNKNOWN."""
    with mjpeg_server(0, pause_s=0.6) as port:
        cameras = (
            f"top:\n  source: {{kind: url, url: 'http://127.0.0.1:{port}/'}}\n  policy: every\n"
            "  trigger: {kind: software, within_ms: 1}\n  open_timeout_s: 20\n  stall_timeout_s: 5\n"
        )
        daemon = triggering.start(cameras)
        with triggering.client() as client:
            client.request("trigger", camera="top", part_id="A")
            (verdict,) = triggering.line.listener.wait_for_verdicts(1)
        assert (verdict["outcome"], verdict["reason"]) == ("UNKNOWN", "camera_lost")
        assert "after the part had moved on" in verdict["detail"]
        assert daemon.terminate() == 0


def test_frames_that_waited_in_a_buffer_are_not_the_parts(triggering: Triggering) -> None:
    """While the capture process is stopped the stream fills a buffer: the part's frame is not one of these."""
    bad = threading.Event()

    def picture(i: int) -> np.ndarray:
        return np.clip(noisy(i).astype(int) + (100 if bad.is_set() else 0), 0, 255).astype(np.uint8)

    with mjpeg_server(0, picture, pause_s=0.04) as port:
        daemon = triggering.start(
            f"top:\n  source: {{kind: url, url: 'http://127.0.0.1:{port}/'}}\n  policy: every\n"
            f"  trigger: {SOFTWARE}\n  open_timeout_s: 20\n  stall_timeout_s: 20\n"
        )
        with triggering.client() as client:
            client.request("trigger", camera="top", part_id="before")
            triggering.line.listener.wait_for_verdicts(1)
            (pid,) = daemon.capture_pids()
            os.kill(pid, signal.SIGSTOP)
            time.sleep(0.6)  # frames of good parts fill a buffer
            bad.set()
            time.sleep(0.4)
            client.request("trigger", camera="top", part_id="held-up")
            os.kill(pid, signal.SIGCONT)
            outcomes = named(triggering.line.listener.wait_for_verdicts(2))
        assert outcomes == {"before": "PASS", "held-up": "FAIL"}
        assert daemon.terminate() == 0


def test_frames_of_a_camera_that_becomes_faster_are_fresh(triggering: Triggering) -> None:
    """In more light exposures are shorter: frames that come six times as fast as before are not from a buffer."""
    dark = threading.Event()
    dark.set()

    def picture(i: int) -> np.ndarray:
        time.sleep(0.2 if dark.is_set() else 0.0)
        return noisy(i)

    with mjpeg_server(0, picture, pause_s=0.03) as port:
        daemon = triggering.start(
            f"top:\n  source: {{kind: url, url: 'http://127.0.0.1:{port}/'}}\n  policy: every\n"
            "  trigger: {kind: software, within_ms: 700}\n  open_timeout_s: 20\n  stall_timeout_s: 5\n"
        )
        with triggering.client() as client:
            for i in range(12):  # the frame period is measured
                client.request("trigger", camera="top", part_id=f"dark-{i}")
                time.sleep(0.75)
            dark.clear()
            time.sleep(2.0)
            for i in range(5):
                client.request("trigger", camera="top", part_id=f"light-{i}")
                time.sleep(0.75)
            outcomes = named(triggering.line.listener.wait_for_verdicts(17))
        assert [outcomes[f"dark-{i}"] for i in range(6, 12)] == ["PASS"] * 6
        assert [outcomes[f"light-{i}"] for i in range(5)] == ["PASS"] * 5
        assert daemon.terminate() == 0


def test_a_part_id_is_a_label(triggering: Triggering) -> None:
    """Every accepted trigger gets a verdict, whatever its id: an article number, a counter that wraps, a part seen again."""
    triggering.start()
    with triggering.client() as client:
        answers = [client.request("trigger", camera="top", part_id="article-7") for _ in range(3)]
    verdicts = triggering.line.listener.wait_for_verdicts(3)
    assert [v["part_id"] for v in verdicts] == ["article-7"] * 3
    assert [v["triggered_at"] for v in verdicts] == [a["triggered_at"] for a in answers]
    assert len({a["triggered_at"] for a in answers}) == 3


def test_a_request_sent_twice_is_one_part(triggering: Triggering) -> None:
    """With a request id, a repetition gets the same answer and makes no part: at once, later, and after a crash."""
    daemon = triggering.start()
    with triggering.client() as client:

        def trigger(**more: str) -> dict[str, Any]:
            answer = client.request("trigger", camera="top", **more)
            return {name: answer[name] for name in ("part_id", "triggered_at", "durable")}

        first = trigger(part_id="X", request_id="r-1")
        assert trigger(part_id="X", request_id="r-1") == first
        triggering.line.listener.wait_for_verdicts(1)
        assert trigger(request_id="r-1") == first
        with pytest.raises(ClientError, match=r"request id 'r-1' was used before, for camera 'top', part 'X'"):
            trigger(part_id="Y", request_id="r-1")
        trigger(part_id="X", request_id="r-2")
        assert [v["part_id"] for v in triggering.line.listener.wait_for_verdicts(2)] == ["X", "X"]
        daemon.process.kill()
        daemon.wait()
        runs = {v["run_id"] for v in triggering.line.listener.verdicts}
        triggering.line.run(triggering.config)
        triggering.line.listener.wait_for_state(lambda s: s["cameras"]["top"]["state"] == "running" and s["run_id"] not in runs)
        assert trigger(part_id="X", request_id="r-1") == first
        trigger(part_id="Z")
        assert [v["part_id"] for v in triggering.line.listener.wait_for_verdicts(3)] == ["X", "X", "Z"]


def test_the_command_waits_for_the_verdict(triggering: Triggering) -> None:
    """`trigger --wait` prints the verdict of its own part, although others have the same id, in words or as JSON."""
    triggering.start()
    options = ("trigger", str(triggering.config), "--camera", "top", "--part-id", "7", "--wait")
    first = run_anosegd(*options, "--request-id", "r")
    assert (first.returncode, first.stdout.splitlines()[0]) == (0, "trigger: part 7"), first.stderr
    assert first.stdout.splitlines()[1].startswith("verdict 1: FAIL, score 0.99")
    second = json.loads(run_anosegd(*options, "--json").stdout)
    assert (second["seq"], second["part_id"], second["outcome"]) == (2, "7", "PASS")
    assert run_anosegd(*options, "--request-id", "r").stdout == first.stdout  # sent again: the verdict comes from the journal
    assert len(triggering.line.listener.wait_for_verdicts(2)) == 2


def test_a_trigger_to_a_station_that_is_down_fails_at_once(triggering: Triggering) -> None:
    """Nothing listens, so there is nothing to wait for: exit code 1 and a sentence, far before any time limit."""
    daemon = triggering.start()
    assert daemon.terminate() == 0
    for port in (triggering.control, "tcp://127.0.0.1:9", "tcp://[::1]:9"):
        for command in (("trigger", "--camera", "top"), ("drain",), ("prove",)):
            done = run_anosegd(command[0], "--connect", triggering.line.endpoint, "--control", port, *command[1:])
            assert (done.returncode, done.stdout) == (1, "")
            assert f"{port}: nothing listens there: the station is down" in done.stderr
