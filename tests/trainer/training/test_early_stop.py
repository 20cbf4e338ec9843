import torch

from anoseg_trainer.config import TrainConfig, TrainingConfig
from anoseg_trainer.training.early_stop import EarlyStop
from anoseg_trainer.training.state import TrainingState
from anoseg_trainer.validation import PixelHistogram, Validation

PLANNED = 0.6


def with_validations(limit: int | None, *metrics: float, every: int = 100) -> tuple[EarlyStop, list[bool]]:
    """Return an early stop after a validation every `every` steps, and whether each of them began the cool-down."""
    early_stop = EarlyStop(limit)
    began = [early_stop.add_validation(every * (n + 1), metric, 0.8) for n, metric in enumerate(metrics)]
    return early_stop, began


def test_training_ends_early_after_a_cool_down():
    """Validations without a gain begin the end: the best step's rate falls to 0 in a quarter of the steps up to it."""
    early_stop, began = with_validations(2, 0.5, 0.7, 0.7, 0.7005)
    assert began == [False, False, False, True]
    assert not early_stop.is_over(400)
    assert [early_stop.rate(step, PLANNED) for step in (400, 425, 450)] == [0.8, 0.4, 0.0]
    assert not early_stop.add_validation(430, 0.9, 0.3)  # the end has begun: it is not called off
    assert early_stop.is_over(450)


def test_a_long_training_waits_for_half_of_its_steps():
    """The best validation must be half of the steps so far ago: after more steps, the network improves more slowly."""
    early_stop, began = with_validations(2, 0.5, 0.6, 0.7, 0.8, 0.8, 0.8, 0.8)
    assert not any(began)
    assert early_stop.rate(750, PLANNED) == PLANNED
    assert early_stop.add_validation(800, 0.8, 0.5)


def test_a_resumed_training_waits_as_long():
    """State of a checkpoint carries on."""
    early_stop, _ = with_validations(2, 0.5, 0.5)
    again = EarlyStop(2, **early_stop.state())
    assert again.add_validation(300, 0.5, 0.1)
    assert again.ends_at == 325


def test_a_larger_limit_lifts_an_early_end():
    """A training that ended early goes on if more validations without a gain are allowed, and only then."""
    early_stop, _ = with_validations(1, 0.5, 0.5)
    assert early_stop.is_over(225)
    for limit, over in ((1, True), (2, False), (None, False)):
        assert EarlyStop.resumed(limit, 1, early_stop.state()).is_over(225) == over
    assert EarlyStop.resumed(1, 2, early_stop.state()).is_over(225)


def test_no_limit_never_ends():
    """null: the planned end stands."""
    early_stop, began = with_validations(None, *[0.5] * 100, every=1)
    assert not any(began)
    assert not early_stop.is_over(10_000)


def test_the_cool_down_begins_with_the_best_weights(tmp_path):
    """What was learned after the best validation is undone, in networks and optimizers, also after a resume."""
    config = TrainConfig(training=TrainingConfig(patience=1))
    state = TrainingState.new(config, 0, torch.device("cpu"))
    parameter = next(state.learner.network.parameters())
    _learn(state, parameter)
    at_best = parameter.detach().clone()
    momentum_at_best = state.learner.optimizer.adamw.state[parameter]["exp_avg"].clone()
    state.keep_if_best(_validation(0.8))
    _learn(state, parameter)
    state.keep_if_best(_validation(0.7))
    assert not torch.equal(parameter, at_best)
    state.save(tmp_path, {})

    resumed = TrainingState.new(config, 1, torch.device("cpu"))
    resumed.load(tmp_path, {})
    for one in (state, resumed):
        one.go_back_to_best()
        parameter = next(one.learner.network.parameters())
        assert torch.equal(parameter, at_best)
        assert torch.equal(one.learner.optimizer.adamw.state[parameter]["exp_avg"], momentum_at_best)
        _learn(one, parameter)  # the cool-down leaves what was kept as it is
        one.go_back_to_best()
        assert torch.equal(parameter, at_best)
        assert torch.equal(one.learner.optimizer.adamw.state[parameter]["exp_avg"], momentum_at_best)


def _learn(state: TrainingState, parameter: torch.nn.Parameter) -> None:
    parameter.grad = torch.ones_like(parameter)
    state.learner.optimizer.step()


def _validation(metric: float) -> Validation:
    return Validation(metric, metric, (), (), PixelHistogram())
