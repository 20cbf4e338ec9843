"""Region rules and the review band, with the real daemon."""

import dataclasses
from pathlib import Path

import cv2
import msgspec
import numpy as np
import pytest
from support.anoseg_train_command import run as run_trainer
from support.anosegd_line import Line, run_anosegd
from support.tiny_bundle import TINY_RULES, bad_part, good_part, tiny_draft, write_tiny_bundle

from anoseg_engines.bundle import RuleCalibration, load_bundle, release_version
from anoseg_engines.bundle_writer import write_bundle
from anoseg_engines.engine import Engine
from anoseg_engines.errors import EngineError, GpuMemoryError
from anoseg_engines.judgement import Rule, rules_digest
from anoseg_engines.placement import Region
from anosegd.capture.config import DemoSource
from anosegd.config import CameraConfig, load_config
from anosegd.config_check import check_whole
from anosegd.inspection.rule_calibration import is_worrying, rules_note

FOLDER = "top:\n  source: {kind: folder, path: images}\n  policy: wait\n"
WHOLE = "  region: {x: 0, y: 0, width: 80, height: 48}\n"


def inspect(line: Line, more: str) -> list[dict[str, object]]:
    """Verdicts of a good part and of one with a white spot at x 20…39, y 10…29."""
    (line.folder / "images").mkdir()
    cv2.imwrite(str(line.folder / "images" / "0.png"), good_part())
    cv2.imwrite(str(line.folder / "images" / "1.png"), bad_part())
    daemon = line.run(line.config(FOLDER + more), "--once")
    assert daemon.wait() == 0, daemon.log
    line.listener.drain()
    return line.listener.verdicts


@pytest.mark.parametrize(("kind", "exit_code"), [(EngineError, 3), (GpuMemoryError, 1)])
def test_a_region_that_the_engine_refuses(
    line: Line, monkeypatch: pytest.MonkeyPatch, kind: type[EngineError], exit_code: int
) -> None:
    """The check names the camera, and remains the same error: the exit code says whether a restart may help."""
    (line.folder / "images").mkdir()
    cv2.imwrite(str(line.folder / "images" / "0.png"), good_part())

    def refused(self: Engine, region: Region) -> None:
        raise kind("9 tiles, the plan was built for 4", hint="build it again")

    monkeypatch.setattr(Engine, "place", refused)
    with pytest.raises(kind, match=r"cameras\.top: 9 tiles") as caught:
        check_whole(load_config(line.config(FOLDER + WHOLE)))
    assert caught.value.exit_code == exit_code
    assert caught.value.hint == "build it again"


def test_a_defect_in_an_ignored_region(line: Line) -> None:
    """The part is PASS although its score is high, and the state says that these rules are not calibrated."""
    verdicts = inspect(
        line, WHOLE + "  rules:\n    - {name: label, region: {x: 10, y: 0, width: 40, height: 40}, ignore: true}\n"
    )
    assert [(v["outcome"], v["threshold"]) for v in verdicts] == [("PASS", None), ("PASS", None)]
    assert float(str(verdicts[1]["score"])) > 0.9
    assert "not calibrated for these rules" in line.listener.last_state()["cameras"]["top"]["note"]


def test_a_defect_that_is_large_enough(line: Line) -> None:
    """The verdict names the rule that found it."""
    verdicts = inspect(line, WHOLE + "  rules: [{name: whole, min_area: 300}]\n")
    assert [v["outcome"] for v in verdicts] == ["PASS", "FAIL"]
    assert [d["rule"] for d in verdicts[1]["defects"]] == ["whole"]  # type: ignore[attr-defined]


def test_a_score_in_the_review_band(line: Line) -> None:
    """It is UNKNOWN: review, with score and defects; FAIL stays FAIL."""
    verdicts = inspect(line, "  review_from: 0.01\n")
    assert [(v["outcome"], v["reason"]) for v in verdicts] == [("UNKNOWN", "review"), ("FAIL", None)]
    assert verdicts[0]["score"] is not None


IGNORED = "{name: label, region: {x: 0, y: 0, width: 80, height: 48}, ignore: true}"


@pytest.mark.parametrize(
    "more",
    [
        "  rules: [{name: w, ignore: true}]\n",
        WHOLE + f"  rules: [{IGNORED}]\n",
        WHOLE + "  rules: [{name: w, min_area: 9999}]\n",
    ],
    ids=["all ignored", "region ignored", "min_area"],
)
def test_rules_that_leave_nothing_end_the_start(line: Line, more: str) -> None:
    """`run` and `check` name the camera and end with exit code 2: otherwise every part would pass."""
    (line.folder / "images").mkdir()
    cv2.imwrite(str(line.folder / "images" / "0.png"), bad_part())
    config = line.config(FOLDER + more)
    daemon = line.run(config, "--once")
    assert daemon.wait() == 2
    checked = run_anosegd("check", str(config))
    assert checked.returncode == 2
    for text in (daemon.log, checked.stderr):
        assert "cameras.top: " in text
        assert "every part would pass" in text
    line.listener.drain()
    assert line.listener.verdicts == []


def test_rules_that_leave_nothing_of_this_image_pass_no_part(line: Line) -> None:
    """Without a region the size is known with the first image only: the part is UNKNOWN."""
    verdicts = inspect(line, f"  rules: [{IGNORED}]\n")
    assert [(v["outcome"], v["reason"]) for v in verdicts] == [("UNKNOWN", "region")] * 2


def test_check_refuses_a_rule_beside_the_part(line: Line) -> None:
    """`check` names camera and rule, and ends with exit code 2."""
    config = line.config(
        "top:\n  source: {kind: demo}\n" + WHOLE + "  rules: [{name: far, region: {x: 500, y: 0, width: 9, height: 9}}]\n"
    )
    done = run_anosegd("check", str(config))
    assert done.returncode == 2
    assert "cameras.top: rule 'far'" in done.stderr


def test_calibrated_rules_give_their_guarantee(line: Line) -> None:
    """Calibration counts as rejected the frames that the daemon fails; state and check give the guaranteed share."""
    (line.folder / "images").mkdir()
    rng = np.random.default_rng(2)
    for i in range(40):
        frame = np.clip(good_part(60, 100) + rng.normal(0, 3, (60, 100, 1)), 0, 255).astype(np.uint8)
        if i % 10 == 0:
            frame[20:30, 30:40] = 205  # on the part, as it lies turned; in the lower half it is not looked for
        if i % 10 == 5:
            frame[40:50, 30:40] = 205
        cv2.imwrite(str(line.folder / "images" / f"{i:02d}.png"), cv2.rotate(frame, cv2.ROTATE_90_COUNTERCLOCKWISE))
    store = line.folder / "store" / "tiny"
    write_tiny_bundle(store)
    camera = (
        "  rotate: 90\n  region: {x: 10, y: 10, width: 80, height: 48}\n"
        "  rules:\n    - {name: all}\n    - {name: low, region: {x: 10, y: 34, width: 80, height: 24}, ignore: true}\n"
    )
    config = line.config(FOLDER + camera, store=store)
    check = run_anosegd("check", str(config))
    assert "2 region rules decide: the share of good parts rejected is not calibrated" in check.stdout
    options = ("--config", config, "--camera", "top", "--group", ".+")  # each image is a part of its own
    done = run_trainer("calibrate", "--bundle", store, "--data", line.folder / "images", *options)
    assert done.returncode == 0, done.stderr
    assert "40 good images" in done.stdout
    assert "not calibrated" in run_anosegd("check", str(config)).stdout  # the calibrated version is a candidate
    calibrated = load_bundle(store / "2")
    release_version(store, 2, calibrated.digest)
    daemon = line.run(config, "--once")
    assert daemon.wait() == 0, daemon.log
    line.listener.drain()
    failed = [str(v["part_id"]) for v in line.listener.verdicts if v["outcome"] == "FAIL"]
    assert len(line.listener.verdicts) == 40
    assert len(failed) == 4
    assert ": 4 rejected" in done.stdout
    told = "at most 21.5 % of good parts rejected, from 40 images of 100×60"  # Clopper and Pearson for 4 of 40: 0.21446
    assert line.listener.last_state()["cameras"]["top"]["note"] == f"region rules decide; {told}"
    assert told in run_anosegd("check", str(config)).stdout
    config.write_text(config.read_text().replace("height: 24", "height: 23"))
    assert "not calibrated" in run_anosegd("check", str(config)).stdout


def test_notes_that_are_warnings(tmp_path: Path) -> None:
    """A warning: rules without calibration, or calibrated with training images. None: calibrated rules, or no rules."""
    camera = CameraConfig(source=DemoSource(), rules=(Rule(name="w"),), rotate=90)
    known = RuleCalibration(
        width=80,
        height=48,
        digest=rules_digest(camera.rules, None, 90),
        n_images=400,
        rejected=0,
        guaranteed=0.00746,
        false_reject_target=0.01,
        held_out=True,
        guarantee="words",
    )
    notes = []
    for rules in ((), (msgspec.structs.replace(known, held_out=False),), (known,)):
        bundle = write_bundle(tmp_path / "tiny", dataclasses.replace(tiny_draft(), rules=rules))
        notes.append(rules_note(camera, bundle, (48, 80)) or "")
    assert [is_worrying(note) for note in notes] == [True, True, False]
    assert "trained on" in notes[1]
    assert notes[2] == "region rules decide; at most 0.8 % of good parts rejected, from 400 images of 80×48"
    assert rules_note(CameraConfig(source=DemoSource()), bundle, (48, 80)) is None


def test_a_calibration_holds_for_one_size_of_the_frames(tmp_path: Path) -> None:
    """Each calibrated size of the frames has its share, others have none. Before the first frame the note names the sizes."""
    camera = CameraConfig(source=DemoSource(), rules=(Rule(name="w", min_area=30),))
    digest = rules_digest(camera.rules, None, 0)
    small = msgspec.structs.replace(TINY_RULES, digest=digest, width=1280, height=1024, guaranteed=0.01, held_out=False)
    large = msgspec.structs.replace(small, width=2448, height=2048, guaranteed=0.03, held_out=True)
    other = msgspec.structs.replace(small, digest="0" * 64, width=640, height=480)

    def note(size: tuple[int, int] | None, *rules: RuleCalibration) -> str:
        bundle = write_bundle(tmp_path / "tiny", dataclasses.replace(tiny_draft(), rules=(other, *rules)))
        return rules_note(camera, bundle, size) or ""

    known = "region rules decide; at most 3.0 % of good parts rejected, from 99 images of 2448×2048"
    assert note((2048, 2448), small, large) == known
    assert note((1024, 1280), small, large).startswith("region rules decide; at most 1.0 %")
    for size in ((2048, 2448), (1280, 1024), (480, 640)):  # height, width
        found = note(size, small)
        assert "not calibrated for these rules" in found
        assert found.endswith(f"in frames of {size[1]}×{size[0]}, only in frames of 1280×1024")
        assert "%" not in found
        assert is_worrying(found)
    unknown = note(None, small, large)
    assert "in frames of 1280×1024, at most 1.0 %" in unknown
    assert "in frames of 2448×2048, at most 3.0 %" in unknown
    assert is_worrying(unknown)  # the network was trained on the smaller ones


def test_frames_of_another_size_are_not_calibrated(line: Line) -> None:
    """The station's state gives no share that was measured with frames of another size; `check` names the size."""
    store = line.folder / "store" / "tiny"
    entry = msgspec.structs.replace(TINY_RULES, digest=rules_digest((Rule(name="w"),), None, 0), width=100, height=60)
    write_bundle(store, dataclasses.replace(tiny_draft(), rules=(entry,)))
    line.store = store
    inspect(line, "  rules: [{name: w}]\n")  # frames of 80×48
    note = line.listener.last_state()["cameras"]["top"]["note"]
    assert "not calibrated for these rules in frames of 80×48, only in frames of 100×60" in note
    checked = run_anosegd("check", str(line.folder / "station.yaml")).stdout
    assert "1 region rule decides; in frames of 100×60, at most 4.7 % of good parts rejected" in checked
