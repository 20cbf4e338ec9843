"""Draws outlines of synthetic defects: small float32 masks [h, w] in 0…1, from a random generator.

Sizes are in network pixels.
"""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

Mask = NDArray[np.float32]


def log_uniform(rng: Generator, low: float, high: float) -> float:
    """Draw a number whose logarithm is uniform: small values are as likely as large ones."""
    return float(np.exp(rng.uniform(np.log(low), np.log(high))))


def channel_max(picture: NDArray[Any]) -> Mask:
    """Return the largest of the three channels, [h, w, 3] → [h, w]; many times faster than NumPy over so short an axis."""
    return np.asarray(np.maximum(np.maximum(picture[:, :, 0], picture[:, :, 1]), picture[:, :, 2]))


def channel_mean(picture: NDArray[Any]) -> Mask:
    """Return the mean of the three channels, float32 [h, w]."""
    total = picture[:, :, 0].astype(np.float32) + picture[:, :, 1] + picture[:, :, 2]
    return np.asarray(total * np.float32(1 / 3), np.float32)


def smooth_noise(rng: Generator, height: int, width: int, cell: float) -> Mask:
    """Draw a smooth random field, roughly −2…2, with features about `cell` pixels wide."""
    grid_h, grid_w = int(np.ceil(height / cell)) + 3, int(np.ceil(width / cell)) + 3
    grid = rng.standard_normal((grid_h, grid_w)).astype(np.float32)
    field = cv2.resize(grid, (max(width, 1) + 2, max(height, 1) + 2), interpolation=cv2.INTER_CUBIC)
    return np.asarray(field[1 : height + 1, 1 : width + 1], np.float32)


def blob(rng: Generator, height: int, width: int) -> Mask:
    """Draw an irregular filled outline that fits the box: 0 or 1, never empty."""
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None] if height > 1 else np.zeros((1, 1), np.float32)
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :] if width > 1 else np.zeros((1, 1), np.float32)
    radius = np.sqrt(x * x + y * y)
    ragged = smooth_noise(rng, height, width, max(2.0, max(height, width) / rng.uniform(2, 6)))
    mask = (radius + rng.uniform(0.1, 0.35) * ragged < 0.75).astype(np.float32)
    if not mask.any():
        mask[height // 2, width // 2] = 1.0
    return np.asarray(mask, np.float32)


def rectangle(rng: Generator, height: int, width: int) -> Mask:
    """Draw a filled rectangle in the box, rotated by a random angle half of the time."""
    if rng.random() < 0.5 or min(height, width) < 4:
        return np.ones((height, width), np.float32)
    mask = np.zeros((height, width), np.float32)
    box = ((width / 2, height / 2), (0.7 * width, 0.7 * height), float(rng.uniform(0, 180)))
    cv2.fillPoly(mask, [np.round(cv2.boxPoints(box)).astype(np.int32)], 1.0)
    mask[height // 2, width // 2] = 1.0
    return mask


def stroke(rng: Generator, height: int, width: int, thickness: float) -> Mask:
    """Draw a wandering anti-aliased line through the box; its strength varies along the way."""
    n = int(rng.integers(3, 9))
    diagonal = np.array([[0.05, 0.05], [0.95, 0.95]]) if rng.random() < 0.5 else np.array([[0.05, 0.95], [0.95, 0.05]])
    along = np.linspace(0, 1, n)[:, None]
    points = diagonal[0] * (1 - along) + diagonal[1] * along
    points[1:-1] += rng.normal(0, rng.choice([0.02, 0.08, 0.16]), (n - 2, 2))
    points = np.clip(points, 0, 1) * [max(width - 1, 1), max(height - 1, 1)]
    fractional_bits = 4
    fixed = np.round(points * 2**fractional_bits).astype(np.int32)
    canvas = np.zeros((height, width), np.uint8)
    cv2.polylines(canvas, [fixed], False, 255, max(1, round(thickness)), cv2.LINE_AA, fractional_bits)
    mask = canvas.astype(np.float32) / np.float32(255)
    fading = 1 + 0.5 * smooth_noise(rng, height, width, max(6.0, max(height, width) / 4))
    return np.asarray(np.clip(mask * fading, 0, 1) * min(thickness, 1.0), np.float32)


def feathered(mask: Mask, sigma: float) -> Mask:
    """Soften the outline inwards and outwards by `sigma` pixels; the box must leave room for it."""
    if sigma < 0.3:
        return mask
    return np.asarray(cv2.GaussianBlur(mask, (0, 0), sigma, borderType=cv2.BORDER_CONSTANT), np.float32)
