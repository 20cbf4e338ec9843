"""The evidence of the real daemon on a real disk: what is kept, and that nothing about it stops the inspection."""

import itertools
import json
import shutil
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from support.anosegd_line import Daemon, Line, wait_until
from support.small_disk import fill, mounted, remount
from support.tiny_bundle import bad_part, good_part

from anosegd.evidence import EvidenceReader
from anosegd.evidence.folder import CLOCK

FOLDER = "top:\n  source: {kind: folder, path: images, fps: 20}\n  policy: wait\n"
LOOP = FOLDER.replace("fps: 20", "fps: 20, loop: true")
SLOW_FOLDER = FOLDER.replace("fps: 20", "fps: 5")
"""For tests that demand every picture: a busy machine does not store 20 a second."""
HANGING_DISK = """
import time
from anosegd import cli
from anosegd.evidence.folder import EvidenceFolder

def store(*_):
    time.sleep(1000)

EvidenceFolder.store = store
cli.main()
"""


def evidence(more: str = "", folder: str = "kept", min_free: float = 0) -> str:
    """Keep rejected parts. The disk of this machine may be nearly full, so none of it has to be free unless a test says so."""
    return f"evidence: {{folder: {folder}, good_share: 0, min_free: {min_free}{more}}}"


@pytest.fixture
def images(line: Line) -> dict[str, np.ndarray[Any, Any]]:
    """Images with noise by file name; each third one has a defect."""
    rng = np.random.default_rng(3)
    (line.folder / "images").mkdir()
    written = {}
    for i in range(12):
        image = (bad_part() if i % 3 == 2 else good_part()) - rng.integers(0, 9, (48, 80, 3)).astype(np.uint8)
        written[f"{i:02}.png"] = image
        cv2.imwrite(str(line.folder / "images" / f"{i:02}.png"), image)
    return written


def only_bad(line: Line) -> None:
    for i, path in enumerate(sorted((line.folder / "images").iterdir())):
        if i % 3 != 2:
            path.unlink()


def reader(line: Line, folder: str = "kept") -> EvidenceReader:
    return EvidenceReader(line.folder / folder)


def decoded(data: bytes) -> np.ndarray[Any, Any]:
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    assert image is not None
    return image


def files(folder: Path) -> list[Path]:
    return sorted(path for path in folder.rglob("*") if path.is_file() and path.name != CLOCK)


def finished(line: Line, daemon: Daemon) -> dict[str, Any]:
    """The state of a station that came to its end."""
    assert daemon.wait() == 0, daemon.log
    line.listener.drain()
    return dict(line.listener.last_state())


def test_rejected_parts_are_kept_with_their_picture_map_and_verdict(line: Line, images: dict[str, Any]) -> None:
    """The file of a part holds every pixel of the camera's picture, the published map and the published verdict."""
    region = "  region: {x: 10, y: 5, width: 60, height: 40}\n"
    finished(line, line.run(line.config(FOLDER + region, more=evidence()), "--once"))
    published = {v["seq"]: v for v in line.listener.verdicts}
    masks = {m.header["seq"]: m for m in line.listener.received if m.topic == "mask.top"}
    names = list(reader(line).find())
    assert [n.seq for n in names] == [3, 6, 9, 12] == [seq for seq, v in published.items() if v["outcome"] == "FAIL"]
    for name in names:
        part = reader(line).read(name)
        assert part.verdict == published[name.seq]
        assert (name.camera, name.outcome, name.journal_id) == ("top", "FAIL", part.verdict["journal_id"])
        assert part.picture_type == "png"
        assert np.array_equal(decoded(part.picture), images[part.verdict["source"]])
        assert [part.map_png] == masks[name.seq].payload
        assert part.mask is not None
        assert json.loads(json.dumps(masks[name.seq].header)) == {
            **{f: getattr(part.mask, f) for f in part.mask.__struct_fields__ if f != "region"},
            "region": {"x": 10, "y": 5, "width": 60, "height": 40},
        }
        assert (part.region.x, part.region.width) == (10, 60)
    assert len(files(line.folder / "kept")) == 4


def test_a_share_of_good_parts_is_kept_as_jpeg(line: Line, images: dict[str, Any]) -> None:
    """With good_share 1 every part is kept; the pictures are JPEG of the configured quality."""
    finished(
        line,
        line.run(line.config(SLOW_FOLDER, more="evidence: {folder: kept, format: jpeg, good_share: 1, min_free: 0}"), "--once"),
    )
    names = list(reader(line).find())
    assert [n.seq for n in names] == list(range(1, 13))
    assert {n.outcome for n in names} == {"PASS", "FAIL"}
    for name in names:
        part = reader(line).read(name)
        assert part.picture_type == "jpeg"
        assert part.picture[:2] == b"\xff\xd8"
        assert np.abs(decoded(part.picture).astype(int) - images[part.verdict["source"]]).mean() < 6


def test_unknown_parts_with_a_picture_are_kept(line: Line, images: dict[str, Any]) -> None:
    """Parts that were not inspected are kept without a map; those that nobody captured have no file."""
    (line.folder / "images" / "02.png").write_bytes(b"no image")
    cv2.imwrite(str(line.folder / "images" / "05.png"), good_part() // 4)
    cameras = FOLDER + "  quality: {darkest: 0.6}\n  review_from: 0.15\n"
    finished(line, line.run(line.config(cameras, more=evidence()), "--once"))
    outcomes = {v["seq"]: (v["outcome"], v["reason"]) for v in line.listener.verdicts}
    assert outcomes[3] == ("UNKNOWN", "unreadable")
    assert outcomes[6] == ("UNKNOWN", "image_quality")
    kept = {n.seq: n for n in reader(line).find()}
    assert 3 not in kept
    assert kept[6].reason == "image_quality"
    part = reader(line).read(kept[6])
    assert (part.map_png, part.mask) == (None, None)
    assert np.array_equal(decoded(part.picture), good_part() // 4)
    assert set(kept) == {seq for seq, (outcome, reason) in outcomes.items() if outcome != "PASS" and reason != "unreadable"}


def test_parts_that_missed_their_deadline_are_kept(line: Line, images: dict[str, Any]) -> None:
    """The verdict was sent before anybody looked at the picture, which is kept all the same."""
    finished(line, line.run(line.config(SLOW_FOLDER + "  deadline_ms: 0.01\n", more=evidence()), "--once"))
    assert {v["reason"] for v in line.listener.verdicts} == {"deadline"}
    names = list(reader(line).find())
    assert [n.seq for n in names] == list(range(1, 13))
    assert np.array_equal(decoded(reader(line).read(names[4]).picture), images["04.png"])


def test_a_camera_can_be_left_out(line: Line, images: dict[str, Any]) -> None:
    """With `keep_evidence: false` no part of this camera is kept."""
    other = FOLDER.replace("top:", "side:") + "  keep_evidence: false\n"
    finished(line, line.run(line.config(FOLDER + other, more=evidence()), "--once"))
    assert {n.camera for n in reader(line).find()} == {"top"}


def test_a_restart_goes_on_with_what_is_there(line: Line, images: dict[str, Any]) -> None:
    """The parts of an earlier run count, and what a killed daemon left half-written is removed."""
    config = line.config(FOLDER, more=evidence())
    first = finished(line, line.run(config, "--once"))["evidence"]
    assert (first["kept"], first["dropped"], first["working"]) == (4, 0, True)
    before = files(line.folder / "kept")
    (before[0].parent / f".{before[0].name}.tmp").write_bytes(b"half")
    (before[0].parent / before[0].name.replace(".top.", ".side.")).write_bytes(b"")  # after a power failure
    second = finished(line, line.run(config, "--once"))["evidence"]
    after = files(line.folder / "kept")
    assert set(before) < set(after)
    assert len(after) == 8
    assert second["size_mb"] == pytest.approx(sum(path.stat().st_size for path in after) / 1e6, abs=0.001)


def test_the_folder_is_deleted_while_running(line: Line, images: dict[str, Any]) -> None:
    """Verdicts go on, the log names the folder, and it is made again."""
    only_bad(line)
    daemon = line.run(line.config(LOOP, more=evidence()))
    wait_until(lambda: len(files(line.folder / "kept")) > 3, "parts are kept")
    deleted = (line.folder / "kept").rename(line.folder / "deleted")  # rmtree fails if the daemon renames a file meanwhile
    shutil.rmtree(deleted)
    wait_until(lambda: (line.folder / "kept").exists() and len(files(line.folder / "kept")) > 3, "parts are kept again")
    assert daemon.terminate() == 0
    line.listener.drain()
    assert [e["folder"] for e in daemon.events if e["event"] == "evidence.folder_lost"] == [str(line.folder / "kept")]
    assert {v["outcome"] for v in line.listener.verdicts} <= {"FAIL", "UNKNOWN"}
    seqs = [v["seq"] for v in line.listener.verdicts]
    assert seqs == list(range(1, len(seqs) + 1))


@pytest.mark.parametrize("fault", ["full", "read-only"])
def test_a_disk_that_takes_nothing(line: Line, images: dict[str, Any], fault: str) -> None:
    """Verdicts go on, the state says what is wrong, dropped parts are counted, and it works again when the disk does."""
    only_bad(line)
    with mounted(line.folder / "disk", "4m") as disk:
        daemon = line.run(line.config(LOOP, more=evidence(folder="disk/kept", min_free=0.1)))
        line.listener.wait_for_state(lambda s: s["evidence"]["kept"] > 3)
        if fault == "full":
            filler = fill(disk)
        else:
            remount(disk, "ro")
        state = line.listener.wait_for_state(lambda s: s["evidence"]["dropped"] > 3 and not s["evidence"]["working"])
        assert state["state"] == "ContinuousExecution"
        assert "no pictures of parts are kept" in state["detail"]
        assert str(disk) in state["evidence"]["last_error"]
        begun = state["last_seq"]
        line.listener.wait_for_state(lambda s: s["last_seq"] > begun + 10)
        if fault == "full":
            filler.unlink()
        else:
            remount(disk, "rw")
        again = line.listener.wait_for_state(lambda s: s["evidence"]["working"])
        line.listener.wait_for_state(lambda s: s["evidence"]["kept"] > again["evidence"]["kept"] + 3)
        assert daemon.terminate() == 0
        line.listener.drain()
        kept = list(reader(line, "disk/kept").find())
        assert all(reader(line, "disk/kept").read(name).verdict["seq"] == name.seq for name in kept)
    events = [e["event"] for e in daemon.events]
    assert 1 <= events.count("evidence.dropped") < 5
    assert events.count("evidence.working") == 1
    seqs = [v["seq"] for v in line.listener.verdicts]
    assert seqs == list(range(1, len(seqs) + 1))
    assert {v["outcome"] for v in line.listener.verdicts} <= {"FAIL", "UNKNOWN"}


def test_a_disk_that_hangs_holds_up_nothing(line: Line, images: dict[str, Any]) -> None:
    """A write that never returns costs pictures, not parts: every frame is inspected in time, and the daemon ends."""
    only_bad(line)
    cameras = LOOP.replace("policy: wait", "policy: every\n  queue: 32")  # a busy machine fills a short queue
    daemon = line.run(line.config(cameras, more=evidence()), program=("-c", HANGING_DISK))
    state = line.listener.wait_for_state(lambda s: s["evidence"] is not None and s["evidence"]["dropped"] > 60)
    assert state["evidence"]["kept"] == 0
    begun = time.monotonic()
    daemon.process.terminate()
    daemon.wait()
    assert time.monotonic() - begun < 20
    line.listener.drain()
    verdicts = line.listener.verdicts
    assert [v["seq"] for v in verdicts] == list(range(1, len(verdicts) + 1))
    late = list(itertools.takewhile(lambda v: v["outcome"] == "FAIL", verdicts))
    assert len(late) >= len(verdicts) - 2, [v for v in verdicts if v["outcome"] != "FAIL"]  # the last ones: shutdown
    assert "daemon.stuck" in [e["event"] for e in daemon.events]


def test_check_names_what_is_wrong(line: Line, images: dict[str, Any]) -> None:
    """`anosegd check` says how much is kept, and refuses a file in the folder's place."""
    from support.anosegd_line import run_anosegd

    config = line.config(FOLDER, more=evidence(min_free=0.1))
    checked = run_anosegd("check", str(config))
    assert checked.returncode == 0, checked.stderr
    assert "30 days, 20 GiB, 10% of the disk left free" in checked.stdout
    (line.folder / "kept").write_text("")
    refused = run_anosegd("check", str(config))
    assert refused.returncode == 2
    assert "evidence.folder" in refused.stderr
    assert "is not a folder" in refused.stderr
