import json
import shutil
import signal
import subprocess
import time

import msgspec
import pytest
from support.anoseg_train_command import COMMAND, ENVIRONMENT, run

from anoseg_engines.errors import ConfigError
from anoseg_trainer import pipeline
from anoseg_trainer.commands import ablate as ablate_command
from anoseg_trainer.commands.ablate import AFTER_TRAINING, VARIANTS
from anoseg_trainer.config import LossConfig, TrainConfig, VariationConfig, with_limits
from anoseg_trainer.training.state import whole_identity

TINY = """
input: {height: 96, width: 128}
network: {encoder: scratch, widths: [16, 16, 32, 32, 32]}
views: {memory: 0, whole_image: 0, memory_map: 0}
training: {batch: 8, ema: 0.8, learning_rate: 0.004, threads: 1}
"""


def ablate(product, out, *more):
    return run("ablate", "--data", product, "--out", out, *more)


@pytest.mark.parametrize("name", [name for name in VARIANTS if name != "full"])
def test_a_variant_leaves_its_part_out_and_nothing_else(name):
    """Every variant differs from the full method in one section or switch, and is a valid configuration.

    With the memory in the network alone, it is also left out of the views.
    """
    config = TrainConfig(
        loss=LossConfig(adversarial=0.1, reconstruction=0.1),
        variation=VariationConfig(brightness=0.1, contrast=0.1, shading=0.1, tint=0.1),
    )
    whole, changed = msgspec.to_builtins(config), msgspec.to_builtins(VARIANTS[name][1](config))
    different = [key for key in whole if whole[key] != changed[key]]
    assert different == ["network", "views"] if name == "memory-in-network" else len(different) == 1
    assert msgspec.convert(changed, TrainConfig) == VARIANTS[name][1](config)


@pytest.mark.long
def test_ablation_writes_a_table_and_goes_on_where_it_stopped(product, tmp_path):
    """Each variant gives a row and its IoU curve in the report; a second run trains nothing again.

    The variant without the detector uses the training of the full method: the same map, the same steps, another score.
    """
    config = tmp_path / "train.yaml"
    config.write_text(TINY)
    options = ("--config", config, "--steps", 40, "--only", "full,no-coordinates,no-adversarial,no-detector")
    done = ablate(product, tmp_path / "out", *options)
    assert done.returncode == 0, done.stderr
    rows = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert "no-adversarial: the configuration is like this already" in done.stderr
    assert [row["name"] for row in rows] == ["full", "no-coordinates", "no-detector"]
    whole, _, without = (row["figures"] for row in rows)
    assert without["pixel_auroc"] == pytest.approx(whole["pixel_auroc"], abs=1e-6)
    assert rows[2]["seconds"] == rows[0]["seconds"]
    assert all(0 <= row["figures"]["image_auroc"] <= 1 and len(row["iou_curve"]) > 50 for row in rows)
    report = (tmp_path / "out" / "report.html").read_text()
    assert report.count('id="line-') == 3
    again = ablate(product, tmp_path / "out", *options)
    assert again.returncode == 0
    assert "training full" not in again.stderr
    other = ablate(product, tmp_path / "out", *options, "--seed", 1)
    assert other.returncode == 2
    assert "another configuration" in other.stderr


def test_a_mask_that_cannot_be_used_is_refused_before_any_training(product, tmp_path):
    copy = shutil.copytree(product, tmp_path / "product")
    mask = min((copy / "ground_truth" / "spot").iterdir())
    mask.write_bytes(b"no image")
    done = ablate(copy, tmp_path / "out")
    assert (done.returncode, "1 mask cannot be used" in done.stderr, mask.name in done.stderr) == (2, True, True)
    assert not (tmp_path / "out" / "store").exists()


def test_a_variant_that_leaves_nothing_is_left_out(product, tmp_path):
    """Without its only kind of defect there is nothing to train: noted, and the others go on."""
    config = tmp_path / "train.yaml"
    config.write_text(TINY + "loss: {bce: 0, dice: 0}\n")
    done = ablate(product, tmp_path / "out", "--config", config, "--steps", 2, "--only", "no-l1")
    assert done.returncode == 0, done.stderr
    assert "no-l1: not possible with this configuration" in done.stderr


def test_a_variant_that_fit_refuses_is_left_out(tmp_path, product, monkeypatch):
    """What these images do not allow is noted, and the next variants go on; of the full method it is an error."""

    def refusing(*_, **__):
        raise ConfigError("network.memory_input: there is no memory of good parts")

    monkeypatch.setattr(ablate_command, "fit", refusing)
    notes = []
    arguments = {"seed": 0, "on_note": notes.append}
    rows = ablate_command.ablate(product, tmp_path, TrainConfig(), names=["memory-everywhere", "no-hard"], **arguments)
    assert rows == []
    assert [note for note in notes if "not possible" in note] == [
        f"{name}: not possible with these images, left out: network.memory_input: there is no memory of good parts"
        for name in ("memory-everywhere", "no-hard")
    ]
    with pytest.raises(ConfigError, match="no memory of good parts"):
        ablate_command.ablate(product, tmp_path, TrainConfig(), names=["full"], **arguments)


def test_unknown_variants_are_refused(product, tmp_path):
    """A variant that does not exist is refused before any training; the existing ones are named."""
    done = ablate(product, tmp_path / "out", "--only", "no-luck")
    assert done.returncode == 2
    assert "no-coordinates" in done.stderr


@pytest.mark.long
def test_what_differs_after_the_training_takes_the_training_on_the_pretrained_encoder(product, tmp_path):
    """The network has the same layers, whether its parts are compared with good ones or not.

    A variant whose network sees the memory's map takes the training of the other one with such a network.
    """
    config = tmp_path / "train.yaml"
    config.write_text(
        "input: {height: 96, width: 128}\nmemory: {vectors: 200}\ntraining: {batch: 2, threads: 1, validate_every: 100}\n"
    )
    names = ("full", "no-detector", "no-memory", "memory-everywhere", "memory-in-network")
    done = ablate(product, tmp_path / "out", "--config", config, "--steps", 8, "--only", ",".join(names))
    assert done.returncode == 0, done.stderr
    rows = {row["name"]: row for row in json.loads((tmp_path / "out" / "ablation.json").read_text())}
    assert tuple(rows) == names
    for name, taken in (("no-detector", "full"), ("no-memory", "full"), ("memory-in-network", "memory-everywhere")):
        assert rows[name]["seconds"] == rows[taken]["seconds"], name


@pytest.mark.parametrize("name", AFTER_TRAINING)
def test_a_variant_that_takes_another_training_differs_only_after_it(name):
    """What a checkpoint must share with a training that goes on from it is the same."""
    config = TrainConfig()
    mine, taken = (whole_identity({}, VARIANTS[each][1](config)) for each in (name, AFTER_TRAINING[name]))
    assert mine == taken


@pytest.fixture
def trainings(monkeypatch):
    """Return the results of the trainings that this process runs from now on."""
    results = []

    def train(*arguments, **options):
        results.append(pipeline_train(*arguments, **options))
        return results[-1]

    pipeline_train = pipeline.train
    monkeypatch.setattr(pipeline, "train", train)
    return results


@pytest.mark.long
def test_a_training_that_cannot_be_taken_is_run(product, tmp_path, trainings):
    """If the full method's training was with other images, the variant without the detector is trained from the beginning."""
    config = with_limits(msgspec.yaml.decode(TINY, type=TrainConfig), minutes=None, steps=24)
    ablate_command.ablate(product, tmp_path / "out", config, seed=0, names=["full"])
    images = shutil.copytree(product, tmp_path / "images")
    next((images / "train" / "good").iterdir()).unlink()
    ablate_command._run_variant(images, tmp_path / "out", "no-detector", config, seed=0, training_of="full")
    assert [(result.steps_before, result.steps) for result in trainings] == [(0, 24), (0, 24)]


@pytest.mark.long
def test_a_stopped_training_goes_on(product, tmp_path, trainings):
    """After Ctrl-C, the same command continues from the checkpoint, as the error says."""
    config = tmp_path / "train.yaml"
    config.write_text(TINY.replace("batch: 8", "batch: 8, checkpoint_every: 4, validate_every: 1000"))
    out = tmp_path / "out"
    options = ["ablate", "--data", product, "--out", out, "--config", config, "--steps", 16, "--only", "no-coordinates"]
    process = subprocess.Popen([*COMMAND, *map(str, options)], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    while not (out / "work" / "no-coordinates" / "checkpoint.json").exists() and process.poll() is None:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    said = process.communicate(timeout=60)[1]
    assert process.returncode == 130, said
    assert "no-coordinates: training stopped at step" in said
    assert "the same command continues it" in said
    done = run(*options)
    assert done.returncode == 0, done.stderr
    assert 4 <= trainings[0].steps_before < trainings[0].steps == 16
