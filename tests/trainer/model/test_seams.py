"""Tile mode: a seam between tiles must not show in the map. With a trained network, through Placement and stitching."""

import cv2
import numpy as np
import pytest
import torch

from anoseg_engines.placement import InputSpec, Placement, Region, Tile, cut_tile, tile_coords
from anoseg_engines.runtimes.openvino import CpuRuntime
from anoseg_trainer.config import NetworkConfig
from anoseg_trainer.data.input_choice import OVERLAP
from anoseg_trainer.model.detector import Detector
from anoseg_trainer.model.export import onnx_from_detector
from anoseg_trainer.model.network import AnoSegNetwork

SPEC = InputSpec(256, 256, "tile", 1.0, OVERLAP)
WIDTH, HEIGHT = 592, 256
CROP = 128
"""Side of the images it trains on: the network is convolutional, so it finds on a tile what it learned on a part of one."""


def texture(rng, height, width):
    """A brushed surface, uint8 [h, w, 3]."""
    noise = cv2.GaussianBlur(rng.normal(0, 14, (height, width)).astype(np.float32), (0, 0), sigmaX=0.6, sigmaY=9)
    return np.repeat(np.clip(150 + 3 * noise[:, :, None], 0, 255), 3, axis=2).astype(np.uint8)


def spoil(image, x, y):
    """The image with a dark spot and a bright scratch around (x, y)."""
    spoiled = image.copy()
    cv2.circle(spoiled, (x, y), 6, (30, 30, 30), -1)
    cv2.line(spoiled, (x - 15, y - 28), (x + 15, y - 32), (220, 220, 220), 2)
    return spoiled


@pytest.fixture(scope="module")
def model():
    """The default network, trained for a few steps on crops of the texture to find the defects of `spoil`."""
    torch.manual_seed(0)
    rng = np.random.default_rng(0)
    network = AnoSegNetwork(NetworkConfig())
    optimiser = torch.optim.AdamW(network.parameters(), lr=3e-3)
    for _ in range(60):
        frames, labels = np.empty((4, CROP, CROP, 3), np.uint8), np.zeros((4, CROP, CROP), np.float32)
        for frame, label in zip(frames, labels, strict=True):
            good = texture(rng, CROP, CROP)
            frame[:] = spoil(good, int(rng.integers(CROP)), int(rng.integers(CROP)))
            label[:] = np.abs(frame.astype(int) - good).max(axis=2) > 20
        coords = np.repeat(tile_coords(SPEC, 256, 256, Tile(0, 0))[None, :, :CROP, :CROP].astype(np.float32), 4, axis=0)
        logits = network(torch.from_numpy(frames), torch.from_numpy(coords * rng.uniform(0, 1))).logits
        loss = torch.nn.functional.binary_cross_entropy_with_logits(
            logits, torch.from_numpy(labels), pos_weight=torch.tensor(10.0)
        )
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    return onnx_from_detector(Detector(network.eval()), SPEC)


def test_a_defect_on_a_seam_gives_the_same_map_as_in_the_middle(model):
    """A defect on a seam and beside it: the stitched map is that of a tile with the defect in its middle, to 0.02."""
    rng = np.random.default_rng(1)
    placement = Placement.of(SPEC, Region(0, 0, WIDTH, HEIGHT))
    assert len(placement.tiles) > 2
    seam = (placement.tiles[0].x + 256 + placement.tiles[1].x) // 2
    runtime = CpuRuntime.open(model, SPEC)
    try:
        for x in (seam - 20, seam, seam + 20):
            image = spoil(texture(rng, HEIGHT, WIDTH), x, 128)
            placement.fill(image, runtime.bind(placement.coords_N2HW))
            stitched = placement.stitch(runtime.infer()[0])
            tile = Tile(round((x - 128) / 32) * 32, 0)
            cut_tile(image, tile, runtime.bind(tile_coords(SPEC, WIDTH, HEIGHT, tile)[None])[0])
            middle = np.array(runtime.infer()[0][0], np.float32)
            near = slice(x - 24, x + 24)
            seen = middle[:, near.start - tile.x : near.stop - tile.x]
            assert seen.max() > 0.5  # the defect is found, else equal maps would prove nothing
            assert np.abs(stitched[:, near] - seen).max() <= 0.02
    finally:
        runtime.close()
