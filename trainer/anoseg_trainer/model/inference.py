"""Runs the detector in PyTorch (FP32) as engines run the exported one: the same placement, tiles and stitching."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from anoseg_engines.images import Image
from anoseg_engines.placement import InputSpec
from anoseg_trainer.data.part_store import whole_placement
from anoseg_trainer.model.detector import Detector

TILES_AT_ONCE = 16


@dataclass(frozen=True, slots=True)
class Prediction:
    """The detector's result for one part.

    Attributes:
        values: The detector's values of each tile, float64 [tiles, V].
        score: The largest tile score.
        anomaly_map: float32 [part_height, part_width].
    """

    values: NDArray[np.float64]
    score: float
    anomaly_map: NDArray[np.float32]


@torch.no_grad()
def predict_part(detector: Detector, spec: InputSpec, image: Image) -> Prediction:
    """Run the detector on a whole image; it must be in evaluation mode."""
    placement = whole_placement(spec, image)
    frames = np.empty((len(placement.tiles), spec.height, spec.width, 3), np.uint8)
    placement.fill(image, frames)
    device = detector.score_scale.device
    maps, values, scores = [], [], []
    for start in range(0, len(frames), TILES_AT_ONCE):
        part = slice(start, start + TILES_AT_ONCE)
        coords = torch.from_numpy(placement.coords_N2HW[part].astype(np.float32)).to(device)
        tile_maps, tile_values = detector.inspect_unscaled(torch.from_numpy(frames[part]).to(device), coords)
        maps.append(tile_maps.float().cpu().numpy())
        values.append(tile_values.cpu())
        scores.append(detector.score_of(tile_values).cpu())
    return Prediction(
        torch.cat(values).double().numpy(), float(torch.cat(scores).max()), placement.stitch(np.concatenate(maps))
    )
