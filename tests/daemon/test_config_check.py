"""What `anosegd check` refuses, and what it warns about: whatever `run` would refuse, die of, or silently not do."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.anosegd_line import run_anosegd
from support.permissions import locked
from support.tiny_bundle import good_part

from anoseg_engines.runtimes.select import RUNTIMES
from anosegd.commands import check
from anosegd.config import load_config

REFUSED = "cannot be looked at (Permission denied)"
CAMERA = "a: {source: {kind: demo}"


@pytest.fixture
def folder(tmp_path: Path, tiny_store: Path) -> Path:
    """Images of 80×48, a video of that size, and images of the empty place."""
    (tmp_path / "images").mkdir()
    for i in range(3):
        cv2.imwrite(str(tmp_path / "images" / f"{i}.png"), good_part())
    writer = cv2.VideoWriter(str(tmp_path / "v.avi"), cv2.CAP_FFMPEG, cv2.VideoWriter.fourcc(*"MJPG"), 25.0, (80, 48))
    for _ in range(3):
        writer.write(good_part())
    writer.release()
    cv2.imwrite(str(tmp_path / "empty.png"), np.zeros((48, 80, 3), np.uint8))
    cv2.imwrite(str(tmp_path / "small.png"), np.zeros((24, 40, 3), np.uint8))
    (tmp_path / "store").symlink_to(tiny_store)
    return tmp_path


def write(folder: Path, text: str) -> Path:
    path = folder / "line.yaml"
    path.write_text(text if "engine:" in text else f"engine: {{bundle: store}}\n{text}")
    return path


FOLDER = "source: {kind: folder, path: images}, policy: wait"
VIDEO = "source: {kind: file, path: v.avi}, policy: wait"
DEVICE = "source: {kind: device, device: 0, width: 80, height: 48}"
WIDE = "region: {x: 0, y: 0, width: 80, height: 48}"
TALL = "region: {x: 0, y: 0, width: 48, height: 80}"


@pytest.mark.parametrize(
    ("camera", "warning"),
    [
        (f"{FOLDER}, {WIDE}", None),
        (f"{FOLDER}, {TALL}", "the region reaches beyond 0.png (80×48), and beyond 2 of the other images"),
        (f"{FOLDER}, {TALL}, rotate: 90", None),
        (f"{VIDEO}, {WIDE}", None),
        (f"{VIDEO}, {WIDE}, rotate: 270", "the region reaches beyond v.avi (48×80): such parts are UNKNOWN: region"),
        (f"{DEVICE}, {WIDE}", None),
        (f"{DEVICE}, {TALL}", "the region reaches beyond the camera's image (80×48)"),
        (f"{FOLDER}, presence: {{empty: empty.png}}", None),
        (f"{FOLDER}, presence: {{empty: small.png}}", "presence.empty is 40×24, but 0.png is 80×48: an image of another size"),
        (f"{FOLDER}, review_from: 0.4", None),
        (f"{FOLDER}, review_from: 0.5", "review_from 0.5 is not below the threshold 0.5"),
        (f"{FOLDER}, review_from: 0.6, rules: [{{name: r, threshold: 0.7}}]", None),
        (f"{FOLDER}, review_from: 0.7, rules: [{{name: r, threshold: 0.7}}]", "not below the threshold 0.7"),
        (f"{FOLDER}, review_from: 0.5, rules: [{{name: r, threshold: 0.2, {WIDE}}}]", "not below the threshold 0.5"),
        (f"{FOLDER}, review_from: 0.4, rules: [{{name: r, threshold: 0.2, {WIDE}}}]", None),
        ("source: {kind: url, url: 'rtsp://u:p@camera:554/1'}", None),
        ("source: {kind: url, url: 'udp://@:5004'}", None),
        ("source: {kind: url, url: 'http://[fe80::1]:80/'}", None),
        ("source: {kind: url, url: camera1}", "source.url is not an address; write rtsp://… or http://…"),
        ("source: {kind: url, url: 'rtps://camera/'}", "source.url is not an address"),
        ("source: {kind: url, url: 'rtsp://:554/1'}", "source.url names no host"),
        ("source: {kind: url, url: 'rtsp://cam era/1'}", "source.url contains a space"),
        ("source: {kind: file, path: line.yaml}, policy: wait", "line.yaml cannot be opened as a video"),
        (
            "source: {kind: device, device: 0}}, b: {source: {kind: device, device: /dev/video0}",
            "cameras a and b use the same device, /dev/video0; only one of them can open it",
        ),
        ("source: {kind: url, url: 'rtsp://u:geheim'}", "source.url has a port that is not a number"),
    ],
)
def test_a_setting_that_can_do_nothing_is_said(folder: Path, camera: str, warning: str | None) -> None:
    """Exit code 0, because cameras and images may change; a line `warning:`, with both values, and without the password."""
    done = run_anosegd("check", str(write(folder, f"cameras: {{a: {{{camera}}}}}\n")))
    assert done.returncode == 0, done.stderr
    assert "geheim" not in done.stdout + done.stderr
    if warning is None:
        assert "warning" not in done.stdout
    else:
        (line,) = [line for line in done.stdout.splitlines() if "warning: " in line]
        assert warning in line


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (f"journal: {{path: none/v.db}}\ncameras: {{{CAMERA}}}}}", "none: no such folder"),
        (f"publish: {{endpoint: 'ipc:///no/such/s'}}\ncameras: {{{CAMERA}}}}}", "/no/such: no such folder"),
        (f"control: {{endpoint: 'ipc:///no/such/s'}}\ncameras: {{{CAMERA}}}}}", "/no/such: "),
        ("cameras: {a: {source: {kind: url, url: 'rtsp://h:65536/1'}}}", "cameras.a.source: url: port 65536 is not a port"),
        ("cameras: {a: {source: {kind: url, url: 'http://u:p@h:0/'}}}", "cameras.a.source: url: port 0 is not a port"),
    ],
)
def test_what_run_cannot_use_is_refused(folder: Path, text: str, says: str) -> None:
    """Exit code 2 from check, and from run not 0; a missing folder of a socket has the same code."""
    path = write(folder, text)
    for command in ("check", "run"):
        done = run_anosegd(command, str(path))
        assert done.returncode == 2
        assert says in done.stderr
        assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("text", "code", "says"),
    [
        ("cameras: {a: {source: {kind: folder, path: shut/images}, policy: wait}}", 2, f"shut/images: {REFUSED}"),
        ("cameras: {a: {source: {kind: folder, path: names}, policy: wait}}", 2, REFUSED),
        ("cameras: {a: {source: {kind: folder, path: names, recursive: true}, policy: wait}}", 2, f"names/below: {REFUSED}"),
        ("cameras: {a: {source: {kind: file, path: shut/v.avi}}}", 2, f"shut/v.avi: {REFUSED}"),
        (f"cameras: {{{CAMERA}, presence: {{empty: shut/e.png}}}}}}", 2, "shut/e.png: cannot be read (Permission denied)"),
        (f"journal: {{path: shut/v.db}}\ncameras: {{{CAMERA}}}}}", 2, f"journal.path: {{folder}}/shut/v.db: {REFUSED}"),
        (f"publish: {{endpoint: 'ipc://{{folder}}/shut/s/p'}}\ncameras: {{{CAMERA}}}}}", 2, f"shut/s: {REFUSED}"),
        (f"engine: {{bundle: shut/store}}\ncameras: {{{CAMERA}}}}}", 3, f"shut/store/manifest.json: {REFUSED}\n  give it to"),
        (f"engine: {{bundle: shut}}\ncameras: {{{CAMERA}}}}}", 3, f"shut/manifest.json: {REFUSED}\n  give it to"),
        (f"engine: {{bundle: half}}\ncameras: {{{CAMERA}}}}}", 3, f"half/1/manifest.json: {REFUSED}\n  give it to"),
        (f"evidence: {{folder: shut/a/b}}\ncameras: {{{CAMERA}}}}}", 0, "keeps pictures of parts in"),
    ],
)
def test_what_this_user_may_not_enter_is_named(folder: Path, text: str, code: int, says: str) -> None:
    """With the code that keeps the service from being restarted for ever; evidence stops no station."""
    (folder / "shut").mkdir()
    shutil.copytree(folder / "store", folder / "half")
    shutil.copytree(folder / "images", folder / "names")
    (folder / "names" / "below").mkdir()
    (folder / "names" / "notes.raw").write_bytes(b"raw")
    path = write(folder, text.replace("{folder}", str(folder)))
    with locked(folder / "shut", folder / "half" / "1", folder / "names"):
        (folder / "names").chmod(0o400)  # the names may be read
        done = run_anosegd("check", str(path))
    says = says.replace("{folder}", str(folder))
    assert (done.returncode, says in done.stderr + done.stdout) == (code, True), done.stderr + done.stdout


def test_folders_that_the_service_creates_may_be_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only that of a station with the configuration's name."""
    monkeypatch.setattr(check, "STATE", folder / "lib")
    monkeypatch.setattr(check, "RUNTIME", folder / "run")
    text = "journal: {{path: lib/{0}/v.db}}\npublish: {{endpoint: 'ipc://{1}/run/{0}/p'}}\ncameras: {{{2}}}}}\n"
    done = run_anosegd("check", str(write(folder, text.format("line", folder, CAMERA))))
    assert done.returncode == 0, done.stderr
    assert "the service creates it when it starts" in done.stdout
    assert run_anosegd("check", str(write(folder, text.format("other", folder, CAMERA)))).returncode == 2


def test_home_folders_and_localhost(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Paths may begin with ~, and localhost is a loopback address. Without a network, it is 127.0.0.1."""
    monkeypatch.setenv("HOME", str(folder))
    config = load_config(
        write(
            folder,
            "engine: {bundle: ~/store}\njournal: {path: ~/v.db}\npublish: {endpoint: 'tcp://localhost:5599'}\n"
            "cameras:\n  a: {source: {kind: folder, path: ~/images}, policy: wait, presence: {empty: ~/empty.png}}\n"
            "  b: {source: {kind: file, path: ~nobody-of-this-name/v.avi}, policy: wait}\n",
        )
    )
    assert config.engine.bundle == str(folder / "store")
    assert config.journal is not None
    assert config.journal.path == str(folder / "v.db")
    assert config.publish.endpoint == "tcp://127.0.0.1:5599"
    presence = config.cameras["a"].presence
    assert presence is not None
    assert presence.empty == str(folder / "empty.png")
    assert getattr(config.cameras["a"].source, "path") == str(folder / "images")  # noqa: B009
    assert getattr(config.cameras["b"].source, "path") == str(folder / "~nobody-of-this-name/v.avi")  # noqa: B009


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_every_runtime_can_be_chosen(folder: Path, runtime: str) -> None:
    text = f"engine: {{bundle: store, runtime: {runtime}}}\ncameras: {{{CAMERA}}}}}\n"
    assert load_config(write(folder, text)).engine.runtime == runtime
