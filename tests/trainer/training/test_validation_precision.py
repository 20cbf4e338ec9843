"""The weights of a training are chosen by validations that are computed in one precision."""

import contextlib

import pytest
import torch

from anoseg_engines.errors import AnosegError
from anoseg_trainer.config import InputConfig, NetworkConfig, TrainConfig, TrainingConfig, ViewsConfig
from anoseg_trainer.pipeline import fit
from anoseg_trainer.training import loop
from anoseg_trainer.validation import validate


@pytest.mark.long
def test_the_last_validation_is_computed_like_the_others(product, tmp_path, monkeypatch):
    """bf16 moves the metric by about 0.002: the last weights would otherwise be preferred, or not, by rounding alone."""
    rounded = []

    def observed(detector, spec, cases):
        rounded.append(torch.is_autocast_enabled("cpu"))
        return validate(detector, spec, cases)

    monkeypatch.setattr(loop, "validate", observed)
    config = TrainConfig(
        input=InputConfig(height=96, width=128),
        network=NetworkConfig(encoder="scratch", widths=(16, 16, 32, 32, 32)),
        views=ViewsConfig(memory=0.0, whole_image=0.0, memory_map=0.0),
        training=TrainingConfig(batch=8, steps=2, precision="bf16", threads=1, device="cpu"),
    )
    with contextlib.suppress(AnosegError):  # two steps are too few for a bundle
        fit(product, tmp_path / "store" / "plate", config, seed=0, work=tmp_path / "work")
    assert len(rounded) > 1
    assert all(rounded)
