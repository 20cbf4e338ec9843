"""Lists the precision of every layer of a strongly typed network, and the reason for each layer that is FP32.

For a strongly typed network, TensorRT keeps the types of the file. So the parsed network shows the engine's precisions, even
on a machine without a GPU. On a machine with a GPU, `inspected` reads the precisions from the built engine.
"""

from __future__ import annotations

import json
from collections import Counter
from typing import Any

import msgspec

HALF, SINGLE = "HALF", "FLOAT"
NO_ARITHMETIC = {"CONSTANT", "SHUFFLE", "SHAPE", "IDENTITY", "UNSQUEEZE", "SQUEEZE"}
"""Layers that only move values."""
SCORE_REASON = "part of the image score, which the model computes in FP32: sums and a sigmoid of few values, at no cost"
PADDING_REASON = "finds padding by the size of the coordinates, which the exporter takes in FP32; no pixel passes through it"
MODEL_REASON = "the model asks for FP32 here"


class Layer(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One layer.

    Attributes:
        kind: CONVOLUTION, ELEMENTWISE, …
        type: The type of the layer's first output: HALF, FLOAT, INT64, …
        reason: Why the layer is FP32; empty if it is not FP32.
    """

    name: str
    kind: str
    type: str
    reason: str = ""


def layers_of(network: Any) -> list[Layer]:
    """List the layers of a parsed `INetworkDefinition` in order, without those that only move values."""
    reaches, needs = _outputs_reached(network), _inputs_needed(network)
    found = []
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        kind = layer.type.name
        output = layer.get_output(0)
        if kind in NO_ARITHMETIC or output is None:
            continue
        kept = output.dtype.name
        reason = ""
        if kept == SINGLE:
            if reaches.get(output.name, set()) <= {"score"}:
                reason = SCORE_REASON
            else:
                reason = PADDING_REASON if needs.get(output.name) == {"coords"} else MODEL_REASON
        found.append(Layer(layer.name, kind, kept, reason))
    return found


def count_types(layers: list[Layer]) -> dict[str, int]:
    """Count the layers by the type in which they compute, the most frequent first."""
    return dict(Counter(layer.type for layer in layers).most_common())


def inspected(information: str) -> list[dict[str, Any]]:
    """Read the layers from the JSON of TensorRT's engine inspector. An engine built without names has none."""
    try:
        layers = json.loads(information).get("Layers", [])
    except (ValueError, AttributeError):
        return []
    return [layer for layer in layers if isinstance(layer, dict)]


def _outputs_reached(network: Any) -> dict[str, set[str]]:
    """Find for every tensor the network outputs that depend on it."""
    reached: dict[str, set[str]] = {}
    for i in range(network.num_outputs):
        name = network.get_output(i).name
        reached[name] = {name}
    for i in reversed(range(network.num_layers)):
        layer = network.get_layer(i)
        outputs = [layer.get_output(k) for k in range(layer.num_outputs)]
        together: set[str] = set().union(*(reached.get(o.name, set()) for o in outputs if o is not None))
        for k in range(layer.num_inputs):
            tensor = layer.get_input(k)
            if tensor is not None:
                reached.setdefault(tensor.name, set()).update(together)
    return reached


def _inputs_needed(network: Any) -> dict[str, set[str]]:
    """Find for every tensor the network inputs on which it depends."""
    needed = {network.get_input(i).name: {network.get_input(i).name} for i in range(network.num_inputs)}
    for i in range(network.num_layers):
        layer = network.get_layer(i)
        inputs = [layer.get_input(k) for k in range(layer.num_inputs)]
        together: set[str] = set().union(*(needed.get(t.name, set()) for t in inputs if t is not None))
        for k in range(layer.num_outputs):
            tensor = layer.get_output(k)
            if tensor is not None:
                needed.setdefault(tensor.name, set()).update(together)
    return needed
