"""A training in two processes that `torchrun` starts: the same figures as in one, within noise."""

import subprocess
import sys

import numpy as np
import pytest
from support.anoseg_train_command import COMMAND, ENVIRONMENT, run

from anoseg_engines.bundle import load_bundle, versions
from anoseg_engines.errors import ConfigError
from anoseg_trainer.config import LossConfig, TrainConfig, TrainingConfig
from anoseg_trainer.training.together import Together

TINY = """
input: {height: 96, width: 128}
network: {encoder: scratch, widths: [16, 16, 32, 32, 32]}
training: {batch: 16, ema: 0.8, validate_every: 1000, learning_rate: 0.004, threads: 1}
"""


def torchrun(*arguments):
    """Run `anoseg-train` in two processes."""
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python"]
    command += [*COMMAND, *map(str, arguments)]
    environment = {**ENVIRONMENT, "OMP_NUM_THREADS": "1"}  # torchrun would set it, and say so
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=280, check=False)


@pytest.mark.long
def test_two_processes_train_as_one(product, tmp_path):
    """Losses and image AUROC agree, and one version is written. Batch normalisation sees half a batch, hence the noise."""
    (tmp_path / "train.yaml").write_text(TINY)
    curves = {}
    for name, start in (("one", run), ("two", torchrun)):
        options = ("--config", tmp_path / "train.yaml", "--steps", 40, "--work", tmp_path / name)
        done = start("fit", "--data", product, "--out", tmp_path / "store" / name, *options)
        assert done.returncode == 0, done.stderr
        assert versions(tmp_path / "store" / name) == [1]
        curves[name] = load_bundle(tmp_path / "store" / name / "1").manifest.training["curve"]
    names = ("step", "loss", "image_auroc", "pixel_ap")
    one, two = (np.array([[point[key] for key in names] for point in curves[name]]) for name in ("one", "two"))
    assert (one[:, 0] == two[:, 0]).all()
    assert np.allclose(one[:, 1], two[:, 1], rtol=0.05)
    assert np.allclose(one[-1, 2:], two[-1, 2:], atol=0.1)


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (TrainConfig(training=TrainingConfig(batch=7)), "training.batch: 7 samples cannot be shared equally by 2 processes"),
        (TrainConfig(loss=LossConfig(adversarial=0.01)), "loss.adversarial: is not possible with several processes"),
    ],
)
def test_what_cannot_be_shared_is_refused(config, said):
    """A batch that the processes cannot share equally, and the discriminator, which would differ between them."""
    with pytest.raises(ConfigError, match=said):
        Together(0, 2).check(config)
