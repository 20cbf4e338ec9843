"""Builds the detector of a bundle in PyTorch, from the weights in the bundle's ONNX file. It runs where it is called."""

from __future__ import annotations

from typing import Any

import msgspec
import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn

from anoseg_engines.bundle import Bundle
from anoseg_engines.errors import EngineError
from anoseg_trainer.config import NetworkConfig
from anoseg_trainer.model.detector import NO_LEVEL, POOLS, Detector
from anoseg_trainer.model.encoder import STAGES, Encoder, stages_down_to
from anoseg_trainer.model.fixed_filters import FixedFilters
from anoseg_trainer.model.layers import ConvNorm
from anoseg_trainer.model.memory import EmbeddingConfig, Memory, MemoryConfig
from anoseg_trainer.model.network import AnoSegNetwork
from anoseg_trainer.model.place_gaussians import PlaceGaussians
from anoseg_trainer.model.whole_image import WholeImage

PREFIX = "network."
"""Prefix of the names of all weights of the exported detector."""
NUMBERS = ("score_offset", "map_gain", "places_gain", "map_offset", "level_limit")
"""Numbers of the detector itself."""
EARLIER = {"level_limit": NO_LEVEL, "places_gain": 0.0}
"""Numbers that earlier bundles lack: nothing is taken off their pools, and places are not in their map."""
NOT_EXPORTED = "image_head"
"""The head that training alone uses."""
STANDARDS = ("centre", "scale")
"""Numbers of the memory, the whole-image model and the Gaussians of places that became constants."""
SET_LATER = ("view_floors", "view_limits", "memory.nearest.bias", "memory.floors", "places.floors")
"""Weights that a bundle may lack: earlier bundles have no bounds of the views, and the others come from the record or other
weights."""


def detector_record(detector: Detector) -> dict[str, Any]:
    """Return what the ONNX file does not name, for the manifest: configurations and numbers that became constants."""
    memory, whole, places = detector.memory, detector.whole_image, detector.places
    numbers: dict[str, Any] = {name: float(getattr(detector, name)) for name in NUMBERS}
    numbers["pools"] = [list(pool) for pool in detector.pools]
    if memory is None or whole is None:
        return {**numbers, "memory": None, "whole_image": None, "places": None}
    return {
        **numbers,
        "memory": _embedding(memory),
        "whole_image": {
            "strides": list(whole.strides),
            "even": whole.even,
            "turned": whole.without_direction is not None,
            "centre": float(whole.centre),
            "scale": float(whole.scale),
        },
        "places": None
        if places is None
        else {**_embedding(places), "size": list(places.means.shape[1:]), "alignment": places.alignment},
    }


def _embedding(view: Memory | PlaceGaussians) -> dict[str, Any]:
    """Return the configuration and the constants of a view that embeds features."""
    return {
        "config": msgspec.to_builtins(view.config),
        "channels": [int(project.in_channels) for project in view.projections],  # type: ignore[arg-type]
        "floors": view.floors.tolist(),
        "centre": float(view.centre),
        "scale": float(view.scale),
    }


def detector_from_bundle(bundle: Bundle) -> Detector:
    """Build the bundle's detector: FP32 arithmetic on its FP16 weights, norms folded.

    Raises:
        EngineError: The bundle does not contain the detector that its training record describes.
    """
    training: Any = bundle.manifest.training
    stored = {t.name: t for t in onnx.load_from_string(bundle.model_onnx).graph.initializer}
    try:
        detector = _empty(training, stored)
        lacking = []
        for name, tensor in {**dict(detector.named_parameters()), **dict(detector.named_buffers())}.items():
            if NOT_EXPORTED in name:
                continue
            if PREFIX + name in stored:
                tensor.data.copy_(_tensor(stored[PREFIX + name]))
            elif _is_needed(name, detector):
                lacking.append(name)
        if lacking:
            raise KeyError(f"weights are missing: {', '.join(sorted(lacking)[:3])}")
        _fill(detector, training["detector"])
    except (msgspec.ValidationError, KeyError, RuntimeError, AttributeError, TypeError) as error:
        raise EngineError(
            f"{bundle.path}: PyTorch cannot run this bundle's network ({error})", hint="it was trained by another version"
        ) from error
    return detector.eval()


def _empty(training: Any, stored: dict[str, onnx.TensorProto]) -> Detector:
    """Build the modules that the record describes, without weights."""
    config, record = training["config"], training["detector"]
    scratch = config["network"]["encoder"] == "scratch"
    network = None
    sees_filters = any(name.startswith(f"{PREFIX}network.backbone.from_filters") for name in stored)
    filtered = sees_filters or record["memory"] is not None
    encoder = Encoder() if not scratch else FixedFilters() if filtered else None
    if any(name.startswith(f"{PREFIX}network.map_head") for name in stored):
        network = AnoSegNetwork(
            msgspec.convert(config["network"], NetworkConfig),
            coordinates=bool(config["coordinates"]),
            # A network from scratch may not see the filters: it is of an earlier version, or network.fixed_filters is false.
            encoder=encoder if not scratch or sees_filters else None,
            reads_memory=any(name.startswith(f"{PREFIX}network.from_memory") for name in stored),
        )
        for module in network.eval().modules():
            if isinstance(module, ConvNorm):
                module.fold()
    if network is not None and (not scratch or sees_filters):
        encoder = None
    memory = whole = places = None
    if record["memory"] is not None:
        memory_config = msgspec.convert(record["memory"]["config"], MemoryConfig)
        channels = Detector(network, encoder=encoder).channels
        memory = Memory(memory_config, channels, len(_tensor(stored[f"{PREFIX}memory.nearest.weight"])))
        given = record["whole_image"]
        # Bundles from before fixed filters could ignore the direction have no "turned".
        turned = bool(given.get("turned", False))
        whole = WholeImage(tuple(given["strides"]), given["even"], channels=channels, turned=turned)
        # Earlier bundles have no "places".
        if (given := record.get("places")) is not None:
            places_config = msgspec.convert(given["config"], EmbeddingConfig)
            height, width = (places_config.grid * int(side) for side in given["size"])
            places = PlaceGaussians(height, width, channels, places_config)
            places.alignment = float(given["alignment"])
    # Bundles from before the record named the pools have those of this version, or cannot be run.
    pools = tuple((int(cell), int(k)) for cell, k in record.get("pools", POOLS))
    return Detector(network, encoder=encoder, memory=memory, whole_image=whole, places=places, pools=pools)


def _is_needed(name: str, detector: Detector) -> bool:
    """Return whether a weight that is not stored is needed: it is no constant of the record, and its stage is used."""
    if name in (
        *NUMBERS,
        *SET_LATER,
        *(f"{view}.{number}" for view in ("memory", "whole_image", "places") for number in STANDARDS),
    ):
        return False
    unused = range(stages_down_to(detector.deepest), len(STAGES)) if isinstance(detector.encoder, Encoder) else ()
    return not name.startswith(tuple(f"encoder.stages.{i}." for i in unused))


def _fill(detector: Detector, record: Any) -> None:
    """Set the numbers that the exporter turned into constants without names."""
    for name in NUMBERS:
        getattr(detector, name).fill_(record.get(name, EARLIER[name]) if name in EARLIER else record[name])
    memory, whole = detector.memory, detector.whole_image
    if memory is None or whole is None:
        return
    assert isinstance(memory.nearest, nn.Conv2d)
    memory.keep(memory.nearest.weight[:, :, 0, 0])
    views: list[tuple[nn.Module, Any]] = [(memory, record["memory"]), (whole, record["whole_image"])]
    if detector.places is not None:
        views.append((detector.places, record["places"]))
    for module, numbers in views:
        if "floors" in numbers:
            module.floors.copy_(torch.tensor(numbers["floors"]))  # type: ignore[operator]
        for name in STANDARDS:
            getattr(module, name).fill_(numbers[name])


def _tensor(stored: onnx.TensorProto) -> Tensor:
    return torch.from_numpy(numpy_helper.to_array(stored).astype(np.float32))
