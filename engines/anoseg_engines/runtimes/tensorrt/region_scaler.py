"""Scales the region of a camera image on the GPU, as two small matrix products (`kernels/scale.cu`), and cuts it into inputs.

NOT RUN ON A GPU YET; `make gpu-check` runs it on one. Tests run the kernels on a mock of the CUDA driver. The lanes share a
`RegionScaler`. One thread at a time uses a lane's `RegionBuffers`.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Sequence
from importlib import resources
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from anoseg_engines.errors import EngineError, GpuMemoryError
from anoseg_engines.placement import InputSpec, Placement, Region
from anoseg_engines.runtimes.tensorrt.device import Device, Stream, upload_now
from anoseg_engines.scaling_weights import ScalingWeights, scaling_weights

KERNELS = ("scale_rows", "scale_columns")
ARGUMENTS = "PPPPPPPPiiiiiiiifi"
"""`struct Scaling` in scale.cu: eight pointers, eight integers, a float and padding."""
BLOCK = 128
CHECKED_SIZE = 4096
"""The greatest width and height of a region with which the kernels are checked when they are loaded."""


class RegionScaler:
    """Runs the kernels of a device that has loaded them."""

    def __init__(self, device: Device) -> None:
        self._device = device

    @classmethod
    def open(cls, device: Device, spec: InputSpec) -> RegionScaler | None:
        """Load the kernels, and check that they scale a picture as the processor does. The context must be current.

        Returns:
            None if the device has no kernels, they give other grey values, or they could not be checked. The processor then
            scales regions.

        Raises:
            GpuMemoryError: There is not enough memory.
        """
        try:
            ptx = resources.files(__package__).joinpath("kernels").joinpath("scale.ptx").read_bytes()
            if not device.load_kernels(ptx, dict.fromkeys(KERNELS, ARGUMENTS)):
                return None
            scaler = cls(device)
            return scaler if scaler._agrees(spec) else None
        except GpuMemoryError:
            raise
        except EngineError:
            return None

    def put(self, stream: Stream, arguments: Sequence[float], grids: Sequence[tuple[int, int, int]]) -> None:
        """Put both products on a stream."""
        for name, grid in zip(KERNELS, grids, strict=True):
            stream.run_kernel(name, grid, (BLOCK, 1, 1), arguments)

    def _agrees(self, spec: InputSpec) -> bool:
        """Whether noise in grey and colour is scaled as on the processor. False if no region could be compared."""
        if spec.mode == "tile" and spec.scale == 1:
            return True  # no region is scaled
        compared = [
            self._difference(placement, channels)
            for placement in (Placement.of(spec, region) for region in _checked_regions(spec))
            for channels in (1, 3)
            if ScaledPlacement.needs(placement, channels) is not None
        ]
        return bool(compared) and max(compared) <= 1

    def _difference(self, placement: Placement, channels: int) -> int:
        """Scale a picture of noise on the GPU and on the processor, and return the largest difference in grey values."""
        device, spec, region = self._device, placement.spec, placement.region
        noise = np.random.default_rng(0).integers(0, 256, (region.height, region.width, channels), np.uint8)
        expected = np.empty((len(placement.tiles), spec.height, spec.width, 3), np.uint8)
        placement.fill(noise, expected)
        with contextlib.ExitStack() as stack:
            buffers = RegionBuffers(self, device, noise.nbytes, placement.part_height * region.width * channels)
            stack.callback(buffers.close)
            address = device.allocate(expected.nbytes)
            stack.callback(device.free, address)
            found: NDArray[np.uint8] = device.pinned(expected.nbytes, np.uint8)
            stack.callback(device.unpin, found)
            stream = device.open_stream()
            scaled = ScaledPlacement(buffers, placement, channels=channels, stream=stream)
            stack.callback(scaled.close)
            stack.callback(stream.close)  # first of all: it waits for what uses the memory
            scaled.region_HWC[:] = noise
            scaled.put(stream, address)
            stream.download(found, address)
            stream.synchronize()
            return int(cv2.absdiff(found.reshape(expected.shape), expected).max())


class RegionBuffers:
    """The memory of one lane for a region: page-locked for the camera's pixels, on the device for them and the scaled rows."""

    def __init__(self, scaler: RegionScaler, device: Device, region_bytes: int, row_values: int) -> None:
        self.scaler = scaler
        self.device = device
        self.region_bytes = region_bytes
        self.row_values = row_values
        self._addresses: list[int] = []
        self.host: NDArray[np.uint8] = device.pinned(region_bytes, np.uint8)
        try:
            for size in (region_bytes, 2 * row_values):
                self._addresses.append(device.allocate(size))
        except BaseException:
            self.close()
            raise
        self.region, self.rows = self._addresses

    def hold(self, region_bytes: int, row_values: int) -> bool:
        """Whether they are large enough."""
        return region_bytes <= self.region_bytes and row_values <= self.row_values

    def close(self) -> None:
        """Free all. No work that uses it may be waiting."""
        for address in self._addresses:
            self.device.free(address)
        self.device.unpin(self.host)


class ScaledPlacement:
    """How one placement is scaled in a lane.

    Attributes:
        region_HWC: Page-locked, uint8 [H, W, C]. Fill it with the camera's pixels before `put` runs.
    """

    def __init__(self, buffers: RegionBuffers, placement: Placement, *, channels: int, stream: Stream) -> None:
        tables = _tables(placement)
        assert tables is not None
        y, x = tables.y, tables.x
        region, spec = placement.region, placement.spec
        tiles = np.array([(tile.x, tile.y) for tile in placement.tiles], np.int32)
        packed, offsets = _packed([y.starts_N, x.starts_N, y.weights_NT, x.weights_NT, tiles])
        self._buffers = buffers
        self.region_HWC = buffers.host[: region.height * region.width * channels].reshape(region.height, region.width, channels)
        self._table = buffers.device.allocate(packed.nbytes)
        try:
            upload_now(buffers.device, stream, self._table, packed)
        except BaseException:
            self.close()
            raise
        taps = [axis.weights_NT.shape[1] for axis in (y, x)]
        part = (placement.part_height, placement.part_width)
        self._sizes = (region.width, channels, *part, *taps, spec.height, spec.width, 0.5 + tables.offset, 0)
        self._tables = [self._table + offset for offset in offsets]
        self._grids = [
            (-(-region.width * channels // BLOCK), placement.part_height, 1),
            (-(-spec.width // BLOCK), spec.height, len(placement.tiles)),
        ]

    @classmethod
    def needs(cls, placement: Placement, channels: int) -> tuple[int, int] | None:
        """The bytes of the region, and the number of values of its scaled rows. None if the GPU does not scale it."""
        region = placement.region
        if (region.width, region.height) == (placement.part_width, placement.part_height) or _tables(placement) is None:
            return None
        return region.height * region.width * channels, placement.part_height * region.width * channels

    def put(self, stream: Stream, frames: int) -> None:
        """Put the upload of the region and the scaling into `frames` on a stream."""
        buffers = self._buffers
        stream.upload(buffers.region, self.region_HWC)
        buffers.scaler.put(stream, (buffers.region, buffers.rows, frames, *self._tables, *self._sizes), self._grids)

    def close(self) -> None:
        """Free the tables."""
        self._buffers.device.free(self._table)


def _checked_regions(spec: InputSpec) -> list[Region]:
    """A region that is shrunk or is several tiles, and a small one. Their odd sizes make narrower blocks and padding."""
    sizes = [(4 * spec.width + 5, 3 * spec.height + 3), (spec.width // 2 + 1, spec.height // 3 + 1)]
    if spec.mode == "tile":
        part = [(spec.width + 9, spec.height + 7), sizes[1]]
        sizes = [(math.ceil(width / spec.scale), math.ceil(height / spec.scale)) for width, height in part]
    return [Region(0, 0, min(width, CHECKED_SIZE), min(height, CHECKED_SIZE)) for width, height in sizes]


def _tables(placement: Placement) -> ScalingWeights | None:
    region = (placement.region.height, placement.region.width)
    return scaling_weights(region, (placement.part_height, placement.part_width), placement.spec.shrink or "area")


def _packed(arrays: Sequence[NDArray[Any]]) -> tuple[NDArray[np.uint8], list[int]]:
    """Put arrays of 4-byte numbers one behind the other. Returns the bytes, and where each array starts."""
    parts = [np.ascontiguousarray(array).reshape(-1).view(np.uint8) for array in arrays]
    return np.concatenate(parts), [sum(part.nbytes for part in parts[:i]) for i in range(len(parts))]
