"""Draws the kinds of synthetic defects. Each takes a random generator and a `Canvas` and returns one `Change`.

Pure functions. `hard` is AnoSeg's hard augmentation (section 3.1); `blend` follows NSA (arXiv 2109.15222): patches of other
good images blended in. The other kinds stand for defects of real lines: scratches, spots, dents, chips, soft brightness
changes, changed texture, misplaced or missing structure.
"""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
from numpy.random import Generator
from numpy.typing import NDArray

from anoseg_trainer.synthesis.background import point_on
from anoseg_trainer.synthesis.canvas import Canvas, Change, Patch, fitted, placed, region_of, sized, strip
from anoseg_trainer.synthesis.shapes import Mask, blob, channel_mean, feathered, log_uniform, rectangle, smooth_noise, stroke

STRIPS = 0.2
"""Share of soft and textural defects that take a strip along one side of the picture, as uneven grinding or coating does."""


def hard(rng: Generator, canvas: Canvas) -> Change:
    """AnoSeg: rotate, permute, colour-jitter a good image, each with 50 % chance; paste a region of it, hard-edged."""
    height, width = sized(rng, canvas, 0.03, 0.4)
    donor = canvas.donor(rng) if rng.random() < 0.5 else canvas.image
    content = region_of(rng, donor, height, width)
    if rng.random() < 0.5:
        content = _rotated(rng, content)
    if rng.random() < 0.5:
        content = _permuted(rng, content)
    if rng.random() < 0.5:
        content = _jittered(rng, content, canvas.grey)
    alpha = rectangle(rng, height, width) if rng.random() < 0.6 else blob(rng, height, width)
    x, y = placed(rng, canvas, height, width)
    return Change(x, y, alpha, content)


def blend(rng: Generator, canvas: Canvas) -> Change:
    """A patch of another good image, brought to the light of its new place and blended in softly; at times a whole strip."""
    outline: Mask
    if canvas.on_part is None and rng.random() < STRIPS:
        x, y, outline = strip(rng, canvas)
        height, width = outline.shape
    else:
        height, width = sized(rng, canvas, 0.03, 0.4)
        x, y = placed(rng, canvas, height, width)
        outline = blob(rng, height, width) if rng.random() < 0.6 else rectangle(rng, height, width)
    content = region_of(rng, canvas.donor(rng), height, width, zoom=float(rng.uniform(0.7, 1.4)))
    here = canvas.image[y : y + height, x : x + width].astype(np.float32)
    # The new place's light: what is smooth at this measure. At most 24 pixels, or the filter takes longer than all else.
    sigma = min(max(1.0, min(height, width) * float(rng.uniform(0.15, 0.5))), 24.0)
    low = cv2.GaussianBlur(content, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    low_here = cv2.GaussianBlur(here, (0, 0), sigma, borderType=cv2.BORDER_REFLECT)
    content = content + (low_here - low) * float(rng.uniform(0.6, 1.0))
    if rng.random() < 0.3:  # as mixed gradients do: the stronger detail of the two stays
        stronger = channel_mean(np.abs(content - low_here)) > channel_mean(np.abs(here - low_here))
        content = np.where(stronger[:, :, None], content, here)
    if rng.random() < 0.3:
        content = _jittered(rng, content, canvas.grey)
    alpha = _inner(outline, min(height, width) * float(rng.uniform(0, 0.12)))
    return Change(x, y, alpha, np.asarray(content, np.float32))


def scratch(rng: Generator, canvas: Canvas) -> Change:
    """A thin wandering line, darker or brighter than its surroundings, at times with a bright rim as cracks and dents have."""
    length = canvas.unit * log_uniform(rng, 0.04, 0.7)
    angle = rng.uniform(0, np.pi)
    height, width = fitted(canvas, length * abs(np.sin(angle)) + 6, length * abs(np.cos(angle)) + 6)
    thickness = log_uniform(rng, 0.6, 4.0) * canvas.unit / 256
    line = stroke(rng, height, width, thickness)
    if rng.random() < 0.5:
        line = np.minimum(feathered(line, float(rng.uniform(0.5, 1.2))) * 1.5, 1.0)
    x, y = placed(rng, canvas, height, width)
    here = canvas.image[y : y + height, x : x + width].astype(np.float32)
    contrast = _contrast(rng, here)
    content = here + contrast * _tint(rng, canvas.grey)
    if rng.random() < 0.4:
        rim = np.roll(line, (1, 1), (0, 1)) - line
        content = np.where(rim[:, :, None] > 0.2, here - 0.7 * contrast, content)
        line = np.maximum(line, np.clip(rim, 0, 1))
    return Change(x, y, np.asarray(line, np.float32), np.asarray(content, np.float32))


def spots(rng: Generator, canvas: Canvas) -> Change:
    """One to a dozen small spots in a cluster: pores, pits, dust, splashes."""
    spread = canvas.unit * log_uniform(rng, 0.03, 0.3)
    height, width = fitted(canvas, spread, spread * float(rng.uniform(0.6, 1.6)))
    x, y = placed(rng, canvas, height, width)
    here = canvas.image[y : y + height, x : x + width].astype(np.float32)
    alpha = np.zeros((height, width), np.float32)
    single = rng.random() < 0.4
    for _ in range(1 if single else int(rng.integers(2, 12))):
        size = log_uniform(rng, 2.0, 20.0 if single else 10.0) * canvas.unit / 256
        spot_h, spot_w = (max(1, min(round(size * rng.uniform(0.6, 1.5)), side)) for side in (height, width))
        top, left = int(rng.integers(0, height - spot_h + 1)), int(rng.integers(0, width - spot_w + 1))
        view = alpha[top : top + spot_h, left : left + spot_w]
        np.maximum(view, blob(rng, spot_h, spot_w) * rng.uniform(0.5, 1.0), out=view)
    if rng.random() < 0.6:
        alpha = feathered(alpha, float(rng.uniform(0.4, 1.5)))
    content = here + _contrast(rng, here) * _tint(rng, canvas.grey)
    return Change(x, y, np.where(alpha > 0.02, alpha, 0).astype(np.float32), np.asarray(content, np.float32))


def dent(rng: Generator, canvas: Canvas) -> Change:
    """A dent or bump under light from one side: bright towards it, dark away from it."""
    height, width = sized(rng, canvas, 0.025, 0.3)
    x, y = placed(rng, canvas, height, width)
    room_y, room_x = height // 4, width // 4  # for the slopes outside its outline
    surface = np.zeros((height, width), np.float32)
    surface[room_y : height - room_y, room_x : width - room_x] = blob(rng, height - 2 * room_y, width - 2 * room_x)
    surface = feathered(surface, max(0.6, min(height, width) * float(rng.uniform(0.04, 0.1))))
    slope_y, slope_x = np.gradient(surface)
    light = rng.uniform(0, 2 * np.pi)
    relief = np.cos(light) * slope_x + np.sin(light) * slope_y
    relief = relief / max(float(np.abs(relief).max()), 1e-6)
    here = canvas.image[y : y + height, x : x + width].astype(np.float32)
    content = here + (abs(_contrast(rng, here)) * relief)[:, :, None]
    return Change(x, y, (np.abs(relief) > 0.05).astype(np.float32), np.asarray(content, np.float32))


def chip(rng: Generator, canvas: Canvas) -> Change:
    """A piece missing at the picture's rim: dark, or what a patch from elsewhere shows, smoothed.

    On a plain background the rim is that of the part, and the background shows in the piece's place; a window that shows none
    of that rim gets a dent.
    """
    if canvas.on_part is not None:
        edge = _edge(canvas.on_part)
        return dent(rng, canvas) if edge is None else _bite(rng, canvas, canvas.on_part, edge)
    height, width = sized(rng, canvas, 0.03, 0.25)
    rows, columns = canvas.image.shape[:2]
    side = int(rng.integers(4))
    x, y = placed(rng, canvas, height, width)
    x = (x, columns - width, x, 0)[side]
    y = (0, y, rows - height, y)[side]
    doubled = blob(rng, 2 * height, 2 * width)
    cut = ((height, x % width), (y % height, 0), (0, x % width), (y % height, width))[side]
    alpha = doubled[cut[0] : cut[0] + height, cut[1] : cut[1] + width]
    here = canvas.image[y : y + height, x : x + width].astype(np.float32)
    if rng.random() < 0.5:
        content = np.full_like(here, rng.uniform(0, 90)) + 4 * smooth_noise(rng, height, width, 4)[:, :, None]
    else:
        content = cv2.GaussianBlur(region_of(rng, canvas.donor(rng), height, width), (0, 0), 2.0) * rng.uniform(0.4, 1.5)
    return Change(x, y, feathered(np.ascontiguousarray(alpha), float(rng.uniform(0, 1))), np.asarray(content, np.float32))


def _bite(rng: Generator, canvas: Canvas, on_part: NDArray[np.bool_], edge: NDArray[np.bool_]) -> Change:
    """A piece broken off the part's own edge."""
    rows, columns = canvas.image.shape[:2]
    height, width = sized(rng, canvas, 0.03, 0.2)
    x, y = _at_edge(rng, edge, (rows, columns), (height, width))
    here = canvas.image[y : y + height, x : x + width].astype(np.float32)
    cells = cv2.resize(on_part.astype(np.uint8), (columns, rows), interpolation=cv2.INTER_NEAREST)
    outside = cells[y : y + height, x : x + width] == 0
    level = np.median(here[outside], axis=0) if outside.any() else np.median(canvas.image[cells == 0], axis=0)
    content = np.full_like(here, level) + 2 * rng.standard_normal((height, width, 1)).astype(np.float32)
    return Change(x, y, feathered(blob(rng, height, width), float(rng.uniform(0, 0.8))), np.asarray(content, np.float32))


def bend(rng: Generator, canvas: Canvas) -> Change:
    """The part's own outline pushed to one side: a bent tip, a burr, a thread that was hit. Without an outline: see `warp`."""
    edge = None if canvas.on_part is None else _edge(canvas.on_part)
    if edge is None:
        return warp(rng, canvas)
    height, width = sized(rng, canvas, 0.06, 0.35)
    x, y = _at_edge(rng, edge, canvas.image.shape[:2], (height, width))
    here = canvas.image[y : y + height, x : x + width]
    grid_y, grid_x = np.mgrid[0:height, 0:width].astype(np.float32)
    across, down = (2 * grid_x + 1) / width - 1, (2 * grid_y + 1) / height - 1
    hill = np.square(np.clip(1 - across**2 - down**2, 0, None))  # most in the middle, smoothly none at the rim
    direction, push = rng.uniform(0, 2 * np.pi), max(2.0, min(height, width) * float(rng.uniform(0.08, 0.3)))
    map_x = grid_x + np.float32(push * np.cos(direction)) * hill
    map_y = grid_y + np.float32(push * np.sin(direction)) * hill
    moved = cv2.remap(np.ascontiguousarray(here), map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return Change(x, y, (hill > 0).astype(np.float32), moved.astype(np.float32))


def _edge(on_part: NDArray[np.bool_]) -> NDArray[np.bool_] | None:
    """The part's edge in the cells of its mask; None: this window shows nothing but the part, or nothing of it."""
    # The mask is coarse and begins a cell outside the part.
    outer = cv2.erode(on_part.astype(np.uint8), np.ones((3, 3), np.uint8), borderValue=1)
    inner = cv2.erode(outer, np.ones((3, 3), np.uint8), borderValue=1)
    edge = (outer > inner) if outer.any() else on_part
    return edge if edge.any() else None


def _at_edge(rng: Generator, edge: NDArray[np.bool_], image_hw: tuple[int, ...], box_hw: tuple[int, int]) -> tuple[int, int]:
    """Left and top of a box of this size around a place on the part's edge."""
    (rows, columns), (height, width) = image_hw[:2], box_hw
    aim = point_on(rng, edge, rows, columns) or (columns // 2, rows // 2)
    return min(max(aim[0] - width // 2, 0), columns - width), min(max(aim[1] - height // 2, 0), rows - height)


def shade(rng: Generator, canvas: Canvas) -> Change:
    """Another brightness over a larger area with an outline to be seen: stains, uneven coating or grinding, heat marks.

    Softer changes than these are what light does to good parts, and are taught as normal.
    """
    if canvas.on_part is None and rng.random() < 0.35:
        x, y, alpha = strip(rng, canvas)
        height, width = alpha.shape
    else:
        height, width = sized(rng, canvas, 0.08, 0.8)
        x, y = placed(rng, canvas, height, width)
        alpha = blob(rng, height, width) if rng.random() < 0.7 else rectangle(rng, height, width)
    alpha = feathered(alpha, log_uniform(rng, 0.4, max(0.5, 0.06 * min(height, width))))
    alpha = np.where(alpha > 0.02, alpha, 0).astype(np.float32)
    here = canvas.image[y : y + height, x : x + width].astype(np.float32)
    strength = float(rng.uniform(0.15, 0.7)) * rng.choice([-1, 1])
    content = here * np.exp(strength * np.abs(_tint(rng, canvas.grey))) + 10 * strength
    return Change(x, y, alpha, np.asarray(content, np.float32))


def texture(rng: Generator, canvas: Canvas) -> Change:
    """The surface itself changes: smeared, smoothed, roughened, or overlaid with grain; at times along a whole strip."""
    outline: Mask
    if canvas.on_part is None and rng.random() < STRIPS:
        x, y, outline = strip(rng, canvas)
        height, width = outline.shape
    else:
        height, width = sized(rng, canvas, 0.05, 0.5)
        x, y = placed(rng, canvas, height, width)
        outline = blob(rng, height, width)
    here = canvas.image[y : y + height, x : x + width].astype(np.float32)
    choice = int(rng.integers(4))
    if choice == 0:  # smeared, up to quite bare
        bare = cv2.GaussianBlur(here, (0, 0), log_uniform(rng, 1.5, 16)) * float(rng.uniform(0.75, 1.2))
        content = bare + float(rng.uniform(0, 4)) * smooth_noise(rng, height, width, 1.0)[:, :, None]
    elif choice == 1:
        n = int(rng.integers(5, 21))
        kernel = np.zeros((n, n), np.float32)
        angle = rng.uniform(0, np.pi)
        tip_x, tip_y = n / 2 * np.cos(angle), n / 2 * np.sin(angle)
        start, end = (int(n / 2 - tip_x), int(n / 2 - tip_y)), (int(n / 2 + tip_x), int(n / 2 + tip_y))
        cv2.line(kernel, start, end, 1.0)
        smeared = cv2.filter2D(here, -1, kernel / max(kernel.sum(), 1.0), borderType=cv2.BORDER_REFLECT)
        content = np.asarray(smeared, np.float32)
    elif choice == 2:
        content = here + (here - cv2.GaussianBlur(here, (0, 0), 3.0)) * float(rng.uniform(1, 3))
    else:
        grain = smooth_noise(rng, height, width, log_uniform(rng, 1.0, 8.0))
        content = here + grain[:, :, None] * float(rng.uniform(8, 40)) * _tint(rng, canvas.grey)
    alpha = _inner(outline, min(height, width) * float(rng.uniform(0, 0.1)))
    return Change(x, y, alpha, np.asarray(content, np.float32))


def warp(rng: Generator, canvas: Canvas) -> Change:
    """Structure misplaced (bent, shifted, swirled) or missing (filled in from around)."""
    height, width = sized(rng, canvas, 0.1, 0.45)
    x, y = placed(rng, canvas, height, width)
    here = canvas.image[y : y + height, x : x + width]
    alpha = _inner(blob(rng, height, width), min(height, width) * 0.06)
    if rng.random() < 0.3 and height * width < 64 * 64:
        hole = (alpha > 0).astype(np.uint8)
        hole[[0, -1]] = 0
        hole[:, [0, -1]] = 0
        return Change(x, y, alpha, cv2.inpaint(np.ascontiguousarray(here), hole, 3, cv2.INPAINT_TELEA).astype(np.float32))
    bend = min(height, width) * float(rng.uniform(0.12, 0.45))
    cell = max(height, width) * float(rng.uniform(0.3, 1.2))
    grid_y, grid_x = np.mgrid[0:height, 0:width].astype(np.float32)
    map_x = grid_x + bend * smooth_noise(rng, height, width, cell)
    map_y = grid_y + bend * smooth_noise(rng, height, width, cell)
    moved = cv2.remap(np.ascontiguousarray(here), map_x, map_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    return Change(x, y, alpha, moved.astype(np.float32))


def missing(rng: Generator, canvas: Canvas) -> Change:
    """A feature of the part that is not there: a hole not drilled, a mark not printed. What surrounds it goes on in its place.

    Of many boxes the one is taken that has most structure inside and least on its rim: it holds a feature whole. Where none
    does, on a plain texture, structure is bent instead.
    """
    rows, columns = canvas.image.shape[:2]
    grey = channel_mean(canvas.image)
    edges = np.hypot(cv2.Sobel(grey, cv2.CV_32F, 1, 0), cv2.Sobel(grey, cv2.CV_32F, 0, 1))
    sums = cv2.integral(edges)

    def mean(y: int, x: int, h: int, w: int) -> float:
        return float(sums[y + h, x + w] - sums[y, x + w] - sums[y + h, x] + sums[y, x]) / (h * w)

    best, best_merit = (0, 0, min(8, rows), min(8, columns)), -np.inf
    flat, flat_edges = best, np.inf
    for _ in range(80):
        height, width = sized(rng, canvas, 0.05, 0.25)
        x, y = placed(rng, canvas, height, width)
        if min(height, width) < 8:
            continue
        whole, inner = mean(y, x, height, width), mean(y + 2, x + 2, height - 4, width - 4)
        area, inner_area = height * width, (height - 4) * (width - 4)
        rim = (whole * area - inner * inner_area) / (area - inner_area)
        if whole - 2 * rim > best_merit:
            best, best_merit = (y, x, height, width), whole - 2 * rim
        if whole < flat_edges:
            flat, flat_edges = (y, x, height, width), whole
    if best_merit <= 0:
        return warp(rng, canvas)
    y, x, height, width = best
    here = canvas.image[y : y + height, x : x + width]
    alpha = _inner(np.asarray(cv2.ellipse(np.zeros((height, width), np.float32), _ellipse(height, width), 1.0, -1)), 1.0)
    hole = (alpha > 0).astype(np.uint8)
    if rng.random() < 0.6:
        content = cv2.inpaint(np.ascontiguousarray(here), hole, 3, cv2.INPAINT_TELEA).astype(np.float32)
        content += rng.normal(0, 2, content.shape[:2]).astype(np.float32)[:, :, None]
    else:  # the flattest place seen, brought to the brightness of the rim
        source = canvas.image[flat[0] : flat[0] + flat[2], flat[1] : flat[1] + flat[3]]
        content = cv2.resize(source, (width, height), interpolation=cv2.INTER_LINEAR).astype(np.float32)
        rim_level = here[hole == 0].mean(axis=0) if (hole == 0).any() else here.mean(axis=(0, 1))
        content += rim_level - content.mean(axis=(0, 1))
    return Change(x, y, alpha, np.asarray(content, np.float32))


KINDS: dict[str, Callable[[Generator, Canvas], Change]] = {
    "hard": hard,
    "blend": blend,
    "scratch": scratch,
    "spots": spots,
    "dent": dent,
    "chip": chip,
    "bend": bend,
    "shade": shade,
    "texture": texture,
    "warp": warp,
    "missing": missing,
}


def _ellipse(height: int, width: int) -> tuple[tuple[float, float], tuple[float, float], float]:
    """The ellipse that fills a box but for its outermost pixels, as OpenCV takes it."""
    return ((width - 1) / 2, (height - 1) / 2), (max(1.0, width - 3.0), max(1.0, height - 3.0)), 0.0


def _rotated(rng: Generator, patch: Patch) -> Patch:
    """Turned by any angle, mirrored at the rim."""
    height, width = patch.shape[:2]
    turn = cv2.getRotationMatrix2D((width / 2, height / 2), float(rng.uniform(20, 340)), 1.0)
    return np.asarray(cv2.warpAffine(patch, turn, (width, height), borderMode=cv2.BORDER_REFLECT), np.float32)


def _permuted(rng: Generator, patch: Patch) -> Patch:
    """Its four quarters in another order."""
    height, width = patch.shape[0] // 2 * 2, patch.shape[1] // 2 * 2
    if min(height, width) < 2:
        return patch
    half_h, half_w = height // 2, width // 2
    quarters = [patch[i : i + half_h, j : j + half_w] for i in (0, half_h) for j in (0, half_w)]
    a, b, c, d = (quarters[i].copy() for i in rng.permutation(4))
    out: Patch = patch.copy()
    out[:height, :width] = np.vstack([np.hstack([a, b]), np.hstack([c, d])])
    return out


def _jittered(rng: Generator, patch: Patch, grey: bool) -> Patch:
    """Brightness and contrast changed, colours too where there are any."""
    mean = patch.mean(axis=(0, 1), keepdims=True)
    shift = rng.uniform(-60, 60) + (0 if grey else rng.uniform(-30, 30, 3))
    return np.asarray((patch - mean) * rng.uniform(0.5, 1.6) + mean + shift, np.float32)


def _inner(outline: Mask, sigma: float) -> Mask:
    """Soften an outline inwards: exactly 0 outside it."""
    return np.asarray(feathered(outline, sigma) * outline, np.float32)


def _contrast(rng: Generator, here: Patch) -> float:
    """Signed grey-value difference of a defect to its surroundings: from hardly to plainly visible against its texture.

    More often to the side that has room.
    """
    grey = channel_mean(here)
    texture_std = float((grey - cv2.GaussianBlur(grey, (0, 0), 4.0)).std())
    sign = 1 if rng.random() > 0.15 + 0.7 * float(grey.mean()) / 255 else -1
    return sign * min(log_uniform(rng, 1.3, 10.0) * float(np.hypot(8.0, texture_std)), 130.0)


def _tint(rng: Generator, grey: bool) -> NDArray[np.float32]:
    """Colour of a change, float32 [3] around 1; equal channels on grey pictures and half of the others."""
    if grey or rng.random() < 0.5:
        return np.ones(3, np.float32)
    return rng.uniform(0.3, 1.3, 3).astype(np.float32)
