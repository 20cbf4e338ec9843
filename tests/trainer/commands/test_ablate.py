import json

import msgspec
import pytest
from support.anoseg_train_command import run

from anoseg_engines.errors import AnosegError, DataError
from anoseg_trainer.commands import ablate as ablate_command
from anoseg_trainer.commands.ablate import VARIANTS
from anoseg_trainer.config import LossConfig, TrainConfig, VariationConfig
from anoseg_trainer.model.checkpoint import NAME as CHECKPOINT

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
    """Every variant differs from the full method in one section or switch, and is a valid configuration."""
    config = TrainConfig(
        loss=LossConfig(adversarial=0.1, reconstruction=0.1),
        variation=VariationConfig(brightness=0.1, contrast=0.1, shading=0.1, tint=0.1),
    )
    whole, changed = msgspec.to_builtins(config), msgspec.to_builtins(VARIANTS[name][1](config))
    different = [key for key in whole if whole[key] != changed[key]]
    assert len(different) == 1
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


def test_a_variant_that_leaves_nothing_is_left_out(product, tmp_path):
    """Without its only kind of defect there is nothing to train: noted, and the others go on."""
    config = tmp_path / "train.yaml"
    config.write_text(TINY + "loss: {bce: 0, dice: 0}\n")
    done = ablate(product, tmp_path / "out", "--config", config, "--steps", 2, "--only", "no-l1")
    assert done.returncode == 0, done.stderr
    assert "no-l1: not possible with this configuration" in done.stderr


def test_unknown_variants_are_refused(product, tmp_path):
    """A variant that does not exist is refused before any training; the existing ones are named."""
    done = ablate(product, tmp_path / "out", "--only", "no-luck")
    assert done.returncode == 2
    assert "no-coordinates" in done.stderr


@pytest.mark.long
def test_without_the_detector_the_training_on_the_pretrained_encoder_is_used_too(product, tmp_path):
    """The network has the same layers, whether its parts are compared with good ones or not."""
    config = tmp_path / "train.yaml"
    config.write_text(
        "input: {height: 96, width: 128}\nmemory: {vectors: 200}\ntraining: {batch: 2, threads: 1, validate_every: 100}\n"
    )
    done = ablate(product, tmp_path / "out", "--config", config, "--steps", 8, "--only", "full,no-detector")
    assert done.returncode == 0, done.stderr
    whole, without = json.loads((tmp_path / "out" / "ablation.json").read_text())
    assert (without["name"], without["seconds"]) == ("no-detector", whole["seconds"])


def test_a_training_with_other_layers_is_not_used(tmp_path, monkeypatch):
    """If the full method's training cannot be resumed without the detector, the variant is trained from the beginning."""
    full = tmp_path / "work" / "full" / CHECKPOINT
    full.parent.mkdir(parents=True)
    full.write_bytes(b"weights")
    resumed = []

    def fit(data, target, config, *, seed, work, resume=False):
        resumed.append((resume, (work / CHECKPOINT).is_file()))
        raise DataError("it has other layers") if resume else AnosegError("trained")

    monkeypatch.setattr(ablate_command, "fit", fit)
    with pytest.raises(AnosegError, match="trained"):
        ablate_command._run_variant(tmp_path, tmp_path, "no-detector", TrainConfig(), seed=0, reuse_training=True)
    assert resumed == [(True, True), (False, False)]
