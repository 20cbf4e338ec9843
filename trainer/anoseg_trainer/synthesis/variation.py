"""Varies good parts as production does: pose, light, noise, compression, dust beside the part.

Pure functions of a random generator.
"""

from __future__ import annotations

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from anoseg_engines.images import Image
from anoseg_engines.placement import Tile
from anoseg_trainer.config import VariationConfig
from anoseg_trainer.synthesis.background import point_on
from anoseg_trainer.synthesis.shapes import Mask, blob, feathered, log_uniform, smooth_noise, stroke

EXACT = 0.3
"""Share of windows that keep every pixel's value (whole-pixel shifts, quarter turns). Interpolation smooths the grain of real
images away, and a network that never saw grain would take it for a defect."""
NOISY = 0.5
"""Share of windows with more noise than the image has."""
LOWEST_QUALITY, HIGHEST_QUALITY = 60, 97
"""JPEG qualities of compressed images; network cameras and their streams are in this range."""
JPEG_BLOCK = 8
"""Side in camera pixels of the squares that JPEG compresses one by one."""


def varied_window(
    rng: Generator, part: Image, label: Mask, window: tuple[int, int, int, int], config: VariationConfig
) -> tuple[Image, Mask]:
    """Cut a window out of `part` as if the part were posed a little differently and lit differently.

    The window is shifted, and is rotated and scaled around its centre. Beyond the part, the part's border is mirrored. A
    defect goes through the same changes as the part around it, so resampling, light and noise do not show where it is.

    Args:
        rng: Random generator.
        part: uint8 [H, W, 3].
        label: float32 [H, W].
        window: Left, top, width and height.
        config: Ranges of the changes.

    Returns:
        Image uint8 [h, w, 3] and label float32 [h, w], both new.
    """
    left, top, width, height = window
    rotation = config.rotation_deg or 0.0
    angle = np.deg2rad(rng.uniform(-1, 1) * rotation)
    zoom = np.exp(rng.uniform(-1, 1) * np.log1p(config.zoom))
    side = max(width, height)
    dx, dy = rng.uniform(-1, 1, 2) * config.shift * side
    if rng.random() < EXACT:
        angle = np.pi / 2 * rng.integers(4) if rotation >= 180 and width == height else 0.0
        zoom, dx, dy = 1.0, np.rint(dx), np.rint(dy)
    sx = -1.0 if rng.random() < (config.flip_x or 0.0) else 1.0
    sy = -1.0 if rng.random() < (config.flip_y or 0.0) else 1.0
    cos, sin = np.cos(angle) / zoom, np.sin(angle) / zoom
    # Maps a window pixel to the part pixel it shows.
    matrix = np.array([[cos * sx, -sin * sy, 0], [sin * sx, cos * sy, 0]])
    centre = np.array([(width - 1) / 2, (height - 1) / 2])
    matrix[:, 2] = centre + np.array([left + dx, top + dy]) - matrix[:, :2] @ centre
    size, flags, border = (width, height), cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP, cv2.BORDER_REFLECT_101
    moved = cv2.warpAffine(part, matrix, size, flags=flags, borderMode=border)
    moved_label = cv2.warpAffine(label, matrix, size, flags=flags, borderMode=border)
    return relit(rng, np.asarray(moved, np.uint8), config), np.asarray(moved_label, np.float32)


def turned(rng: Generator, part: Image, config: VariationConfig) -> Image:
    """Return the part at another angle, and mirrored if that counts as normal. Beyond the part, its border is mirrored."""
    height, width = part.shape[:2]
    matrix = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), rng.uniform(0, 360), 1.0)
    moved = cv2.warpAffine(part, matrix, (width, height), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT_101)
    mirrored = rng.random() < (config.flip_x or 0.0)
    return np.ascontiguousarray(moved[:, ::-1] if mirrored else moved, np.uint8)


def relit(rng: Generator, image: Image, config: VariationConfig) -> Image:
    """Return the image in another light: exposure, contrast, colour, a smooth field, sensor noise."""
    brightness, shading = config.brightness or 0.0, config.shading or 0.0
    gain = np.exp(rng.uniform(-1, 1) * brightness)
    contrast = np.exp(rng.uniform(-1, 1) * (config.contrast or 0.0))
    offset = 32 * rng.uniform(-1, 1) * brightness
    mean = float(image.mean())
    out = (image.astype(np.float32) - mean) * np.float32(gain * contrast) + np.float32(gain * mean + offset)
    if config.tint:
        out *= np.exp(rng.uniform(-1, 1, 3) * config.tint).astype(np.float32)
    height, width = image.shape[:2]
    if shading and rng.random() < 0.7:
        cell = max(height, width) * float(rng.uniform(0.6, 2.0))
        field = smooth_noise(rng, height, width, cell)
        out *= np.exp(np.float32(shading * rng.uniform(0, 0.7)) * field)[:, :, None]
    if config.noise and rng.random() < NOISY:
        out += sensor_noise(rng, image, config.noise)
    return np.asarray(np.clip(np.rint(out), 0, 255), np.uint8)


def sensor_noise(rng: Generator, image: Image, largest: float) -> NDArray[np.float32]:
    """Return noise of a random strength for an image, float32 [h, w, 1 or 3].

    A colour sensor's channels have noise of their own, which its processing mixes more or less. So half of the colour images
    get noise of the brightness alone, as all grey images do.
    """
    channels = 1 if is_grey(image) or rng.random() < 0.5 else 3
    noise = rng.standard_normal((*image.shape[:2], channels), np.float32)
    return np.asarray(noise * np.float32(rng.uniform(0, largest)), np.float32)


def noisy(rng: Generator, image: Image, largest: float) -> Image:
    """Return the image with `sensor_noise`."""
    return np.asarray(np.clip(np.rint(image + sensor_noise(rng, image, largest)), 0, 255), np.uint8)


def is_grey(image: Image) -> bool:
    """Return whether all three channels are equal, judged on a coarse grid of pixels."""
    few = image[::8, ::8]
    return bool((few[:, :, 0] == few[:, :, 1]).all() and (few[:, :, 1] == few[:, :, 2]).all())


def compressed(rng: Generator, image: Image, scale: float) -> Image:
    """Return the image as it comes from a camera that compresses.

    JPEG stands for all such codecs: they work on squares as well, and lose fine contrast in the same way.

    Args:
        rng: Random generator.
        image: uint8 [h, w, 3].
        scale: Network pixels per camera pixel. Compression is a change of the camera's pixels. The smaller the camera's image
            is made for the network, the more of the change is averaged away.
    """
    y, x = (int(v) for v in rng.integers(0, JPEG_BLOCK, 2))
    quality = int(rng.integers(LOWEST_QUALITY, HIGHEST_QUALITY + 1))
    around = cv2.copyMakeBorder(image, y, 0, x, 0, cv2.BORDER_REFLECT_101)
    _, data = cv2.imencode(".jpg", around, [cv2.IMWRITE_JPEG_QUALITY, quality])
    changed = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR), np.uint8)[y:, x:]
    share = min(scale, 1.0)
    return np.asarray(cv2.addWeighted(changed, share, image, 1 - share, 0), np.uint8)


def littered(rng: Generator, image: Image, bare: NDArray[np.bool_], unit: int) -> Image:
    """Add dust and hairs to the background beside the part; they are not defects.

    Args:
        rng: Random generator.
        image: uint8 [h, w, 3].
        bare: Where there is certainly no part, bool, any size.
        unit: As in `Canvas`.
    """
    rows, columns = image.shape[:2]
    free = cv2.erode(bare.astype(np.uint8), np.ones((3, 3), np.uint8))  # dust that touches the part may be a defect
    beside = cv2.resize(free, (columns, rows), interpolation=cv2.INTER_NEAREST).astype(np.float32)
    out = image.astype(np.float32)
    for _ in range(int(rng.integers(1, 5))):
        aim = point_on(rng, free > 0, rows, columns)
        if aim is None:
            return image
        hair = rng.random() < 0.5
        low, high = (8.0, 40.0) if hair else (2.0, 9.0)
        height, width = (min(max(3, round(log_uniform(rng, low, high) * unit / 256)), side) for side in (rows, columns))
        x, y = min(max(aim[0] - width // 2, 0), columns - width), min(max(aim[1] - height // 2, 0), rows - height)
        thickness = log_uniform(rng, 0.6, 2.0) * unit / 256
        mark = stroke(rng, height, width, thickness) if hair else feathered(blob(rng, height, width), float(rng.uniform(0, 1)))
        box = np.s_[y : y + height, x : x + width]
        strength = rng.choice([-1, 1], p=[0.8, 0.2]) * log_uniform(rng, 6.0, 70.0)
        out[box] += (strength * mark * beside[box])[:, :, None]
    return np.asarray(np.clip(np.rint(out), 0, 255), np.uint8)


def random_window(
    rng: Generator,
    part_hw: tuple[int, int],
    window_hw: tuple[int, int],
    seen_hw: tuple[tuple[int, int], tuple[int, int]],
    aim: tuple[int, int] | None = None,
) -> Tile:
    """Draw a place for a window in the area that inputs show in production. At least half of the window is on the part.

    Args:
        rng: Random generator.
        part_hw: Height and width of the part.
        window_hw: Height and width of the window.
        seen_hw: First and last pixel (exclusive) that inputs show, along y and along x. If the inputs have padding, this
            range reaches beyond the part.
        aim: x and y of a part pixel that must be inside.
    """

    def start(part: int, size: int, seen: tuple[int, int], at: int | None) -> int:
        half = min(part, size) // 2
        low, high = max(seen[0], half - size), min(seen[1] - size, part - half)
        if at is not None:
            low, high = max(low, at - size + 1), min(high, at)
        return int(rng.integers(low, max(low, high) + 1))

    x, y = aim or (None, None)
    return Tile(start(part_hw[1], window_hw[1], seen_hw[1], x), start(part_hw[0], window_hw[0], seen_hw[0], y))
