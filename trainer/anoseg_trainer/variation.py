"""What good parts do anyway: small turns and shifts, light, noise. Taught as normal. Pure functions of a random generator."""

from __future__ import annotations

import cv2
import numpy as np
from numpy.random import Generator

from anoseg_engines.images import Image
from anoseg_engines.placement import Tile
from anoseg_trainer.config import VariationConfig
from anoseg_trainer.shapes import smooth_noise


def varied_window(rng: Generator, part: Image, window: tuple[int, int, int, int], config: VariationConfig) -> Image:
    """Cut the window (left, top, width, height) out of `part`, as if the part lay a little otherwise and the light differed.

    Turn, shift and zoom are about the window's centre; beyond the part its border is mirrored. uint8 [h, w, 3], new.
    """
    left, top, width, height = window
    angle = np.deg2rad(rng.uniform(-1, 1) * config.rotation_deg)
    zoom = np.exp(rng.uniform(-1, 1) * np.log1p(config.zoom))
    side = max(width, height)
    dx, dy = rng.uniform(-1, 1, 2) * config.shift * side
    sx = -1.0 if rng.random() < config.flip_x else 1.0
    sy = -1.0 if rng.random() < config.flip_y else 1.0
    cos, sin = np.cos(angle) / zoom, np.sin(angle) / zoom
    # Maps a window pixel to the part pixel it shows.
    matrix = np.array([[cos * sx, -sin * sy, 0], [sin * sx, cos * sy, 0]])
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    matrix[:, 2] = centre + np.array([left + dx, top + dy]) - matrix[:, :2] @ centre
    moved = cv2.warpAffine(
        part, matrix, (width, height), flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, borderMode=cv2.BORDER_REFLECT_101
    )
    return relit(rng, np.asarray(moved, np.uint8), config)


def relit(rng: Generator, image: Image, config: VariationConfig) -> Image:
    """The same picture under another light: brightness, contrast, a smooth field, sensor noise. uint8, new."""
    gain = 1 + rng.uniform(-1, 1) * config.contrast
    offset = 128 * rng.uniform(-1, 1) * config.brightness
    mean = float(image.mean())
    out = (image.astype(np.float32) - mean) * np.float32(gain) + np.float32(mean + offset)
    height, width = image.shape[:2]
    if config.shading and rng.random() < 0.5:
        field = smooth_noise(rng, height, width, max(height, width) / 1.5)
        out *= 1 + np.float32(config.shading * rng.uniform(0, 0.5)) * field[:, :, None]
    if config.noise and rng.random() < 0.5:
        # A cheap stand-in for fresh noise a pixel: one row of it, long enough, cut anew for every image.
        noise = rng.standard_normal((height, width), np.float32)
        out += noise[:, :, None] * np.float32(rng.uniform(0, config.noise))
    return np.asarray(np.clip(np.rint(out), 0, 255), np.uint8)


def random_tile(rng: Generator, part_height: int, part_width: int, height: int, width: int) -> Tile:
    """A place for one network input on the part: anywhere if the part is larger, centred where it fits."""

    def start(part: int, size: int) -> int:
        return int(rng.integers(0, part - size + 1)) if part > size else -((size - part) // 2)

    return Tile(start(part_width, width), start(part_height, height))
