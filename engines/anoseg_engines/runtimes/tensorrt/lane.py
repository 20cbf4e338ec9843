"""One lane of the TensorRT runtime: a stream with its own buffers, scratch memory and graphs.

NOT RUN ON A GPU YET; `make gpu-check` runs it on one. Several lanes run at the same time, so that the upload, the network and
the download of different parts overlap. One thread at a time uses a lane.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from anoseg_engines.errors import EngineError, GpuMemoryError
from anoseg_engines.placement import InputSpec, Placement
from anoseg_engines.runtimes.tensorrt.device import Device, Graph, Stream, upload_now
from anoseg_engines.runtimes.tensorrt.region_scaler import RegionBuffers, RegionScaler, ScaledPlacement

MAX_PLACEMENTS = 32
"""The number of placements whose coordinates stay on the device. The one used longest ago is freed first."""
ALIGNMENT = 256  # bytes; TensorRT's requirement for addresses


@dataclass(frozen=True, slots=True)
class Tensor:
    """A tensor's device address and shape."""

    address: int
    shape: tuple[int, ...]


class Enqueue(Protocol):
    """A network with bound tensors."""

    def __call__(self) -> None:
        """Put the network on its stream.

        Raises:
            EngineError: It failed.
        """
        ...

    @property
    def capturable(self) -> bool:
        """Whether the network may be captured in a graph."""
        ...


class Network(Protocol):
    """A deserialised plan."""

    max_batch: int
    scratch_bytes: int

    def dtype(self, name: str) -> np.dtype[Any]:
        """A tensor's data type."""
        ...

    def prepare(self, tensors: Mapping[str, Tensor], stream: int, scratch: int) -> Enqueue:
        """Bind the tensors for one batch size, with `scratch_bytes` of memory that no other lane uses at the same time."""
        ...

    def prepared(self) -> None:
        """Called after a batch size has run for the first time."""
        ...

    def close(self) -> None:
        """Free everything. Nothing that was prepared may be used afterwards."""
        ...


@dataclass(frozen=True, slots=True)
class Shared:
    """What the lanes share. `scaler` is None if regions are scaled on the processor."""

    coordinates: ResidentCoordinates
    scaler: RegionScaler | None


class ResidentCoordinates:
    """The coordinates of placements, on the device. The lanes share them."""

    def __init__(self, device: Device) -> None:
        self._device = device
        self._resident: OrderedDict[int, tuple[NDArray[np.float16], int]] = OrderedDict()

    def copy_to(self, target: int, coords: NDArray[np.float16], stream: Stream) -> None:
        """Copy the coordinates to a lane's buffer. They are uploaded the first time.

        The array is kept, so that no other array can get its id. The copy has ended on return, so that another lane may free
        the coordinates that were used longest ago.
        """
        key = id(coords)
        if key not in self._resident:
            if len(self._resident) >= MAX_PLACEMENTS:
                _, (_, oldest) = self._resident.popitem(last=False)
                self._device.free(oldest)
            address = self._device.allocate(coords.nbytes)
            try:
                upload_now(self._device, stream, address, coords)
            except BaseException:
                self._device.free(address)
                raise
            self._resident[key] = (coords, address)
        self._resident.move_to_end(key)
        stream.copy(target, self._resident[key][1], coords.nbytes)
        stream.synchronize()

    def close(self) -> None:
        """Free all."""
        while self._resident:
            self._device.free(self._resident.popitem()[1][1])


@dataclass(frozen=True, slots=True)
class _Batch:
    """One batch size: the network with its tensors, and views of the page-locked buffers."""

    enqueue: Enqueue
    frames_NHWC: NDArray[np.uint8]
    maps_NHW: NDArray[np.floating]
    scores_N: NDArray[np.float32]
    results: NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class _Work:
    """All that one part puts on the stream, from its upload to its download. Without a graph, `put` is called for each part."""

    batch: _Batch
    put: Callable[[], None]
    graph: Graph | None


@dataclass(frozen=True, slots=True)
class _ScaledWork:
    """The work of a placement whose region the GPU scales. The placement is kept, so that no other one can get its id."""

    placement: Placement
    scaled: ScaledPlacement
    work: _Work


class Lane:
    """A set of buffers, made when it is bound for the first time. Implements `InferRequest` and `ScalesRegions`."""

    def __init__(self, spec: InputSpec, device: Device, network: Network, shared: Shared) -> None:
        self._spec = spec
        self._device = device
        self._network = network
        self._shared = shared
        self._buffers: _Buffers | None = None
        self._works: dict[int, _Work] = {}
        self._region: RegionBuffers | None = None
        self._scaled: OrderedDict[tuple[int, int], _ScaledWork] = OrderedDict()
        self._bound: _Work | None = None
        self._bound_coords: NDArray[np.float16] | None = None
        self._making = threading.Lock()  # `keep_ready` comes from any thread

    @property
    def runs_without_graph(self) -> bool:
        """Whether a batch size could not be captured in a graph."""
        return any(work.graph is None for work in self._works.values())

    def bind(self, coords_N2HW: NDArray[np.float16]) -> NDArray[np.uint8]:
        """Bind coordinates. The graphs read them at one fixed address, to which the device copies them for each placement."""
        self._bound = None
        work = self.make_ready(len(coords_N2HW))
        self._bind_coords(coords_N2HW)
        self._bound = work
        return work.batch.frames_NHWC

    def bind_region(self, placement: Placement, channels: int) -> NDArray[np.uint8] | None:
        """Bind a placement whose region the GPU scales."""
        scaler, key = self._shared.scaler, (id(placement), channels)
        needs = None if scaler is None else ScaledPlacement.needs(placement, channels)
        if scaler is None or needs is None:
            return None
        self._bound = None
        batch = self.make_ready(len(placement.tiles)).batch
        self._bind_coords(placement.coords_N2HW)
        if key not in self._scaled:
            with self._making, self._device.current():
                self._scaled[key] = self._make_scaled(scaler, placement, channels, needs, batch)
        self._scaled.move_to_end(key)
        self._bound = self._scaled[key].work
        return self._scaled[key].scaled.region_HWC

    def infer(self) -> tuple[NDArray[np.floating], NDArray[np.float32]]:
        """Upload, run and download. The returned arrays are views of page-locked memory, valid until the next call."""
        work, buffers = self._bound, self._buffers
        if work is None or buffers is None:
            raise EngineError("no coordinates are bound")
        with self._device.current():
            if work.graph is not None:
                buffers.stream.launch(work.graph)
            else:
                work.put()
            buffers.stream.synchronize()
        return work.batch.maps_NHW, work.batch.scores_N

    def device_ms(self, times: int) -> float:
        """Return the milliseconds of one part on the device, copies included."""
        if self._bound is None or self._bound.graph is None or self._buffers is None:
            raise EngineError("nothing is bound on a GPU, or it runs without a graph")
        measure: Any = getattr(self._buffers.stream, "device_ms", None)
        if measure is None:
            raise EngineError("this device measures no time")
        with self._device.current():
            return float(measure(self._bound.graph, times))

    def make_ready(self, n: int) -> _Work:
        """Make the buffers and the graph for batches of N, if they are not there yet."""
        if n > self._network.max_batch:
            raise EngineError(
                f"the part has {n} tiles, the plan takes at most {self._network.max_batch}",
                hint=f"rebuild it: anoseg-engine build BUNDLE --max-batch {n}",
            )
        with self._making:
            if n not in self._works:
                with self._device.current():
                    if self._buffers is None:
                        self._buffers = _Buffers(self._spec, self._device, self._network)
                    self._works[n] = self._make_work(n, self._buffers)
                    self._network.prepared()
            return self._works[n]

    def close(self) -> None:
        """Destroy the graphs and the stream, and free the buffers. The context must be current."""
        self._bound = self._bound_coords = None
        self._works.clear()
        if self._buffers is not None:
            self._buffers.stream.close()
            self._drop_scaled()
            self._buffers.close()
            self._buffers = None

    def _bind_coords(self, coords: NDArray[np.float16]) -> None:
        if self._bound_coords is coords:
            return
        self._bound_coords = None
        assert self._buffers is not None
        with self._device.current():
            self._shared.coordinates.copy_to(self._buffers.coords, coords, self._buffers.stream)
        self._bound_coords = coords

    def _make_work(self, n: int, buffers: _Buffers) -> _Work:
        h, w = self._spec.height, self._spec.width
        scores_at = buffers.scores_offset(n)
        tensors = {
            "frames": Tensor(buffers.frames, (n, h, w, 3)),
            "coords": Tensor(buffers.coords, (n, 2, h, w)),
            "anomaly_map": Tensor(buffers.results, (n, h, w)),
            "score": Tensor(buffers.results + scores_at, (n,)),
        }
        frames = buffers.frames_host[: n * h * w * 3]
        results = buffers.results_host[: buffers.result_bytes(n)]
        maps = results[: n * h * w * buffers.map_dtype.itemsize].view(buffers.map_dtype).reshape(n, h, w)
        enqueue = self._network.prepare(tensors, buffers.stream.handle, buffers.scratch)
        batch = _Batch(enqueue, frames.reshape(n, h, w, 3), maps, results[scores_at:].view(np.float32), results)
        return _work(batch, buffers, lambda: buffers.stream.upload(buffers.frames, frames))

    def _make_scaled(
        self, scaler: RegionScaler, placement: Placement, channels: int, needs: tuple[int, int], batch: _Batch
    ) -> _ScaledWork:
        buffers = self._buffers
        assert buffers is not None
        if self._region is None or not self._region.hold(*needs):
            self._drop_scaled()
            self._region = RegionBuffers(scaler, self._device, *needs)
        if len(self._scaled) >= MAX_PLACEMENTS:
            self._forget(self._scaled.popitem(last=False)[1])
        scaled = ScaledPlacement(self._region, placement, channels=channels, stream=buffers.stream)
        try:
            scaled.region_HWC[:] = 0
            work = _work(batch, buffers, lambda: scaled.put(buffers.stream, buffers.frames))
        except BaseException:
            buffers.stream.synchronize()
            scaled.close()
            raise
        return _ScaledWork(placement, scaled, work)

    def _drop_scaled(self) -> None:
        while self._scaled:
            self._forget(self._scaled.popitem()[1])
        if self._region is not None:
            self._region.close()
            self._region = None

    def _forget(self, old: _ScaledWork) -> None:
        assert self._buffers is not None
        if old.work.graph is not None:
            self._buffers.stream.forget(old.work.graph)
        old.scaled.close()


class _Buffers:
    """A stream and the memory of a lane, enough for the largest batch.

    Raises:
        GpuMemoryError: There is not enough. What was allocated is freed.
    """

    def __init__(self, spec: InputSpec, device: Device, network: Network) -> None:
        self._device = device
        self._pixels = spec.height * spec.width
        self._addresses: list[int] = []
        self._arrays: list[NDArray[np.uint8]] = []
        self.map_dtype = network.dtype("anomaly_map")
        most = network.max_batch
        self.stream = device.open_stream()
        try:
            self.frames = self._allocate(most * self._pixels * 3)
            self.coords = self._allocate(most * self._pixels * 4)
            self.results = self._allocate(self.result_bytes(most))
            self.scratch = self._allocate(max(network.scratch_bytes, ALIGNMENT))
            self.frames_host = self._pinned(most * self._pixels * 3)
            self.results_host = self._pinned(self.result_bytes(most))
            self.frames_host[:] = 0
            # Uninitialised memory could contain NaN coordinates.
            upload_now(device, self.stream, self.coords, np.zeros(most * self._pixels * 2, np.float16))
        except BaseException:
            self.close()
            raise

    def scores_offset(self, n: int) -> int:
        """Where the scores start behind N maps. Both are one block, so one download gets them."""
        return -(-n * self._pixels * self.map_dtype.itemsize // ALIGNMENT) * ALIGNMENT

    def result_bytes(self, n: int) -> int:
        """The size of N maps and scores."""
        return self.scores_offset(n) + n * 4

    def close(self) -> None:
        """Wait for the stream, then free everything."""
        self.stream.close()
        for address in self._addresses:
            self._device.free(address)
        for array in self._arrays:
            self._device.unpin(array)

    def _allocate(self, size: int) -> int:
        self._addresses.append(self._device.allocate(size))
        return self._addresses[-1]

    def _pinned(self, size: int) -> NDArray[np.uint8]:
        self._arrays.append(self._device.pinned(size, np.uint8))
        return self._arrays[-1]


def _work(batch: _Batch, buffers: _Buffers, put_inputs: Callable[[], None]) -> _Work:
    """Run a part once, so that the network has allocated everything, then capture it in a graph if it can be captured."""

    def put() -> None:
        put_inputs()
        batch.enqueue()
        buffers.stream.download(batch.results, buffers.results)

    put()
    buffers.stream.synchronize()
    if not batch.enqueue.capturable:
        return _Work(batch, put, None)
    try:
        with buffers.stream.capture() as graph:
            put()
    except GpuMemoryError:
        raise
    except EngineError:  # it cannot be captured, although it says that it can
        return _Work(batch, put, None)
    return _Work(batch, put, graph)
