"""Enlarging maps of few channels becomes two matrix products for the CPU."""

import numpy as np
import pytest
from numpy.typing import NDArray

from anoseg_engines.runtimes.openvino_library import ov
from anoseg_engines.runtimes.openvino_network import core
from anoseg_engines.runtimes.openvino_resizes import multiply_resizes

ops = ov.opset13


def enlarged(x: ov.Node, factor: float, mode: str, places: str) -> ov.Node:
    scales = ops.constant(np.array([factor, factor], np.float32))
    return ops.interpolate(x, scales, mode, "scales", coordinate_transformation_mode=places, nearest_mode="floor", axes=[2, 3])


def network(channels: int, *steps: tuple[float, str, str]) -> ov.Model:
    x = given = ops.parameter([2, channels, 6, 9], np.float32, name="map")
    for step in steps:
        x = enlarged(x, *step)
    return ov.Model([x], [given], "enlarged")


def result(model: ov.Model) -> NDArray[np.float32]:
    channels = model.input(0).get_shape()[1]
    given = np.random.default_rng(1).normal(size=(2, channels, 6, 9)).astype(np.float32)
    compiled = core().compile_model(model, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.array(compiled([given])[0])


def kinds(model: ov.Model) -> list[str]:
    return [op.get_type_name() for op in model.get_ops()]


LINEAR, REPEATED = ("linear_onnx", "half_pixel"), ("nearest", "asymmetric")


@pytest.mark.parametrize("steps", [[(8, *LINEAR)], [(2, *REPEATED)], [(3, *LINEAR), (2, *REPEATED)]], ids=str)
@pytest.mark.parametrize("channels", [1, 3])
def test_the_products_give_the_same_numbers(channels: int, steps: list[tuple[float, str, str]]) -> None:
    """Nothing is interpolated any more; an enlargement of an enlargement is one pair of products."""
    before, model = result(network(channels, *steps)), network(channels, *steps)
    multiply_resizes(model)
    assert (kinds(model).count("Interpolate"), kinds(model).count("MatMul")) == (0, 2)
    np.testing.assert_allclose(result(model), before, atol=1e-5)


@pytest.mark.parametrize(
    ("channels", "step"),
    [(64, (2, *LINEAR)), (1, (1.5, *LINEAR)), (1, (0.5, *LINEAR)), (1, (2, "linear_onnx", "align_corners"))],
    ids=str,
)
def test_other_resizes_are_left_alone(channels: int, step: tuple[float, str, str]) -> None:
    """Many channels, fractions, reductions and other places stay as the network says."""
    model = network(channels, step)
    multiply_resizes(model)
    assert kinds(model).count("Interpolate") == 1
