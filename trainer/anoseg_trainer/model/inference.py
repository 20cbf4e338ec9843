"""Runs the network in PyTorch (FP32) as engines run the exported one: the same placement, tiles and stitching."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from anoseg_engines.images import Image
from anoseg_engines.placement import InputSpec
from anoseg_trainer.data.part_store import whole_placement
from anoseg_trainer.model.network import AnoSegNetwork

TILES_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Prediction:
    """The network's result for one part.

    Attributes:
        pooled: The largest value of each pool over the part's tiles.
        score: The largest tile score.
        anomaly_map: float32 [part_height, part_width].
    """

    pooled: tuple[float, ...]
    score: float
    anomaly_map: NDArray[np.float32]


@torch.no_grad()
def predict_part(network: AnoSegNetwork, spec: InputSpec, image: Image) -> Prediction:
    """Run the network on a whole image; it must be in evaluation mode."""
    placement = whole_placement(spec, image)
    frames = np.empty((len(placement.tiles), spec.height, spec.width, 3), np.uint8)
    placement.fill(image, frames)
    device = network.score_scale.device
    maps, pooled, scores = [], [], []
    for start in range(0, len(frames), TILES_AT_ONCE):
        part = slice(start, start + TILES_AT_ONCE)
        coords = torch.from_numpy(placement.coords_N2HW[part].astype(np.float32)).to(device)
        tile_maps, tile_pooled = network.inspect_unscaled(torch.from_numpy(frames[part]).to(device), coords)
        maps.append(tile_maps.float().cpu().numpy())
        pooled.append(tile_pooled.cpu())
        scores.append(network.score_of(tile_pooled).cpu())
    values = tuple(float(v) for v in torch.cat(pooled).amax(dim=0))
    return Prediction(values, float(torch.cat(scores).max()), placement.stitch(np.concatenate(maps)))
