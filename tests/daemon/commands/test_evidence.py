"""`anosegd evidence`: kept parts are listed and exported, while the daemon runs and when it does not."""

import json
import os
import shutil
import zipfile
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.anosegd_line import Line, run_anosegd, wait_until
from support.tiny_bundle import bad_part, good_part

from anoseg_trainer.data.evaluation_images import find_evaluation_images
from anoseg_trainer.data.good_images import find_good_images
from anosegd.evidence import EvidenceReader

CAMERAS = (
    "top:\n  source: {kind: folder, path: images, fps: 20}\n  policy: wait\n  review_from: 0.15\n"
    "  region: {x: 10, y: 5, width: 60, height: 40}\n"
)
KEEP = "evidence: {folder: kept, good_share: 1, min_free: 0}"
TRIGGERED = "top:\n  source: {kind: folder, path: images, loop: true}\n  trigger: {kind: software}\n  policy: every\n"


@pytest.fixture
def config(line: Line) -> Path:
    """A station with a folder of parts: good, bad, to be looked at, dark."""
    (line.folder / "images").mkdir()
    for i in range(8):
        image = (good_part(), bad_part(), good_part() - 20, good_part() // 4)[i % 4] + np.uint8(i // 4)
        cv2.imwrite(str(line.folder / "images" / f"{i}.png"), image)
    return line.config(CAMERAS + "  quality: {darkest: 0.6}\n", more=KEEP)


@pytest.fixture
def kept(line: Line, config: Path) -> Path:
    """The same, when its daemon has ended."""
    assert line.run(config, "--once").wait() == 0
    line.listener.drain()
    assert len(line.listener.verdicts) == 8
    return config


def lines(*arguments: str) -> list[dict[str, object]]:
    listed = run_anosegd("evidence", "list", *arguments, "--json")
    assert listed.returncode == 0, listed.stderr
    return [json.loads(text) for text in listed.stdout.splitlines()]


def test_list_for_programs(line: Line, kept: Path) -> None:
    """Each line has the file and the verdict as published; the filters choose by outcome, reason, camera, time and part id."""
    found = lines(str(kept))
    assert [part["verdict"] for part in found] == line.listener.verdicts
    assert all(Path(str(part["file"])).is_file() for part in found)

    def seqs(*filters: str) -> list[int]:
        return [part["verdict"]["seq"] for part in lines("--folder", str(line.folder / "kept"), *filters)]  # type: ignore[index]

    assert seqs("--outcome", "FAIL") == [2, 6]
    assert seqs("--outcome", "review") == [3, 7]
    assert seqs("--outcome", "UNKNOWN", "--outcome", "PASS") == [1, 3, 4, 5, 7, 8]
    assert seqs("--camera", "side") == []
    assert seqs("--part-id", line.listener.verdicts[4]["part_id"]) == [5]
    assert seqs("--limit", "3") == [6, 7, 8]
    assert seqs("--since", line.listener.verdicts[2]["captured_at"], "--until", line.listener.verdicts[5]["captured_at"]) == [
        3,
        4,
        5,
    ]
    assert seqs("--until", "2020-01-01") == []


def test_list_for_people(line: Line, kept: Path) -> None:
    """The table shows what a terminal may show; a damaged file is named and left out."""
    (first, *_) = sorted((line.folder / "kept").rglob("*.zip"))
    first.write_bytes(first.read_bytes()[:-40])  # cut by a power failure
    listed = run_anosegd("evidence", "list", str(kept))
    assert listed.returncode == 0
    assert f"{first}: is not a whole file of a part: left out" in listed.stderr
    rows = [line.split() for line in listed.stdout.splitlines() if " top " in line]
    assert [row[2] for row in rows] == ["2", "3", "4", "5", "6", "7", "8"]
    assert [row[4:6] for row in rows[:2]] == [["FAIL", "0.992"], ["UNKNOWN:", "review"]]


def test_a_station_that_runs(line: Line) -> None:
    """Kept parts of a running station are listed and exported; a part id with control characters changes no terminal."""
    (line.folder / "images").mkdir()
    cv2.imwrite(str(line.folder / "images" / "0.png"), bad_part())
    control = f"ipc://{line.folder}/control"
    config = line.config(TRIGGERED, more=f"control: {{endpoint: '{control}'}}\n{KEEP}")
    line.run(config)
    line.listener.wait_for_state(lambda s: s["state"] == "ContinuousExecution")
    for part_id in ("4711", "x\x1b[31m<script>../.."):
        asked = run_anosegd("trigger", str(config), "--camera", "top", "--part-id", part_id, "--wait")
        assert asked.returncode == 0, asked.stderr
    wait_until(lambda: len(lines(str(config))) == 2, "both are kept")
    listed = run_anosegd("evidence", "list", str(config))
    assert "\x1b" not in listed.stdout
    assert "␛[31m" in "".join(listed.stdout.split())
    exported = run_anosegd("evidence", "export", str(config), "--archive", str(line.folder / "all.zip"), "--part-id", "4711")
    assert exported.returncode == 0, exported.stderr
    with zipfile.ZipFile(line.folder / "all.zip") as archive:
        assert len(archive.namelist()) == 1


def test_export_into_an_archive(line: Line, kept: Path) -> None:
    """The archive holds the chosen parts' files, byte for byte; unpacked elsewhere it can be listed."""
    target = line.folder / "parts.zip"
    for path in kept.parent.rglob("*.zip"):
        os.utime(path, (0, 0))  # of a machine whose clock is not set
    exported = run_anosegd("evidence", "export", str(kept), "--archive", str(target), "--outcome", "FAIL")
    assert exported.stdout.startswith("2 parts")
    reader = EvidenceReader(line.folder / "kept")
    with zipfile.ZipFile(target) as archive:
        assert archive.testzip() is None
        for name in reader.find(outcomes={"FAIL"}):
            assert archive.read(f"{name.day}/{name.file_name}") == reader.path(name).read_bytes()
        assert len(archive.namelist()) == 2
        archive.extractall(line.folder / "elsewhere")
    assert [part["verdict"] for part in lines("--folder", str(line.folder / "elsewhere"))] == [
        v for v in line.listener.verdicts if v["outcome"] == "FAIL"
    ]
    again = run_anosegd("evidence", "export", str(kept), "--archive", str(target))
    assert again.returncode == 2
    assert "exists already" in again.stderr
    none = run_anosegd("evidence", "export", str(kept), "--archive", str(line.folder / "none.zip"), "--camera", "side")
    assert none.returncode == 0
    assert not (line.folder / "none.zip").exists()
    assert not [path for path in line.folder.iterdir() if path.suffix == ".tmp"]


def test_export_into_a_data_folder(line: Line, kept: Path) -> None:
    """The trainer takes the folder as it is; the pictures are cut to the region, pixel for pixel."""
    target = line.folder / "data"
    exported = run_anosegd("evidence", "export", str(kept), "--data", str(target))
    assert exported.returncode == 0, exported.stderr
    assert "left out: 2 parts not inspected" in exported.stdout
    assert "look at these pictures" in exported.stdout
    assert len(find_good_images(target, least=1)) == 2
    (target / "test" / "good").mkdir()
    shutil.copy(find_good_images(target, least=1)[0], target / "test" / "good")
    assert {image.defect for image in find_evaluation_images(target)} == {"good", "rejected", "review"}
    written = {kind: sorted((target / "test" / kind).iterdir()) for kind in ("rejected", "review")}
    assert [len(paths) for paths in written.values()] == [2, 2]
    assert np.array_equal(cv2.imread(str(written["rejected"][0])), bad_part()[5:45, 10:70])
    again = run_anosegd("evidence", "export", str(kept), "--data", str(target))
    assert again.returncode == 2
    assert "is not empty" in again.stderr


def test_a_data_folder_has_one_camera(line: Line, config: Path) -> None:
    """Pictures of several cameras are not mixed."""
    both = line.config(CAMERAS + CAMERAS.replace("top:", "side:"), more=KEEP)
    assert line.run(both, "--once").wait() == 0
    mixed = run_anosegd("evidence", "export", str(both), "--data", str(line.folder / "data"))
    assert mixed.returncode == 2
    assert "several cameras: side, top" in mixed.stderr
    assert not (line.folder / "data").exists()
    alone = run_anosegd("evidence", "export", str(both), "--data", str(line.folder / "data"), "--camera", "side")
    assert alone.returncode == 0, alone.stderr


def test_what_cannot_be_asked(line: Line, config: Path) -> None:
    """A station without evidence, a folder that is not there, an unknown outcome."""
    without = line.config(CAMERAS, name="without.yaml")
    for arguments, said in {
        (str(without),): "keeps no evidence",
        ("--folder", str(line.folder / "nowhere")): "no such folder",
        (str(config), "--outcome", "BAD"): "'BAD' is unknown: give one of PASS, FAIL, UNKNOWN",
    }.items():
        asked = run_anosegd("evidence", "list", *arguments)
        assert asked.returncode == 2
        assert said in asked.stderr
    empty = run_anosegd("evidence", "list", str(config))
    assert (empty.returncode, empty.stdout) == (0, "no kept parts\n")
