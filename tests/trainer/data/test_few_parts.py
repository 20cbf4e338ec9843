"""What is chosen where only few different parts can be learned."""

from __future__ import annotations

import pytest

from anoseg_trainer.config import TrainConfig, TrainingConfig, VariationConfig
from anoseg_trainer.data.few_parts import ENOUGH, LEAST_STEPS, WINDOWS, choose_for_few_parts, memory_share

ONE_WAY = VariationConfig(rotation_deg=2.0)


def test_with_enough_parts_nothing_is_limited() -> None:
    """Features stay as they are, and nothing is said."""
    config, note = choose_for_few_parts(TrainConfig(variation=ONE_WAY), ENOUGH)
    assert config.variation.features == 0.0
    assert config.training.steps is None
    assert not note


def test_few_parts_are_trained_shorter_and_varied_more() -> None:
    """Each part gives at most `WINDOWS` windows, and the note says so."""
    config, note = choose_for_few_parts(TrainConfig(variation=ONE_WAY), 8)
    assert config.variation.features == 1.0
    assert config.training.steps == 8 * WINDOWS / 16
    assert "only 8 different parts" in note
    assert f"{config.training.steps} steps" in note


def test_parts_that_lie_any_way_round_are_trained_as_long_as_others() -> None:
    """Turned, few parts give many different windows."""
    config, note = choose_for_few_parts(TrainConfig(variation=VariationConfig(rotation_deg=180.0)), 8)
    assert config.variation.features == 0.0
    assert config.training.steps is None
    assert not note


def test_what_is_configured_stays() -> None:
    """The user's own number of steps and strength are used, whatever the parts."""
    given = TrainConfig(variation=VariationConfig(rotation_deg=2.0, features=0.5), training=TrainingConfig(steps=9000))
    assert choose_for_few_parts(given, 8) == (given, "")


@pytest.mark.parametrize(("parts", "batch", "steps"), [(1, 16, LEAST_STEPS), (5, 16, 500), (8, 32, LEAST_STEPS), (20, 4, 8000)])
def test_steps_follow_parts_and_batch(parts: int, batch: int, steps: int) -> None:
    """A larger batch takes fewer steps, but never too few to learn anything."""
    given = TrainConfig(variation=ONE_WAY, training=TrainingConfig(batch=batch))
    assert choose_for_few_parts(given, parts)[0].training.steps == steps


def test_a_memory_of_few_parts_counts_less() -> None:
    """In proportion to the parts, up to `ENOUGH`."""
    assert memory_share(ENOUGH // 2) == 0.5
    assert memory_share(ENOUGH) == memory_share(10 * ENOUGH) == 1.0
