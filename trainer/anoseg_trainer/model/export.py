"""Exports the detector as a strongly typed FP16 ONNX file, and checks the file."""

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
from anoseg_trainer.model.detector import Detector
from anoseg_trainer.model.fixed_filters import WithoutDirection
from anoseg_trainer.model.layers import ConvNorm
from anoseg_trainer.model.memory import Embedding
from anoseg_trainer.model.whole_image import WholeImage

MAX_BATCH = 16
"""Largest batch of the exported network."""
OPSET = 20
"""ONNX operator set of the exported network. TensorRT 10.1's parser reads 9 to 20."""


class ExportedNetwork(nn.Module):
    """The graph of the bundle: frames uint8 [N, H, W, 3] and coords FP16 [N, 2, H, W] → map FP16 and score FP32."""

    def __init__(self, detector: Detector) -> None:
        super().__init__()
        self.network = half_precision(detector)

    def forward(self, frames: Tensor, coords: Tensor) -> tuple[Tensor, Tensor]:
        """Return map and score."""
        return self.network.inspect(frames, coords)


def half_precision(detector: Detector) -> Detector:
    """Return a copy for export: BatchNorm folded in FP32, then weights in FP16."""
    copied = copy.deepcopy(detector).cpu().eval()
    for module in copied.modules():
        if isinstance(module, ConvNorm):
            module.fold()
    return in_precision(copied, torch.float16)


def in_precision(detector: Detector, dtype: torch.dtype) -> Detector:
    """Convert a detector in place. Scales stay FP32, as do the whole-image model and the Gaussians of places, which subtract
    nearly equal numbers."""
    kept = [
        (module, name, buffer.float())
        for module in detector.modules()
        if isinstance(module, (Detector, Embedding, WholeImage, WithoutDirection))
        for name, buffer in module.named_buffers(recurse=False)
    ]
    detector.to(dtype)
    for module, name, buffer in kept:
        setattr(module, name, buffer)
    return detector


def onnx_from_detector(detector: Detector, spec: InputSpec) -> bytes:
    """Export the detector for inputs of the size of `spec` and batches of 1 to `MAX_BATCH`.

    Raises:
        EngineError: A weight is not finite in half precision.
    """
    model = ExportedNetwork(detector)
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
            opset_version=OPSET,
            external_data=False,
            verbose=False,
        )
        graph = onnx.load(target)
    # The exporter records source lines on every node. They would carry this machine's paths into the bundle.
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
    """Suppress the exporter's messages."""
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        level = logging.root.manager.disable
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(level)
