"""Shares each training step between the processes that `torchrun` started, one for each GPU. Main thread of each process.

The first process does all that `fit` does. At each step it sends its weights to the others, each process computes the gradients
of its share of the batch, and the first one averages them and updates the weights. The others keep no state of their own, so
checkpoints, an early end and a resume concern the first process alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import Tensor, nn

from anoseg_engines.errors import AnosegError, ConfigError
from anoseg_trainer.config import TrainConfig
from anoseg_trainer.data.batches import batches
from anoseg_trainer.data.samples import SampleSettings
from anoseg_trainer.model.encoder import Encoder
from anoseg_trainer.model.feature_variation import FeatureVariation
from anoseg_trainer.model.fixed_filters import FixedFilters
from anoseg_trainer.training.comparison import Comparison
from anoseg_trainer.training.state import TrainingState
from anoseg_trainer.training.step import Arithmetic

PATIENCE = timedelta(days=7)
"""How long a process waits for the others: the first one reads images before the training, and validates in between."""


@dataclass(frozen=True, slots=True)
class SharedTraining:
    """What a process needs in order to compute gradients.

    Attributes:
        config, samples, encoder, comparison: As in `train`.
        steps: The steps of the training.
        workers, cores: Processes that make training images, and processor cores, for each process.
    """

    config: TrainConfig
    samples: SampleSettings
    encoder: Encoder | FixedFilters | None
    comparison: Comparison | None
    steps: range
    workers: int
    cores: int


@dataclass(frozen=True, slots=True)
class Together:
    """The processes of a training.

    Attributes:
        rank: Number of this process; the first is 0.
        count: How many there are.
    """

    rank: int
    count: int

    def check(self, config: TrainConfig) -> None:
        """Check that this training can be shared.

        Raises:
            ConfigError: It cannot.
        """
        if config.training.batch % self.count:
            what = f"training.batch: {config.training.batch} samples cannot be shared equally by {self.count} processes"
            raise ConfigError(what, hint="choose a multiple")
        if config.loss.adversarial:
            raise ConfigError(
                "loss.adversarial: is not possible with several processes", hint="set it to 0, or use one process"
            )

    def share_of(self, samples: SampleSettings) -> SampleSettings:
        """Return how this process makes its share of each batch: every so many-th sample, so that all have as many defects."""
        return dataclasses.replace(samples, share=(self.rank, self.count))

    def begin(self, training: SharedTraining) -> None:
        """Tell the others what to compute."""
        with _lost_process():
            dist.broadcast_object_list([training], src=0, device=torch.device("cpu"))

    def send_weights(self, network: nn.Module) -> None:
        """Begin a step: give the others the weights."""
        with _lost_process():
            self._go_on(network, more=True)
            dist.broadcast(_flat([*_learning(network), *_statistics(network)]), src=0)

    def end(self, network: nn.Module) -> None:
        """Tell the others that there is no further step."""
        with contextlib.suppress(AnosegError), _lost_process():  # they may have ended
            self._go_on(network, more=False)

    def receive_weights(self, network: nn.Module) -> bool:
        """Wait for the next step and take its weights; return False if there is none."""
        if not self._go_on(network, more=False):
            return False
        state = [*_learning(network), *_statistics(network)]
        vector = _flat(state)
        dist.broadcast(vector, src=0)
        _fill(state, vector)
        return True

    def average(self, network: nn.Module, loss: Tensor) -> Tensor:
        """Average gradients, statistics of the normalisation and loss of all processes; only the first one gets the result."""
        averaged = [*(p.grad for p in _learning(network) if p.grad is not None), *_statistics(network)]
        vector = _flat([*averaged, loss.detach().float()])
        with _lost_process():
            dist.reduce(vector, dst=0)
        if self.rank == 0:
            vector /= self.count
            _fill(averaged, vector)
        return vector[-1]

    def _go_on(self, network: nn.Module, *, more: bool) -> bool:
        """Send or receive whether there is a further step."""
        flag = torch.tensor([float(more)], device=next(network.parameters()).device)
        dist.broadcast(flag, src=0)
        return bool(flag.item())


def _learning(network: nn.Module) -> list[Tensor]:
    return [parameter for parameter in network.parameters() if parameter.requires_grad]


def _statistics(network: nn.Module) -> list[Tensor]:
    """Return the running means and variances of the normalisation."""
    return [buffer for name, buffer in network.named_buffers() if name.rsplit(".", 1)[-1] in ("running_mean", "running_var")]


def _flat(tensors: list[Tensor]) -> Tensor:
    """Return all values in one vector."""
    return torch.cat([tensor.detach().reshape(-1) for tensor in tensors])


@torch.no_grad()
def _fill(tensors: list[Tensor], vector: Tensor) -> None:
    """Write the first values of a vector into tensors."""
    begin = 0
    for tensor in tensors:
        end = begin + tensor.numel()
        tensor.copy_(vector[begin:end].view(tensor.shape))
        begin = end


@contextlib.contextmanager
def together() -> Iterator[Together]:
    """Meet the other processes that torchrun started."""
    if torch.cuda.is_available():
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo", timeout=PATIENCE)
    try:
        yield Together(dist.get_rank(), dist.get_world_size())
    finally:
        dist.destroy_process_group()


def help_training(group: Together) -> None:
    """Compute gradients for the first process until it has no further step, or ends."""
    received: list[SharedTraining | None] = [None]
    with contextlib.suppress(RuntimeError):  # the first process ended: it says why
        dist.broadcast_object_list(received, src=0, device=torch.device("cpu"))
        training = received[0]
        assert training is not None, "the first process has sent it"
        _compute_gradients(group, training)


def _compute_gradients(group: Together, training: SharedTraining) -> None:
    config, comparison = training.config, training.comparison
    torch.set_num_threads(training.cores)
    arithmetic = Arithmetic.of(config.training)
    samples = group.share_of(training.samples)
    learner = TrainingState.new(
        config, samples.seed, arithmetic.device, training.encoder, reads_memory=comparison is not None
    ).learner
    if comparison is not None:
        comparison = dataclasses.replace(comparison, memory=comparison.memory.to(arithmetic.device))
    with contextlib.closing(batches(samples, training.steps, training.workers)) as stream:
        for step, batch in zip(training.steps, stream, strict=False):
            if not group.receive_weights(learner.network):
                return
            compare = functools.partial(comparison.memory_map, batch, step) if comparison else None
            vary = FeatureVariation.of_step(config.variation.features, seed=samples.seed, step=step, process=samples.share[0])
            group.average(learner.network, learner.backward(batch, config.loss, arithmetic, compare, vary))


@contextlib.contextmanager
def _lost_process() -> Iterator[None]:
    """Name the error of a process that has ended.

    Raises:
        AnosegError: One has.
    """
    try:
        yield
    except RuntimeError as error:
        what = f"another process of this training ended ({str(error).splitlines()[0]})"
        raise AnosegError(what, hint="see what it printed; continue with the same command and --resume") from error
