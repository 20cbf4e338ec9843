"""From the trained network to the bundle's model: a strongly typed FP16 ONNX file, checked before it is handed on."""

from __future__ import annotations

import contextlib
import copy
import io
import logging
import tempfile
import warnings
from collections.abc import Iterator
from pathlib import Path

import onnx
import torch
from torch import Tensor, nn

from anoseg_engines.errors import EngineError
from anoseg_engines.placement import InputSpec
from anoseg_trainer.model.network import AnoSegNetwork, ConvNorm

MAX_BATCH = 16
"""Largest batch the exported network takes; TensorRT's optimisation profile covers 1 to it."""


class ExportedNetwork(nn.Module):
    """The graph as the bundle carries it: frames uint8 [N, H, W, 3], coords FP16 [N, 2, H, W] → map FP16, score FP32."""

    def __init__(self, network: AnoSegNetwork) -> None:
        super().__init__()
        self.network = half_precision(network)

    def forward(self, frames: Tensor, coords: Tensor) -> tuple[Tensor, Tensor]:
        """Map and score."""
        return self.network.inspect(frames, coords)


def half_precision(network: AnoSegNetwork) -> AnoSegNetwork:
    """A copy for export: BatchNorm folded in FP32, then weights FP16; the score's scale and offset stay FP32."""
    copied = copy.deepcopy(network).cpu().eval()
    for module in copied.modules():
        if isinstance(module, ConvNorm):
            module.fold()
    scale, offset = copied.score_scale.float(), copied.score_offset.float()
    copied.half()
    copied.score_scale, copied.score_offset = scale, offset
    return copied


def onnx_from_network(network: AnoSegNetwork, spec: InputSpec) -> bytes:
    """Export the network for inputs of `spec`'s size, batch 1…16.

    Raises:
        EngineError: a weight is not finite in half precision.
    """
    model = ExportedNetwork(network)
    for name, weight in model.state_dict().items():
        if not torch.isfinite(weight).all():
            raise EngineError(f"weight {name} is not finite in half precision", hint="train with a lower learning rate")
    frames = torch.zeros(2, spec.height, spec.width, 3, dtype=torch.uint8)
    coords = torch.zeros(2, 2, spec.height, spec.width, dtype=torch.float16)
    batch = torch.export.Dim("batch", min=1, max=MAX_BATCH)
    with tempfile.TemporaryDirectory() as folder, _quiet():
        target = Path(folder) / "model.onnx"
        torch.onnx.export(
            model,
            (frames, coords),
            target,
            input_names=["frames", "coords"],
            output_names=["anomaly_map", "score"],
            dynamic_shapes={"frames": {0: batch}, "coords": {0: batch}},
            dynamo=True,
            external_data=False,
            verbose=False,
        )
        graph = onnx.load(target)
    # The exporter notes source lines on every node: they would carry this machine's paths into the product.
    for node in graph.graph.node:
        del node.metadata_props[:]
        node.doc_string = ""
    for value in (*graph.graph.value_info, *graph.graph.input, *graph.graph.output):
        del value.metadata_props[:]
    del graph.graph.metadata_props[:]
    onnx.checker.check_model(graph, full_check=True)
    return bytes(graph.SerializeToString())


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's notes from the user's terminal."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        level = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(level)
