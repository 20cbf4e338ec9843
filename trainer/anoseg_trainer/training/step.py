"""Runs one training step: computes losses and gradients, and averages the weights."""

from __future__ import annotations

import math
import platform
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from anoseg_engines.errors import DataError
from anoseg_trainer.config import LossConfig, TrainingConfig
from anoseg_trainer.data.batches import Batch
from anoseg_trainer.model.backbone import normalised
from anoseg_trainer.model.losses import (
    adversarial_loss,
    discriminator_loss,
    image_loss,
    pairs_generated,
    pixel_losses,
    reconstruction_loss,
)
from anoseg_trainer.model.network import AnoSegNetwork, Discriminator, valid_pixels
from anoseg_trainer.training.optimizer import Optimizer

CLIP = 1.0
"""Largest norm of the gradient: a batch with one huge defect must not undo what was learned from many small ones."""
WARM_UP = 0.03
"""Share of training in which the learning rate rises."""
AVERAGE_SPAN = 15
"""The average reaches back over a fifteenth of the steps so far, so that a short training leaves its beginning behind."""


@dataclass(frozen=True, slots=True)
class Arithmetic:
    """Where and in what precision a training computes.

    Attributes:
        device: CPU or GPU.
        autocast_dtype: bf16; None: FP32 throughout.
    """

    device: torch.device
    autocast_dtype: torch.dtype | None

    @classmethod
    def of(cls, config: TrainingConfig) -> Arithmetic:
        """Choose from the configuration and the machine.

        Raises:
            DataError: A GPU is configured and there is none.
        """
        if config.device == "cuda" and not torch.cuda.is_available():
            raise DataError("training.device is cuda, but PyTorch finds no GPU", hint="set training.device: auto")
        device = torch.device("cuda" if config.device != "cpu" and torch.cuda.is_available() else "cpu")
        fast = device.type == "cuda" or _cpu_has_bf16()
        bf16 = config.precision == "bf16" or (config.precision == "auto" and fast)
        return cls(device, torch.bfloat16 if bf16 else None)

    def autocast(self) -> torch.autocast:
        """Return the context in which the forward pass runs."""
        return torch.autocast(self.device.type, self.autocast_dtype or torch.bfloat16, enabled=self.autocast_dtype is not None)


def _cpu_has_bf16() -> bool:
    """Return whether the processor multiplies bf16 in hardware; emulated bf16 is slower than FP32."""
    try:
        flags = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False
    return any(name in flags for name in ("avx512_bf16", "amx_bf16")) or (platform.machine() == "aarch64" and "bf16" in flags)


@dataclass(frozen=True, slots=True)
class Learner:
    """The network and the discriminator with their optimizers."""

    network: AnoSegNetwork
    discriminator: Discriminator
    optimizer: Optimizer
    optimizer_d: torch.optim.Optimizer

    def set_rate(self, rate: float) -> None:
        """Set the learning rate; a pretrained encoder learns at its share of it, the discriminator at a quarter."""
        self.optimizer.set_rate(rate)
        for group in self.optimizer_d.param_groups:
            group["lr"] = rate / 4

    def step(
        self,
        batch: Batch,
        weights: LossConfig,
        arithmetic: Arithmetic,
        compare: Callable[[list[Tensor]], Tensor] | None = None,
        vary: Callable[[Tensor], Tensor] | None = None,
        average: Callable[[AnoSegNetwork, Tensor], Tensor] | None = None,
    ) -> float:
        """Update both networks from one batch.

        Args:
            batch: The samples.
            weights: The weights of the losses.
            arithmetic: Where and in what precision to compute.
            compare: Computes the memory's map from the levels of the backbone; None without a memory.
            vary: Varies each level of a pretrained encoder; None: they stay as they are.
            average: Averages gradients and loss over the processes of the training; None: there is one.

        Returns:
            The network's loss, which may be infinite or NaN.
        """
        loss = self.backward(batch, weights, arithmetic, compare, vary)
        if average is not None:
            loss = average(self.network, loss)
        torch.nn.utils.clip_grad_norm_(self.network.parameters(), CLIP)
        self.optimizer.step()
        return float(loss.detach())

    def backward(
        self,
        batch: Batch,
        weights: LossConfig,
        arithmetic: Arithmetic,
        compare: Callable[[list[Tensor]], Tensor] | None,
        vary: Callable[[Tensor], Tensor] | None,
    ) -> Tensor:
        """Compute the network's gradients from one batch, and update the discriminator; return the network's loss."""
        device = arithmetic.device
        frames = batch.frames.to(device, non_blocking=True).float()
        coords = batch.coords.to(device, non_blocking=True).float()
        labels = batch.labels.to(device, non_blocking=True).float() / 255
        image = normalised(frames, torch.float32).contiguous(memory_format=torch.channels_last)
        valid = valid_pixels(coords).float()
        good = labels.flatten(1).amax(dim=1) == 0
        adversarial = weights.adversarial > 0 and bool(good.any())
        with arithmetic.autocast():
            reconstruct = adversarial or weights.reconstruction > 0
            outputs = self.network(frames, coords, reconstruct=reconstruct, compare=compare, vary=vary)
            losses: dict[str, Tensor] = pixel_losses(outputs, labels, valid, weights)
            if weights.image:
                losses["image"] = image_loss(outputs, labels, valid)
            if weights.reconstruction:
                losses["reconstruction"] = reconstruction_loss(outputs, image, labels, valid)
            if adversarial:
                generated = pairs_generated(outputs, good)
                self._step_discriminator(image[good], generated)
                self.discriminator.requires_grad_(False)
                losses["adversarial"] = adversarial_loss(self.discriminator, generated)
                self.discriminator.requires_grad_(True)
        loss = torch.stack([getattr(weights, name) * value for name, value in losses.items()]).sum()
        self.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    def _step_discriminator(self, real: Tensor, generated: tuple[Tensor, Tensor]) -> None:
        loss = discriminator_loss(self.discriminator, real, generated)
        self.optimizer_d.zero_grad(set_to_none=True)
        loss.backward()  # type: ignore[no-untyped-call]
        self.optimizer_d.step()


def learned(network: AnoSegNetwork) -> dict[str, Tensor]:
    """Return the state of the network without an encoder that stays as it is."""
    return {name: value for name, value in network.state_dict().items() if network.encoder_learns or ".encoder." not in name}


@torch.no_grad()
def update_average(averaged: AnoSegNetwork, network: AnoSegNetwork, step: int, ema: float) -> None:
    """Update the exponential average of weights and norm statistics after `step` earlier steps."""
    decay = min(ema, step / (AVERAGE_SPAN + step))
    mean, now = learned(averaged), learned(network)
    floats = [name for name, value in mean.items() if value.is_floating_point()]
    torch._foreach_lerp_([mean[n] for n in floats], [now[n] for n in floats], 1 - decay)


def planned_rate(done: float) -> float:
    """Return the share of the learning rate when the share `done` of training is over: a rise, then a half cosine to 1 %."""
    if done < WARM_UP:
        return 0.05 + 0.95 * done / WARM_UP
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (done - WARM_UP) / (1 - WARM_UP)))
