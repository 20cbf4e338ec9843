"""`anoseg-train learn-good` on a real bundle: what is learned passes, defects do not, and nothing is learned silently."""

import dataclasses
import shutil

import cv2
import msgspec
import numpy as np
import pytest
from support.anoseg_train_command import run
from support.anosegd_line import Line, Listener, run_anosegd
from support.browser import Browser
from support.commands import run_here
from support.made_once import made_once
from support.tiny_bundle import write_tiny_bundle
from support.view_server import ViewServer

from anoseg_engines.bundle import GoldenSample, load_bundle, versions
from anoseg_engines.bundle_writer import BundleDraft, write_bundle
from anoseg_engines.cli import main as engine_main
from anoseg_engines.errors import DataError, EngineError
from anoseg_engines.images import read_image
from anoseg_engines.loading import load_engine
from anoseg_trainer.data.good_images import pixel_digest
from anoseg_trainer.evaluation import inspect_image
from anoseg_trainer.memory_extension import MOST_OF_ALL, MOST_OF_IMAGE, ExtensibleDetector
from anoseg_trainer.model.from_bundle import detector_from_bundle
from anoseg_trainer.recalibration import CALIBRATED_AFTER_TRAINING

CONFIG = """
input: {height: 96, width: 128}
memory: {vectors: 4000, grid: 8, strides: [8, 16]}
views: {whole_image: 0, places: 0}
false_reject: 0.1
holdout: {group: '.+'}
"""
VECTORS = 4000


@pytest.fixture(scope="module")
def quick(product, tmp_path_factory):
    """A bundle of the plates without a network; tests copy it."""

    def make(folder):
        (folder / "train.yaml").write_text(CONFIG)
        options = ("--config", folder / "train.yaml", "--work", folder / "work", "--quick", "--release")
        done = run("fit", "--data", product, "--out", folder / "store" / "plate", *options)
        assert done.returncode == 0, done.stderr

    return made_once(tmp_path_factory, "quick-plates", make) / "store" / "plate"


@pytest.fixture(scope="module")
def aligned(product, tmp_path_factory):
    """The same bundle with the Gaussians of places, because the plates always lie the same way."""

    def make(folder):
        (folder / "train.yaml").write_text(CONFIG.replace("places: 0", "places: 3"))
        options = ("--config", folder / "train.yaml", "--work", folder / "work", "--quick", "--release")
        done = run("fit", "--data", product, "--out", folder / "store" / "plate", *options)
        assert done.returncode == 0, done.stderr
        assert "different good parts look alike at the same place of the image" in done.stderr + done.stdout

    return made_once(tmp_path_factory, "aligned-plates", make) / "store" / "plate"


@pytest.fixture
def store(quick, tmp_path):
    return shutil.copytree(quick, tmp_path / "store" / "plate")


def with_label(image, seed):
    """The plate with a printed label, at a place that differs a little from plate to plate: good, but new to the bundle."""
    rng = np.random.default_rng(seed)
    x, y = int(rng.integers(8, 16)), int(rng.integers(8, 16))
    labelled = image.copy()
    cv2.circle(labelled, (x + 4, y + 4), 4, (235, 235, 235), -1, cv2.LINE_AA)
    return labelled


@pytest.fixture
def labelled(plate, tmp_path):
    """Four plates with a label, and one without that the bundle accepts."""
    folder = tmp_path / "rejected"
    folder.mkdir()
    rng = np.random.default_rng(40)
    for i in range(4):
        cv2.imwrite(str(folder / f"label_{i}.png"), with_label(plate(rng), i))
    cv2.imwrite(str(folder / "plain.png"), plate(rng))
    return folder


def learn(store, folder, *more):
    return run("learn-good", store, "--data", folder, *more)


def with_threshold(store, value):
    """The same bundle with another score threshold, as version 2."""
    return write_bundle(store, dataclasses.replace(BundleDraft.of(load_bundle(store / "1")), score_threshold=value))


def refused(done, store, *words, code=2):
    assert done.returncode == code, done.stdout + done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr, done.stderr
    assert versions(store) == [1]


def scores(path, images):
    engine = load_engine(load_bundle(path), runtime="cpu-f32")
    try:
        return np.array([inspect_image(engine, image).inspection.score for image in images])
    finally:
        engine.close()


def test_what_is_learned_passes_and_defects_do_not(store, labelled, product, plate):
    """The labels pass, another plate with one too; spots keep their verdict. The candidate says what it was made from."""
    before = load_bundle(store)
    done = learn(store, labelled)
    assert done.returncode == 0, done.stderr
    for i in range(4):
        assert f"label_{i}.png: score " in done.stdout
    assert done.stdout.count("rejected → passes") == 4
    assert "left out: plain.png pass already" in done.stdout
    assert "4 of 5 images learned: 4 of them pass now" in done.stdout
    assert "has no network" in done.stderr
    assert "the score threshold stays" in done.stderr

    after = load_bundle(store / "2")
    threshold = before.manifest.score_threshold
    rng = np.random.default_rng(41)
    others = [with_label(plate(rng), 100 + i) for i in range(4)]
    assert (scores(store / "1", others) > 0.9).all()
    assert (scores(store / "2", others) < 0.6).all()  # the label is known; that it is at another place is not
    spots = [read_image(path) for path in sorted((product / "test" / "spot").iterdir())]
    for old, new in zip(scores(store / "1", spots), scores(store / "2", spots), strict=True):
        assert (old >= threshold) == (new >= threshold)

    assert load_bundle(store).digest == before.digest  # until the new version is released
    assert (after.origin.command, after.origin.parent_version, after.origin.parent_digest) == ("learn-good", 1, before.digest)
    assert after.manifest.score_threshold == threshold
    assert after.manifest.calibration.guarantee.startswith(before.manifest.calibration.guarantee)
    assert "this promise was found for version 1" in after.manifest.calibration.guarantee
    assert after.manifest.metrics == {}
    added = len(detector_from_bundle(after).memory.nearest.weight) - VECTORS
    assert 4 <= added <= 4 * MOST_OF_IMAGE * VECTORS
    assert after.manifest.training["learned_good"][0]["vectors"] == added
    assert "learn-good from version 1" in run_engine_inspect(store / "2")


def run_engine_inspect(path):
    from support.commands import run_here

    from anoseg_engines.cli import main

    return " ".join(run_here(main, "anoseg-engine", "inspect", path).stdout.split())


def test_a_second_time_is_recorded_beside_the_first(store, labelled, plate):
    """Learned images are known to later commands; the guarantee names the version whose promise it is once only."""
    assert learn(store, labelled).returncode == 0
    done = learn(store / "2", labelled)
    assert done.returncode == 2
    assert "none of these images is to be learned" in done.stderr
    for path in labelled.iterdir():
        path.unlink()
    image = plate(np.random.default_rng(50))
    image[60:80, 90:110] = 240
    cv2.imwrite(str(labelled / "corner.png"), image)
    assert learn(store / "2", labelled).returncode == 0
    manifest = load_bundle(store / "3").manifest
    assert [(entry["version"], entry["images"]) for entry in manifest.training["learned_good"]] == [(1, 4), (2, 1)]
    assert manifest.calibration.guarantee.count("found for version") == 1
    assert "found for version 1" in manifest.calibration.guarantee
    known = run("calibrate", "--bundle", store / "3", "--data", shutil.copytree(labelled, labelled.parent / "again"))
    assert "at least 10 are needed" in known.stderr


def test_where_parts_are_aligned_labels_become_usual_at_their_places(aligned, tmp_path, labelled, product, plate):
    """The labels pass, and one at nearly the same place scores less; spots are rejected as before, and so is another label."""
    store = shutil.copytree(aligned, tmp_path / "store" / "plate")
    before = load_bundle(store).manifest
    assert before.training["detector"]["places"] is not None
    done = learn(store, labelled)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("rejected → passes") == 4
    assert "what it shows is usual now at" in done.stdout
    after = load_bundle(store / "2").manifest
    assert after.training["learned_good"][-1]["places"] > 0
    rng = np.random.default_rng(41)
    others = [with_label(plate(rng), 100 + i) for i in range(4)]
    elsewhere = [np.ascontiguousarray(with_label(plate(rng), 100 + i)[::-1, ::-1]) for i in range(4)]
    assert (scores(store / "2", others) < scores(store / "1", others) - 0.05).all()
    assert (scores(store / "2", elsewhere) >= before.score_threshold).all()
    spots = [read_image(path) for path in sorted((product / "test" / "spot").iterdir())]
    old, new = scores(store / "1", spots), scores(store / "2", spots)
    assert (old >= before.score_threshold).sum() >= 6
    assert ((old >= before.score_threshold) == (new >= before.score_threshold)).all()


def test_the_threshold_is_calibrated_on_what_was_held_out(store, labelled, product):
    """All held-out images there: a threshold with its own promise. One missing: it stays, and the command says so."""
    trained = load_bundle(store / "1").manifest.score_threshold
    before = with_threshold(store, 0.3).manifest
    done = learn(store / "2", labelled, "--held-out", product)
    assert done.returncode == 0, done.stderr
    after = load_bundle(store / "3").manifest
    assert after.calibration.n_images == before.calibration.n_images
    assert after.calibration.false_reject_target == 0.1
    assert after.score_threshold == pytest.approx(trained, abs=0.02)
    assert f"score threshold {before.score_threshold:.4f} → {after.score_threshold:.4f}" in done.stdout
    assert "after good parts were added" in after.calibration.method
    assert "found for version" not in after.calibration.guarantee
    assert "For the line: of 1000 good parts" in done.stdout

    held_out = set(before.training["calibration_digests"])
    assert held_out
    folder = shutil.copytree(product / "train" / "good", labelled.parent / "most")
    from anoseg_trainer.data.good_images import find_good_images, read_good_images

    images = read_good_images(find_good_images(folder))
    lost = next(path for path, digest in zip(images.paths, images.pixel_digests, strict=True) if digest[:16] in held_out)
    lost.unlink()
    done = learn(store / "2", labelled, "--held-out", folder)
    assert "1 of the images that set the score threshold is not among those of --held-out" in done.stderr
    assert load_bundle(store / "4").manifest.score_threshold == before.score_threshold


def test_a_defect_that_would_hide_defects_is_refused(store, tmp_path):
    """A golden image that is rejected, but for one pixel: learned as good, the bundle would pass it. It is named."""
    bundle = load_bundle(store)
    names = [golden.image for golden in bundle.manifest.golden]
    name, sample = next((n, s) for n, s in zip(names, bundle.golden_samples(), strict=True) if s.verdict == "FAIL")
    folder = tmp_path / "wrong"
    folder.mkdir()
    image = sample.image.copy()
    image[0, 0] = 0
    cv2.imwrite(str(folder / "thought_good.png"), image)
    refused(
        learn(store, folder), store, name, "would pass", "nothing was written", "is one of the images that you gave defective?"
    )


def with_golden(store, change):
    """Version 2 of the bundle, whose golden samples `change` has changed."""
    bundle = load_bundle(store / "1")
    return write_bundle(store, dataclasses.replace(BundleDraft.of(bundle), golden=change(bundle.golden_samples())))


def test_a_rejected_golden_image_may_not_come_close_to_the_threshold(store, labelled):
    """It would be left out of the next version. Repeated runs would then leave no golden image that shows a defect."""
    detector = ExtensibleDetector(load_bundle(store))
    learn_from = sorted(labelled.glob("label_*.png"))
    image = with_label(read_image(labelled / "plain.png"), 7)
    sample = detector.predict(image)
    golden = GoldenSample(image, sample.anomaly_map, sample.score, "FAIL")
    with_golden(store, lambda samples: [*samples, golden])
    detector = ExtensibleDetector(load_bundle(store / "2"))
    detector.learn(learn_from)
    margin = detector.bundle.manifest.golden_tolerance.margin
    after = detector.predict(image).score
    name = detector.bundle.manifest.golden[-1].image
    with pytest.raises(DataError, match=f"{name}.*would hardly reject it any more"):
        detector.golden(after - margin / 2)

    def rejected(golden):
        return sum(sample.verdict == "FAIL" for sample in golden.kept)

    confirmed = {pixel_digest(image)}  # the user says that it is good
    assert rejected(detector.golden(after - 1.1 * margin)) == 1 + rejected(detector.golden(after - margin / 2, confirmed)) > 1


def test_a_bundle_that_rejects_no_golden_image_learns_nothing(store, labelled):
    """Nothing could check that defects are still rejected."""
    with_golden(store, lambda samples: [sample for sample in samples if sample.verdict == "PASS"])
    done = learn(store / "2", labelled)
    assert done.returncode == 2
    assert "rejects none of its golden images" in done.stderr
    assert "train again" in done.stderr
    assert versions(store) == [1, 2]


def test_images_that_calibrate_used_are_not_learned(store, labelled, plate, tmp_path):
    """They could not check the threshold any more. With --held-out they set it again, and the promise is of these parts."""
    more = tmp_path / "more"
    more.mkdir()
    rng = np.random.default_rng(70)
    for i in range(30):
        cv2.imwrite(str(more / f"{i:02d}.png"), plate(rng))
    for path in labelled.glob("label_[01].png"):
        shutil.copy(path, more)
    options = ("--data", more, "--false-reject", 0.1, "--group", ".+", "--runtime", "cpu-f32")
    assert run("calibrate", "--bundle", store, *options).returncode == 0
    calibrated = load_bundle(store / "2").manifest
    assert len(calibrated.training["calibrated"]["digests"]) == 32
    done = learn(store / "2", labelled)
    assert done.returncode == 0, done.stderr
    assert "left out: label_0.png, label_1.png were held out for the score threshold" in done.stdout
    assert "2 of 5 images learned" in done.stdout
    kept = load_bundle(store / "3").manifest
    assert kept.score_threshold == calibrated.score_threshold
    assert "this promise was found for version 2" in kept.calibration.guarantee

    done = learn(store / "2", labelled, "--held-out", more)
    assert done.returncode == 0, done.stderr
    again = load_bundle(store / "4").manifest.calibration
    assert (again.n_images, again.false_reject_target) == (32, 0.1)
    assert "probability at most 0.09" in again.guarantee
    assert "found for version" not in again.guarantee


def test_without_the_images_of_calibrate_nothing_is_promised(store, labelled):
    """An earlier version of `calibrate` did not record its images, so those that are learned may be among them."""
    draft = BundleDraft.of(load_bundle(store / "1"))
    after = msgspec.structs.replace(draft.calibration, method=CALIBRATED_AFTER_TRAINING)
    write_bundle(store, dataclasses.replace(draft, calibration=after))
    done = learn(store / "2", labelled)
    assert done.returncode == 0, done.stderr
    assert "the score threshold stays, and nothing is promised about false rejects" in done.stderr
    assert load_bundle(store / "3").manifest.calibration.guarantee.startswith("nothing is promised about false rejects")


def test_images_held_out_for_the_threshold_are_not_learned(store, product, tmp_path):
    """They could not check the threshold any more: left out with the reason, and alone they are nothing to learn."""
    bundle = load_bundle(store)
    held_out = set(bundle.manifest.training["calibration_digests"])
    paths = sorted((product / "train" / "good").iterdir())
    found = [path for path in paths if pixel_digest(read_image(path))[:16] in held_out]
    assert len(found) == bundle.manifest.training["images"]["calibration"]
    detector = ExtensibleDetector(bundle)
    highest = max(found, key=lambda path: detector.predict(read_image(path)).score)
    with_threshold(store, detector.predict(read_image(highest)).score - 1e-3)
    folder = tmp_path / "some"
    folder.mkdir()
    shutil.copy(highest, folder)
    done = learn(store / "2", folder)
    assert done.returncode == 2
    assert "none of these images is to be learned" in done.stderr
    assert "were held out for the score threshold" in done.stderr
    assert versions(store) == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("tiny", "--data", "rejected"), ("tiny/1: this bundle has no memory of good parts", "train again")),
        (("store/plate", "--data", "plain"), ("none of these images is to be learned", "plain.png pass already", "`rules`")),
        (("store/plate", "--data", "broken"), ("1 of 5 good images cannot be used", "broken/label_2.png")),
        (("store/plate", "--data", "none"), ("none: no such folder",)),
        (("store/plate", "--data", "empty"), ("empty: no images found",)),
        (("store/plate", "--data", "rejected", "--held-out", "none"), ("none: no such folder",)),
        (("none", "--data", "rejected"), ("none: no such bundle",)),
    ],
)
def test_a_users_mistake_is_explained(store, labelled, tmp_path, arguments, words):
    """Exit code 2, a message with place and reason, no traceback, no new version."""
    write_tiny_bundle(tmp_path / "tiny")
    (tmp_path / "empty").mkdir()
    broken = shutil.copytree(labelled, tmp_path / "broken")
    (broken / "label_2.png").write_bytes((broken / "label_2.png").read_bytes()[:-200])
    (tmp_path / "plain").mkdir()
    shutil.copy(labelled / "plain.png", tmp_path / "plain")
    refused(run("learn-good", *arguments, cwd=tmp_path), store, *words)
    assert versions(tmp_path / "tiny") == [1]


def test_many_images_share_the_bound(store, plate, tmp_path):
    """However many images there are, the memory gains a tenth at most, and no image more than its share."""
    detector = ExtensibleDetector(load_bundle(store))
    rng = np.random.default_rng(60)
    paths = []
    for i in range(12):
        paths.append(tmp_path / f"{i}.png")
        cv2.imwrite(str(paths[-1]), rng.integers(0, 255, (96, 128, 3), np.uint8))
    added = [one.vectors for one in detector.learn(paths)]
    assert sum(added) == detector.vectors - VECTORS <= MOST_OF_ALL * VECTORS
    assert added[0] > 0
    assert max(added) <= MOST_OF_IMAGE * VECTORS


def test_a_bundle_that_this_version_judges_otherwise_is_refused(store, monkeypatch):
    """If PyTorch gives the golden images other scores than the bundle, it cannot say what the bundle would learn."""
    original = detector_from_bundle

    def shifted(bundle):
        detector = original(bundle)
        detector.score_offset.add_(1.0)
        return detector

    monkeypatch.setattr("anoseg_trainer.memory_extension.detector_from_bundle", shifted)
    with pytest.raises(EngineError, match="another version"):
        ExtensibleDetector(load_bundle(store))


def test_the_network_says_what_looks_like_a_defect(trained, product):
    """With the other views at what good parts show, spots are rejected by the network alone, and good plates are not."""
    detector = ExtensibleDetector(load_bundle(trained[0]))
    assert detector.has_network
    threshold = detector.bundle.manifest.score_threshold

    def alone(folder):
        paths = sorted((product / "test" / folder).iterdir())
        return np.array([detector.network_score(detector.predict(read_image(path)).values) for path in paths])

    assert (alone("spot") >= threshold).mean() > 0.5
    assert (alone("good") < threshold).mean() > 0.8


@pytest.mark.long
def test_feedback_on_the_screen_changes_the_verdict(store, labelled, tmp_path, tmp_path_factory):
    """Rejected parts are marked as false rejects in a browser; dataset, learn-good, release: the same parts pass."""
    endpoint = f"ipc://{tmp_path_factory.mktemp('s')}/pub"
    line = Line(tmp_path, store, endpoint, Listener(endpoint), [])
    view = browser = None
    try:
        more = "journal: {path: verdicts.db}\nevidence: {folder: evidence, min_free: 0}"
        more += f"\ncontrol: {{endpoint: '{endpoint.replace('pub', 'control')}'}}"
        config = line.config("top: {policy: wait, source: {kind: folder, path: rejected}}", more=more)
        daemon = line.run(config)
        rejected = {v["part_id"] for v in line.listener.wait_for_verdicts(5) if v["outcome"] == "FAIL"}
        assert len(rejected) == 4
        view = ViewServer(tmp_path, str(config))
        browser = Browser(tmp_path)
        browser.open(view.url + "parts?outcome=FAIL&lang=en")
        browser.wait_for("document.querySelectorAll('#rows tr').length === 4")
        browser.evaluate("localStorage.setItem('who', 'Anna')")
        browser.evaluate("document.querySelector('#head input').click()")
        browser.evaluate(
            "[...document.querySelectorAll('#mark button')].find((one) => one.textContent === 'False reject').click()"
        )
        browser.wait_for("[...document.querySelectorAll('td.mark')].every((cell) => cell.textContent === 'False reject')")
        assert browser.messages == []
        data = tmp_path / "marked"
        assert run_anosegd("evidence", "dataset", str(config), "--data", str(data)).stdout == f"{data}/train/good: 4 pictures\n"
        assert daemon.terminate() == 0
        assert learn(store, data).returncode == 0
        assert run_here(engine_main, "anoseg-engine", "release", str(store / "2")).returncode == 0
        line.run(config, "--once")
        again = line.listener.wait_for(lambda m: m.topic == "verdict.top" and m.header["engine"]["version"] == 2).header
        found = {again["part_id"]: again["outcome"]}
        while len(found) < 5:
            header = line.listener.wait_for(lambda m: m.topic == "verdict.top").header
            found[header["part_id"]] = header["outcome"]
        assert {found[part] for part in rejected} == {"PASS"}
    finally:
        for one in (browser, view, *line.daemons, line.listener):
            if one is not None:
                one.close()
