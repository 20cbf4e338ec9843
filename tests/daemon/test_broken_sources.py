"""Sources that cannot be read, or not to their end: what becomes of the station and of its other cameras."""

import re
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.anosegd_line import Line, run_anosegd
from support.mjpeg_camera import jpeg_of, mjpeg_server
from support.tiny_bundle import bad_part, good_part

END = b"\xff\xd9"


def write_video(path: Path, n: int, code: str = "MJPG") -> bytes:
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*code), 25.0, (80, 48))
    assert writer.isOpened()
    for i in range(n):
        writer.write(bad_part() if i % 4 == 3 else good_part())
    writer.release()
    return path.read_bytes()


def film(name: str, file: str, more: str = "") -> str:
    return f"{name}:\n  source: {{kind: file, path: {file}{more}}}\n  policy: wait\n"


def test_an_unreadable_video_does_not_end_the_other_cameras(line: Line) -> None:
    """Every part of the other camera gets its verdict, and the exit code and the state say which camera failed."""
    (line.folder / "broken.avi").write_text("no video")
    write_video(line.folder / "v.avi", 200)
    daemon = line.run(line.config(film("broken", "broken.avi") + film("whole", "v.avi")), "--once")
    assert daemon.wait() == 1
    line.listener.drain()
    assert [v["outcome"] for v in line.listener.verdicts] == ["FAIL" if i % 4 == 3 else "PASS" for i in range(200)]
    cameras = line.listener.last_state()["cameras"]
    assert (cameras["broken"]["state"], cameras["whole"]["state"]) == ("lost", "finished")
    assert "broken.avi" in cameras["broken"]["last_error"]
    assert [e["camera"] for e in daemon.events if e["event"] == "camera.failed"] == ["broken"]
    assert [e["reason"] for e in daemon.events if e["event"] == "daemon.stopping"] == ["finished"]
    assert "anosegd: camera broken: " in daemon.log
    assert "Traceback" not in daemon.log


def test_a_video_that_ended_early_is_not_finished(line: Line) -> None:
    """Its frames get verdicts; log, state and exit code say that others are missing."""
    data = write_video(line.folder / "v.avi", 40)
    (line.folder / "v.avi").write_bytes(data[: data.index(b"00dc", len(data) // 2)])
    daemon = line.run(line.config(film("film", "v.avi")), "--once")
    assert daemon.wait() == 2  # a service manager that started it again would only inspect the same frames again
    line.listener.drain()
    read = len(line.listener.verdicts)
    assert 10 < read < 30
    assert "UNKNOWN" not in {v["outcome"] for v in line.listener.verdicts}
    camera = line.listener.last_state()["cameras"]["film"]
    said = f"v.avi: the file ended early: {read} frames were read, and it announces 40"
    assert camera["state"] == "lost"
    assert said in camera["last_error"]
    (event,) = [e for e in daemon.events if e["event"] == "camera.failed"]
    assert said in event["error"]
    assert event["level"] == "error"
    assert not any(e["event"] == "camera.finished" for e in daemon.events)


@pytest.mark.parametrize("more", ["", ", loop: true"])
def test_a_station_goes_on_when_a_video_ended_early(line: Line, more: str) -> None:
    """Without --once the station keeps running and can be reloaded, and a stop is no failure. The file is not read again."""
    data = write_video(line.folder / "v.avi", 40)
    (line.folder / "v.avi").write_bytes(data[: data.index(b"00dc", len(data) // 2)])
    write_video(line.folder / "w.avi", 8)
    config = line.config(film("film", "v.avi", more) + film("other", "w.avi", ", loop: true"))
    daemon = line.run(config)
    state = line.listener.wait_for_state(lambda s: s["cameras"]["film"]["state"] == "lost")
    read = re.search(r"(\d+) frames were read", state["cameras"]["film"]["last_error"])
    assert read
    after = state["last_seq"]
    line.listener.wait_for(lambda m: m.topic == "verdict.other" and m.header["seq"] > after + 40)
    # The camera is lost once its file is read; the frames that still wait in its queue get their verdicts after that.
    assert sum(v["camera"] == "film" for v in line.listener.verdicts) == int(read[1])
    (line.folder / "v.avi").write_bytes(data)
    line.config(film("film", "v.avi") + film("other", "w.avi", ", loop: true, fps: 20"))
    daemon.process.send_signal(1)
    line.listener.wait_for_state(lambda s: s["cameras"]["other"]["state"] == "running" and s["uptime_s"] > state["uptime_s"])
    assert daemon.terminate() == 0, daemon.log


def test_a_reload_reads_a_file_again_that_ended_early(line: Line, tmp_path_factory: pytest.TempPathFactory) -> None:
    """The configuration is unchanged: a camera that has finished stays as it is, and another one goes on."""
    data = write_video(line.folder / "v.avi", 40)
    (line.folder / "v.avi").write_bytes(data[: data.index(b"00dc", len(data) // 2)])
    write_video(line.folder / "w.avi", 8)
    cameras = film("film", "v.avi") + film("read", "w.avi") + film("other", "w.avi", ", loop: true, fps: 20")
    config = line.config(cameras, more=f"control: {{endpoint: 'ipc://{tmp_path_factory.mktemp('c')}/ctl'}}")
    daemon = line.run(config)

    def wait_for_film(state: str) -> None:
        states = {"film": state, "read": "finished", "other": "running"}
        line.listener.wait_for_state(lambda s: {name: camera["state"] for name, camera in s["cameras"].items()} == states)

    wait_for_film("lost")
    (line.folder / "v.avi").write_bytes(data)
    done = run_anosegd("reload", str(config))
    assert (done.returncode, "opened again, added or removed: film\n" in done.stdout) == (0, True), done
    wait_for_film("finished")
    again = run_anosegd("reload", str(config))
    assert (again.returncode, "opened again" in again.stdout) == (0, False), again
    assert daemon.terminate() == 0, daemon.log  # the failure is over
    line.listener.drain()
    of = {name: [v["sequence"] for v in line.listener.verdicts if v["camera"] == name] for name in ("film", "read", "other")}
    assert 50 < len(of["film"]) < 70  # those of the cut file, and 40
    assert len(of["read"]) == 8
    assert all(sequences == list(range(1, len(sequences) + 1)) for sequences in of.values())
    running = [e["camera"] for e in daemon.events if e["event"] == "camera.running"]
    assert {name: running.count(name) for name in of} == {"film": 2, "read": 1, "other": 1}


def progressive_without_its_last_scans(image: np.ndarray) -> bytes:
    data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    return data[: data.rindex(b"\xff\xda")] + END


MESSAGES: dict[str, tuple[Callable[[np.ndarray], bytes], str | None]] = {
    "progressive": (progressive_without_its_last_scans, "scans are missing"),
    "two images": (lambda image: jpeg_of(good_part()) + jpeg_of(image), "more than one image"),
    "two images, zeros between": (lambda image: jpeg_of(good_part()) + bytes(9) + jpeg_of(image), "more than one image"),
    "zeros": (lambda image: jpeg_of(image) + bytes(64), None),
    "vendor's bytes": (lambda image: jpeg_of(image) + b"\r\nserial 17\xff\xd8\xff", None),
}


@pytest.mark.parametrize("kind", MESSAGES)
def test_a_message_that_is_not_one_whole_image_is_unknown(line: Line, kind: str) -> None:
    """Over HTTP as in a folder; bytes that a camera adds do not matter."""
    message, words = MESSAGES[kind]

    def part(i: int) -> np.ndarray:
        image = bad_part().copy()
        image[-1, -1] = i % 256  # a camera never sends the same image twice
        return image

    with mjpeg_server(0, part, message=message) as port:
        daemon = line.run(line.config(f"eye:\n  source: {{kind: url, url: 'http://127.0.0.1:{port}/v'}}\n  policy: every\n"))
        line.listener.wait_for_verdicts(5)
        assert daemon.terminate() == 0
    outcomes = {(v["outcome"], v["reason"]) for v in line.listener.verdicts}
    if words is None:
        assert outcomes == {("FAIL", None)}
    else:
        assert outcomes == {("UNKNOWN", "unreadable")}
        assert all(words in v["detail"] for v in line.listener.verdicts)
