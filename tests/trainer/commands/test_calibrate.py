"""`anoseg-train calibrate` on a real bundle, real images, in a process of its own."""

import dataclasses

import cv2
import numpy as np
import pytest
from support.anoseg_train_command import run
from support.tiny_bundle import bad_part, golden, good_part, tiny_draft, write_tiny_bundle

from anoseg_engines.bundle import load_bundle, versions
from anoseg_engines.bundle_writer import write_bundle
from anoseg_engines.judgement import Inspection, Rule, RuleMaps, Thresholds, judge, rules_digest
from anoseg_engines.loading import load_engine
from anoseg_engines.placement import InputSpec, Placement, Region
from anoseg_trainer.commands.calibrate_rules import least_passing_threshold, sufficient_threshold
from anoseg_trainer.confidence_bound import rejected_share, upper_bound
from anoseg_trainer.data.good_images import DIGEST, PIXEL_DIGESTS, find_good_images, pixel_digest, read_good_images
from anoseg_trainer.thresholds import conformal_threshold

RUNTIME = ("--runtime", "cpu-f32")


def part_of(grey):
    """A part whose score is |grey − 128| / 128."""
    return np.full((48, 80, 3), grey, np.uint8)


def good_folder(folder, greys):
    """Images of these greys, each with marks of its own that do not change its score."""
    folder.mkdir()
    rng = np.random.default_rng(1)
    for i, grey in enumerate(greys):
        image = part_of(grey).astype(int)
        image[rng.random((48, 80)) < 0.3] += 1 if grey < 128 else -1  # nearer to 128, so never the largest
        cv2.imwrite(str(folder / f"{i:03d}.png"), image.astype(np.uint8))
    return folder


def refused(done, code, *words):
    assert done.returncode == code, done.stdout
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


def test_a_new_threshold_is_a_new_version(tmp_path):
    """The conformal threshold of the new images in version 2: same network, same pixel threshold; version 1 is unchanged."""
    before = write_bundle(
        tmp_path / "store" / "tiny",
        dataclasses.replace(tiny_draft(), metrics={"synthetic_defects_caught": 0.91, "synthetic_image_auroc": 0.9}),
    )
    greys = [*np.linspace(100, 126, 98).astype(int), 80]
    data = good_folder(tmp_path / "good", greys)
    done = run("calibrate", "--bundle", tmp_path / "store" / "tiny", "--data", data, *RUNTIME)
    assert done.returncode == 0, done.stderr
    after = load_bundle(tmp_path / "store" / "tiny" / "2")
    expected = conformal_threshold(np.array([(128 - grey) / 128 for grey in greys]), 0.01)
    assert expected.met
    assert after.manifest.score_threshold == pytest.approx(expected.value, abs=1e-3)
    assert after.manifest.calibration.n_images == 99
    assert after.manifest.calibration.false_reject_target == 0.01
    assert "probability at most 0.01" in after.manifest.calibration.guarantee
    assert after.model_onnx == before.model_onnx
    assert after.manifest.pixel_threshold == before.manifest.pixel_threshold
    assert after.manifest.metrics == {"synthetic_image_auroc": 0.9}  # what held for the old threshold alone is gone
    assert load_bundle(before.path).digest == before.digest
    assert load_bundle(tmp_path / "store" / "tiny").digest == before.digest  # until the new version is released
    assert (after.origin.command, after.origin.parent_version, after.origin.parent_digest) == ("calibrate", 1, before.digest)
    assert done.stdout.splitlines()[-1].strip() == f"anoseg-engine release {after.path}"
    again = run("calibrate", "--bundle", tmp_path / "store" / "tiny", "--data", data, *RUNTIME)
    assert "means version 1; newer, but not released: 2" in again.stderr
    assert "score threshold 0.5000 → 0.3851" in done.stdout
    assert "0 rejected at the old threshold, 0 at the new one" in done.stdout
    assert "91.0% at the old threshold, so at least that" in done.stdout
    assert "098.png 0.3750" in done.stdout
    assert [(g.verdict, round(g.score, 2)) for g in after.manifest.golden] == [("PASS", 0.06), ("FAIL", 0.99)]


def test_the_int8_network_sets_no_threshold(tmp_path):
    """The next version has none."""
    write_bundle(tmp_path / "store" / "tiny", tiny_draft())
    data = good_folder(tmp_path / "good", [100] * 20)
    done = run("calibrate", "--bundle", tmp_path / "store" / "tiny", "--data", data, "--runtime", "cpu-int8")
    refused(done, 2, "the next version has no INT8 network")


def test_a_defect_among_few_good_images_is_refused(tmp_path):
    """With 20 images the largest score is the threshold: one white part among them would let every defect pass."""
    write_tiny_bundle(tmp_path / "tiny")
    data = good_folder(tmp_path / "good", [*range(100, 119), 250])
    done = run("calibrate", "--bundle", tmp_path / "tiny", "--data", data, *RUNTIME)
    refused(done, 2, "every defective golden image would pass", "are there defects among the good images?", "019.png")
    assert versions(tmp_path / "tiny") == [1]


def test_too_few_images_and_those_of_the_training(tmp_path):
    """20 images cannot support 1 %: the needed number is stated. That they were used for training is stated too."""
    data = tmp_path / "product"
    (data / "train").mkdir(parents=True)
    good = good_folder(data / "train" / "good", range(100, 120))
    training = {"data_fingerprint": read_good_images(find_good_images(good)).fingerprint}
    write_bundle(tmp_path / "tiny", dataclasses.replace(tiny_draft(), training=training))
    done = run("calibrate", "--bundle", tmp_path / "tiny", "--data", data, *RUNTIME)
    assert done.returncode == 0, done.stderr
    assert "note: the network was trained on these images" in done.stderr
    assert "For the line: how many good parts will be rejected is not known" in done.stdout
    assert "which needs 99 held-out good images" in done.stdout
    calibration = load_bundle(tmp_path / "tiny" / "2").manifest.calibration
    assert calibration.guarantee.startswith("nothing is promised about false rejects, because the network was trained on these")
    assert not calibration.promises


def test_single_images_of_the_training_are_recognised(tmp_path):
    """Three of twenty images were trained on, under other names: the guarantee says so."""
    good = good_folder(tmp_path / "good", range(100, 120))
    images = read_good_images(find_good_images(good))
    training = {"pixel_digests": [digest[:16] for digest in images.pixel_digests[4:7]]}
    write_bundle(tmp_path / "tiny", dataclasses.replace(tiny_draft(), training=training))
    for path in sorted(good.iterdir()):
        path.rename(path.with_name(f"new_{path.name}"))
    done = run("calibrate", "--bundle", tmp_path / "tiny", "--data", good, *RUNTIME)
    assert "note: the network was trained on 3 of these images" in done.stderr
    assert "trained on 3 of these images" in done.stdout
    assert not load_bundle(tmp_path / "tiny" / "2").manifest.calibration.promises


def test_golden_images_follow_the_threshold(tmp_path):
    """One too close to the new threshold is left out, one on its other side changes its verdict; the bundle proves itself."""
    spec = tiny_draft().input
    samples = [golden(part_of(grey), spec) for grey in (128, 52, 40)]  # scores 0, 0.594, 0.6875
    write_bundle(tmp_path / "tiny", dataclasses.replace(tiny_draft(), golden=[*samples, golden(bad_part(), spec)]))
    data = good_folder(tmp_path / "good", [40] * 5 + list(range(41, 60)))
    done = run("calibrate", "--bundle", tmp_path / "tiny", "--data", data, *RUNTIME)
    assert done.returncode == 0, done.stderr
    assert "golden/02.png is left out: its score 0.6875" in done.stderr
    assert "golden/01.png, score 0.5938, was FAIL and is PASS now" in done.stderr
    manifest = load_bundle(tmp_path / "tiny" / "2").manifest
    assert [g.verdict for g in manifest.golden] == ["PASS", "PASS", "FAIL"]
    assert all(abs(g.score - manifest.score_threshold) >= 0.05 for g in manifest.golden)


def test_good_images_become_golden_where_none_passes(tmp_path):
    """With no golden image that passes, up to three of the given ones take their place, as the network reads them."""
    write_bundle(tmp_path / "tiny", dataclasses.replace(tiny_draft(), golden=[golden(bad_part(), tiny_draft().input)]))
    data = good_folder(tmp_path / "good", range(100, 125))
    done = run("calibrate", "--bundle", tmp_path / "tiny", "--data", data)
    assert done.returncode == 0, done.stderr
    assert "3 of the good images are golden images now" in done.stderr
    bundle = load_bundle(tmp_path / "tiny" / "2")
    assert [g.verdict for g in bundle.manifest.golden] == ["PASS"] * 3 + ["FAIL"]
    for runtime in ("cpu-f32", "auto"):
        load_engine(bundle, runtime=runtime).close()


def test_without_a_clear_golden_image_nothing_is_written(tmp_path):
    """Every image within 0.05 of the threshold: refused with what to look at, and no new version."""
    write_bundle(tmp_path / "tiny", dataclasses.replace(tiny_draft(), golden=[golden(good_part(), tiny_draft().input)]))
    done = run("calibrate", "--bundle", tmp_path / "tiny", "--data", good_folder(tmp_path / "good", [120] * 20), *RUNTIME)
    refused(done, 2, "no image scores 0.05 or more away from the new threshold", "look at the good images")
    assert versions(tmp_path / "tiny") == [1]


STATION = """
station: s
engine: {bundle: tiny}
cameras:
  top:
    source: {kind: demo}
    rotate: 180
    region: {x: 10, y: 10, width: 80, height: 48}
    rules:
      - {name: whole, threshold: THRESHOLD}
      - {name: label, region: {x: 10, y: 10, width: 20, height: 48}, ignore: true}
  plain: {source: {kind: demo}}
  wrong: {source: {kind: demo}, rules: [{name: a, treshold: 0.3}]}
  far: {source: {kind: demo}, rules: [{name: a, region: {x: 900, y: 0, width: 5, height: 5}}]}
  flat: 3
"""
RULES = (Rule(name="whole", threshold=0.3), Rule(name="label", region=Region(10, 10, 20, 48), ignore=True))


@pytest.fixture
def station(tmp_path):
    path = tmp_path / "station.yaml"
    path.write_text(STATION.replace("THRESHOLD", "0.3"))
    return path


@pytest.fixture
def frames(tmp_path):
    """60 whole frames, upside down: spots of 0.36, 0.38 … on three, one of 0.9 where it is ignored on another."""
    folder = tmp_path / "frames"
    folder.mkdir()
    rng = np.random.default_rng(3)
    for i in range(60):
        frame = np.clip(128 + rng.normal(0, 4, (70, 110, 1)).repeat(3, 2), 100, 156).astype(np.uint8)
        if i < 3:
            frame[20:40, 50:70] = 128 + (46, 58, 90)[i]
        if i == 3:
            frame[20:40, 12:24] = 243
        cv2.imwrite(str(folder / f"{i:02d}.png"), cv2.rotate(frame, cv2.ROTATE_180))
    return folder


def newest(tmp_path):
    """The newest version, released or not."""
    return tmp_path / "tiny" / str(versions(tmp_path / "tiny")[-1])


def calibrate_rules(tmp_path, *more):
    return run(
        *("calibrate", "--bundle", newest(tmp_path), "--data", tmp_path / "frames", "--config", tmp_path / "station.yaml"),
        *("--camera", "top", *RUNTIME, "--group", ".+", *more),
    )


def test_rules_are_counted_and_kept(tmp_path, station, frames):
    """3 of 60 rejected, by name; the entry says so. Other rules' entries stay, the same rules' is replaced, thresholds stay."""
    write_tiny_bundle(tmp_path / "tiny")
    done = calibrate_rules(tmp_path, "--false-reject", "0.15")
    assert done.returncode == 0, done.stderr
    assert "60 good images" in done.stdout
    assert ": 3 rejected, 0 for a person" in done.stdout
    assert "rejected 00.png by whole" in done.stdout
    assert "was asked for" not in done.stdout
    bundle = load_bundle(tmp_path / "tiny" / "2")
    (entry,) = bundle.rule_calibrations
    assert entry.digest == rules_digest(RULES, Region(10, 10, 80, 48), 180)
    assert (bundle.origin.command, bundle.origin.parent_version) == ("calibrate-rules", 1)
    assert (entry.n_images, entry.rejected, entry.held_out, entry.false_reject_target) == (60, 3, True, 0.15)
    assert entry.guaranteed == pytest.approx(upper_bound(3, 60))
    assert bundle.thresholds == load_bundle(tmp_path / "tiny" / "1").thresholds

    station.write_text(STATION.replace("THRESHOLD", "0.4"))
    assert calibrate_rules(tmp_path).returncode == 0
    station.write_text(STATION.replace("THRESHOLD", "0.3"))
    assert calibrate_rules(tmp_path).returncode == 0
    found = load_bundle(newest(tmp_path)).rule_calibrations
    assert [(e.rejected, e.false_reject_target) for e in found] == [(2, 0.01), (3, 0.01)]
    assert "of which none is rejected" in found[1].guarantee

    data = good_folder(tmp_path / "good", range(100, 120))
    assert run("calibrate", "--bundle", newest(tmp_path), "--data", data, *RUNTIME).returncode == 0
    assert load_bundle(newest(tmp_path)).rule_calibrations == found  # a new score threshold changes nothing about rules


def test_frames_whose_region_was_trained_on_promise_nothing(tmp_path, station, frames):
    """The training had the pictures cut to the region; these are the whole frames of the same parts."""
    shown = [cv2.rotate(cv2.imread(str(path)), cv2.ROTATE_180)[10:58, 10:90] for path in sorted(frames.iterdir())]
    used = {PIXEL_DIGESTS: [pixel_digest(np.ascontiguousarray(image))[:DIGEST] for image in shown[:5]]}
    write_bundle(tmp_path / "tiny", dataclasses.replace(tiny_draft(), training={**tiny_draft().training, **used}))
    done = calibrate_rules(tmp_path)
    assert done.returncode == 0, done.stderr
    (entry,) = load_bundle(newest(tmp_path)).rule_calibrations
    assert not entry.held_out
    assert "the network was trained on 5 of these images" in entry.guarantee


def test_each_size_of_the_frames_has_its_own_entry(tmp_path, station, frames):
    """The same rules in larger frames: both entries stay, and only the one of the same size is replaced."""
    write_tiny_bundle(tmp_path / "tiny")
    assert calibrate_rules(tmp_path).returncode == 0
    (first,) = load_bundle(newest(tmp_path)).rule_calibrations
    for path in frames.iterdir():
        cv2.imwrite(str(path), cv2.copyMakeBorder(cv2.imread(str(path)), 10, 0, 20, 0, cv2.BORDER_REPLICATE))
    assert calibrate_rules(tmp_path).returncode == 0
    before, second = load_bundle(newest(tmp_path)).rule_calibrations
    assert before == first
    assert second.digest == first.digest
    assert [(e.width, e.height) for e in (first, second)] == [(110, 70), (130, 80)]

    done = calibrate_rules(tmp_path, "--false-reject", "0.2")
    assert done.returncode == 0, done.stderr
    before, third = load_bundle(newest(tmp_path)).rule_calibrations
    assert before == first
    assert (third.measured_for, third.false_reject_target) == (second.measured_for, 0.2)


def test_frames_of_one_part_count_once(tmp_path, station, frames):
    """Three frames of one part that is rejected are one of 58 parts; where parts are not known, nothing is promised."""
    write_tiny_bundle(tmp_path / "tiny")
    for path in sorted(frames.iterdir())[:3]:
        path.rename(path.with_name(f"one_{path.name}"))
    done = calibrate_rules(tmp_path, "--group", r"one|\d+")
    assert done.returncode == 0, done.stderr
    assert ": 3 rejected" in done.stdout
    (entry,) = load_bundle(newest(tmp_path)).rule_calibrations
    assert (entry.n_images, entry.rejected) == (60, 3)
    assert entry.guaranteed == pytest.approx(upper_bound(1, 58))
    assert "1 of 58 good parts on 60 images" in entry.guarantee

    for path in sorted(frames.iterdir())[-3:]:
        path.unlink()  # what remains differs by noise alone
    done = calibrate_rules(tmp_path, "--group", "")
    (entry,) = load_bundle(newest(tmp_path)).rule_calibrations
    assert entry.guaranteed == 1
    assert entry.guarantee.startswith("nothing is promised")


def test_the_named_threshold_is_enough(tmp_path, station, frames):
    """One of 60 may be rejected for 8 %: the value that is named leaves one, and a hair less leaves two."""
    write_tiny_bundle(tmp_path / "tiny")
    done = calibrate_rules(tmp_path, "--false-reject", "0.08")
    assert "allows 1 rejected of 60" in done.stdout
    named = done.stdout.split("thresholds of at least ")[1].split(" ")[0]
    assert "at most 1 of these parts would be rejected" in done.stdout
    for threshold, rejected in ((named, 1), (f"{float(named) - 2e-4:.4f}", 2)):
        station.write_text(STATION.replace("THRESHOLD", threshold))
        done = calibrate_rules(tmp_path, "--false-reject", "0.08")
        assert f": {rejected} rejected" in done.stdout
        assert ("was asked for" in done.stdout) == (rejected == 2)


def test_a_person_is_not_a_reject(tmp_path, station, frames):
    """With a band for review its images are counted apart."""
    write_tiny_bundle(tmp_path / "tiny")
    station.write_text(STATION.replace("THRESHOLD", "0.5").replace("rotate: 180", "rotate: 180\n    review_from: 0.3"))
    assert ": 1 rejected, 2 for a person to look at" in calibrate_rules(tmp_path).stdout


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("--config", "station.yaml", "--camera", "side"), ("cameras: 'side' is missing", "top, plain")),
        (("--config", "station.yaml", "--camera", "plain"), ("cameras.plain has no rules",)),
        (("--config", "station.yaml", "--camera", "wrong"), ("cameras.wrong", "treshold")),
        (("--config", "station.yaml", "--camera", "far"), ("rule 'a'", "does not touch the part")),
        (("--config", "station.yaml", "--camera", "flat"), ("cameras.flat: expected a mapping (key: value), found 3",)),
        (("--config", "station.yaml"), ("--config and --camera belong together",)),
        (("--config", "none.yaml", "--camera", "top"), ("none.yaml: cannot be read",)),
        (("--config", "bad.yaml", "--camera", "top"), ("bad.yaml, line 1: not valid YAML",)),
        (("--config", "deep.yaml", "--camera", "top"), ("deep.yaml: nested too deep",)),
        (("--config", "list.yaml", "--camera", "top"), ("list.yaml, line 1: expected a mapping (key: value)",)),
        (("--config", "frames/00.png", "--camera", "top"), ("not valid YAML",)),
        (
            ("--config", "station.yaml", "--camera", "top", "--data", "small"),
            ("small/000.png", "reaches beyond", "whole camera"),
        ),
        (("--false-reject", "0"), ("between 0 and 1",)),
        (("--data", "none"), ("none: no such folder",)),
        (("--bundle", "none"), ("none: no such bundle",)),
        (("--bundle", "loose"), ("not in a store",)),
        (("--runtime", "cpu-x"), ("cpu-x",)),
    ],
)
def test_a_users_mistake_is_explained(tmp_path, station, frames, arguments, words):
    """Exit code 2, a message with place and reason, no traceback, no new version."""
    write_tiny_bundle(tmp_path / "tiny")
    write_tiny_bundle(tmp_path / "x").path.rename(tmp_path / "loose")
    good_folder(tmp_path / "small", range(100, 112))
    (tmp_path / "bad.yaml").write_text("cameras: [")
    (tmp_path / "deep.yaml").write_text("[" * 20000)
    (tmp_path / "list.yaml").write_text("- 1")
    done = run("calibrate", "--bundle", "tiny", "--data", "frames", *arguments, cwd=tmp_path)
    refused(done, 2, *words)
    assert versions(tmp_path / "tiny") == [1]


PLACEMENT = Placement.of(InputSpec(16, 16), Region(0, 0, 32, 32))
THRESHOLDS = Thresholds(0.5, 0.5)


@pytest.mark.parametrize("min_area", [0, 12, 60])
def test_least_threshold_is_where_the_outcome_turns(min_area):
    """For random maps: at the value found the part passes, a step below it fails; ignored peaks do not count."""
    rules = (Rule(name="w", threshold=0.2, min_area=min_area), Rule(name="i", region=Region(0, 0, 8, 32), ignore=True))
    maps = RuleMaps.of(rules, 0.5, PLACEMENT)
    rng = np.random.default_rng(7)
    for _ in range(20):
        anomaly_map = cv2.GaussianBlur(rng.random((16, 16)).astype(np.float32), (0, 0), 1)
        anomaly_map[:, :4] = 1
        found = least_passing_threshold(Inspection(0.5, anomaly_map), THRESHOLDS, PLACEMENT, maps)
        outcomes = []
        for threshold in (found, found - 1e-4):
            raised = RuleMaps.of((Rule(name="w", threshold=threshold, min_area=min_area), rules[1]), 0.5, PLACEMENT)
            outcomes.append(judge(Inspection(0.5, anomaly_map), THRESHOLDS, PLACEMENT, rules=raised).outcome)
        assert outcomes == ["PASS", "FAIL"]


def test_a_map_of_ones_is_beyond_every_threshold():
    """No threshold lets it pass, and none is named when too many such images are rejected."""
    maps = RuleMaps.of((Rule(name="w"),), 0.5, PLACEMENT)
    found = least_passing_threshold(Inspection(0.5, np.ones((16, 16), np.float32)), THRESHOLDS, PLACEMENT, maps)
    assert found == float("inf")
    assert sufficient_threshold([found, 0.7], rejected_share(2, 100, 0.01)) is None
    assert sufficient_threshold([found, 0.7], rejected_share(2, 473, 0.01)) == 0.7
    assert sufficient_threshold([0.7], rejected_share(1, 473, 0.01)) is None  # nothing needs to change


def test_the_bound_holds_at_the_named_threshold():
    """Chosen on the same images, the share of parts that need more exceeds the target at most once in twenty."""
    rng = np.random.default_rng(8)
    n, target = 160, 0.04
    allowed = rejected_share(0, n, target).allowed
    assert allowed == 2
    missed = 0
    for _ in range(4000):
        needs = rng.random(n)  # the threshold that each image needs to pass; uniform, so that 1 − value is the true share
        share = rejected_share(n, n, target)
        missed += 1 - sufficient_threshold(list(needs), share) > target
    assert 0.02 < missed / 4000 <= 0.05 + 3 * np.sqrt(0.05 / 4000)
