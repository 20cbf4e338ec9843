"""The distances to the memory of good parts are computed in bf16 for the CPU."""

import numpy as np
import pytest
from numpy.typing import NDArray

from anoseg_engines.runtimes.openvino_library import ov
from anoseg_engines.runtimes.openvino_memory import multiply_memory_in_bf16
from anoseg_engines.runtimes.openvino_network import core, cpu_precisions

ops = ov.opset13
DIMS, VECTORS = 64, 300
WEIGHTS = "network.memory.nearest.weight"


def unit(shape: tuple[int, ...], axis: int) -> NDArray[np.float32]:
    x = np.random.default_rng(len(shape) + shape[0]).normal(size=shape)
    return (x / np.linalg.norm(x, axis=axis, keepdims=True)).astype(np.float32)


def vectors() -> NDArray[np.float32]:
    return unit((VECTORS, DIMS), 1).astype(np.float16).astype(np.float32)


def network(name: str = WEIGHTS) -> ov.Model:
    """The comparison as a bundle's network computes it: distances to the nearest vector, in two chunks."""
    z = ops.parameter([2, DIMS, 5, 7], np.float32, name="features")
    best = None
    for some in np.split(vectors(), 2):
        weights = ops.constant(some[:, :, None, None], name=name)
        bias = ops.constant((-np.square(some).sum(1) / 2)[None, :, None, None])
        likeness = ops.add(ops.convolution(z, weights, [1, 1], [0, 0], [0, 0], [1, 1]), bias)
        largest = ops.reduce_max(likeness, ops.constant([1]), False)
        best = largest if best is None else ops.maximum(best, largest)
    squared = ops.subtract(
        ops.reduce_sum(ops.multiply(z, z), ops.constant([1]), False), ops.multiply(best, ops.constant(np.float32(2)))
    )
    return ov.Model([ops.sqrt(ops.relu(squared))], [z], "comparison")


def features() -> NDArray[np.float32]:
    """Places near vectors of the memory: each is one vector, turned by about a tenth of its length."""
    near = vectors()[: 2 * 35].reshape(2, 5, 7, DIMS).transpose(0, 3, 1, 2)
    return (near + 0.1 * unit((2, DIMS, 5, 7), 1)).astype(np.float32)


def distances(model: ov.Model) -> NDArray[np.float32]:
    return np.array(core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})([features()])[0])


@pytest.mark.skipif("bf16" not in cpu_precisions(), reason="the processor does not compute in bf16")
def test_distances_in_bf16_keep_three_digits() -> None:
    """The distances are small differences of large numbers, and still differ from those in f32 by less than a hundredth."""
    before, model = distances(network()), network()
    multiply_memory_in_bf16(model)
    convolutions = [op for op in model.get_ops() if op.get_type_name() == "Convolution"]
    assert [op.get_output_element_type(0) for op in convolutions] == [ov.Type.bf16] * 2
    assert 0.05 < before.mean() < 0.2
    np.testing.assert_allclose(distances(model), before, rtol=0.01)


def test_other_convolutions_are_left_alone() -> None:
    """Only the memory's vectors are compared in bf16."""
    model = network("network.image_head.weight")
    multiply_memory_in_bf16(model)
    assert {op.get_output_element_type(0) for op in model.get_ops() if op.get_type_name() == "Convolution"} == {ov.Type.f32}
