"""Computes the geometry that links the camera image, the network's input and the anomaly map. Pure functions.

A Placement is made once for a camera's region and a bundle, and used for every part. It holds the precomputed coordinate
channels.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Literal

import cv2
import msgspec
import numpy as np
from msgspec import UNSET, UnsetType
from numpy.typing import NDArray

from anoseg_engines.errors import ConfigError
from anoseg_engines.images import Image
from anoseg_engines.scaling import scale_part

Mode = Literal["resize", "tile"]
PHASE = 32
"""Tiles start at multiples of this many part pixels. A network that halves its input five times then sees the same grid in
all of them, and two tiles agree where they overlap. Otherwise they differ by up to 0.1 (measured)."""


class InputSpec(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The network's input, fixed at training time.

    Attributes:
        height, width: Network pixels.
        mode: resize: the region is scaled to one input, its aspect ratio kept. tile: it is cut into overlapping inputs.
        scale: Network pixels per camera pixel (tile mode only).
        overlap: The least number of network pixels that neighbouring tiles share (tile mode only).
        shrink: How a larger region is scaled down, see `scaling.Shrink`. Omitted for area, which older bundles were made with;
            their seals have no such field.
    """

    height: int
    width: int
    mode: Mode = "resize"
    scale: float = 1.0
    overlap: int = 0
    shrink: Literal["blocks"] | UnsetType = UNSET

    def __post_init__(self) -> None:
        if self.height < 1 or self.width < 1:
            raise ValueError("height and width must be positive")
        if not 0 < self.scale < 100:
            raise ValueError("scale must be above 0")
        if self.overlap < 0 or (self.mode == "tile" and self.overlap >= min(self.height, self.width)):
            raise ValueError("overlap must be at least 0 and smaller than a tile")


class Region(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A rectangle in camera pixels; x and y are its left and top."""

    x: int
    y: int
    width: int
    height: int


@dataclass(frozen=True, slots=True)
class Tile:
    """The left and top of one network input, in pixels of the scaled part. If negative, the input starts with padding."""

    x: int
    y: int


@dataclass(frozen=True, slots=True)
class Placement:
    """How one region becomes N network inputs of H×W, and N maps become one part map.

    Attributes:
        region: Camera pixels.
        part_width, part_height: Size of the scaled part, and of the part map.
        tiles: The N inputs.
        coords_N2HW: FP16 [N, 2, H, W], x then y: −1…1 over the whole part, beyond that range in padding. The network masks
            its map in padding, so padding never scores. The array belongs to the placement and does not change.
    """

    spec: InputSpec
    region: Region
    part_width: int
    part_height: int
    tiles: tuple[Tile, ...]
    coords_N2HW: NDArray[np.float16]

    @classmethod
    def of(cls, spec: InputSpec, region: Region) -> Placement:
        """Plan the placement of `region` for a network with input `spec`.

        Raises:
            ConfigError: The region is empty.
        """
        if region.width < 1 or region.height < 1:
            raise ConfigError(f"region of {region.width}×{region.height} pixels is empty")
        if spec.mode == "resize":
            scale = min(spec.width / region.width, spec.height / region.height)
            part_width = min(spec.width, max(1, round(region.width * scale)))
            part_height = min(spec.height, max(1, round(region.height * scale)))
        else:
            part_width = max(1, round(region.width * spec.scale))
            part_height = max(1, round(region.height * spec.scale))
        xs = _starts(part_width, spec.width, spec.overlap)
        ys = _starts(part_height, spec.height, spec.overlap)
        tiles = tuple(Tile(x, y) for y in ys for x in xs)
        coords = np.stack([tile_coords(spec, part_width, part_height, tile) for tile in tiles])
        return cls(spec, region, part_width, part_height, tiles, coords)

    @property
    def scale_xy(self) -> tuple[float, float]:
        """Part-map pixels per camera pixel, along x and y."""
        return self.part_width / self.region.width, self.part_height / self.region.height

    def cut_region(self, image: Image) -> Image:
        """The region's pixels, a view of the camera image.

        Raises:
            ConfigError: The region reaches beyond the image.
        """
        r = self.region
        height, width = image.shape[:2]
        if r.x < 0 or r.y < 0 or r.x + r.width > width or r.y + r.height > height:
            raise ConfigError(
                f"region x={r.x} y={r.y} {r.width}×{r.height} reaches beyond the image of {width}×{height} pixels"
            )
        return image[r.y : r.y + r.height, r.x : r.x + r.width]

    def scaled_part(self, image: Image) -> Image:
        """Cut the region out of the camera image and scale it: uint8 [part_height, part_width, C], with the image's channels.

        Raises:
            ConfigError: The region reaches beyond the image.
        """
        return scale_part(self.cut_region(image), self.part_width, self.part_height, self.spec.shrink or "area")

    def fill(self, image: Image, frames_NHWC: NDArray[np.uint8]) -> None:
        """Write the N network inputs of a camera image into the caller's buffer, uint8 [N, H, W, 3]."""
        part = self.scaled_part(image)
        for tile, out in zip(self.tiles, frames_NHWC, strict=True):
            cut_tile(part, tile, out)

    def stitch(self, maps_NHW: NDArray[np.floating]) -> NDArray[np.float32]:
        """Join N tile maps into the part map, float32 [part_height, part_width], a new array.

        Overlapping tiles are blended, so that no step shows at a seam. The tile whose centre is nearer has more weight.
        """
        if len(self.tiles) == 1:
            tile, tile_map = self.tiles[0], maps_NHW[0]
            top, left = max(0, -tile.y), max(0, -tile.x)
            return np.array(tile_map[top : top + self.part_height, left : left + self.part_width], np.float32)
        window, weight = _blending(self.spec, self.part_height, self.part_width, self.tiles)
        part = np.zeros((self.part_height, self.part_width), np.float32)
        weighted = np.empty_like(window)
        for tile, tile_map in zip(self.tiles, maps_NHW, strict=True):
            np.multiply(tile_map, window, out=weighted)
            _add(part, weighted, tile)
        part /= weight
        return part


def cut_tile(part: Image, tile: Tile, out_HWC: NDArray[np.uint8]) -> None:
    """Copy the tile's part pixels into `out_HWC`, grey into all three channels. Padding mirrors the part."""
    height, width = out_HWC.shape[:2]
    top, left = max(0, -tile.y), max(0, -tile.x)
    y0, x0 = max(0, tile.y), max(0, tile.x)
    piece = part[y0 : tile.y + height, x0 : tile.x + width]
    if piece.shape[:2] != (height, width):
        bottom, right = height - top - piece.shape[0], width - left - piece.shape[1]
        piece = np.asarray(cv2.copyMakeBorder(piece, top, bottom, left, right, cv2.BORDER_REFLECT), np.uint8)
    if part.shape[2] == 1:
        cv2.cvtColor(piece, cv2.COLOR_GRAY2BGR, dst=out_HWC)
    else:
        out_HWC[:] = piece


def tile_coords(spec: InputSpec, part_width: int, part_height: int, tile: Tile) -> NDArray[np.float16]:
    """Coordinate channels of one tile, FP16 [2, H, W]: pixel centres, −1…1 over the part, ±2 in padding."""
    x = (2 * (np.arange(spec.width, dtype=np.float32) + tile.x) + 1) / part_width - 1
    y = (2 * (np.arange(spec.height, dtype=np.float32) + tile.y) + 1) / part_height - 1
    # Padding gets a value far outside the range, so that rounding to FP16 cannot bring it back inside.
    x = np.where(x < -1, -2.0, np.where(x > 1, 2.0, x))
    y = np.where(y < -1, -2.0, np.where(y > 1, 2.0, y))
    grid = np.broadcast_arrays(x[None, :], y[:, None])
    return np.stack(grid).astype(np.float16)


def seen_span(spec: InputSpec, part_height: int, part_width: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """The first and last part pixel (exclusive) that the inputs show along y, then along x, padding included."""

    def span(part: int, tile: int) -> tuple[int, int]:
        starts = _starts(part, tile, spec.overlap)
        return starts[0], starts[-1] + tile

    return span(part_height, spec.height), span(part_width, spec.width)


def _starts(part: int, tile: int, overlap: int) -> list[int]:
    """Return tile starts along one axis: one centred tile if the part fits, else the fewest tiles that share `overlap`.

    Starts are multiples of `PHASE`, if the tile is large enough. So the last tile can reach up to `PHASE` − 1 pixels beyond
    the part.
    """
    if part <= tile:
        return [-((tile - part) // 2)]
    phase = PHASE if tile - overlap >= PHASE else 1
    step = (tile - overlap) // phase * phase
    last = -(-(part - tile) // phase) * phase
    count = 1 + -(-last // step)
    return [min(i * step, last) for i in range(count)]


@lru_cache(maxsize=16)  # 7 MB for a part of 1469×1229
def _blending(
    spec: InputSpec, part_height: int, part_width: int, tiles: tuple[Tile, ...]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The window of a tile, and the sum of all windows in each pixel of the part. The same for every part of a placement."""
    window = _window(spec)
    weight = np.zeros((part_height, part_width), np.float32)
    for tile in tiles:
        _add(weight, window, tile)
    return window, weight


def _window(spec: InputSpec) -> NDArray[np.float32]:
    """Blending weights of a tile, float32 [H, W]: 1 inside, falling to nearly 0 towards the edge.

    Near the edge of its input a network sees zeros where the part continues. So the outer 3/8 of an overlap count only where
    there is no other tile, at the part's own border. Two tiles are blended over the middle quarter.
    """

    def ramp(n: int) -> NDArray[np.float32]:
        rim = max(1, spec.overlap)
        distance = np.minimum(np.arange(n), np.arange(n)[::-1]) + 1
        return np.asarray(np.clip((distance - 0.375 * rim) / max(0.25 * rim, 1), 1e-4, 1.0), np.float32)

    return np.outer(ramp(spec.height), ramp(spec.width)).astype(np.float32)


def _add(part: NDArray[np.float32], tile_map: NDArray[np.float32], tile: Tile) -> None:
    """Add the portion of `tile_map` that is on the part, in place."""
    top, left = max(0, -tile.y), max(0, -tile.x)
    y0, x0 = max(0, tile.y), max(0, tile.x)
    view = part[y0 : tile.y + tile_map.shape[0], x0 : tile.x + tile_map.shape[1]]
    view += tile_map[top : top + view.shape[0], left : left + view.shape[1]]
