"""Describes the scaling of `scaling.py` as two small matrices, so that a GPU can do it. Pure functions.

A region X becomes the part A·X·Bᵀ. Each row of A and B has few weights that are not zero, and they are side by side.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from anoseg_engines.scaling import Shrink, block_size


@dataclass(frozen=True, slots=True)
class AxisWeights:
    """One of the matrices: which pixels of the region make a pixel of the part, along one axis.

    Attributes:
        starts_N: int32 [part], the first pixel of the region that counts. All `taps` pixels from there are in the region.
        weights_NT: float32 [part, taps]. The sum of each row is 1.
    """

    starts_N: NDArray[np.int32]
    weights_NT: NDArray[np.float32]

    @property
    def matrix(self) -> NDArray[np.float32]:
        """The whole matrix [part, the pixels that are used]."""
        parts, taps = self.weights_NT.shape
        dense = np.zeros((parts, int(self.starts_N.max()) + taps), np.float32)
        for row, (start, weights) in enumerate(zip(self.starts_N, self.weights_NT, strict=True)):
            dense[row, start : start + taps] += weights
        return dense


@dataclass(frozen=True, slots=True)
class ScalingWeights:
    """A·X·Bᵀ.

    Attributes:
        y, x: A and B.
        offset: Grey values to add before the result is rounded. On the processor, each halving rounds a half up, which adds an
            eighth on average.
    """

    y: AxisWeights
    x: AxisWeights
    offset: float


@lru_cache(maxsize=64)
def scaling_weights(region: tuple[int, int], part: tuple[int, int], shrink: Shrink) -> ScalingWeights | None:
    """Return the matrices by which `scaling.scale_part` scales.

    Its steps round to whole grey values, and the matrices do not. Otherwise both are the same.

    Args:
        region: Height and width of the region.
        part: Height and width of the part.

    Returns:
        None if one axis grows and the other one shrinks, which rounding of the part's size can cause.
    """
    factors = [camera / scaled for camera, scaled in zip(region, part, strict=True)]
    if all(factor <= 1 for factor in factors):
        y, x = (_interpolating(camera, scaled) for camera, scaled in zip(region, part, strict=True))
        return ScalingWeights(y, x, 0.0)
    if any(factor < 1 for factor in factors):
        return None
    if shrink == "area" or min(factors) < 2:
        y, x = (_averaging(camera, scaled) for camera, scaled in zip(region, part, strict=True))
        return ScalingWeights(y, x, 0.0)
    block = block_size(min(factors))
    y, x = (_in_blocks(camera, scaled, block) for camera, scaled in zip(region, part, strict=True))
    halvings = block.bit_length()
    return ScalingWeights(y, x, min(halvings, 3) / 8)  # less than a half, so that an even grey stays as it is


def _averaging(camera: int, part: int) -> AxisWeights:
    """Weights of the mean over the pixels of each part pixel."""
    edges = np.arange(part + 1) * (camera / part)
    left = np.arange(camera)
    shares = np.clip(np.minimum(edges[1:, None], left + 1) - np.maximum(edges[:-1, None], left), 0, None)
    shares[shares < 1e-6] = 0
    return _packed(shares)


def _in_blocks(camera: int, part: int, block: int) -> AxisWeights:
    """Weights of the means of blocks, interpolated to twice the part and averaged in pairs."""
    left = np.arange(-(-camera // block)) * block
    pixels = np.arange(camera)
    inside = (pixels >= left[:, None]) & (pixels < left[:, None] + block)  # the last block may be narrower
    doubled = _linear(len(left), 2 * part, camera / (2 * part * block)) @ (inside / inside.sum(axis=1, keepdims=True))
    return _packed((doubled[0::2] + doubled[1::2]) / 2)


def _interpolating(camera: int, part: int) -> AxisWeights:
    """Weights of linear interpolation between the centres of pixels."""
    return _packed(_linear(camera, part, camera / part))


def _linear(pixels: int, size: int, step: float) -> NDArray[np.float64]:
    """The matrix of linear interpolation between the centres of pixels, [size, pixels]; the results are `step` pixels apart."""
    position = np.clip((np.arange(size) + 0.5) * step - 0.5, 0, pixels - 1)
    first = np.minimum(position.astype(int), max(0, pixels - 2))
    found = np.zeros((size, pixels))
    rows = np.arange(size)
    found[rows, first] = 1 - (position - first)
    if pixels > 1:
        found[rows, first + 1] = position - first
    return found


def _packed(pixels: NDArray[np.float64]) -> AxisWeights:
    """Keep the weights that are not zero, and have each row add up to 1."""
    camera = pixels.shape[1]
    used = pixels > 0
    first = used.argmax(axis=1)
    last = camera - used[:, ::-1].argmax(axis=1)
    taps = int((last - first).max())
    starts = np.minimum(first, camera - taps)
    weights = np.take_along_axis(pixels, starts[:, None] + np.arange(taps), axis=1)
    return AxisWeights(starts.astype(np.int32), (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32))
