import copy

import pytest
import torch

from anoseg_trainer.config import NetworkConfig, TrainingConfig
from anoseg_trainer.model.encoder import Encoder
from anoseg_trainer.model.fixed_filters import FixedFilters
from anoseg_trainer.model.network import AnoSegNetwork
from anoseg_trainer.training.optimizer import MATRIX_SHARE, Optimizer

WIDTHS = (8, 8, 16, 16, 16)
RATE = 0.01


def network_of(kind, **options):
    torch.manual_seed(0)
    encoder = {"pretrained": Encoder(), "filters": FixedFilters(), "scratch": None}[kind]
    network = AnoSegNetwork(NetworkConfig(widths=WIDTHS, **options), encoder=encoder, reads_memory=kind == "pretrained")
    return network.to(memory_format=torch.channels_last)


def give_gradients(network, seed=0):
    generator = torch.Generator().manual_seed(seed)
    for parameter in network.parameters():
        if parameter.requires_grad:
            parameter.grad = torch.randn(parameter.shape, generator=generator).contiguous(memory_format=torch.preserve_format)


def weights(network):
    return {name: parameter.detach().clone() for name, parameter in network.named_parameters()}


@pytest.mark.parametrize("optimizer", ["muon", "adamw"])
@pytest.mark.parametrize(("kind", "options"), [("scratch", {}), ("filters", {}), ("pretrained", {"encoder_rate": 0.1})])
def test_every_trained_parameter_moves(kind, options, optimizer):
    """Each by one optimizer, and a pretrained encoder that is tuned too; after the gradients are forgotten, none does."""
    network = network_of(kind, **options)
    made = Optimizer(network, TrainingConfig(optimizer=optimizer, learning_rate=RATE))
    made.set_rate(RATE)
    before = weights(network)
    give_gradients(network)
    made.step()
    after = weights(network)
    assert all(not torch.equal(before[name], after[name]) for name in before)
    made.zero_grad()
    made.step()
    assert all(torch.equal(after[name], now) for name, now in weights(network).items())


@pytest.mark.parametrize(("kind", "expected"), [("scratch", True), ("filters", True), ("pretrained", False)])
def test_muon_trains_networks_from_scratch(kind, expected):
    """With a pretrained encoder, AdamW does, unless the configuration says otherwise."""
    network = network_of(kind)
    assert (Optimizer(network, TrainingConfig()).muon is not None) == expected
    assert Optimizer(network, TrainingConfig(optimizer="muon")).muon is not None


def test_muon_makes_the_steps_of_inner_convolutions_orthogonal():
    """Singular values of such a step are about equal, whatever the gradient's; the first layer and the heads get AdamW's."""
    network = network_of("scratch")
    made = Optimizer(network, TrainingConfig(learning_rate=RATE, weight_decay=0.0))
    made.set_rate(RATE)
    before = weights(network)
    give_gradients(network)
    for parameter in network.parameters():  # one direction has nearly all of the gradient
        if parameter.ndim == 4:
            outputs, *rest = parameter.shape
            parameter.grad += 100 * torch.randn(outputs, 1, 1, 1) * torch.randn(1, *rest)
    made.step()
    steps = {name: (now - before[name]).flatten(1) for name, now in weights(network).items() if now.ndim == 4}
    inner = {name for name, parameter in network.named_parameters() if any(parameter is w for w in network.inner_weights())}
    assert steps.keys() - inner == {"backbone.stem.conv.weight", "map_head.weight", "image_head.weight"}
    for name in inner:
        values = torch.linalg.svdvals(steps[name])
        assert values.max() < 3 * values.median()
        size = 0.2 * MATRIX_SHARE * RATE
        assert 0.5 * size < steps[name].square().mean().sqrt() < 1.5 * size
    for name in steps.keys() - inner:
        torch.testing.assert_close(steps[name].abs(), torch.full_like(steps[name], RATE), rtol=1e-3, atol=0)


def test_a_pretrained_encoder_that_stays_as_it_is_is_left_alone():
    """None of its weights belongs to the optimizer, and nor do its channels that have a filter each."""
    network = network_of("pretrained", encoder_rate=0.0)
    assert not any(".encoder." in name for name, p in network.named_parameters() if p.requires_grad)
    made = Optimizer(network, TrainingConfig(optimizer="muon"))
    count = sum(len(group["params"]) for part in (made.adamw, made.muon) for group in part.param_groups)
    assert count == sum(p.requires_grad for p in network.parameters())


def test_a_checkpoint_continues_with_the_same_steps():
    """The momentum of both optimizers is kept."""
    network = network_of("scratch")
    made = Optimizer(network, TrainingConfig())
    give_gradients(network)
    made.step()
    again = copy.deepcopy(network)
    resumed = Optimizer(again, TrainingConfig())
    resumed.load_state_dict(copy.deepcopy(made.state_dict()))
    for one, optimizer in ((network, made), (again, resumed)):
        give_gradients(one, seed=1)
        optimizer.step()
    first, second = weights(network), weights(again)
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_another_memory_format_is_an_error():
    """The matrices would be copies, and the convolutions would never learn."""
    network = network_of("scratch").to(memory_format=torch.contiguous_format)
    with pytest.raises(AssertionError, match="NHWC"):
        Optimizer(network, TrainingConfig())
