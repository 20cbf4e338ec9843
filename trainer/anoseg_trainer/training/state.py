"""Holds everything that a training needs in order to continue: networks, optimizers, progress.

Saves it as a checkpoint, and keeps the best weights.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import msgspec
import torch

from anoseg_engines.errors import DataError
from anoseg_trainer.config import TrainConfig
from anoseg_trainer.model.checkpoint import load_checkpoint, save_checkpoint
from anoseg_trainer.model.encoder import Encoder
from anoseg_trainer.model.fixed_filters import FixedFilters
from anoseg_trainer.model.network import AnoSegNetwork, Discriminator
from anoseg_trainer.training.early_stop import EarlyStop
from anoseg_trainer.training.optimizer import Optimizer
from anoseg_trainer.training.step import Learner, learned
from anoseg_trainer.validation import Validation

MOST_LOSSES = 200
"""Points of the loss curve. When there are more, every second one is dropped."""
NETWORKS = ("network", "averaged")
"""Parts of the checkpoint from which an encoder that stays as it is is left out."""


@dataclass(slots=True)
class TrainingState:
    """The state after `step` steps.

    Attributes:
        learner: The networks in training.
        averaged: The network with the averaged weights, which validation measures.
        early_stop: Decides on an early end.
        best: Averaged weights with the best validation metric so far.
        best_parts: Networks and optimizers at that validation, as in the checkpoint; empty: training never goes back to them.
        best_metric: That metric.
        step: Steps done.
        used_s: Training time.
        loss: Running mean of the loss.
        curve: Points of the training curve, one for each validation.
        losses: (step, loss), at most `MOST_LOSSES` of them, evenly spread.
    """

    learner: Learner
    averaged: AnoSegNetwork
    early_stop: EarlyStop
    best: dict[str, Any]
    best_parts: dict[str, Any] = field(default_factory=dict)
    best_metric: float = -1.0
    step: int = 0
    used_s: float = 0.0
    loss: float = math.nan
    curve: list[dict[str, float]] = field(default_factory=list)
    losses: list[tuple[int, float]] = field(default_factory=list)
    losses_every: int = 1

    @classmethod
    def new(
        cls,
        config: TrainConfig,
        seed: int,
        device: torch.device,
        encoder: Encoder | FixedFilters | None = None,
        *,
        reads_memory: bool = False,
    ) -> TrainingState:
        """Initialise networks and optimizers from `seed`; the arguments are those of `AnoSegNetwork`."""
        t = config.training
        torch.manual_seed(seed)
        network = AnoSegNetwork(
            config.network, coordinates=config.coordinates, encoder=copy.deepcopy(encoder), reads_memory=reads_memory
        )
        network = network.to(device).to(memory_format=torch.channels_last).train()  # type: ignore[call-overload]
        averaged = copy.deepcopy(network).eval().requires_grad_(False)
        discriminator = Discriminator().to(device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        learner = Learner(
            network,
            discriminator,
            Optimizer(network, t),
            torch.optim.Adam(discriminator.parameters(), lr=t.learning_rate / 4, betas=(0.5, 0.99)),
        )
        return cls(learner, averaged, EarlyStop(t.patience), copy.deepcopy(learned(averaged)))

    def add_loss(self, loss: float) -> None:
        """Add the loss of a step to its running mean, and now and then the mean to `losses`."""
        self.loss = loss if math.isnan(self.loss) else 0.98 * self.loss + 0.02 * loss
        if self.step % self.losses_every == 0:
            self.losses.append((self.step, round(self.loss, 5)))
        if len(self.losses) > MOST_LOSSES:
            self.losses, self.losses_every = self.losses[1::2], 2 * self.losses_every

    def add_point(self, validation: Validation) -> None:
        """Add a point to the training curve."""
        point = {
            "step": self.step,
            "seconds": round(self.used_s, 1),
            "loss": round(self.loss, 5),
            "image_auroc": round(validation.image_auroc, 5),
            "pixel_ap": round(validation.pixel_ap, 5),
        }
        self.curve.append(point)

    def keep_if_best(self, validation: Validation) -> None:
        """Keep the averaged weights if no earlier ones were better."""
        if validation.metric > self.best_metric:
            self.best_metric, self.best = validation.metric, copy.deepcopy(learned(self.averaged))
            if self.early_stop.limit is not None:
                self.best_parts = copy.deepcopy(self._parts_state())

    def go_back_to_best(self) -> None:
        """Continue with the networks and optimizers of the best validation, unless the checkpoint is too old to have them."""
        if self.best_parts:  # copied, because optimizers go on with the very tensors that they load
            self._load_parts(copy.deepcopy(self.best_parts))

    def save(self, work: Path, identity: dict[str, str]) -> None:
        """Write the checkpoint.

        Raises:
            AnosegError: The disk is full; the earlier checkpoint stays.
        """
        state = self._parts_state() | {
            "step": self.step,
            "used_s": self.used_s,
            "loss": self.loss,
            "curve": self.curve,
            "losses": self.losses,
            "losses_every": self.losses_every,
            "best_merit": self.best_metric,
            "best": self.best,
            "best_parts": self.best_parts,
            "patience": self.early_stop.state(),
            "patience_limit": self.early_stop.limit,
            "identity": identity,
        }
        note = {"step": self.step, "seconds": round(self.used_s, 1), "best": self.best_metric, "curve": self.curve[-20:]}
        save_checkpoint(work, state, note)

    def load(self, work: Path, identity: dict[str, str]) -> None:
        """Continue from the checkpoint in `work`.

        Raises:
            DataError: There is none, it is damaged, or it belongs to another training.
        """
        state = load_checkpoint(work)
        different = [key for key in identity if state["identity"].get(key) != identity[key]]
        if different:
            raise DataError(
                f"{work}: the checkpoint belongs to another training (different {', '.join(different)})",
                hint="resume with the same data, seed, configuration and --false-reject, or start again without --resume; "
                "--minutes and --steps may differ",
            )
        self._load_parts(state)
        self.step, self.used_s, self.curve = state["step"], state["used_s"], state["curve"]
        self.best_metric, self.best, self.best_parts = state["best_merit"], state["best"], state.get("best_parts", {})
        self.loss = state.get("loss", math.nan)
        self.losses, self.losses_every = state.get("losses", []), state.get("losses_every", 1)
        self.early_stop = EarlyStop.resumed(self.early_stop.limit, state["patience_limit"], state["patience"])

    @staticmethod
    def is_in(work: Path, identity: dict[str, str]) -> bool:
        """Return whether `work` has a whole checkpoint of this training."""
        try:
            state = load_checkpoint(work)
        except DataError:
            return False
        return all(state["identity"].get(key) == identity[key] for key in identity)

    def _parts_state(self) -> dict[str, Any]:
        return {name: learned(part) if name in NETWORKS else part.state_dict() for name, part in self._parts().items()}

    def _load_parts(self, state: Mapping[str, Any]) -> None:
        for name, part in self._parts().items():
            part.load_state_dict(part.state_dict() | state[name] if name in NETWORKS else state[name])

    def _parts(self) -> dict[str, Any]:
        return {
            "network": self.learner.network,
            "averaged": self.averaged,
            "discriminator": self.learner.discriminator,
            "optimizer": self.learner.optimizer,
            "optimizer_d": self.learner.optimizer_d,
        }


def whole_identity(identity: dict[str, str], config: TrainConfig) -> dict[str, str]:
    """Return what a checkpoint and a training that continues from it must share, the configuration included."""
    return identity | {"config": _comparable(config)}


def _comparable(config: TrainConfig) -> str:
    """Return the configuration as text, without the values that may change between a stop and a resume."""
    plain = msgspec.to_builtins(config)
    for key in ("steps", "minutes", "patience", "threads", "workers", "checkpoint_every", "device", "precision"):
        plain["training"].pop(key)
    # Used after training. The layers that depend on them are compared by `pipeline.fit`.
    for key in ("false_reject", "detector", "memory", "views", "int8"):
        plain.pop(key)
    return msgspec.json.encode(plain).decode()
