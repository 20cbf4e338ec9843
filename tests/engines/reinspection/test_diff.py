"""`anoseg-engine diff` as a user types it: two results of `reinspect` compared."""

import dataclasses
import json
import os
import shutil
import subprocess
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.commands import run_here
from support.tiny_bundle import bad_part, good_part, tiny_draft

from anoseg_engines.bundle_writer import write_bundle
from anoseg_engines.cli import main

pytest.importorskip("pyarrow")

import pyarrow as pa
import pyarrow.parquet as pq

from anoseg_engines.reinspection.difference import compare_results


def engine(*arguments: object) -> subprocess.CompletedProcess[str]:
    return run_here(main, "anoseg-engine", *arguments)


@pytest.fixture
def results(tmp_path: Path) -> tuple[Path, Path]:
    """Results A and B: B has another threshold, 3.png could not be read at first, and 4.png cannot be read any more."""
    for threshold in (0.5, 0.25):
        write_bundle(tmp_path / "tiny", dataclasses.replace(tiny_draft(), score_threshold=threshold))
    images = tmp_path / "images"
    images.mkdir()
    for i, image in enumerate((good_part(), bad_part(), good_part() + np.uint8(45), good_part(), good_part(), bad_part())):
        cv2.imwrite(str(images / f"{i}.png"), image)
    whole = (images / "3.png").read_bytes()
    for version, broken in ((1, 3), (2, 4)):
        (images / "3.png").write_bytes(whole)
        (images / f"{broken}.png").write_bytes(b"")
        done = engine(
            "reinspect", "--bundle", tmp_path / "tiny" / str(version), "--images", images, "--out", tmp_path / f"out{version}",
            "--shard-size", 4,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    return tmp_path / "out1", tmp_path / "out2"


def test_images_that_change_sides(results: tuple[Path, Path]) -> None:
    """Each kind of change is counted and listed, with the scores; the table has the outcomes of both."""
    done = engine("diff", *results)
    assert done.returncode == 0
    answer = (
        "Of 6 images, 3 change sides: 1 that A passes and B rejects, 1 that A inspected and B could not, 1 that A could not"
    )
    assert done.stdout.startswith(answer)
    assert "Images that A passes and B rejects (1):" in done.stdout
    found = json.loads(engine("diff", *results, "--json").stdout)
    changed = {change: [Path(image["path"]).name for image in rows] for change, rows in found["changed"].items()}
    assert changed == {
        "rejected_now": ["2.png"],
        "passes_now": [],
        "not_inspected_now": ["4.png"],
        "inspected_now": ["3.png"],
    }
    assert found["changed"]["rejected_now"][0]["outcomes"] == ["PASS", "FAIL"]
    assert [result["outcomes"] for result in found["results"]] == [
        {"PASS": 3, "FAIL": 2, "UNKNOWN": 1},
        {"PASS": 2, "FAIL": 3, "UNKNOWN": 1},
    ]
    assert found["score_moves"] == {"median": 0.0, "median_absolute": 0.0, "largest_rise": 0.0, "largest_fall": 0.0}
    back = json.loads(engine("diff", *reversed(results), "--json").stdout)
    assert [Path(image["path"]).name for image in back["changed"]["passes_now"]] == ["2.png"]


def test_one_image_changes_sides(results: tuple[Path, Path]) -> None:
    """The sentence about one image is a sentence."""
    found = compare_results(*results, common=False)
    found = dataclasses.replace(
        found, images=1, changed_images=tuple(i for i in found.changed_images if i.path.endswith("2.png"))
    )
    assert found.answer() == "Of 1 image, 1 changes sides: 1 that A passes and B rejects."


def test_a_result_and_itself(results: tuple[Path, Path]) -> None:
    """Nothing changes sides, and a note says that the bundle is the same."""
    done = engine("diff", results[0], results[0])
    assert done.stdout.startswith("Of 6 images, none changes sides.")
    assert "both results are of the same bundle" in done.stdout


def test_a_result_that_is_not_complete(results: tuple[Path, Path]) -> None:
    """It is refused by name; --common compares the images that both have, and says how many are missing."""
    (results[1] / "shard-000001.parquet").unlink()
    done = engine("diff", *results)
    assert (done.returncode, f"{results[1]}: is not complete: 1 of 2 shards missing" in done.stderr) == (2, True)
    done = engine("diff", *results, "--common")
    assert done.returncode == 0
    assert done.stdout.startswith("Of 4 images, 2 change sides")
    assert "B is not complete: 1 shard of 2 missing" in done.stdout
    assert "only A has 2 images" in done.stdout


def test_shards_that_are_not_of_the_result_are_not_compared(results: tuple[Path, Path]) -> None:
    """With --common, a shard that was cut and one of the other result count as missing, and nothing is read of them."""
    shard = results[1] / "shard-000001.parquet"
    for data in (shard.read_bytes()[:-9], (results[0] / shard.name).read_bytes()):
        shard.write_bytes(data)
        found = json.loads(engine("diff", *results, "--common", "--json").stdout)
        assert (found["images"], found["results"][1]["missing_shards"]) == (4, 1)


def test_results_of_other_images(results: tuple[Path, Path], tmp_path: Path) -> None:
    """They are refused, and images are named that only one has; --common compares the others."""
    cv2.imwrite(str(tmp_path / "images" / "new.png"), good_part())
    arguments = ("--bundle", tmp_path / "tiny" / "1", "--images", tmp_path / "images", "--out", tmp_path / "out3")
    assert engine("reinspect", *arguments).returncode == 0
    done = engine("diff", results[0], tmp_path / "out3")
    assert (done.returncode, f"1 image only in {tmp_path / 'out3'}, such as {tmp_path}/images/new.png" in done.stderr) == (
        2,
        True,
    )
    found = json.loads(engine("diff", results[0], tmp_path / "out3", "--common", "--json").stdout)
    assert (found["images"], found["results"][1]["only_here"]) == (6, [f"{tmp_path}/images/new.png"])


def test_results_without_an_image_in_common(results: tuple[Path, Path], tmp_path: Path) -> None:
    """They are refused, also with --common: nothing could be said of them."""
    (tmp_path / "images").rename(tmp_path / "moved")
    arguments = ("--bundle", tmp_path / "tiny" / "1", "--images", tmp_path / "moved", "--out", tmp_path / "out3")
    assert engine("reinspect", *arguments).returncode == 0
    done = engine("diff", results[0], tmp_path / "out3", "--common")
    assert (done.returncode, "have no image in common" in done.stderr, done.stdout) == (2, True, "")


def test_two_names_that_are_shown_alike(results: tuple[Path, Path], tmp_path: Path) -> None:
    """A byte that is not UTF-8 is shown as a name may really be written: one row is not compared, and a note says so."""
    part = (tmp_path / "images" / "0.png").read_bytes()
    folder = tmp_path / "alike"
    folder.mkdir()
    for name in (b"gr\xfcn.png", rb"gr\xfcn.png"):
        (folder / os.fsdecode(name)).write_bytes(part)
    arguments = ("--bundle", tmp_path / "tiny" / "1", "--images", folder, "--out", tmp_path / "out3")
    assert engine("reinspect", *arguments).returncode == 0
    done = engine("diff", tmp_path / "out3", tmp_path / "out3")
    assert "note: A: 1 row is not compared: an earlier row of another image has the same path" in done.stdout


def test_a_result_of_two_runtimes(results: tuple[Path, Path], tmp_path: Path) -> None:
    """A run that went on on another machine may have another runtime; `reinspect` and `diff` say so, and name both."""
    shard = results[1] / "shard-000000.parquet"
    table = pq.read_table(shard)
    there = pa.array(["tensorrt, fp16"] * table.num_rows)
    column = table.schema.get_field_index("runtime")
    pq.write_table(table.set_column(column, table.schema.field("runtime"), there), shard)
    words = "the images were inspected by several runtimes, whose scores differ a little: "
    assert f"note: B: {words}" in engine("diff", *results).stdout
    done = engine(
        "reinspect", "--bundle", tmp_path / "tiny" / "2", "--images", tmp_path / "images", "--out", results[1],
        "--shard-size", 4,
    )  # fmt: skip
    assert (done.returncode, words in done.stderr, "tensorrt, fp16" in done.stderr) == (0, True, True)


def test_what_is_no_result(results: tuple[Path, Path], tmp_path: Path) -> None:
    """A folder of something else, a missing one and a damaged `run.json` are named."""
    for other, words in ((tmp_path / "images", "is not a result of"), (tmp_path / "none", "no such folder")):
        done = engine("diff", results[0], other)
        assert (done.returncode, f"{other}: {words}" in done.stderr) == (2, True)
    shutil.copytree(results[0], tmp_path / "damaged")
    (tmp_path / "damaged" / "run.json").write_text("{")
    done = engine("diff", results[0], tmp_path / "damaged")
    assert (done.returncode, f"{tmp_path / 'damaged'}/run.json" in done.stderr) == (2, True)
