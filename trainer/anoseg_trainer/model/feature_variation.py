"""Varies the features of a pretrained encoder in training, as parts of another lot or from another place would.

Each channel's mean and spread over an input are characteristic of the lot, the light and the lens that the image comes from,
and say little about defects. They are therefore moved by as much as they differ between the inputs of the batch: "domain shifts
with uncertainty" (DSU, arXiv 2202.03958). The network then sounds fewer false alarms on parts that look new. Runs on the main
thread, on the training's device; draws come from a generator on the CPU, so they are the same on every device.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

VARIED = 0.5
"""Share of the inputs whose features are varied; the others show what features really look like."""
LEAST_VARIANCE = 1e-5
"""Added to a channel's variance, so that an even channel stays as it is."""


@dataclass(frozen=True, slots=True)
class FeatureVariation:
    """Varies the features of one training step.

    Attributes:
        strength: Standard deviation of the changes, in standard deviations between the inputs of a batch.
        generator: Draws the changes.
    """

    strength: float
    generator: torch.Generator

    @classmethod
    def of_step(cls, strength: float, *, seed: int, step: int, process: int) -> FeatureVariation | None:
        """Return the variation of a step; its draws depend on seed, step and process alone. None: features stay as they are."""
        if not strength:
            return None
        entropy = np.random.SeedSequence([seed, 559, step, process]).generate_state(1, np.uint64)[0]
        return cls(strength, torch.Generator().manual_seed(int(entropy >> 1)))

    def __call__(self, level: Tensor) -> Tensor:
        """Return one level of features, [N, C, h, w], with other means and spreads in some of its inputs."""
        gain, offset = self._change(level)
        return torch.addcmul(offset, gain, level)

    @torch.no_grad()
    def _change(self, level: Tensor) -> tuple[Tensor, Tensor]:
        """Draw what each channel of each input is multiplied by, and what is added then, [N, C, 1, 1]."""
        variance, mean = torch.var_mean(level.float(), dim=(2, 3), correction=0, keepdim=True)
        spread = (variance + LEAST_VARIANCE).sqrt()
        inputs, channels = level.shape[:2]
        varied = self.strength * (torch.rand((inputs, 1, 1, 1), generator=self.generator) < VARIED)
        mean_step, spread_step = (
            (varied * torch.randn((inputs, channels, 1, 1), generator=self.generator)).to(level.device) for _ in range(2)
        )
        new_mean = mean + mean_step * mean.std(dim=0, correction=0, keepdim=True)
        new_spread = (spread + spread_step * spread.std(dim=0, correction=0, keepdim=True)).clamp(min=0)
        gain = new_spread / spread
        return gain.to(level.dtype), (new_mean - gain * mean).to(level.dtype)
