"""Convolutions of joined channels are split for the CPU."""

import numpy as np
import pytest
from numpy.typing import NDArray

from anoseg_engines.runtimes.openvino_joins import split_joins
from anoseg_engines.runtimes.openvino_library import ov
from anoseg_engines.runtimes.openvino_network import core

ops = ov.opset13


def network(*, used_twice: bool = False, stride: int = 2) -> ov.Model:
    """Three inputs of 3, 1 and 2 channels, joined and convolved, with a bias."""
    parts = [ops.parameter([1, channels, 8, 10], np.float32, name=f"part{channels}") for channels in (3, 1, 2)]
    joined = ops.concat(parts, 1)
    weights = ops.constant(np.random.default_rng(0).normal(size=(5, 6, 3, 3)).astype(np.float32), name="stem.weight")
    convolved = ops.convolution(joined, weights, [stride] * 2, [1, 1], [1, 1], [1, 1])
    outputs = [ops.add(convolved, ops.constant(np.full((1, 5, 1, 1), 0.5, np.float32)))]
    return ov.Model(outputs + ([ops.relu(joined)] if used_twice else []), parts, "joined")


def results(model: ov.Model) -> list[NDArray[np.float32]]:
    rng = np.random.default_rng(1)
    compiled = core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    found = compiled([rng.normal(size=(1, channels, 8, 10)).astype(np.float32) for channels in (3, 1, 2)])
    return [np.array(values) for values in found.values()]


@pytest.mark.parametrize("stride", [1, 2])
def test_a_split_network_gives_the_same_numbers(stride: int) -> None:
    """Nothing is joined any more, and the sum of the convolutions is what the one convolution gave."""
    before, model = results(network(stride=stride)), network(stride=stride)
    split_joins(model)
    kinds = [op.get_type_name() for op in model.get_ops()]
    assert (kinds.count("Concat"), kinds.count("Convolution")) == (0, 3)
    np.testing.assert_allclose(results(model)[0], before[0], atol=1e-5)


def test_weights_keep_their_name() -> None:
    """The name of the weights decides which convolutions stay in f32."""
    model = network()
    split_joins(model)
    names = [op.input_value(1).get_node().get_friendly_name() for op in model.get_ops() if op.get_type_name() == "Convolution"]
    assert names == ["stem.weight"] * 3


def test_channels_that_are_needed_joined_stay_joined() -> None:
    """If another operation reads the joined channels, splitting would save nothing."""
    model = network(used_twice=True)
    split_joins(model)
    assert [op.get_type_name() for op in model.get_ops()].count("Concat") == 1
