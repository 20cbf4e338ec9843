"""`anoseg-engine reinspect` as a user types it: an archive of images, inspected again, with everything that can go wrong."""

import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from support.commands import run_here
from support.paths import DEMO
from support.small_disk import mounted, remount
from support.tiny_bundle import bad_part, good_part, tiny_draft, write_tiny_bundle

from anoseg_engines.bundle import load_bundle
from anoseg_engines.bundle_writer import write_bundle
from anoseg_engines.cli import main
from anoseg_engines.commands import image_progress
from anoseg_engines.errors import DataError
from anoseg_engines.images import read_image
from anoseg_engines.judgement import judge
from anoseg_engines.loading import load_engine
from anoseg_engines.placement import Region

pytest.importorskip("pyarrow")

import pyarrow.parquet as pq

from anoseg_engines.reinspection import result_folder
from anoseg_engines.reinspection.result_folder import LOCK, ResultFolder, read_record

PROGRAM = [sys.executable, "-c", "from anoseg_engines.cli import main; main()"]
FLOATS = ("x", "y", "width", "height", "area", "peak", "centroid_x", "centroid_y")


def engine(*arguments: object) -> subprocess.CompletedProcess[str]:
    return run_here(main, "anoseg-engine", *arguments)


def reinspect(bundle: Path, images: Path, out: Path, *more: object) -> subprocess.CompletedProcess[str]:
    return engine("reinspect", "--bundle", bundle, "--images", images, "--out", out, *more)


@pytest.fixture
def store(tmp_path: Path) -> Path:
    write_tiny_bundle(tmp_path / "tiny")
    return tmp_path / "tiny"


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """Thirty images of two sizes in two folders, grey ones among them; two are no images."""
    folder = tmp_path / "images"
    for i in range(30):
        part = (good_part(), bad_part(), good_part(60, 40), good_part() + np.uint8(60))[i % 4] + np.uint8(i % 3)
        below = folder / ("early" if i < 12 else "late/shift")
        below.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(below / f"{i:02}.png"), part[:, :, 0] if i % 7 == 0 else part)
    (folder / "late" / "cut.png").write_bytes((folder / "early" / "00.png").read_bytes()[:-30])
    (folder / "late" / "empty.jpg").touch()
    return folder


def rows_of(out: Path) -> list[dict[str, Any]]:
    """The rows of all shards, read by pyarrow alone."""
    return [row for path in sorted(out.glob("*.parquet")) for row in pq.read_table(path).to_pylist()]


def plain_loop(bundle: Path, folder: Path) -> list[tuple[Any, ...]]:
    """Path, outcome, score and defects of each image, in a loop as short as it can be."""
    found = list[tuple[Any, ...]]()
    running = load_engine(load_bundle(bundle))
    try:
        for path in sorted(p for p in folder.rglob("*") if p.suffix in (".png", ".jpg")):
            try:
                image = read_image(path)
            except DataError:
                found.append((str(path), "UNKNOWN", None, []))
                continue
            placement = running.place(Region(0, 0, image.shape[1], image.shape[0]))
            judged = judge(running.inspect(image, placement), running.thresholds, placement)
            defects = [{name: getattr(defect, name) for name in FLOATS} for defect in judged.defects]
            found.append((str(path), judged.outcome, judged.score, defects))
    finally:
        running.close()
    return found


def short(rows: list[dict[str, Any]]) -> list[tuple[Any, ...]]:
    return sorted((row["path"], row["outcome"], row["score"], row["defects"]) for row in rows)


def test_rows_equal_a_plain_loop(store: Path, images: Path, tmp_path: Path) -> None:
    """Each image has one row, with the outcome, score and defects of a plain loop; so has one that cannot be read."""
    done = reinspect(store, images, tmp_path / "out", "--shard-size", 7)
    assert (done.returncode, "2 images could not be read: after the repair" in done.stderr) == (0, True)
    rows = rows_of(tmp_path / "out")
    assert short(rows) == sorted(plain_loop(store, images))
    assert {row["outcome"] for row in rows} == {"PASS", "FAIL", "UNKNOWN"}
    bundle = load_bundle(store)
    assert {row["engine_digest"] for row in rows} == {bundle.digest}
    assert {row["threshold"] for row in rows} == {bundle.thresholds.score}
    assert [row["reason"] for row in rows if row["outcome"] == "UNKNOWN"] == ["unreadable"] * 2
    assert "2 images could not be inspected" in done.stdout
    assert f"{images}/late/empty.jpg: UNKNOWN: unreadable: " in done.stdout


def test_rows_of_the_demo_equal_a_plain_loop(tmp_path: Path) -> None:
    """With a trained network, whose parts run side by side, every score and defect is that of the loop, to the last bit."""
    for number, golden in enumerate(load_bundle(DEMO).golden_samples() * 2):
        cv2.imwrite(str(tmp_path / f"{number:02}.png"), np.roll(golden.image, number, axis=1))
    assert reinspect(DEMO, tmp_path, tmp_path / "out").returncode == 0
    rows = short(rows_of(tmp_path / "out"))
    assert rows == sorted(plain_loop(DEMO, tmp_path))
    assert {outcome for _, outcome, _, _ in rows} == {"PASS", "FAIL"}


@contextlib.contextmanager
def started(arguments: list[str], out: Path, shards: int) -> Iterator[subprocess.Popen[str]]:
    """A run in a process of its own, of which some shards are there and some are not."""
    process = subprocess.Popen([*PROGRAM, "reinspect", *arguments], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    give_up_at = time.monotonic() + 120
    try:
        while len(list(out.glob("*.parquet"))) < shards:
            assert process.poll() is None, process.communicate()
            assert time.monotonic() < give_up_at
            time.sleep(0.002)
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.fixture
def many(tmp_path: Path) -> Path:
    """A list of 600 images."""
    (tmp_path / "many").mkdir()
    for i in range(600):
        cv2.imwrite(str(tmp_path / "many" / f"{i:03}.png"), bad_part() if i % 5 == 0 else good_part() + np.uint8(i % 50))
    paths = "\n".join(str(path) for path in sorted((tmp_path / "many").iterdir()))
    (tmp_path / "many.txt").write_text(f"\n{paths}\n\n")
    return tmp_path / "many.txt"


def test_a_killed_run_goes_on(store: Path, many: Path, tmp_path: Path) -> None:
    """What a killed run has written stays as it is, the next run adds the rest, and all rows equal those of a plain loop."""
    out = tmp_path / "out"
    arguments = ["--bundle", str(store), "--images", str(many), "--out", str(out), "--shard-size", "2"]
    with started(arguments, out, 3) as process:
        process.kill()
        process.wait()
        before = {path: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    assert 3 <= len(before) < 300
    (out / ".shard-000299.parquet.tmp").write_bytes(b"half")
    assert engine("reinspect", *arguments).returncode == 0
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert short(rows_of(out)) == sorted(plain_loop(store, tmp_path / "many"))
    assert {path.name for path in out.iterdir() if path.name.startswith(".")} == {LOCK}
    assert engine("reinspect", *arguments).returncode == 0  # nothing is left to do


def test_ctrl_c_says_how_far_it_came(store: Path, many: Path, tmp_path: Path) -> None:
    """Ctrl-C ends with exit code 130 and without a traceback; whole shards stay, nothing else does."""
    out = tmp_path / "out"
    arguments = ["--bundle", str(store), "--images", str(many), "--out", str(out), "--shard-size", "2"]
    with started(arguments, out, 2) as process:
        process.send_signal(signal.SIGINT)
        _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    finished = len(list(out.glob("*.parquet")))
    counts = (finished, finished - 1)  # Ctrl-C may come after a shard has its name and before it is counted
    assert said in [f"\nstopped: {count} of 300 shards finished; the same command goes on\n" for count in counts]
    assert not list(out.glob(".*.tmp"))


def test_another_bundle_list_or_option_is_refused(store: Path, images: Path, tmp_path: Path) -> None:
    """A folder holds the result of one bundle, list and set of options; what differs is named, and nothing is changed."""
    out = tmp_path / "out"
    assert reinspect(store, images, out, "--shard-size", 10).returncode == 0
    before = {path: path.read_bytes() for path in out.iterdir()}
    write_bundle(store, tiny_draft())
    first, second = load_bundle(store / "1"), load_bundle(store / "2")
    done = reinspect(store / "2", images, out, "--shard-size", 10)
    assert done.returncode == 2
    assert f"the bundle is {second.label} (digest {second.digest[:12]}), it was {first.label}" in done.stderr
    done = reinspect(store / "1", images, out, "--shard-size", 11, "--runtime", "cpu-f32")
    assert done.returncode == 2
    assert "--runtime is cpu-f32, it was auto; --shard-size is 11, it was 10" in done.stderr
    (images / "late" / "new.png").write_bytes((images / "early" / "00.png").read_bytes())
    done = reinspect(store / "1", images, out, "--shard-size", 10, "--dry-run")
    assert (done.returncode, "the list has 33 images" in done.stderr, "it had 32 images" in done.stderr) == (2, True, True)
    assert {path: path.read_bytes() for path in out.iterdir()} == before


def test_the_same_input_in_another_spelling_goes_on(
    store: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Finished shards stay if the folder of images is named in another way, new ones fit them, and `diff` takes the result."""
    out = tmp_path / "out"
    assert reinspect(store, images, out, "--shard-size", 10).returncode == 0
    (out / "shard-000001.parquet").unlink()
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.parquet")}
    monkeypatch.chdir(tmp_path)
    done = reinspect(store, Path("images"), out, "--shard-size", 10)
    assert (done.returncode, "is not a whole shard" in done.stderr) == (0, False)
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert engine("diff", out, out).returncode == 0


def test_a_damaged_shard_is_written_again(store: Path, images: Path, tmp_path: Path) -> None:
    """A shard that was cut, or is of another run, is named, and its images are inspected again."""
    out = tmp_path / "out"
    assert reinspect(store, images, out, "--shard-size", 10).returncode == 0
    rows = rows_of(out)
    (out / "shard-000001.parquet").write_bytes((out / "shard-000001.parquet").read_bytes()[:-9])
    (out / "shard-000002.parquet").write_bytes((out / "shard-000000.parquet").read_bytes())
    os.truncate(out / "shard-000000.parquet", 0)
    done = reinspect(store, images, out, "--shard-size", 10)
    assert (done.returncode, done.stderr.count("is not a whole shard of this result")) == (0, 2 + 1)
    assert rows_of(out) == rows


@pytest.mark.parametrize("damage", ["start", "one bit"])
def test_a_shard_that_the_disk_changed_is_written_again(store: Path, images: Path, tmp_path: Path, damage: str) -> None:
    """Its length and its end are as they were, but its pages are not: it is named, and its images are inspected again."""
    out = tmp_path / "out"
    assert reinspect(store, images, out, "--shard-size", 10).returncode == 0
    rows, shard = rows_of(out), out / "shard-000001.parquet"
    data = bytearray(shard.read_bytes())
    if damage == "start":
        data[4:400] = bytes(396)
    else:
        data[pq.read_metadata(shard).row_group(0).column(0).dictionary_page_offset + 60] ^= 1  # in the paths
    shard.write_bytes(data)
    done = engine("diff", out, out)
    assert (done.returncode, "is not complete: 1 of 4 shards missing" in done.stderr) == (2, True)
    done = reinspect(store, images, out, "--shard-size", 10)
    assert (done.returncode, f"{shard}: is not a whole shard" in done.stderr) == (0, True)
    assert rows_of(out) == rows


def test_one_gpu_and_a_half_is_refused(store: Path, images: Path, tmp_path: Path) -> None:
    """Ray divides only one GPU; the option is named before anything starts."""
    done = reinspect(store, images, tmp_path / "out", "--ray", "--gpus", 1.5)
    assert (done.returncode, "--gpus 1.5: is neither a share of one GPU" in done.stderr) == (2, True)


def test_another_run_is_writing(store: Path, images: Path, tmp_path: Path) -> None:
    """Two runs do not write one folder at the same time."""
    assert reinspect(store, images, tmp_path / "out").returncode == 0
    with ResultFolder(tmp_path / "out", read_record(tmp_path / "out")):
        done = reinspect(store, images, tmp_path / "out")
    assert (done.returncode, "another run is writing it" in done.stderr) == (2, True)


def test_files_of_others_stay(store: Path, images: Path, tmp_path: Path) -> None:
    """A folder with other files is refused and stays as it is; in one of ours, only our own unfinished files are deleted."""
    other, out = tmp_path / "other", tmp_path / "out"
    other.mkdir()
    (other / "notes.txt").touch()
    done = reinspect(store, images, other)
    assert (done.returncode, "is not empty" in done.stderr) == (2, True)
    assert [path.name for path in other.iterdir()] == ["notes.txt"]
    out.mkdir()
    for name in (".notes.tmp", ".shard-000000.parquet.host.1.tmp", ".run.json.host.1.tmp"):
        (out / name).touch()
    assert reinspect(store, images, out).returncode == 0
    assert {path.name for path in out.iterdir()} == {".notes.tmp", LOCK, "run.json", "shard-000000.parquet"}


def test_a_file_system_without_locks(store: Path, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two runs have different temporary names, and neither deletes what the other one is writing."""
    out, written = tmp_path / "out", list[str]()

    def no_locks(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    def noted(path: Path, data: bytes) -> None:
        written.append(path.name)
        path.write_bytes(data)

    monkeypatch.setattr(fcntl, "flock", no_locks)
    monkeypatch.setattr(result_folder, "write_synced", noted)
    out.mkdir()
    (out / ".shard-000000.parquet.host.1.tmp").touch()
    assert reinspect(store, images, out).returncode == 0
    mine = f"{socket.gethostname()}.{os.getpid()}.tmp"
    assert written == [f".run.json.{mine}", f".shard-000000.parquet.{mine}"]
    assert (out / ".shard-000000.parquet.host.1.tmp").exists()


def test_a_dry_run_writes_nothing(store: Path, images: Path, tmp_path: Path) -> None:
    """It says how many images would be inspected, also of a run that was begun."""
    out = tmp_path / "out"
    done = reinspect(store, images, out, "--shard-size", 10, "--dry-run")
    assert (done.returncode, "32 images would be inspected" in done.stdout, out.exists()) == (0, True, False)
    assert reinspect(store, images, out, "--shard-size", 10).returncode == 0
    (out / "shard-000003.parquet").unlink()
    plan = json.loads(reinspect(store, images, out, "--shard-size", 10, "--dry-run", "--json").stdout)
    assert (plan["images_to_do"], plan["shards_to_do"], plan["dry_run"]) == (2, 1, True)
    assert not (out / "shard-000003.parquet").exists()


def test_json_for_programs(store: Path, images: Path, tmp_path: Path) -> None:
    """--json gives the counts, and every image that was not inspected."""
    found = json.loads(reinspect(store, images, tmp_path / "out", "--json").stdout)
    assert found["engine_digest"] == load_bundle(store).digest
    assert found["images"] == sum(found["outcomes"].values()) == 32
    assert [Path(row["path"]).name for row in found["not_inspected"]] == ["cut.png", "empty.jpg"]


def test_a_list_with_missing_files(store: Path, images: Path, tmp_path: Path) -> None:
    """Files that are not there are UNKNOWN, by name; a file that is listed twice has one row, and a note says so."""
    name = os.fsdecode(b"gr\xfcn.png")
    (images / name).write_bytes((images / "early" / "00.png").read_bytes())
    listed = [images / "early" / "01.png", tmp_path / "none.png", images / name, images / "early" / "01.png"]
    (tmp_path / "list.txt").write_bytes(b"\n".join(os.fsencode(path) for path in listed))
    done = reinspect(store, tmp_path / "list.txt", tmp_path / "out")
    assert (done.returncode, "1 line names an image that an earlier line names: left out" in done.stderr) == (0, True)
    rows = {Path(row["path"]).name: (row["outcome"], row["error"]) for row in rows_of(tmp_path / "out")}
    assert rows["01.png"] == ("FAIL", None)
    assert rows["gr\\xfcn.png"] == ("PASS", None)
    assert rows["none.png"] == ("UNKNOWN", f"{tmp_path / 'none.png'}: cannot be read (No such file or directory)")


def test_a_pipe_named_like_a_part_is_not_read(store: Path, images: Path, tmp_path: Path) -> None:
    """To read it would take for ever: it is UNKNOWN, and the row says what it is."""
    os.mkfifo(tmp_path / "p.zip")
    (tmp_path / "list.txt").write_text(f"{tmp_path}/p.zip\n{images}/early/01.png\n")
    command = [*PROGRAM, "reinspect", "--bundle", store, "--images", tmp_path / "list.txt", "--out", tmp_path / "out"]
    assert subprocess.run(command, timeout=120).returncode == 0
    assert [row["error"] for row in rows_of(tmp_path / "out")] == [f"{tmp_path}/p.zip: is a pipe, not the file of a part", None]


def test_a_list_that_windows_wrote(store: Path, images: Path, tmp_path: Path) -> None:
    """The mark at its start and the ends of its lines belong to no path."""
    (tmp_path / "list.txt").write_bytes(b"\xef\xbb\xbf" + f"{images}/early/00.png\r\n{images}/early/01.png\r\n".encode())
    assert reinspect(store, tmp_path / "list.txt", tmp_path / "out").returncode == 0
    assert [Path(row["path"]).name for row in rows_of(tmp_path / "out") if row["outcome"] != "UNKNOWN"] == ["00.png", "01.png"]


def test_not_one_image_can_be_read(store: Path, tmp_path: Path) -> None:
    """The command fails, as with a disk that is not mounted; the rows are there all the same."""
    (tmp_path / "list.txt").write_text("gone/1.png\ngone/2.png\n")
    done = reinspect(store, tmp_path / "list.txt", tmp_path / "out")
    assert (done.returncode, "none of 2 images could be inspected" in done.stderr) == (2, True)
    assert [row["outcome"] for row in rows_of(tmp_path / "out")] == ["UNKNOWN"] * 2


def test_a_file_with_several_pages_is_not_judged_by_the_first(store: Path, tmp_path: Path) -> None:
    """As on the line: it is UNKNOWN."""
    (tmp_path / "images").mkdir()
    cv2.imwritemulti(str(tmp_path / "images" / "two.tif"), [good_part(), bad_part()])
    cv2.imwrite(str(tmp_path / "images" / "one.tif"), good_part())
    done = reinspect(store, tmp_path / "images", tmp_path / "out")
    assert done.returncode == 0, done.stderr
    assert [row["outcome"] for row in rows_of(tmp_path / "out")] == ["PASS", "UNKNOWN"]
    assert "the file has several pages" in done.stdout


def test_images_that_could_not_be_read_are_read_again(store: Path, images: Path, tmp_path: Path) -> None:
    """After a network drive was away, --retry-unreadable inspects the shards of its images again, and no others."""
    out = tmp_path / "out"
    (images / "early").rename(tmp_path / "away")
    paths = [*(images / "early" / path.name for path in (tmp_path / "away").iterdir()), *(images / "late" / "shift").iterdir()]
    (tmp_path / "list.txt").write_text("\n".join(str(path) for path in sorted(paths)))
    assert reinspect(store, tmp_path / "list.txt", out, "--shard-size", 10).returncode == 0
    assert [row["outcome"] for row in rows_of(out)].count("UNKNOWN") == 12
    before = (out / "shard-000002.parquet").stat().st_mtime_ns
    (tmp_path / "away").rename(images / "early")
    done = reinspect(store, tmp_path / "list.txt", out, "--shard-size", 10)
    assert "12 images could not be read: after the repair, give the same command with --retry-unreadable" in done.stderr
    done = reinspect(store, tmp_path / "list.txt", out, "--shard-size", 10, "--retry-unreadable", "--dry-run")
    assert "20 images would be inspected" in done.stdout
    done = reinspect(store, tmp_path / "list.txt", out, "--shard-size", 10, "--retry-unreadable")
    assert (done.returncode, "could not be read" in done.stderr) == (0, False)
    assert short(rows_of(out)) == [row for row in sorted(plain_loop(store, images)) if row[1] != "UNKNOWN"]
    assert (out / "shard-000002.parquet").stat().st_mtime_ns == before


def test_files_and_links_that_are_left_out_are_noted(store: Path, images: Path, tmp_path: Path) -> None:
    """A file that is not named like an image and a linked folder are left out, and notes name them."""
    (images / "clip.avi").touch()
    (images / "more").symlink_to(tmp_path)
    done = reinspect(store, images, tmp_path / "out", "--dry-run")
    assert f"1 file is not named like an image and is left out, for example {images}/clip.avi" in done.stderr
    assert f"1 linked folder is left out, for example {images}/more" in done.stderr


def test_a_full_disk_loses_nothing(store: Path, many: Path, tmp_path: Path) -> None:
    """The command names the file and how far it came; with more space, the same command goes on from there."""
    with mounted(tmp_path / "disk", "128k") as disk:
        done = reinspect(store, many, disk / "out", "--shard-size", 100, "--threads", 1)
        if done.returncode == 0:
            done = reinspect(store, many, disk / "out2", "--shard-size", 50)
        assert done.returncode == 1
        assert "cannot be written (No space left on device)" in done.stderr
        assert "give the same command again" in done.stderr
        out = disk / ("out2" if (disk / "out2").exists() else "out")
        before = {path.name for path in out.glob("*.parquet")}
        assert not list(out.glob(".*.tmp"))
        remount(disk, "size=16m")
        size = read_record(out).shard_size
        assert reinspect(store, many, out, "--shard-size", size, "--threads", 1).returncode == 0
        assert before < {path.name for path in out.glob("*.parquet")}
        assert len(rows_of(out)) == 600


def test_a_folder_that_cannot_be_written(store: Path, images: Path, tmp_path: Path) -> None:
    """A read-only disk is named before the work."""
    with mounted(tmp_path / "disk", "1m") as disk:
        remount(disk, "ro")
        done = reinspect(store, images, disk / "out")
    assert (done.returncode, "Read-only file system" in done.stderr) == (2, True)


def test_lines_tell_the_progress_without_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A log gets lines with the number of images, the rate and the time that is left."""
    monkeypatch.setattr(image_progress, "LINE_EVERY_S", 0.0)
    with image_progress.image_progress(2000, 1000) as on_images:
        time.sleep(0.01)
        on_images(500)
    said = capsys.readouterr().err
    assert said.startswith("1,500 of 2,000 images, ")
    assert said.endswith("00:00:00 left\n")
