"""Rewrites a network for the CPU: the distances to the memory of good parts are computed in bf16. Pure functions on a model.

The network finds the vector m of the memory that is nearest to the features z of a place as the largest z·m − |m|² / 2. All
these products take a third of the time of a network of 448×448. bf16 halves that, but has only 8 bits. A product near 0.5
would be rounded to 0.002, which is far too coarse for the small difference of two such numbers.

Here the convolution itself computes −|z − m|² / 2, by four more channels: |m|² and |z|² in two parts of 8 bits each. It sums
in f32, and only the small result is rounded, by at most a five-hundredth of itself. The lengths are those of the rounded
vectors, so the distance is exact for them.
"""

from __future__ import annotations

from anoseg_engines.runtimes.openvino_library import ov

VECTORS = "memory.nearest"
"""Part of the name of the weights that hold the vectors of good parts."""
CHANNELS = 1
"""The axis of the channels in [N, C, H, W], and of the elements of a vector in the weights."""
WIDE, NARROW = ov.Type.f32, ov.Type.bf16


def multiply_memory_in_bf16(model: ov.Model) -> None:
    """Replace each comparison with vectors of the memory, in place. The shapes of the model must be static."""
    prepared: dict[str, tuple[ov.Output, ov.Output]] = {}
    for largest in model.get_ordered_ops():
        convolution = _comparison(largest)
        if convolution is None:
            continue
        features, weights = convolution.input_value(0), convolution.input_value(1)
        name = features.get_node().get_friendly_name()
        if name not in prepared:
            prepared[name] = _with_lengths_of_features(features)
        lengthened, half_length = prepared[name]
        nearest = _like(convolution, lengthened, _with_lengths_of_vectors(weights))
        reduced = ov.opset13.reduce_max(nearest, largest.input_value(1), largest.get_attributes()["keep_dims"])
        # Later layers expect the largest z·m − |m|² / 2, so |z|² / 2 is added back.
        wide = ov.opset13.add(ov.opset13.convert(reduced, WIDE), half_length)
        largest.output(0).replace(ov.opset13.convert(wide, largest.get_output_element_type(0)).output(0))


def _comparison(largest: ov.Node) -> ov.Node | None:
    """Return the convolution with the memory's vectors whose largest channel an operation finds; None for any other."""
    if largest.get_type_name() != "ReduceMax" or largest.get_attributes()["keep_dims"]:
        return None
    biased = largest.input_value(0).get_node()
    if biased.get_type_name() == "Convert":
        biased = biased.input_value(0).get_node()
    if biased.get_type_name() != "Add":
        return None
    convolution = biased.input_value(0).get_node()
    return convolution if convolution.get_type_name() == "Convolution" and _has_vectors(convolution) else None


def _has_vectors(convolution: ov.Node) -> bool:
    node = convolution.input_value(1).get_node()
    while node.get_type_name() != "Constant" and node.get_input_size():
        node = node.input_value(0).get_node()
    return VECTORS in node.get_friendly_name()


def _with_lengths_of_features(features: ov.Output) -> tuple[ov.Output, ov.Output]:
    """Return z in bf16 with the channels 1, 1 and both parts of |z|², and |z|² / 2 [N, H, W] of what was not rounded."""
    n, _, height, width = features.get_shape()
    narrow = ov.opset13.convert(features, NARROW)
    one = ov.opset13.broadcast(ov.opset13.constant(1.0, NARROW), ov.opset13.constant([n, 1, height, width]))
    joined = ov.opset13.concat([narrow, one, one, *_two_parts(_squared_length(narrow, keep=True))], CHANNELS)
    half = ov.opset13.multiply(_squared_length(features, keep=False), ov.opset13.constant(0.5, WIDE))
    return joined.output(0), half.output(0)


def _with_lengths_of_vectors(weights: ov.Output) -> ov.Output:
    """Return the vectors m in bf16 with the elements −|m|² / 2 in two parts, −1/2 and −1/2."""
    narrow = ov.opset13.convert(weights, NARROW)
    minus_half = ov.opset13.constant(-0.5, WIDE)
    lengths = ov.opset13.multiply(_squared_length(narrow, keep=True), minus_half)
    column = ov.opset13.broadcast(
        ov.opset13.convert(minus_half, NARROW), ov.opset13.constant([weights.get_shape()[0], 1, 1, 1])
    )
    return ov.opset13.concat([narrow, *_two_parts(lengths), column, column], CHANNELS).output(0)


def _squared_length(vectors: ov.Output | ov.Node, *, keep: bool) -> ov.Node:
    wide = ov.opset13.convert(vectors, WIDE)
    return ov.opset13.reduce_sum(ov.opset13.multiply(wide, wide), ov.opset13.constant([CHANNELS]), keep)


def _two_parts(wide: ov.Node) -> tuple[ov.Node, ov.Node]:
    """Return a number in f32 as the sum of two in bf16, which together have 16 bits."""
    coarse = ov.opset13.convert(wide, NARROW)
    rest = ov.opset13.subtract(wide, ov.opset13.convert(coarse, WIDE))
    return coarse, ov.opset13.convert(rest, NARROW)


def _like(convolution: ov.Node, features: ov.Output, weights: ov.Output) -> ov.Node:
    """Return the convolution of others, under the name of the one that it replaces."""
    a = convolution.get_attributes()
    made = ov.opset13.convolution(
        features, weights, a["strides"], a["pads_begin"], a["pads_end"], a["dilations"], a["auto_pad"]
    )
    made.set_friendly_name(convolution.get_friendly_name())
    return made
