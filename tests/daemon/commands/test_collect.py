"""`anosegd collect`: a folder that `fit` takes, from files and from cameras, without a bundle."""

import itertools
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from stress.real_cameras import Rtsp
from support.anosegd_line import run_anosegd
from support.mjpeg_camera import mjpeg_server, noisy
from support.refusing_camera import http_camera
from support.small_disk import mounted
from support.tiny_bundle import write_tiny_bundle

from anoseg_engines.images import read_image
from anoseg_trainer.data.good_images import find_good_images, read_good_images
from anosegd.cameras import CaptureHandle
from anosegd.capture.config import DeviceSource, HardwareTrigger
from anosegd.capture.protocol import Captured, Finished, FromCapture, Opened, Origin, Started
from anosegd.commands.collect_camera import CameraReader, capture_of
from anosegd.commands.collect_choice import Choice
from anosegd.config import CameraConfig


def config(folder: Path, source: str, more: str = "") -> Path:
    path = folder / "line.yaml"
    path.write_text(f"engine: {{bundle: store/none}}\ncameras:\n  top:\n    source: {source}\n{more}")
    return path


def collect(config: Path, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return run_anosegd("collect", str(config), "--out", str(config.parent / "data"), *arguments, process=True)


def textured(seed: int, blur: float = 0.0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    coarse = cv2.resize(rng.integers(60, 190, (12, 20, 3)).astype(np.uint8), (200, 120), interpolation=cv2.INTER_NEAREST)
    image = np.clip(coarse + rng.normal(0, 12, coarse.shape), 0, 255).astype(np.uint8)
    return cv2.GaussianBlur(image, (0, 0), blur) if blur else image


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """30 parts, among them three copies, three blurred, one dark and one that shows the scene before with noise."""
    (tmp_path / "images").mkdir()
    for i in range(30):
        image = textured(i)
        if i in (5, 15, 25):
            image = textured(i - 2)
        elif i in (2, 12, 22):
            image = textured(i, blur=3.0)
        elif i == 17:
            image = image // 4
        elif i == 20:
            noise = np.random.default_rng(0).normal(0, 2, image.shape)
            image = np.clip(textured(19) + noise, 0, 255).astype(np.uint8)
        cv2.imwrite(str(tmp_path / "images" / f"{i:02}.png"), image)
    return tmp_path


LEFT_OUT = {2, 5, 12, 15, 17, 20, 22, 25}


def test_duplicates_and_unsuitable_images_are_left_out(images: Path) -> None:
    """The rest is saved pixel for pixel, as the line turns and cuts it; the trainer takes the folder."""
    more = "    policy: wait\n    rotate: 90\n    region: {x: 20, y: 10, width: 80, height: 150}\n"
    done = collect(config(images, "{kind: folder, path: images}", more))
    assert done.returncode == 0, done.stderr
    assert "22 images of camera top" in done.stdout
    assert "4 of an unchanged scene, 4 dark, bright or blurred" in done.stdout
    assert f"next: anoseg-train fit --data {images / 'data'} --out {images / 'store' / 'none'}" in done.stdout
    saved = find_good_images(images / "data")
    expected = [np.rot90(textured(i), -1)[10:160, 20:100] for i in range(30) if i not in LEFT_OUT]
    assert len(saved) == len(expected)
    assert all(np.array_equal(read_image(path), image) for path, image in zip(saved, expected, strict=True))
    assert len(read_good_images(saved).paths) == 22


def test_every_nth_part_up_to_the_count(images: Path) -> None:
    """It stops by itself. A looped source ends with its last file, because it would show nothing new."""
    source = "{kind: folder, path: images, loop: true}"
    done = collect(config(images, source, "    policy: wait\n"), "--every", "2", "--count", "4")
    assert done.returncode == 0, done.stderr
    saved = find_good_images(images / "data", least=1)
    assert [path.name for path in saved] == [f"top-{n:05}.png" for n in range(1, 5)]
    assert [np.array_equal(read_image(p), textured(i)) for p, i in zip(saved, (0, 4, 6, 8), strict=True)] == [True] * 4
    for path in saved:
        path.unlink()
    assert "19 images" in collect(config(images, source, "    policy: wait\n"), "--every", "1", "--count", "19").stdout
    for path in find_good_images(images / "data", least=1):
        path.unlink()
    done = collect(config(images, source, "    policy: wait\n"), "--count", "100")
    assert (done.returncode, done.stdout.split()[0]) == (0, "22")


def test_a_camera_that_goes_away_and_comes_back(tmp_path: Path) -> None:
    """An MJPEG camera is read across its interruption; the progress says so."""
    begun = threading.Event()

    def picture(i: int) -> np.ndarray:
        if i == 30:
            begun.set()
        return noisy(i, 120, 200)

    with mjpeg_server(0, picture) as port:
        path = config(tmp_path, f"{{kind: url, url: 'http://127.0.0.1:{port}/'}}")
        command = [sys.executable, "-m", "anosegd", "collect", str(path), "--out", str(tmp_path / "data"), "--count", "120"]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert begun.wait(60)
    time.sleep(1.0)
    with mjpeg_server(port, lambda i: noisy(1000 + i, 120, 200)):
        printed, said = process.communicate(timeout=60)
    assert process.returncode == 0, said
    assert "120 images" in printed
    assert "camera away" in said or "camera lost" in said
    assert len(find_good_images(tmp_path / "data")) == 120


class WaitingCamera:
    """A capture process whose hardware-triggered camera is open, and gives its only part when the line runs."""

    complaint = ""

    def __init__(self, first_part_after_s: float) -> None:
        self._runs_at = time.monotonic() + first_part_after_s
        self._messages: list[FromCapture] = [Started(), Opened("a camera")]

    def receive(self, timeout_s: float, wake_fd: int) -> list[FromCapture]:
        time.sleep(0.05)
        if time.monotonic() > self._runs_at:
            origin = Origin(position=0, captured_ns=0, captured_wall_ns=0, read_wall_ns=0)
            return [Captured(origin=origin, slot=0, shape=(120, 200, 3), lost=0), Finished()]
        messages, self._messages = self._messages, []
        return messages

    def image(self, message: Captured) -> np.ndarray:
        return textured(0)

    def release(self, slot: int) -> None:
        pass

    def kill(self) -> None:
        pass


def test_a_triggered_camera_waits_for_the_line(monkeypatch: pytest.MonkeyPatch) -> None:
    """The first part of a hardware-triggered camera may come later than open_timeout_s after it was opened."""
    monkeypatch.setattr(CaptureHandle, "start", lambda job, environment: WaitingCamera(1.0))
    source = DeviceSource(device=0)
    camera = CameraConfig(source=source, trigger=HardwareTrigger(), policy="every", open_timeout_s=0.5)
    reader = CameraReader(
        capture_of("top", camera, every_frame=False), camera, Choice(1, None), say=lambda text: None, idle=lambda: None
    )
    assert len(list(reader.parts(None))) == 1


def test_a_still_camera_gives_no_duplicates(tmp_path: Path) -> None:
    """A part that stands still for a while, under a sensor's noise, is one image."""
    parts = [textured(i) for i in range(6)]

    def picture(i: int) -> np.ndarray:
        noise = np.random.default_rng(i).normal(0, 1, parts[0].shape)
        return np.clip(parts[i // 10 % 6] + noise, 0, 255).astype(np.uint8)

    with mjpeg_server(0, picture) as port:
        done = collect(config(tmp_path, f"{{kind: url, url: 'http://127.0.0.1:{port}/'}}"), "--count", "12")
    assert done.returncode == 0, done.stderr
    saved = [read_image(path) for path in find_good_images(tmp_path / "data")]
    shown = [min(range(6), key=lambda k: float(np.abs(image.astype(int) - parts[k]).mean())) for image in saved]
    assert len(saved) == 12
    assert all((b - a) % 6 == 1 for a, b in itertools.pairwise(shown)), shown


@pytest.mark.skipif(bool(reason := Rtsp.missing()), reason=reason)
def test_an_rtsp_camera(tmp_path: Path) -> None:
    """A real RTSP stream gives a folder that the trainer takes."""
    camera = Rtsp()
    camera.start()
    try:
        done = collect(config(tmp_path, camera.source), "--count", "15", "--every", "2")
    finally:
        camera.stop()
    assert done.returncode == 0, done.stderr
    assert len(read_good_images(find_good_images(tmp_path / "data")).paths) == 15


def test_the_next_command_can_be_typed(images: Path) -> None:
    """With `--release` only for a first version, without the version in `engine.bundle`, and with quoted names."""
    path = config(images, "{kind: folder, path: images}", "    policy: wait\n")
    for bundle, said in {
        "'my store/part'": f"--out '{images}/my store/part' --release\n",
        "store/part/2": f"--out {images}/store/part --release\n",
        "store/20261127": f"--out {images}/store/20261127 --release\n",
        "made/tiny": f"--out {images}/made/tiny\n",
        "made/tiny/1": f"--out {images}/made/tiny\n",
    }.items():
        if bundle == "made/tiny":
            write_tiny_bundle(images / "made" / "tiny")
        path.write_text(re.sub("bundle: [^}]*", f"bundle: {bundle}", path.read_text()))
        data = images / "data and more" / bundle.replace("/", "-").strip("'")
        done = run_anosegd("collect", str(path), "--out", str(data), "--count", "1")
        assert f"next: anoseg-train fit --data '{data}' {said}" in done.stdout


def test_a_full_disk_is_named(images: Path) -> None:
    """What was saved stays, no half image is left, and the error names the file."""
    path = config(images, "{kind: folder, path: images}", "    policy: wait\n")
    with mounted(images / "disk", "300k") as disk:
        done = run_anosegd("collect", str(path), "--out", str(disk / "data"), process=True)
        assert done.returncode == 1
        assert "cannot be written (No space left on device)" in done.stderr
        assert all(read_image(saved).shape == (120, 200, 3) for saved in find_good_images(disk / "data", least=1))
        assert not list((disk / "data").glob(".*"))


@pytest.fixture
def small(tmp_path: Path):
    from contextlib import ExitStack

    from support.small_disk import mounted

    with ExitStack() as stack:
        yield lambda: stack.enter_context(mounted(tmp_path / "disk", "300k"))


def test_what_cannot_be_collected(images: Path) -> None:
    """Which camera, a folder that is not empty, a trigger nobody sends, a region beyond the picture, a camera that refuses."""
    folder = "{kind: folder, path: images}"
    beyond = "    policy: wait\n    region: {x: 0, y: 0, width: 999, height: 9}\n"
    two = f"    policy: wait\n  side:\n    source: {folder}\n    policy: wait\n"
    control = "control: {}\n"
    triggered = "    policy: every\n    trigger: {kind: software}\n"
    with http_camera(401) as camera:
        refused = f"{{kind: url, url: 'http://127.0.0.1:{camera.port}/'}}"
        for make, arguments, code, said in (
            (lambda: config(images, folder, two), (), 2, "which camera?"),
            (lambda: config(images, folder, two), ("--camera", "left"), 2, "top, side"),
            (lambda: config(images, folder, triggered + control), (), 2, "--every-frame"),
            (
                lambda: config(images, folder, beyond),
                (),
                2,
                "200×120",
            ),
            (lambda: config(images, refused), (), 1, "asks for a user name"),
        ):
            done = collect(make(), *arguments)
            assert (done.returncode, "Traceback" in done.stderr) == (code, False), done.stderr
            assert said in done.stderr
    done = collect(config(images, folder, triggered + control), "--every-frame", "--count", "3")
    assert done.returncode == 0, done.stderr
    again = collect(config(images, folder, "    policy: wait\n"))
    assert again.returncode == 2
    assert "is not empty" in again.stderr
