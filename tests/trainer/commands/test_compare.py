"""`anoseg-train compare` on real bundles: what both do with the same parts, and which parts change sides."""

import dataclasses
import json

import cv2
import numpy as np
import pytest
from support.anoseg_train_command import run
from support.tiny_bundle import SIZE, good_part, tiny_draft

from anoseg_engines.bundle_writer import write_bundle
from anoseg_engines.placement import InputSpec

LENIENT, STRICT = 0.5, 0.3


@pytest.fixture
def store(tmp_path):
    """Two versions of one product that differ in their threshold."""
    for threshold in (LENIENT, STRICT):
        write_bundle(tmp_path / "store" / "tiny", dataclasses.replace(tiny_draft(), score_threshold=threshold))
    return tmp_path / "store" / "tiny"


def save(path, score):
    """An image that the tiny network gives this score."""
    image = good_part()
    image[10:30, 20:40] = 128 + round(128 * score)
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), image)


@pytest.fixture
def data(tmp_path):
    """Four good parts, one of them in two exposures, and three defective ones."""
    scores = {"good/p0": 0.1, "good/p1": 0.15, "good/p2a": 0.2, "good/p2b": 0.4, "good/p3": 0.12}
    scores |= {"scratch/p4": 0.4, "scratch/p5": 0.9, "hole/p6": 0.2}
    for name, score in scores.items():
        save(tmp_path / "data" / "test" / f"{name}.png", score)
    return tmp_path / "data"


def compared(tmp_path, a, b, data, *options):
    """What `--json` writes, and what is printed."""
    done = run("compare", a, b, "--data", data, "--json", tmp_path / "out.json", *options)
    assert done.returncode == 0, done.stderr
    return json.loads((tmp_path / "out.json").read_text()), done.stdout


BY_NAME = ("--group", r"p\d")


def test_parts_that_change_sides_are_found(store, data, tmp_path):
    """The stricter version finds a scratch and rejects a good part; its two exposures count once, with the larger score."""
    found, printed = compared(tmp_path, store / "1", store / "2", data, *BY_NAME)
    assert found["changed"] == {
        "passes_now": [], "found_now": ["test/scratch/p4.png"], "rejected_now": ["test/good/p2b.png"], "accepted_now": [],
    }  # fmt: skip
    a, b = found["bundles"]
    assert (a["bundle"], a["escapes"], a["defective_parts"], a["false_rejects"], a["good_parts"]) == ("tiny/1", 2, 3, 0, 4)
    assert (b["bundle"], b["escapes"], b["defective_parts"], b["false_rejects"], b["good_parts"]) == ("tiny/2", 1, 3, 1, 4)
    assert 0.5 < a["image_auroc"] == b["image_auroc"] < 1
    both = next(part for part in found["parts"] if "test/good/p2a.png" in part["images"])
    assert both["images"] == ["test/good/p2b.png", "test/good/p2a.png"]
    assert both["scores"] == pytest.approx([0.4, 0.4], abs=0.01)
    assert "B finds 1 more defective part, and passes 0 that A finds; it rejects 1 more good part, and passes 0" in printed


def test_the_other_way_round_a_defect_passes(store, data, tmp_path):
    """Which bundle is A decides what is called a loss."""
    found, printed = compared(tmp_path, store / "2", store / "1", data, *BY_NAME)
    assert found["changed"]["passes_now"] == ["test/scratch/p4.png"]
    assert found["changed"]["accepted_now"] == ["test/good/p2b.png"]
    assert "Defects that A rejects and B passes (1)" in printed


def test_bundles_that_agree_say_so(store, data, tmp_path):
    """No part changes sides between a version and its copy."""
    write_bundle(store, tiny_draft())
    found, printed = compared(tmp_path, store / "1", store / "3", data, *BY_NAME)
    assert not any(found["changed"].values())
    assert "No part changes sides: both reject the same 1 part." in printed


def test_good_images_alone_show_false_rejects(store, tmp_path):
    """A flat folder of good images is enough for those; what is not known is said."""
    for number, score in enumerate((0.1, 0.4, 0.2)):
        save(tmp_path / "good" / f"p{number}.png", score)
    found, printed = compared(tmp_path, store / "1", store / "2", tmp_path / "good", "--group", ".+")
    assert [each["false_rejects"] for each in found["bundles"]] == [0, 1]
    assert found["bundles"][0]["image_auroc"] is None
    assert found["changed"]["rejected_now"] == ["p1.png"]
    assert "B rejects 1 more good part, and passes 0 that A rejects." in printed
    assert "note: there are no defective images, so nothing is known about whether more or fewer defects pass" in printed
    assert "defective parts that pass" not in printed


def test_the_report_shows_what_changes_sides(store, data, tmp_path):
    """Three pictures of each such part, the mask's outline where there is a mask, and no address of another place."""
    mask = np.zeros((48, 80), np.uint8)
    mask[10:30, 20:40] = 255
    folder = data / "ground_truth" / "scratch"
    folder.mkdir(parents=True)
    cv2.imwrite(str(folder / "p4_mask.png"), mask)
    done = run("compare", store / "1", store / "2", "--data", data, "--report", tmp_path / "c.html", *BY_NAME)
    assert done.returncode == 0, done.stderr
    text = (tmp_path / "c.html").read_text()
    assert text.count("data:image/png") == 6
    assert "test/scratch/p4.png: A 0.398 passes, B 0.398 rejects" in text
    assert "test/good/p2b.png (one of 2 images)" in text
    assert 'class="lead care"' in text
    assert "http" not in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("1", "1"), "both bundles are this one"),
        (("1", "../other/1"), "bundles of different products"),
        (("1", "9"), "no such bundle"),
    ],
)
def test_bundles_that_cannot_be_compared_are_refused(arguments, words, store, data, tmp_path):
    """One bundle twice, different products and a missing version: exit code 2, before anything is inspected."""
    write_bundle(tmp_path / "store" / "other", dataclasses.replace(tiny_draft(), product="other"))
    done = run("compare", *(store / each for each in arguments), "--data", data, "--json", tmp_path / "out.json")
    assert done.returncode == 2
    assert words in done.stderr
    assert not (tmp_path / "out.json").exists()


def test_different_products_can_be_compared_if_asked(store, data, tmp_path):
    """--any-product takes bundles of one part that were trained under two names."""
    write_bundle(tmp_path / "store" / "other", dataclasses.replace(tiny_draft(), product="other"))
    found, _ = compared(tmp_path, store / "1", tmp_path / "store" / "other", data, "--any-product", *BY_NAME)
    assert [each["bundle"] for each in found["bundles"]] == ["tiny/1", "other/1"]


def test_other_inputs_are_said(store, data, tmp_path):
    """What differs is named, and the comparison goes on: a version with tiles may follow one without."""
    draft = tiny_draft(InputSpec(SIZE, SIZE, mode="tile", scale=1.0, overlap=16))
    write_bundle(store, draft)
    _, printed = compared(tmp_path, store / "1", store / "3", data, *BY_NAME)
    assert "different inputs: mode resize (A), tile (B); overlap 0 (A), 16 (B). Each scales" in printed


@pytest.mark.parametrize("missing", ["no folder", "no images"])
def test_missing_data_is_an_error_in_words(missing, store, tmp_path):
    """A folder that does not exist, and one whose folders are empty."""
    if missing == "no images":
        (tmp_path / "data" / "test" / "good").mkdir(parents=True)
    done = run("compare", store / "1", store / "2", "--data", tmp_path / "data")
    assert done.returncode == 2
    assert str(tmp_path / "data") in done.stderr
    assert "Traceback" not in done.stderr
