"""The optimizer of AnoSeg's network: AdamW, or Muon for the convolutions between the first layer and the heads.

Muon (Jordan et al., 2024, https://kellerjordan.github.io/posts/muon) makes the momentum of each weight matrix orthogonal before
it is applied, so that rare directions are learned as fast as common ones. On magnetic_tile and
mvtec_screw, a network from scratch learns more from the same windows with it. With a pretrained encoder, no gain is shown
(EXPERIMENTS.md, "Muon").
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from anoseg_trainer.config import TrainingConfig
from anoseg_trainer.model.backbone import PretrainedBackbone
from anoseg_trainer.model.network import AnoSegNetwork

MATRIX_SHARE = 3.0
"""Learning rate of Muon, as a share of the configured one. Its updates are scaled to the size of AdamW's."""


class Optimizer:
    """Updates a network from its gradients.

    `torch.optim.Muon` takes matrices, so each convolution's weight is shown to it as one: a row for each output channel. The
    matrix and the weight share their memory.

    Attributes:
        adamw: Updates the parameters that Muon does not.
        muon: Updates the convolutions, or None.
    """

    def __init__(self, network: AnoSegNetwork, config: TrainingConfig) -> None:
        """Make the optimizer.

        Args:
            network: On its device and in its memory format already: a copy would not be updated.
            config: Names the optimizer and its numbers.
        """
        optimizer = config.optimizer or ("adamw" if isinstance(network.backbone, PretrainedBackbone) else "muon")
        weights = network.inner_weights() if optimizer == "muon" else []
        self._matrices = [(weight, nn.Parameter(_as_matrix(weight.detach()))) for weight in weights]
        assert all(matrix.data_ptr() == weight.data_ptr() for weight, matrix in self._matrices), "the network is not NHWC"
        taken = {id(weight) for weight in weights}
        rest = [{**group, "params": [p for p in group["params"] if id(p) not in taken]} for group in network.parameter_groups()]
        self.adamw = torch.optim.AdamW(rest, lr=config.learning_rate, weight_decay=config.weight_decay)
        self.muon = None
        if self._matrices:
            group = {"params": [matrix for _, matrix in self._matrices], "share": MATRIX_SHARE}
            self.muon = torch.optim.Muon(
                [group], lr=config.learning_rate, weight_decay=config.weight_decay, adjust_lr_fn="match_rms_adamw"
            )

    def set_rate(self, rate: float) -> None:
        """Set the learning rate; each group of parameters has its share of it."""
        for part in self._parts().values():
            for group in part.param_groups:
                group["lr"] = rate * group["share"]

    def zero_grad(self) -> None:
        """Forget the gradients."""
        self.adamw.zero_grad(set_to_none=True)
        for weight, matrix in self._matrices:
            weight.grad = matrix.grad = None

    def step(self) -> None:
        """Update the parameters that have a gradient."""
        for weight, matrix in self._matrices:
            matrix.grad = None if weight.grad is None else _as_matrix(weight.grad)
        for part in self._parts().values():
            part.step()

    def state_dict(self) -> dict[str, Any]:
        """Return the state, for a checkpoint."""
        return {name: part.state_dict() for name, part in self._parts().items()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue with the state of a checkpoint."""
        for name, part in self._parts().items():
            part.load_state_dict(state[name])

    def _parts(self) -> dict[str, torch.optim.Optimizer]:
        return {"adamw": self.adamw} | ({} if self.muon is None else {"muon": self.muon})


def _as_matrix(weight: Tensor) -> Tensor:
    """Return a convolution's weight or gradient [O, I, h, w] as a matrix [O, h · w · I], in the same memory if it is NHWC."""
    return weight.permute(0, 2, 3, 1).flatten(1)
