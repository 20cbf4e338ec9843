"""Cameras that fail: every fault is noticed, reported in state and log, and survived."""

import os
import signal
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from support.anosegd_line import Daemon, Line, alive, run_anosegd, wait_until
from support.mjpeg_camera import mjpeg_server, noisy
from support.tiny_bundle import bad_part, good_part

from anoseg_engines.errors import CameraError
from anosegd.capture.sources.devices import check_serial, list_devices

QUICK = "  open_timeout_s: 1\n  stall_timeout_s: 1\n"


def write_images(folder: Path, n: int) -> list[str]:
    folder.mkdir()
    names = [f"{i:04}.png" for i in range(n)]
    for name in names:
        cv2.imwrite(str(folder / name), good_part())
    return names


def lost_lines(daemon: Daemon) -> list[str]:
    return [e["error"] for e in daemon.events if e["event"] == "camera.lost"]


def test_device_that_cannot_be_opened(line: Line) -> None:
    """The daemon stays ready, reports the camera in the state and in one log line, and keeps trying."""
    cameras = "eye:\n  source: {kind: device, device: /dev/no-such-camera}\n" + QUICK
    daemon = line.run(line.config(cameras))
    state = line.listener.wait_for_state(lambda s: s["cameras"]["eye"]["restarts"] >= 3)
    assert state["state"] == "Error"
    assert state["detail"] == "no camera gives images"
    assert state["cameras"]["eye"]["state"] == "lost"
    assert "cannot be opened" in state["cameras"]["eye"]["last_error"]
    assert daemon.terminate() == 0
    assert len(lost_lines(daemon)) == 1
    assert "daemon.ready" in [e["event"] for e in daemon.events]
    assert line.listener.verdicts == []


def test_a_lost_camera_does_not_delay_another(line: Line) -> None:
    """While one camera cannot be opened, another one is inspected."""
    write_images(line.folder / "images", 5)
    cameras = (
        "eye:\n  source: {kind: url, url: 'http://127.0.0.1:1/none'}\n"
        + QUICK
        + "top:\n  source: {kind: folder, path: images, loop: true, fps: 20}\n  policy: wait\n"
    )
    daemon = line.run(line.config(cameras))
    state = line.listener.wait_for_state(lambda s: s["cameras"]["eye"]["restarts"] >= 2 and s["last_seq"] >= 5)
    assert state["state"] == "ContinuousExecution"
    assert state["cameras"]["top"]["state"] == "running"
    assert state["cameras"]["eye"]["state"] == "lost"
    assert daemon.terminate() == 0


@contextmanager
def silent_server() -> Iterator[int]:
    """A TCP server that accepts connections and never sends anything."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        accepted: list[socket.socket] = []

        def accept() -> None:
            try:
                while True:
                    accepted.append(server.accept()[0])
            except OSError:
                return

        thread = threading.Thread(target=accept)
        thread.start()
        try:
            yield server.getsockname()[1]
        finally:
            server.shutdown(socket.SHUT_RDWR)
            thread.join()
            for connection in accepted:
                connection.close()


def test_rtsp_server_that_never_answers(line: Line) -> None:
    """Every attempt to open it ends in time. Neither log nor state contains the address, which may hold a password."""
    with silent_server() as port:
        cameras = f"eye:\n  source: {{kind: url, url: 'rtsp://user:secret@127.0.0.1:{port}/live'}}\n{QUICK}"
        daemon = line.run(line.config(cameras))
        state = line.listener.wait_for_state(lambda s: s["cameras"]["eye"]["restarts"] >= 2)
        assert state["cameras"]["eye"]["state"] == "lost"
        assert daemon.terminate() == 0
    assert "secret" not in daemon.log
    assert not any("secret" in str(m.header) for m in line.listener.received)


def test_open_that_never_returns(line: Line) -> None:
    """Opening a pipe that nobody writes to hangs in the kernel: the process is killed and restarted."""
    os.mkfifo(line.folder / "pipe")
    daemon = line.run(line.config("film:\n  source: {kind: file, path: pipe}\n  policy: wait\n" + QUICK))
    wait_until(lambda: bool(daemon.capture_pids()), "a capture process")
    first = daemon.capture_pids()[0]
    state = line.listener.wait_for_state(lambda s: s["cameras"]["film"]["restarts"] >= 2)
    assert "no answer for 1 s on open" in state["cameras"]["film"]["last_error"]
    assert not alive(first)
    assert daemon.terminate() == 0


def test_read_that_never_returns(line: Line) -> None:
    """A stream that stops hangs the read: frames that came are inspected, the stall is noticed, the process is replaced."""
    film = line.folder / "v.avi"
    writer = cv2.VideoWriter(str(film), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (80, 48))
    for i in range(200):
        writer.write(np.random.default_rng(i).integers(100, 150, (48, 80, 3), dtype=np.uint8))
    writer.release()
    data = film.read_bytes()
    pipe = line.folder / "pipe"
    os.mkfifo(pipe)
    fd = os.open(pipe, os.O_RDWR)  # open for writing, so that the reader sees no end
    feeder = threading.Thread(target=os.write, args=(fd, data[: len(data) // 4]))
    feeder.start()
    quick = QUICK.replace("open_timeout_s: 1", "open_timeout_s: 9")
    cameras = "film:\n  source: {kind: file, path: pipe}\n  policy: wait\n" + quick
    daemon = line.run(line.config(cameras))
    state = line.listener.wait_for_state(lambda s: s["cameras"]["film"]["state"] == "lost")
    assert "no answer for 1 s on read" in state["cameras"]["film"]["last_error"]
    assert state["cameras"]["film"]["frames"] > 10
    line.listener.wait_for_state(lambda s: s["cameras"]["film"]["restarts"] >= 1)
    assert daemon.terminate() == 0
    feeder.join()
    os.close(fd)
    assert len(line.listener.verdicts) == state["cameras"]["film"]["frames"]


def test_stopped_process_is_replaced(line: Line) -> None:
    """A capture process that was stopped by a signal counts as hung."""
    write_images(line.folder / "images", 5)
    daemon = line.run(
        line.config("top:\n  source: {kind: folder, path: images, loop: true, fps: 20}\n  policy: wait\n" + QUICK)
    )
    line.listener.wait_for_verdicts(3)
    (pid,) = daemon.capture_pids()
    os.kill(pid, signal.SIGSTOP)
    line.listener.wait_for_state(lambda s: s["cameras"]["top"]["restarts"] == 1)
    assert not alive(pid)
    before = len(line.listener.verdicts)
    line.listener.wait_for_verdicts(before + 5)
    assert daemon.terminate() == 0


def test_killed_process_loses_and_repeats_no_image(line: Line) -> None:
    """After kill -9 of the capture process in the middle of a folder, every image has exactly one verdict, in order."""
    names = write_images(line.folder / "images", 60)
    cameras = "top:\n  source: {kind: folder, path: images, fps: 20}\n  policy: wait\n"
    daemon = line.run(line.config(cameras), "--once")
    for n in (5, 20, 35):
        line.listener.wait_for_verdicts(n)
        for pid in daemon.capture_pids():
            os.kill(pid, signal.SIGKILL)
        line.listener.wait_for_state(lambda s, n=n: s["cameras"]["top"]["state"] == "running" and s["last_seq"] >= n)
    assert daemon.wait() == 0, daemon.log
    line.listener.drain()
    assert [v["source"] for v in line.listener.verdicts] == names
    assert {v["outcome"] for v in line.listener.verdicts} == {"PASS"}
    health = line.listener.last_state()["cameras"]["top"]
    assert health["restarts"] == 3
    assert "SIGKILL" in health["last_error"]


def test_files_that_come_and_go_shift_nothing(line: Line) -> None:
    """After kill -9 of the capture process the folder is listed again; every other file still has exactly one verdict."""
    folder = line.folder / "images"
    names = write_images(folder, 60)
    daemon = line.run(line.config("top:\n  source: {kind: folder, path: images, fps: 40}\n  policy: wait\n"), "--once")
    line.listener.wait_for_verdicts(12)
    for name in ("0000_new.png", "0001_new.png", "000_new.png"):
        (folder / name).write_bytes((folder / names[0]).read_bytes())
    (folder / names[5]).unlink()
    for pid in daemon.capture_pids():
        os.kill(pid, signal.SIGKILL)
    assert daemon.wait() == 0, daemon.log
    line.listener.drain()
    assert [v["source"] for v in line.listener.verdicts] == names


def runs_again(camera: dict[str, Any], *, restarts: int) -> bool:
    """Whether the process of the last restart has delivered; the restart is counted before its process exists."""
    return camera["restarts"] == restarts and camera["state"] == "running" and camera["frames"] > 0


def test_the_memory_of_a_dead_capture_process_is_freed(line: Line) -> None:
    """At once, without waiting for Python's garbage collector: frames may be large."""
    write_images(line.folder / "images", 10)
    cameras = "top:\n  source: {kind: folder, path: images, loop: true, fps: 50}\n  policy: wait\n"
    daemon = line.run(line.config(cameras))
    for n in range(6):
        line.listener.wait_for_state(lambda s, n=n: runs_again(s["cameras"]["top"], restarts=n))
        (pid,) = daemon.capture_pids()
        os.kill(pid, signal.SIGKILL)
    line.listener.wait_for_state(lambda s: s["cameras"]["top"]["restarts"] == 6)
    line.listener.wait_for_verdicts(len(line.listener.verdicts) + 5)
    links = [str(fd.readlink()) for fd in Path(f"/proc/{daemon.process.pid}/fd").iterdir()]
    assert sum("anoseg-frames" in link for link in links) <= 2  # of the current process, and of one that may be starting
    assert daemon.terminate() == 0


def test_no_capture_process_outlives_a_killed_daemon(line: Line) -> None:
    """kill -9 of the daemon ends its capture processes, even one that hangs in a read."""
    os.mkfifo(line.folder / "pipe")
    write_images(line.folder / "images", 3)
    cameras = (
        "film:\n  source: {kind: file, path: pipe}\n  policy: wait\n"
        "top:\n  source: {kind: folder, path: images, loop: true, fps: 20}\n  policy: wait\n"
    )
    daemon = line.run(line.config(cameras))
    line.listener.wait_for_verdicts(3)
    pids = daemon.capture_pids()
    assert len(pids) == 2
    daemon.process.kill()
    daemon.wait()
    wait_until(lambda: not any(alive(pid) for pid in pids), "end of the capture processes")


def test_stream_that_goes_and_comes_back(line: Line) -> None:
    """When a stream's camera disappears, the state is lost; when it is back, verdicts continue."""
    with mjpeg_server(0) as port:
        cameras = f"eye:\n  source: {{kind: url, url: 'http://127.0.0.1:{port}/'}}\n" + QUICK.replace(": 1\n", ": 5\n")
        daemon = line.run(line.config(cameras))
        line.listener.wait_for_verdicts(5)
    lost = line.listener.wait_for_state(lambda s: s["cameras"]["eye"]["state"] == "lost")
    assert lost["state"] == "Error"
    tried = line.listener.wait_for_state(lambda s: s["cameras"]["eye"]["restarts"] >= 3)["cameras"]["eye"]["restarts"]
    pids = daemon.capture_pids()
    line.listener.wait_for_state(lambda s: s["cameras"]["eye"]["restarts"] >= tried + 3)
    assert daemon.capture_pids() == pids  # one process keeps trying: starting another costs more than an attempt
    with mjpeg_server(port):
        line.listener.wait_for_state(lambda s: s["cameras"]["eye"]["state"] == "running")
        verdict = line.listener.wait_for(lambda m: m.topic == "verdict.eye" and m.header["seq"] > lost["last_seq"])
        assert verdict.header["outcome"] == "PASS"
        assert daemon.terminate() == 0
    part_ids = [v["part_id"] for v in line.listener.verdicts]
    assert len(set(part_ids)) == len(part_ids)


def test_frozen_camera(line: Line) -> None:
    """A live camera that repeats one frame is UNKNOWN from the second on, then lost, and inspected again when it moves."""
    frozen = threading.Event()

    def picture(i: int) -> np.ndarray:
        return noisy(0 if frozen.is_set() else i + 1)

    with mjpeg_server(0, picture) as port:
        cameras = f"eye:\n  source: {{kind: url, url: 'http://127.0.0.1:{port}/'}}\n" + QUICK
        daemon = line.run(line.config(cameras.replace("open_timeout_s: 1", "open_timeout_s: 5")))
        line.listener.wait_for_verdicts(5)
        frozen.set()
        line.listener.wait_for(lambda m: m.topic == "verdict.eye" and m.header["reason"] == "repeated_frame")
        line.listener.wait_for_state(lambda s: s["cameras"]["eye"]["restarts"] >= 2)
        lost = line.listener.wait_for_state(lambda s: s["cameras"]["eye"]["state"] == "lost")
        assert "the same frame for" in lost["cameras"]["eye"]["last_error"]
        frozen.clear()
        line.listener.wait_for(lambda m: m.topic == "verdict.eye" and m.header["seq"] > lost["last_seq"] + 5)
        assert daemon.terminate() == 0
    line.listener.drain()
    outcomes = [v["reason"] or v["outcome"] for v in line.listener.verdicts]
    first = outcomes.index("repeated_frame")
    assert set(outcomes[:first]) == {"PASS"}
    # including the first frames each time it is opened again
    while_frozen = [o for v, o in zip(line.listener.verdicts, outcomes, strict=True) if v["seq"] <= lost["last_seq"]][first:]
    assert set(while_frozen) == {"repeated_frame"}
    assert outcomes[-1] in ("PASS", "shutdown")


def test_changed_resolution(line: Line) -> None:
    """A live camera that comes back with another resolution is not inspected: the region was set for the first one."""
    small = threading.Event()
    with mjpeg_server(0, lambda i: noisy(i, 32, 48) if small.is_set() else noisy(i)) as port:
        cameras = f"eye:\n  source: {{kind: url, url: 'http://127.0.0.1:{port}/'}}\n" + QUICK
        daemon = line.run(line.config(cameras.replace("open_timeout_s: 1", "open_timeout_s: 5")))
        line.listener.wait_for_verdicts(5)
        small.set()
        (pid,) = daemon.capture_pids()
        os.kill(pid, signal.SIGKILL)  # like a camera that is unplugged and plugged in; within one stream FFmpeg scales
        other = line.listener.wait_for(lambda m: m.topic == "verdict.eye" and m.header["reason"] == "image_size").header
        assert other["outcome"] == "UNKNOWN"
        assert "48×32 pixels, the camera gave 80×48 before" in other["detail"]
        state = line.listener.wait_for_state(lambda s: s["last_seq"] >= other["seq"])
        assert "48×32" in state["cameras"]["eye"]["last_error"]
        assert daemon.terminate() == 0
    after = [v for v in line.listener.verdicts if v["seq"] >= other["seq"]]
    assert {v["outcome"] for v in after} == {"UNKNOWN"}


def test_a_reload_accepts_another_resolution(line: Line, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Although the file is unchanged: the camera is opened again, its new size counts, and another camera goes on."""
    write_images(line.folder / "images", 2)
    control = f"control: {{endpoint: 'ipc://{tmp_path_factory.mktemp('c')}/ctl'}}"
    small = threading.Event()
    with mjpeg_server(0, lambda i: noisy(i, 32, 48) if small.is_set() else noisy(i)) as port:
        cameras = f"eye:\n  source: {{kind: url, url: 'http://127.0.0.1:{port}/'}}\n"
        cameras += "other:\n  source: {kind: folder, path: images, loop: true, fps: 20}\n  policy: wait\n"
        config = line.config(cameras, more=control)
        daemon = line.run(config)
        line.listener.wait_for(lambda m: m.topic == "verdict.eye")
        small.set()
        (pid, _) = daemon.capture_pids()
        os.kill(pid, signal.SIGKILL)
        before = line.listener.wait_for(lambda m: m.topic == "verdict.eye" and m.header["reason"] == "image_size").header
        done = run_anosegd("reload", str(config))
        assert (done.returncode, "opened again" in done.stdout and "eye" in done.stdout) == (0, True), done
        line.listener.wait_for(lambda m: m.topic == "verdict.eye" and m.header["score"] is not None)
        again = run_anosegd("reload", str(config))
        assert (again.returncode, "eye" in again.stdout) == (0, False), again
        assert daemon.terminate() == 0
    assert [e["changed"] for e in daemon.events if e["event"] == "reload.cameras"] == ["eye"]
    running = [e["camera"] for e in daemon.events if e["event"] == "camera.running"]
    assert running.count("other") == 1
    assert {v["run_id"] for v in line.listener.verdicts} == {before["run_id"]}
    sequences = [v["sequence"] for v in line.listener.verdicts if v["camera"] == "eye"]
    assert sequences == sorted(set(sequences))


def test_turned_image_and_millimetres(line: Line) -> None:
    """Rotation comes first: the defect's position is that in the turned image, and its size is given in mm too."""
    (line.folder / "images").mkdir()
    cv2.imwrite(str(line.folder / "images" / "0.png"), bad_part())  # 80×48, white at x 20…39, y 10…29
    cameras = (
        "top:\n  source: {kind: folder, path: images}\n  policy: wait\n  rotate: 90\n  mm_per_pixel: 0.5\n"
        "  region: {x: 0, y: 0, width: 48, height: 80}\n"
    )
    daemon = line.run(line.config(cameras), "--once")
    assert daemon.wait() == 0, daemon.log
    line.listener.drain()
    (verdict,) = line.listener.verdicts
    assert verdict["outcome"] == "FAIL"
    (defect,) = verdict["defects"]
    # Clockwise: a distance from the top becomes a distance from the right.
    assert abs(defect["x"] - (48 - 30)) <= 2
    assert abs(defect["y"] - 20) <= 2
    assert abs(defect["width_mm"] - 10) <= 2
    assert defect["area_mm2"] == pytest.approx(defect["area"] * 0.25, abs=0.01)


def sysfs_camera(root: Path, number: int, serial: str | None) -> Path:
    """A USB camera in sysfs: the serial number is at the USB device, one level above the interface."""
    interface = root / "devices" / f"usb{number}" / "interface"
    interface.mkdir(parents=True)
    if serial:
        (interface.parent / "serial").write_text(serial + "\n")
    folder = root / "class" / f"video{number}"
    folder.mkdir(parents=True)
    (folder / "name").write_text(f"Camera {number}\n")
    (folder / "index").write_text("0\n")
    (folder / "device").symlink_to(interface)
    return root / "class"


def test_a_swapped_camera_is_noticed(tmp_path: Path) -> None:
    """The serial number decides, not the order in which cameras were plugged in."""
    sysfs_camera(tmp_path, 0, "A1")
    sysfs_camera(tmp_path, 1, "B2")
    sysfs = sysfs_camera(tmp_path, 2, None)
    check_serial(0, "A1", sysfs)
    check_serial("/dev/video1", "B2", sysfs)
    with pytest.raises(CameraError, match="is the camera A1; source"):
        check_serial(0, "B2", sysfs)
    with pytest.raises(CameraError, match="has no serial number"):
        check_serial(2, "C3", sysfs)
    assert [(d.path, d.name, d.serial) for d in list_devices(sysfs, tmp_path / "none")] == [
        ("/dev/video0", "Camera 0", "A1"),
        ("/dev/video1", "Camera 1", "B2"),
        ("/dev/video2", "Camera 2", None),
    ]


def test_probe_saves_a_picture_of_each_camera(line: Line) -> None:
    """`anosegd cameras CONFIG` gives size, rate and a picture of each camera, or the reason for none, with exit code 1."""
    with mjpeg_server(0) as port:
        cameras = (
            f"eye:\n  source: {{kind: url, url: 'http://127.0.0.1:{port}/'}}\n  rotate: 90\n"
            "gone:\n  source: {kind: device, device: /dev/no-such-camera}\n"
        )
        done = run_anosegd("cameras", str(line.config(cameras)), "--out", str(line.folder / "pictures"))
    assert done.returncode == 1
    assert "eye: stream, 80×48: 48×80, " in done.stdout
    picture = cv2.imread(str(line.folder / "pictures" / "eye.png"))
    assert picture is not None
    assert picture.shape == (80, 48, 3)
    assert "camera gone: device /dev/no-such-camera cannot be opened" in done.stderr
    assert "Traceback" not in done.stderr
    assert run_anosegd("cameras", process=True).returncode == 0  # in this process, Aravis would find no camera later
