import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest
from support.anoseg_train_command import COMMAND, ENVIRONMENT, run
from support.made_once import made_once

from anoseg_engines.bundle import load_bundle
from anoseg_engines.golden import self_test
from anoseg_engines.loading import load_engine
from anoseg_trainer.commands.fit import claim, default_work
from anoseg_trainer.data.good_images import find_good_images, read_good_images
from anoseg_trainer.int8_network import MOST_AUROC_LOST
from anoseg_trainer.model.detector import NO_LEVEL


def assert_refused(done, code, *words):
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    for word in words:
        assert word in done.stderr


TINY = """
input: {height: 96, width: 128}
network: {encoder: scratch, widths: [16, 16, 32, 32, 32]}
training: {batch: 8, ema: 0.8, validate_every: 1000, checkpoint_every: 8, learning_rate: 0.004, threads: 1}
"""


@pytest.fixture
def tiny_config(tmp_path):
    """A configuration that trains in seconds."""
    path = tmp_path / "train.yaml"
    path.write_text(TINY)
    return path


def test_fit_ends_with_a_bundle_that_proves_itself(trained):
    """The bundle loads, its golden images come out as recorded, both verdicts among them, and the record is complete."""
    path, done = trained
    bundle = load_bundle(path)
    load_engine(bundle).close()
    manifest = bundle.manifest
    assert {g.verdict for g in manifest.golden} == {"PASS", "FAIL"}
    assert all(abs(g.score - manifest.score_threshold) >= 0.05 for g in manifest.golden)
    assert manifest.calibration.n_images == 12
    assert "needs 99 held-out good images" in manifest.calibration.guarantee
    assert "needs 99 held-out good images" in done.stderr
    assert manifest.training["seed"] == 1
    assert manifest.training["steps"] == 160
    assert len(manifest.training["data_fingerprint"]) == 64
    assert manifest.training["config"]["network"]["widths"] == [16, 16, 32, 32, 32]
    assert manifest.training["detector"]["level_limit"] > NO_LEVEL
    assert not list(path.glob(".*"))
    caught = manifest.metrics["synthetic_defects_caught"]
    assert f"caught at this threshold: {caught:.1%}" in done.stdout
    assert ("would pass most defective parts" in done.stderr) == (caught < 0.5)


def test_fit_says_what_its_threshold_does(trained):
    """The images that set the threshold, the trade-off with synthetic and real defects, and what it means for the line."""
    path, done = trained
    threshold = f"{load_bundle(path).manifest.score_threshold:.4f}"
    for words in (
        f"synthetic defects that pass at the threshold {threshold}: ",
        f"real defects that pass at the threshold {threshold}: ",
        "held-out good parts rejected there: 0 of 12",
        "For the line: of 1000 good parts like these, expect at most 77 to be rejected",
        "good images with the highest scores: ",
        ".png sets the threshold",
        "good parts rejected",
    ):
        assert words in done.stdout


def test_a_short_training_has_curves(trained):
    """Four validations and a loss for every step or so, although the configuration asks for fewer."""
    path, _ = trained
    assert len(load_bundle(path).manifest.training["curve"]) >= 4
    text = (path.parents[1] / "work" / "report.html").read_text()
    assert "no data to draw" not in text
    loss = text.split("<b>Loss</b>")[1].split("</svg>")[0]
    line = loss.split('id="line-0"')[1].split("</g>")[0]
    assert line.count(" L ") > 100 or line.count("\nL ") > 100


def test_the_report_answers_first_and_is_kept_with_its_version(trained):
    """Is it good enough, with pictures of what it rejects and passes, and what to do next; settings come last."""
    path, done = trained
    work = path.parents[1] / "work"
    assert f"report in {work / 'report-2.html'}" in done.stdout
    text = (work / "report-2.html").read_text()
    assert text == (work / "report.html").read_text()
    assert "Training of" in (work / "report-1.html").read_text()  # of the first version, which needs no training
    assert (work / "report-1.html").read_text() != text
    places = [
        text.index(words)
        for words in (
            '<p class="answer">',
            "Defects that it rejects",
            "Defects that it passes",
            "Good parts nearest to rejection",
            "What to do next",
            "Good images that set the threshold",
            "What other thresholds would do",
            "<h2>Charts</h2>",
            "<h2>This bundle</h2>",
            "<h2>Settings</h2>",
        )
    ]
    assert places == sorted(places)
    assert "needs 99 good parts that the training has not used" in text  # not the 87 that are missing: calibrate keeps none
    assert "<h2>" not in text[places[-1] + 1 :]


def test_it_learned_to_find_spots(trained, product, tmp_path):
    """evaluate finds the rendered spots through the engine, and writes figures, scores and pictures."""
    path, _ = trained
    (tmp_path / "pictures").mkdir()
    for name in ("00_worst_defective_spot_of_before.png", "mine.png"):
        (tmp_path / "pictures" / name).write_bytes(b"x")
    options = ("--json", tmp_path / "e.json", "--overlays", tmp_path / "pictures", "--all-overlays", tmp_path / "all")
    done = run("evaluate", "--bundle", path, "--data", product, *options)
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "e.json").read_text())
    assert next(iter(found)) == "operating_point"
    point = found["operating_point"]["calibrated"]
    assert point["threshold"] == found["thresholds"]["score"]
    passed = [name for name, row in found["images"].items() if row["defect"] == "spot" and row["outcome"] == "PASS"]
    assert (point["escapes"], point["defective"], point["good"]) == (len(passed), 8, 8)
    assert found["operating_point"]["at_most_2_percent_rejected"]["false_rejects"] == 0  # of 8 images, none may be rejected
    first = f"At the calibrated threshold {point['threshold']:.4f}, {point['escapes']} of 8"
    assert done.stdout.splitlines()[1].startswith(first)
    assert "Without a false reject, recall is " in done.stdout
    assert "left out of the pixel metrics, because their masks are empty: 000.png" in done.stdout
    assert found["overall"]["image_auroc"] > 0.8
    assert found["overall"]["pixel_auroc"] > 0.8
    assert found["overall"]["n_defective"] == 8
    assert found["overall"]["left_out_of_pixel_metrics"] == 1
    assert set(found["per_defect"]) == {"spot"}
    assert len(found["images"]) == 16
    row = found["images"]["test/spot/000.png"]
    assert row["defect"] == "spot"
    assert (row["score"] >= found["thresholds"]["score"]) == (row["outcome"] == "FAIL")
    assert len(list((tmp_path / "pictures").glob("[0-9][0-9]_*.png"))) == 16
    assert (tmp_path / "pictures" / "mine.png").exists()
    assert not (tmp_path / "pictures" / "00_worst_defective_spot_of_before.png").exists()
    pictures = {p.relative_to(tmp_path / "all").as_posix() for p in (tmp_path / "all").rglob("*.png")}
    assert pictures == {f"{defect}/{i:03d}.png" for defect in ("good", "spot") for i in range(8)}
    assert "spot" in done.stdout


def test_images_of_the_training_among_the_test_images_are_said(trained, product, tmp_path):
    """A good test image that was trained on would flatter the figures: it is named."""
    path, _ = trained
    data = tmp_path / "data"
    shutil.copytree(product, data)
    digests = load_bundle(path).manifest.training["pixel_digests"]
    images = read_good_images(find_good_images(product))
    used = next(p for p, digest in zip(images.paths, images.pixel_digests, strict=True) if digest[:16] in digests)
    shutil.copy(used, data / "test" / "good" / "copy.png")
    done = run("evaluate", "--bundle", path, "--data", data)
    assert "good test images were used for the training, so their figures say little: copy.png" in done.stdout


def assert_opens_offline(path, *words):
    """The file holds its pictures and charts itself and refers to nothing else."""
    text = path.read_text()
    for word in ("<svg", "data:image/png;base64,", *words):
        assert word in text
    assert "://" not in text
    assert "src='" not in text
    assert text.count('src="') == text.count('src="data:')


def test_reports_open_offline(trained, product, tmp_path):
    """fit and evaluate each write one file with charts, threshold, pictures, guarantee, settings and fingerprint."""
    path, _ = trained
    manifest = load_bundle(path).manifest
    shared = (manifest.training["data_fingerprint"], manifest.calibration.guarantee, "learning_rate", "pixel threshold")
    assert_opens_offline(path.parents[1] / "work" / "report.html", "Synthetic defects", *shared)
    report = tmp_path / "r" / "report.html"
    done = run("evaluate", "--bundle", path, "--data", product, "--report", report)
    assert done.returncode == 0, done.stderr
    assert_opens_offline(report, "Worst good", "test/spot/", "AUPRO", *shared)


def test_bad_input_is_refused_in_words(trained, product, tmp_path):
    """Missing data, an unknown key, a missing mask and a missing test folder: exit 2 with a message, no traceback."""
    out = ("--out", tmp_path / "store" / "x")
    assert_refused(run("fit", "--data", tmp_path / "none", *out), 2, "no such folder")
    (tmp_path / "bad.yaml").write_text("trainning: {}\n")
    assert_refused(run("fit", "--data", product, "--config", tmp_path / "bad.yaml", *out), 2, "did you mean 'training'")
    assert_refused(run("fit", "--data", product, "--out", tmp_path / "bad name!"), 2, "not a valid product name")
    assert_refused(run("fit", "--data", product, "--false-reject", 2, *out), 2, "--false-reject")
    flat = product / "train" / "good"
    assert_refused(run("evaluate", "--bundle", trained[0], "--data", flat), 2, "MVTec AD layout")
    assert_refused(run("evaluate", "--bundle", tmp_path, "--data", product), 2, "no bundle")
    cut = shutil.copytree(product, tmp_path / "cut")
    jpeg = cv2.imencode(".jpg", cv2.imread(str(cut / "test" / "good" / "003.png")))[1].tobytes()
    (cut / "test" / "good" / "003.jpg").write_bytes(jpeg[: len(jpeg) // 2] + jpeg[-2:])
    (cut / "test" / "good" / "003.png").unlink()
    assert_refused(run("evaluate", "--bundle", trained[0], "--data", cut), 2, "003.jpg: not a whole JPEG image")
    (tmp_path / "file").write_text("")
    results = ("--json", tmp_path / "file" / "x.json")
    assert_refused(run("evaluate", "--bundle", trained[0], "--data", product, *results), 2, "--json", "is not a folder")
    assert_refused(run("fit", "--data", product, *out, "--work", tmp_path / "file"), 2, "--work", "is not a folder")
    assert not (tmp_path / "store").exists()


def tiny_command(product, folder, config):
    out, work = folder / "store" / "x", folder / "work"
    return ["fit", "--data", product, "--out", out, "--config", config, "--work", work]


def fit_tiny(product, folder, config, *more):
    return run(*tiny_command(product, folder, config), *more)


def test_a_first_version_is_released_on_request(trained, product, tmp_path):
    """With --release the folder means the version; the option is refused, before any training, when there is one already."""
    path, done = trained
    assert load_bundle(path).path == path / "2"
    assert f"released: {path} means this version" in done.stdout
    again = run("fit", "--data", product, "--out", path, "--work", tmp_path / "work", "--release")
    assert_refused(again, 2, "--release is for a first version", "anoseg-engine release")
    assert not (tmp_path / "work").exists()


@pytest.mark.long
def test_the_same_command_may_run_again(product, tiny_config, tmp_path):
    """With --go-on --release: it finds what it has made and released, and does nothing more. What is new is not released."""
    command = ("--steps", 24, "--release", "--go-on")
    first, second = (fit_tiny(product, tmp_path, tiny_config, *command) for _ in range(2))
    assert (first.returncode, second.returncode) == (0, 0), first.stderr + second.stderr
    assert "released: " in first.stdout
    assert "released already: " in second.stdout
    assert load_bundle(tmp_path / "store" / "x").manifest.version == 1
    assert not (tmp_path / "store" / "x" / "2").exists()
    tiny_config.write_text(TINY + "holdout: {validation: 0.1}\n")
    third = fit_tiny(product, tmp_path, tiny_config, *command)
    assert (third.returncode, "version 1 of" in third.stdout) == (0, True), third.stderr
    assert third.stdout.splitlines()[-1].strip() == f"anoseg-engine release {tmp_path / 'store' / 'x' / '2'}"
    assert load_bundle(tmp_path / "store" / "x").manifest.version == 1


@pytest.mark.long
def test_two_trainings_do_not_share_a_folder(product, tiny_config, tmp_path):
    """The second would overwrite the parts that the first one reads. It is refused, and the first one goes on."""
    command = tiny_command(product, tmp_path, tiny_config)
    first = subprocess.Popen([*COMMAND, *map(str, command), "--steps", "1000000"], env=ENVIRONMENT, stderr=subprocess.DEVNULL)
    try:
        give_up_at = time.monotonic() + 200
        while not (tmp_path / "work" / "checkpoint.json").exists():
            assert first.poll() is None
            assert time.monotonic() < give_up_at
            time.sleep(0.02)
        assert_refused(run(*command), 1, f"another training uses this folder (process {first.pid} on ", "--work")
        assert first.poll() is None
    finally:
        first.send_signal(signal.SIGTERM)
        code = first.wait(timeout=100)
    assert code == 130
    assert json.loads((tmp_path / "work" / "status.json").read_text())["state"] == "stopped"


def test_without_release_a_version_is_a_candidate(product, tiny_config, tmp_path):
    """The last line printed is the command that makes it current. Until then, its name is refused with the same command."""
    done = fit_tiny(product, tmp_path, tiny_config, "--steps", 24)
    assert done.returncode == 0, done.stderr
    command = f"anoseg-engine release {tmp_path / 'store' / 'x' / '1'}"
    assert done.stdout.splitlines()[-1].strip() == command
    assert_refused(
        run("evaluate", "--bundle", tmp_path / "store" / "x", "--data", product), 2, "no version is released", command
    )
    assert load_bundle(tmp_path / "store" / "x" / "1").manifest.origin.command == "fit"


def test_nan_is_a_clear_stop(product, tiny_config, tmp_path):
    """A loss that is not a number ends training with a message and no bundle."""
    diverging = "learning_rate: 1.0, weight_decay: 1.0e+6"
    tiny_config.write_text(tiny_config.read_text().replace("learning_rate: 0.004", diverging))
    assert_refused(fit_tiny(product, tmp_path, tiny_config, "--steps", 30), 1, "the loss is", "learning_rate")
    assert not (tmp_path / "store").exists()


def test_full_disk_under_a_checkpoint_is_a_clear_stop(product, tiny_config, tmp_path):
    """No space for the checkpoint: a message in words."""
    (tmp_path / "work").mkdir()
    (tmp_path / "work" / "checkpoint.pt.tmp").symlink_to("/dev/full")
    assert_refused(fit_tiny(product, tmp_path, tiny_config, "--steps", 12), 1, "checkpoint cannot be written")


@pytest.fixture(scope="module")
def undisturbed(product, tmp_path_factory):
    """Manifest of a short training that nothing stopped."""

    def train(folder):
        (folder / "train.yaml").write_text(TINY)
        done = fit_tiny(product, folder, folder / "train.yaml", "--steps", 24)
        assert done.returncode == 0, done.stderr

    return load_bundle(made_once(tmp_path_factory, "undisturbed", train) / "store" / "x" / "1").manifest


@pytest.mark.long
@pytest.mark.parametrize("stop", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_stopped_training_resumes_to_the_same_end(undisturbed, product, tiny_config, tmp_path, stop):
    """Ctrl-C or SIGTERM keeps a checkpoint and says so; from there, or after kill -9, --resume ends as if undisturbed."""
    command = tiny_command(product, tmp_path, tiny_config)
    command += ["--steps", 24]
    process = subprocess.Popen(
        [*COMMAND, *(str(a) for a in command)], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    while not (tmp_path / "work" / "checkpoint.json").exists() and process.poll() is None:
        time.sleep(0.02)
    os.kill(process.pid, stop)
    said = process.communicate(timeout=60)[1]
    if stop != signal.SIGKILL:
        assert process.returncode == 130, said
        assert "--resume" in said
        assert "Traceback" not in said
    assert not (tmp_path / "store").exists()
    resumed = fit_tiny(product, tmp_path, tiny_config, "--steps", 24, "--resume")
    assert resumed.returncode == 0, resumed.stderr
    manifest = load_bundle(tmp_path / "store" / "x" / "1").manifest
    assert manifest.training["steps"] == undisturbed.training["steps"] == 24
    assert manifest.metrics == undisturbed.metrics
    assert np.isclose(manifest.score_threshold, undisturbed.score_threshold, atol=1e-4)


def test_a_finished_training_goes_on_with_other_limits(product, tiny_config, tmp_path):
    """`--resume` with more steps trains on from the checkpoint; without more it says that nothing was trained."""
    for n, (options, steps, ended) in enumerate(
        [(("--steps", 24), 24, False), (("--steps", 26, "--resume"), 26, False), (("--steps", 20, "--resume"), 26, True)]
    ):
        done = fit_tiny(product, tmp_path, tiny_config, *options)
        assert done.returncode == 0, done.stderr
        assert ("had reached its end after 26 steps" in done.stderr) == ended
        assert load_bundle(tmp_path / "store" / "x" / str(n + 1)).manifest.training["steps"] == steps


def test_resume_refuses_another_training(trained, product, tmp_path):
    """A checkpoint of another seed or configuration is not mixed in, and a missing one is reported."""
    folder = trained[0].parents[1]
    options = ("--data", product, "--out", tmp_path / "s" / "x", "--resume", "--steps", 160)
    ours = ("--config", folder / "train.yaml", "--work", folder / "work")
    assert_refused(run("fit", *options, *ours, "--seed", 3), 2, "another training", "seed")
    assert_refused(run("fit", *options, "--seed", 1, "--work", folder / "work"), 2, "another training", "config")
    assert_refused(run("fit", *options, "--work", tmp_path / "w"), 2, "no checkpoint")
    more_held_out = (*ours, "--seed", 1, "--false-reject", 0.2)
    assert_refused(run("fit", *options, *more_held_out), 2, "another training", "held-out images")


@pytest.mark.parametrize("wrong", [("--minutes", 0), ("--steps", 0), ("--minutes", "nan"), ("--seed", -1), ("--seed", 2**32)])
def test_invalid_limits_are_refused(wrong, product, tmp_path):
    """A training without an end, or a seed that cannot be one, is refused before any work."""
    assert_refused(run("fit", "--data", product, "--out", tmp_path / "s" / "x", *wrong), 2, wrong[0])
    assert not (tmp_path / "s").exists()


def test_tile_mode_ends_with_a_bundle_too(product, tmp_path):
    """Trained on crops, the network is proved on parts of several tiles."""
    config = tmp_path / "tile.yaml"
    config.write_text(
        "input: {height: 64, width: 64, mode: tile, scale: 1.25, overlap: 16}\n"
        "network: {encoder: scratch, widths: [16, 16, 32, 32, 32]}\n"
        "training: {batch: 8, ema: 0.95, learning_rate: 0.004, threads: 1}\n"
    )
    done = fit_tiny(product, tmp_path, config, "--steps", 40)
    assert done.returncode == 0, done.stderr
    bundle = load_bundle(tmp_path / "store" / "x" / "1")
    assert bundle.manifest.input.mode == "tile"
    assert bundle.golden_samples()[0].anomaly_map.shape == (120, 160)


def test_a_name_that_no_bundle_can_have_is_refused_before_training(product, tmp_path):
    """`plans` is the store's own folder: the bundle could not be written after the training."""
    work = tmp_path / "work"
    assert_refused(run("fit", "--data", product, "--out", tmp_path / "store" / "plans", "--work", work), 2, "not 'plans'")
    assert not work.exists()


@pytest.mark.parametrize("package", ["matplotlib", "sklearn"])
def test_a_missing_package_is_noticed_before_training(package):
    """The report and the validation need it, at the end and in the middle of the training."""
    code = f"import sys; sys.modules[{package!r}] = None; import anoseg_trainer.pipeline"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 1
    assert "ModuleNotFoundError" in done.stderr


def test_quick_ends_with_a_bundle_that_needs_no_training(product, tmp_path):
    """One version, made without a training step; it tells the spots from good plates, and says where its weights come from."""
    config = tmp_path / "train.yaml"
    config.write_text("input: {height: 96, width: 128}\nmemory: {vectors: 800}\n")
    done = run(
        "fit", "--data", product, "--out", tmp_path / "store" / "x", "--config", config, "--work", tmp_path / "w", "--quick"
    )
    assert done.returncode == 0, done.stderr
    bundle = load_bundle(tmp_path / "store" / "x" / "1")
    assert bundle.manifest.training["steps"] == 0
    assert bundle.manifest.training["encoder"]["licence"] == "Apache-2.0"
    assert "the product fills the image" in done.stderr
    assert bundle.manifest.training["config"]["background"] is False
    figures = tmp_path / "figures.json"
    assert run("evaluate", "--bundle", bundle.path, "--data", product, "--json", figures).returncode == 0
    assert json.loads(figures.read_text())["overall"]["image_auroc"] > 0.9


def test_the_user_can_say_that_parts_are_on_a_plain_background(product, tmp_path):
    """The images say that the plates fill them, but `background: true` decides."""
    config = tmp_path / "train.yaml"
    config.write_text("input: {height: 96, width: 128}\nbackground: true\nmemory: {vectors: 800}\nviews: {places: 0}\n")
    store = tmp_path / "store" / "x"
    done = run("fit", "--data", product, "--out", store, "--config", config, "--work", tmp_path / "w", "--quick")
    assert done.returncode == 0, done.stderr
    assert load_bundle(store / "1").manifest.training["config"]["background"] is True
    assert "fills the image" not in done.stderr
    assert "at strides 8, 16 (" in done.stderr


# All synthetic defects are clear. At 96×128 pixels, INT8 catches fewer faint ones, and the bundle would rightly not get it.
INT8 = """
input: {height: 96, width: 128}
memory: {vectors: 800}
views: {places: 0}
defects: {missing: 1, visible: 40, hard: 0, blend: 0, scratch: 0, spots: 0, dent: 0, chip: 0, bend: 0, shade: 0, texture: 0,
  warp: 0}
int8: true
"""


def test_int8_is_an_option_that_proves_itself(product, tmp_path):
    """With `int8: true` the bundle has a second network, or the note says why not. It agrees on the golden images.

    `inspect` shows it, `bench` measures it, and `calibrate` leaves it out and says so.
    """
    config, store = tmp_path / "train.yaml", tmp_path / "store" / "x"
    config.write_text(INT8)
    done = run("fit", "--data", product, "--out", store, "--config", config, "--work", tmp_path / "w", "--quick")
    assert done.returncode == 0, done.stderr
    bundle = load_bundle(store / "1")
    assert "the bundle also has an INT8 network (runtime cpu-int8)" in done.stderr
    assert bundle.int8.image_auroc >= bundle.int8.image_auroc_of_first - MOST_AUROC_LOST
    engine = load_engine(bundle, runtime="cpu-int8")
    assert all(result.verdict_equal for result in self_test(engine))
    engine.close()
    calibrated = run("calibrate", "--bundle", store / "1", "--data", product / "train" / "good")
    assert calibrated.returncode == 0, calibrated.stderr
    assert load_bundle(store / "2").int8 is None
    assert "has no INT8 network" in calibrated.stderr


@pytest.mark.parametrize(
    ("stricter", "why"),
    [
        ("MOST_AUROC_LOST = -1.0", "its image AUROC on held-out images and synthetic defects is"),
        ("ROUNDED = -1.1", "of the synthetic defects, the other network"),
    ],
)
def test_an_int8_network_that_is_worse_is_left_out(product, tmp_path, stricter, why):
    """The bundle is written all the same; the note names both figures."""
    script = f"import sys; from anoseg_trainer import cli, int8_network; int8_network.{stricter}; sys.exit(cli.main())"
    config = tmp_path / "train.yaml"
    config.write_text(INT8)
    store = tmp_path / "store" / "x"
    options = ["fit", "--data", product, "--out", store, "--config", config, "--work", tmp_path / "w", "--quick"]
    done = subprocess.run([sys.executable, "-c", script, *map(str, options)], capture_output=True, text=True, timeout=250)
    assert done.returncode == 0, done.stderr
    assert "the bundle has no INT8 network: " in done.stderr
    assert why in done.stderr
    assert load_bundle(store / "1").int8 is None


def test_quick_without_pretrained_weights_is_refused(product, tiny_config, tmp_path):
    """Without training there is nothing that a network from scratch could know."""
    assert_refused(fit_tiny(product, tmp_path, tiny_config, "--quick"), 2, "pretrained encoder", "network.encoder")
    assert not (tmp_path / "store").exists()


def test_a_network_cannot_see_a_memory_that_there_is_not(product, tmp_path):
    """From scratch, parts on a surface are not compared with good ones: the setting is refused, not ignored."""
    config = tmp_path / "train.yaml"
    config.write_text("input: {height: 96, width: 128}\nnetwork: {encoder: scratch, memory_input: true}\n")
    assert_refused(fit_tiny(product, tmp_path, config), 2, "network.memory_input", "no memory of good parts")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("sees", [True, False])
def test_a_network_from_scratch_sees_fixed_filters(sees, product, tmp_path):
    """On surfaces, too, unless `network.fixed_filters` is false."""
    config = tmp_path / "train.yaml"
    config.write_text(TINY.replace("scratch,", f"scratch, fixed_filters: {str(sees).lower()},"))
    done = fit_tiny(product, tmp_path, config, "--steps", 24)
    assert done.returncode == 0, done.stderr
    assert (b"from_filters" in load_bundle(tmp_path / "store" / "x" / "1").model_onnx) == sees


def test_other_weights_need_their_hash(product, tmp_path):
    """A file of weights whose hash differs from the one given is refused before the images are read."""
    (tmp_path / "weights.pth").write_bytes(b"no weights")
    config = tmp_path / "train.yaml"
    config.write_text(f"network: {{encoder_weights: {tmp_path / 'weights.pth'}, encoder_sha256: '{'0' * 64}'}}\n")
    assert_refused(fit_tiny(product, tmp_path, config, "--quick"), 2, "SHA-256", "weights.pth")
    config.write_text("network: {encoder_weights: some.pth}\n")
    assert_refused(fit_tiny(product, tmp_path, config, "--quick"), 2, "encoder_sha256")


def test_bundles_of_one_name_in_two_stores_have_folders_of_their_own(tmp_path, monkeypatch):
    """runs/NAME belongs to the bundle that had it first, so the report of no other store is overwritten."""
    monkeypatch.chdir(tmp_path)
    folders = []
    for store in ("a", "b", "a", "c", "b"):
        work = default_work(Path(store) / "part", resume=False)
        claim(work, Path(store) / "part")
        folders.append(str(work))
    assert folders == ["runs/part", "runs/part-2", "runs/part", "runs/part-3", "runs/part-2"]


def test_a_folder_in_which_nothing_says_whose_it_is_keeps_its_report(tmp_path, monkeypatch):
    """It may be from an earlier version, so a new training takes another folder. A resumed one goes on in it."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "runs" / "part").mkdir(parents=True)
    assert default_work(Path("a/part"), resume=False) == Path("runs/part")
    (tmp_path / "runs" / "part" / "report.html").write_text("of before")
    assert default_work(Path("a/part"), resume=False) == Path("runs/part-2")
    assert default_work(Path("a/part"), resume=True) == Path("runs/part")
    claim(Path("runs/part-2"), Path("a/part"))
    assert default_work(Path("a/part"), resume=True) == Path("runs/part-2")
    shutil.rmtree("runs/part")
    assert default_work(Path("a/part"), resume=True) == Path("runs/part-2")


def test_a_resume_without_a_checkpoint_claims_no_folder(product, tmp_path):
    """Otherwise later trainings would write into the folder of an earlier version."""
    (tmp_path / "runs" / "part").mkdir(parents=True)
    (tmp_path / "runs" / "part" / "report.html").write_text("of before")
    done = run("fit", "--data", product, "--out", "store/part", "--resume", cwd=tmp_path)
    assert_refused(done, 2, "runs/part/checkpoint.pt: no checkpoint to resume from")
    assert [path.name for path in (tmp_path / "runs" / "part").iterdir()] == ["report.html"]
