"""Runs a plan with TensorRT. Everything is allocated at load; each part is one upload, one launch and one download.

NOT RUN ON A GPU YET; `make gpu-check` runs it on one. Tests run this module with a device layer whose "device memory" is host
memory. Only `device.py`, `graph.py` and `network.py` need the GPU. One thread at a time uses the runtime.
"""

from __future__ import annotations

import contextlib
from collections import OrderedDict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from anoseg_engines.bundle import Bundle
from anoseg_engines.errors import EngineError
from anoseg_engines.placement import InputSpec
from anoseg_engines.runtimes.base import InferRequest, Traffic
from anoseg_engines.runtimes.tensorrt.device import Device, Graph, PycudaDevice, as_bytes
from anoseg_engines.runtimes.tensorrt.library import find_library
from anoseg_engines.runtimes.tensorrt.network import TensorRTNetwork
from anoseg_engines.runtimes.tensorrt.plan import PlanDescription

MAX_PLACEMENTS = 32
"""The number of placements whose coordinates stay on the device. The one used longest ago is freed first."""
ALIGNMENT = 256  # bytes; TensorRT's requirement for addresses


class Network(Protocol):
    """A deserialised plan."""

    max_batch: int

    def dtype(self, name: str) -> np.dtype[Any]:
        """A tensor's data type."""
        ...

    def prepare(self, n: int, shapes: Mapping[str, tuple[int, ...]], addresses: Mapping[str, int]) -> Callable[[], None]:
        """Return a function that puts the network on the device's stream."""
        ...

    def close(self) -> None:
        """Free everything."""
        ...


@dataclass(frozen=True, slots=True)
class _Batch:
    """The graph of one batch size (upload, network, download), and views of the page-locked host buffers."""

    graph: Graph
    frames_NHWC: NDArray[np.uint8]
    maps_NHW: NDArray[np.floating]
    scores_N: NDArray[np.float32]


class TensorRTRuntime:
    """A plan on a GPU. One thread at a time uses it. The CUDA context is current on that thread only while a method runs.

    Raises:
        EngineError: The plan is refused, or the GPU's memory is full. Everything allocated so far is freed.
    """

    def __init__(self, spec: InputSpec, device: Device, network: Network, description: str) -> None:
        self._spec = spec
        self._device = device
        self._network = network
        self._description = description
        self._resident: OrderedDict[int, tuple[NDArray[np.float16], int]] = OrderedDict()
        self._bound_coords: NDArray[np.float16] | None = None
        self._bound: _Batch | None = None
        self._batches: dict[int, _Batch] = {}
        self._closed = False
        try:
            with device.current():
                self._make_buffers()
                for n in range(1, network.max_batch + 1):
                    self._batches[n] = self._make_batch(n)
        except BaseException:
            self.close()
            raise

    @classmethod
    def open(cls, bundle: Bundle, plan: bytes, description: PlanDescription) -> TensorRTRuntime:
        """Load a verified plan on this machine's GPU.

        Raises:
            EngineError: As the class.
        """
        library = find_library(description.library)
        device = PycudaDevice()
        try:
            with device.current():
                network = TensorRTNetwork(library, plan, device, description.max_batch)
        except BaseException:
            device.close()
            raise
        return cls(bundle.manifest.input, device, network, f"{library.name} {library.version} f16")

    @property
    def description(self) -> str:
        """Library, version and precision."""
        return self._description

    @property
    def precision(self) -> str:
        """f16: plans are strongly typed."""
        return "f16"

    @property
    def traffic(self) -> Traffic:
        """Bytes to and from the device so far."""
        return self._device.traffic

    @property
    def parallel(self) -> tuple[InferRequest, ...]:
        """Always empty, because there is only one set of buffers."""
        return ()

    def bind(self, coords_N2HW: NDArray[np.float16]) -> NDArray[np.uint8]:
        """Bind coordinates. They are uploaded the first time, and then stay on the device.

        The graphs read coordinates at one fixed address. For another placement, the device copies its coordinates there.
        """
        batch = self._batch(len(coords_N2HW))
        with self._device.current():
            address = self._make_resident(coords_N2HW)
            if self._bound_coords is not coords_N2HW:
                self._device.copy(self._coords, address, coords_N2HW.nbytes)
                self._bound_coords = coords_N2HW
        self._bound = batch
        return batch.frames_NHWC

    def infer(self) -> tuple[NDArray[np.floating], NDArray[np.float32]]:
        """Launch the graph. The returned arrays are views of page-locked memory, valid until the next call."""
        if self._bound is None:
            raise EngineError("no coordinates are bound")
        with self._device.current():
            self._device.launch(self._bound.graph)
            self._device.synchronize()
        return self._bound.maps_NHW, self._bound.scores_N

    def keep_ready(self, sizes: Collection[int], others: int = 0) -> None:
        """Check that the plan takes so many inputs. Every size that it takes is ready from the start."""
        for n in sizes:
            self._batch(n)

    def device_ms(self, times: int = 50) -> float:
        """Return the milliseconds of one part on the device, copies included. CUDA events measure the bound batch size."""
        if self._bound is None or not isinstance(self._device, PycudaDevice):
            raise EngineError("nothing is bound on a GPU")
        with self._device.current():
            return self._device.device_ms(self._bound.graph, times)

    @property
    def layer_information(self) -> str:
        """TensorRT's own layer table, JSON; empty if the network has none."""
        with self._device.current():
            return str(getattr(self._network, "layer_information", ""))

    def close(self) -> None:
        """Free everything, in reverse order. Closing the device frees its memory and the context."""
        self._bound = None
        self._batches.clear()
        self._resident.clear()
        self._bound_coords = None
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(EngineError), self._device.current():
            with contextlib.suppress(EngineError):  # after an error the stream may still be busy
                self._device.synchronize()
            self._network.close()
        self._device.close()

    def _make_buffers(self) -> None:
        most = self._network.max_batch
        h, w = self._spec.height, self._spec.width
        self._map_dtype = self._network.dtype("anomaly_map")
        results = self._result_bytes(most)
        self._frames = self._device.allocate(most * h * w * 3)
        self._coords = self._device.allocate(most * 2 * h * w * 2)
        self._results = self._device.allocate(results)
        self._frames_host: NDArray[np.uint8] = self._device.pinned(most * h * w * 3, np.uint8)
        self._results_host: NDArray[np.uint8] = self._device.pinned(results, np.uint8)
        self._frames_host[:] = 0
        # Uninitialised memory could contain NaN coordinates.
        self._device.upload(self._coords, np.zeros(most * 2 * h * w, np.float16))
        self._device.synchronize()

    def _make_batch(self, n: int) -> _Batch:
        """Run the network once, so that it has allocated everything, then capture upload, network and download as one graph."""
        h, w = self._spec.height, self._spec.width
        scores_at = self._scores_offset(n)
        enqueue = self._network.prepare(
            n,
            {"frames": (n, h, w, 3), "coords": (n, 2, h, w)},
            {
                "frames": self._frames,
                "coords": self._coords,
                "anomaly_map": self._results,
                "score": self._results + scores_at,
            },
        )
        frames = self._frames_host[: n * h * w * 3]
        results = self._results_host[: self._result_bytes(n)]
        self._device.upload(self._frames, frames)
        enqueue()
        self._device.synchronize()
        with self._device.capture() as graph:
            self._device.upload(self._frames, frames)
            enqueue()
            self._device.download(results, self._results)
        maps = results[: n * h * w * self._map_dtype.itemsize].view(self._map_dtype).reshape(n, h, w)
        return _Batch(graph, frames.reshape(n, h, w, 3), maps, results[scores_at:].view(np.float32))

    def _batch(self, n: int) -> _Batch:
        batch = self._batches.get(n)
        if batch is None:
            raise EngineError(
                f"the part has {n} tiles, the plan takes at most {self._network.max_batch}",
                hint=f"rebuild it: anoseg-engine build BUNDLE --max-batch {n}",
            )
        return batch

    def _make_resident(self, coords: NDArray[np.float16]) -> int:
        """Return the device address of these coordinates, uploaded if they are new.

        The array is kept, so that no other array can get its id.
        """
        key = id(coords)
        if key in self._resident:
            self._resident.move_to_end(key)
            return self._resident[key][1]
        if len(self._resident) >= MAX_PLACEMENTS:
            _, (_, oldest) = self._resident.popitem(last=False)
            self._device.synchronize()
            self._device.free(oldest)
        address = self._device.allocate(coords.nbytes)
        self._device.upload(address, as_bytes(np.ascontiguousarray(coords)))
        self._device.synchronize()  # the source is pageable memory and must stay until it is copied
        self._resident[key] = (coords, address)
        return address

    def _scores_offset(self, n: int) -> int:
        """Where the scores start behind N maps. Both are one block, so one download gets them."""
        maps = n * self._spec.height * self._spec.width * self._map_dtype.itemsize
        return -(-maps // ALIGNMENT) * ALIGNMENT

    def _result_bytes(self, n: int) -> int:
        return self._scores_offset(n) + n * 4
