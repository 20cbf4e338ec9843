"""Chooses what suits a product of which only few different parts can be learned: a few places, lots or parts. Pure functions.

New parts then look new: to the network, which soon knows the few by heart, and more so to the memory of good parts. The figures
behind these choices are in EXPERIMENTS.md, "Few different parts".
"""

from __future__ import annotations

import math

import msgspec

from anoseg_engines.words import counted
from anoseg_trainer.config import TrainConfig
from anoseg_trainer.data.samples import ROTATED_DEG

ENOUGH = 24
"""From so many different parts on, nothing is changed."""
WINDOWS = 1600
"""Training windows of each part, at most. On bsd_pitting with eight places, the network's image AUROC is highest after about
800 steps of 16 windows; after 3,000 it has lost 0.04. Parts that appear any way round give far more different windows: with
eight screws, 2,400 steps are better than 800."""
LEAST_STEPS = 400
"""Fewer steps teach too little, whatever the parts."""
VARIED_FEATURES = 1.0
"""The strength of the varied features that was measured there."""


def memory_share(learned: int) -> float:
    """Return the share of its weight with which the memory counts beside a network, 0…1.

    Args:
        learned: Number of different parts that are learned.
    """
    return min(1.0, learned / ENOUGH)


def choose_for_few_parts(config: TrainConfig, learned: int) -> tuple[TrainConfig, str]:
    """Choose how much features are varied and, where few parts are learned, how long to train, where that is left open.

    Args:
        config: The configuration, with the poses chosen.
        learned: Number of different parts that are learned.

    Returns:
        The configuration, and a note for the user, or "".
    """
    # Parts that may be turned by any angle look different each time.
    few = learned < ENOUGH and (config.variation.rotation_deg or 0.0) <= ROTATED_DEG
    variation, training = config.variation, config.training
    if variation.features is None:
        variation = msgspec.structs.replace(variation, features=VARIED_FEATURES if few else 0.0)
    if few and training.steps is None:
        steps = max(LEAST_STEPS, math.ceil(learned * WINDOWS / training.batch))
        training = msgspec.structs.replace(training, steps=steps)
    note = ""
    if few and (variation, training) != (config.variation, config.training):
        note = (
            f"only {counted(learned, 'different part')} can be learned, so new parts look new to the network: it is trained "
            f"for at most {counted(training.steps or 0, 'step')} (another number: --steps), and features are varied by "
            f"{variation.features:g}. Images of {ENOUGH} different parts, lots or places are enough"
        )
    return msgspec.structs.replace(config, variation=variation, training=training), note
