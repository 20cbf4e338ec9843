"""Rewrites a network for the CPU: enlarging maps of few channels becomes two matrix products. Pure functions on a model.

OpenVINO's `Interpolate` handles one channel at a time, slowly: in a network of 448×448, enlarging a handful of grey maps takes
a tenth of the time. Enlarging is linear along rows and along columns, so two products with constant matrices give the same
numbers, except for rounding.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from anoseg_engines.runtimes.openvino_library import ov

MOST_CHANNELS = 4
"""Maps of more channels are left alone: OpenVINO computes their channels side by side."""


def multiply_resizes(model: ov.Model) -> None:
    """Replace each enlargement of few channels by a whole factor, in place. The shapes of the model must be static."""
    made: dict[str, tuple[ov.Output, NDArray[np.float32], NDArray[np.float32]]] = {}
    for op in model.get_ordered_ops():
        matrices = _matrices(op)
        if matrices is None:
            continue
        source, (rows, columns) = op.input_value(0), matrices
        before = made.get(source.get_node().get_friendly_name())
        if before is not None:  # an enlargement of an enlargement is one
            source, rows, columns = before[0], rows @ before[1], columns @ before[2]
        element = op.get_output_element_type(0)
        wide = ov.opset13.matmul(source, ov.opset13.constant(columns, dtype=element.to_dtype()), False, True)
        high = ov.opset13.matmul(ov.opset13.constant(rows, dtype=element.to_dtype()), wide, False, False)
        high.set_friendly_name(op.get_friendly_name())
        made[op.get_friendly_name()] = source, rows, columns
        op.output(0).replace(high.output(0))


def _matrices(op: ov.Node) -> tuple[NDArray[np.float32], NDArray[np.float32]] | None:
    """Return what enlarges rows and what enlarges columns; None for any other operation."""
    if op.get_type_name() != "Interpolate" or op.get_input_partial_shape(0).rank.get_length() != 4:
        return None
    n, channels, *small = op.input_value(0).get_shape()
    *same, height, width = op.output(0).get_shape()
    if channels > MOST_CHANNELS or same != [n, channels]:
        return None
    found = [_matrix(a, b, op.get_attributes()) for a, b in zip(small, (height, width), strict=True)]
    return None if found[0] is None or found[1] is None else (found[0], found[1])


def _matrix(small: int, large: int, attributes: dict[str, Any]) -> NDArray[np.float32] | None:
    """Return the matrix [large, small] that enlarges one axis; None if it is not a plain enlargement by a whole factor."""
    factor, rest = divmod(large, small)
    if rest or attributes["antialias"] or any(attributes["pads_begin"]) or any(attributes["pads_end"]):
        return None
    kind = attributes["mode"], attributes["coordinate_transformation_mode"]
    if kind == ("nearest", "asymmetric") and attributes["nearest_mode"] == "floor":
        return np.repeat(np.eye(small, dtype=np.float32), factor, axis=0)
    if kind not in (("linear", "half_pixel"), ("linear_onnx", "half_pixel")):
        return None
    places = np.clip((np.arange(large) + 0.5) / factor - 0.5, 0, small - 1)
    return np.asarray(np.maximum(0, 1 - np.abs(places[:, None] - np.arange(small))), np.float32)
