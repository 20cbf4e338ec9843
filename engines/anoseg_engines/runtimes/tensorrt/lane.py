"""One lane of the TensorRT runtime: a stream with its own buffers, scratch memory and graphs.

NOT RUN ON A GPU YET; `make gpu-check` runs it on one. Several lanes run at the same time, so that the upload, the network and
the download of different parts overlap. One thread at a time uses a lane.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from anoseg_engines.errors import EngineError, GpuMemoryError
from anoseg_engines.placement import InputSpec
from anoseg_engines.runtimes.tensorrt.device import Device, Graph, Stream, upload_now

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
    """One batch size: how to run it, and views of the page-locked host buffers. Without a graph, `enqueue` runs each time."""

    enqueue: Enqueue
    graph: Graph | None
    frames_NHWC: NDArray[np.uint8]
    maps_NHW: NDArray[np.floating]
    scores_N: NDArray[np.float32]
    results: NDArray[np.uint8]


class Lane:
    """A set of buffers, made when it is bound for the first time. Implements `InferRequest`."""

    def __init__(self, spec: InputSpec, device: Device, network: Network, coordinates: ResidentCoordinates) -> None:
        self._spec = spec
        self._device = device
        self._network = network
        self._coordinates = coordinates
        self._buffers: _Buffers | None = None
        self._batches: dict[int, _Batch] = {}
        self._bound: _Batch | None = None
        self._bound_coords: NDArray[np.float16] | None = None
        self._making = threading.Lock()  # `keep_ready` comes from any thread

    @property
    def runs_without_graph(self) -> bool:
        """Whether a batch size could not be captured in a graph."""
        return any(batch.graph is None for batch in self._batches.values())

    def bind(self, coords_N2HW: NDArray[np.float16]) -> NDArray[np.uint8]:
        """Bind coordinates. The graphs read them at one fixed address, to which the device copies them for each placement."""
        self._bound = None
        batch = self.make_ready(len(coords_N2HW))
        if self._bound_coords is not coords_N2HW:
            self._bound_coords = None
            assert self._buffers is not None
            with self._device.current():
                self._coordinates.copy_to(self._buffers.coords, coords_N2HW, self._buffers.stream)
            self._bound_coords = coords_N2HW
        self._bound = batch
        return batch.frames_NHWC

    def infer(self) -> tuple[NDArray[np.floating], NDArray[np.float32]]:
        """Upload, run and download. The returned arrays are views of page-locked memory, valid until the next call."""
        batch, buffers = self._bound, self._buffers
        if batch is None or buffers is None:
            raise EngineError("no coordinates are bound")
        with self._device.current():
            if batch.graph is not None:
                buffers.stream.launch(batch.graph)
            else:
                _put(batch.enqueue, buffers, batch.frames_NHWC, batch.results)
            buffers.stream.synchronize()
        return batch.maps_NHW, batch.scores_N

    def device_ms(self, times: int) -> float:
        """Return the milliseconds of one part on the device, copies included."""
        if self._bound is None or self._bound.graph is None or self._buffers is None:
            raise EngineError("nothing is bound on a GPU, or it runs without a graph")
        measure: Any = getattr(self._buffers.stream, "device_ms", None)
        if measure is None:
            raise EngineError("this device measures no time")
        with self._device.current():
            return float(measure(self._bound.graph, times))

    def make_ready(self, n: int) -> _Batch:
        """Make the buffers and the graph for batches of N, if they are not there yet."""
        if n > self._network.max_batch:
            raise EngineError(
                f"the part has {n} tiles, the plan takes at most {self._network.max_batch}",
                hint=f"rebuild it: anoseg-engine build BUNDLE --max-batch {n}",
            )
        with self._making:
            if n not in self._batches:
                with self._device.current():
                    if self._buffers is None:
                        self._buffers = _Buffers(self._spec, self._device, self._network)
                    self._batches[n] = self._make_batch(n, self._buffers)
                    self._network.prepared()
            return self._batches[n]

    def close(self) -> None:
        """Destroy the graphs and the stream, and free the buffers. The context must be current."""
        self._bound = self._bound_coords = None
        self._batches.clear()
        if self._buffers is not None:
            self._buffers.close()
            self._buffers = None

    def _make_batch(self, n: int, buffers: _Buffers) -> _Batch:
        """Run the network once, so that it has allocated everything, then capture upload, network and download as one graph."""
        h, w = self._spec.height, self._spec.width
        scores_at = buffers.scores_offset(n)
        tensors = {
            "frames": Tensor(buffers.frames, (n, h, w, 3)),
            "coords": Tensor(buffers.coords, (n, 2, h, w)),
            "anomaly_map": Tensor(buffers.results, (n, h, w)),
            "score": Tensor(buffers.results + scores_at, (n,)),
        }
        enqueue = self._network.prepare(tensors, buffers.stream.handle, buffers.scratch)
        frames = buffers.frames_host[: n * h * w * 3]
        results = buffers.results_host[: buffers.result_bytes(n)]
        _put(enqueue, buffers, frames, results)
        buffers.stream.synchronize()
        graph = _captured(enqueue, buffers, frames, results) if enqueue.capturable else None
        maps = results[: n * h * w * buffers.map_dtype.itemsize].view(buffers.map_dtype).reshape(n, h, w)
        scores = results[scores_at:].view(np.float32)
        return _Batch(enqueue, graph, frames.reshape(n, h, w, 3), maps, scores, results)


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


def _put(enqueue: Enqueue, buffers: _Buffers, frames: NDArray[np.uint8], results: NDArray[np.uint8]) -> None:
    buffers.stream.upload(buffers.frames, frames)
    enqueue()
    buffers.stream.download(results, buffers.results)


def _captured(enqueue: Enqueue, buffers: _Buffers, frames: NDArray[np.uint8], results: NDArray[np.uint8]) -> Graph | None:
    """Capture a part. None if the network cannot be captured, although it says that it can."""
    try:
        with buffers.stream.capture() as graph:
            _put(enqueue, buffers, frames, results)
        return graph
    except EngineError as error:
        if isinstance(error, GpuMemoryError):
            raise
        return None
