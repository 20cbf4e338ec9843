"""The device layer and a network of the TensorRT runtime, on a host without a GPU.

"Device memory" is host memory at invented addresses. A graph is the list of the steps that were put on the stream.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
from numpy.typing import DTypeLike, NDArray

from anoseg_engines.errors import EngineError
from anoseg_engines.runtimes.base import Traffic
from anoseg_engines.runtimes.tensorrt.lane import Tensor

TYPES = {"frames": np.uint8, "coords": np.float16, "anomaly_map": np.float32, "score": np.float32}


def tiny_network(tensors: Mapping[str, NDArray[Any]]) -> None:
    """Compute the network of `tiny_bundle` from its inputs, and write its outputs."""
    grey = tensors["frames"].astype(np.float32).mean(axis=-1)
    valid = np.abs(tensors["coords"]).max(axis=1) < 1.5
    tensors["anomaly_map"][:] = np.abs(grey - 128) / 128 * valid
    tensors["score"][:] = tensors["anomaly_map"].max(axis=(1, 2))


class HostGraph:
    def __init__(self) -> None:
        self.traffic = Traffic()
        self.steps: list[Callable[[], None]] = []


class HostStream:
    """A stream that runs everything at once."""

    def __init__(self, device: HostDevice) -> None:
        self.handle = 7 + len(device.streams)
        self.traffic = Traffic()
        self._device = device
        self._graph: HostGraph | None = None

    def upload(self, address: int, source: NDArray[Any]) -> None:
        def run() -> None:
            self._device.at(address, source.nbytes)[:] = source.reshape(-1).view(np.uint8)

        self._do("upload", run, Traffic(source.nbytes, 0))

    def download(self, target: NDArray[Any], address: int) -> None:
        def run() -> None:
            target.reshape(-1).view(np.uint8)[:] = self._device.at(address, target.nbytes)

        self._do("download", run, Traffic(0, target.nbytes))

    def copy(self, target: int, source: int, size: int) -> None:
        def run() -> None:
            self._device.at(target, size)[:] = self._device.at(source, size)

        self._do("copy", run, Traffic())

    def put(self, run: Callable[[], None]) -> None:
        """Put a network's computation on the stream."""
        self._do("network", run, Traffic())

    @contextlib.contextmanager
    def capture(self) -> Iterator[HostGraph]:
        self._graph = HostGraph()
        try:
            yield self._graph
        finally:
            self._graph = None

    def launch(self, graph: Any) -> None:
        self._device.note("launch")
        for step in graph.steps:
            step()
        self.traffic = self.traffic.plus(graph.traffic)

    def forget(self, graph: Any) -> None:
        pass

    def run_kernel(self, name: str, grid: Any, block: Any, arguments: Any) -> None:
        raise AssertionError("a host device has no kernels")

    def synchronize(self) -> None:
        pass

    def close(self) -> None:
        pass

    def _do(self, name: str, run: Callable[[], None], traffic: Traffic) -> None:
        if self._graph is not None:
            self._graph.steps.append(run)
            self._graph.traffic = self._graph.traffic.plus(traffic)
            return
        self._device.note(name)
        run()
        self.traffic = self.traffic.plus(traffic)


class HostDevice:
    """A device that records what is asked of it.

    Args:
        fail_at: Number of the step that raises an error, from 0. None: no step does.

    Attributes:
        memory: What is allocated, by address.
        page_locked: Number of page-locked arrays that are not freed.
        steps: The names of the steps so far.
        streams: The streams that were opened.
        closed: How often it was closed.
    """

    def __init__(self, fail_at: int | None = None) -> None:
        self.memory: dict[int, NDArray[np.uint8]] = {}
        self.page_locked = 0
        self.steps: list[str] = []
        self.streams: list[HostStream] = []
        self.closed = 0
        self.entered = 0
        self._next = 1 << 20
        self._fail_at = fail_at

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        self.entered += 1
        try:
            yield
        finally:
            self.entered -= 1

    @property
    def traffic(self) -> Traffic:
        total = Traffic()
        for stream in self.streams:
            total = total.plus(stream.traffic)
        return total

    def open_stream(self) -> HostStream:
        self.note("stream")
        self.streams.append(HostStream(self))
        return self.streams[-1]

    def allocate(self, size: int) -> int:
        self.note("allocate")
        address, self._next = self._next, self._next + size + 4096
        self.memory[address] = np.full(size, 0xFF, np.uint8)  # FF FF is a NaN in FP16
        return address

    def free(self, address: int) -> None:
        del self.memory[address]

    def pinned(self, size: int, dtype: DTypeLike) -> NDArray[Any]:
        self.note("pinned")
        self.page_locked += 1
        return np.empty(size, dtype)

    def unpin(self, array: NDArray[Any]) -> None:
        self.page_locked -= 1

    def load_kernels(self, ptx: bytes, arguments: Mapping[str, str]) -> bool:
        return False

    def at(self, address: int, size: int) -> NDArray[np.uint8]:
        """The device memory that starts at an address."""
        for start, block in self.memory.items():
            if start <= address and address + size <= start + len(block):
                return block[address - start : address - start + size]
        raise EngineError(f"address {address} is not allocated")

    def close(self) -> None:
        self.closed += 1

    def note(self, step: str) -> None:
        assert self.entered, f"{step}: the context is not current on this thread"
        if self._fail_at is not None and len(self.steps) == self._fail_at:
            raise EngineError(f"step {self._fail_at} ({step}) fails")
        self.steps.append(step)


class _TinyEnqueue:
    capturable = True

    def __init__(self, run: Callable[[], None], stream: HostStream) -> None:
        self._run = run
        self._stream = stream

    def __call__(self) -> None:
        self._stream.put(self._run)


class TinyNetwork:
    """The network of `tiny_bundle`, computed with NumPy. Reads and writes device memory."""

    scratch_bytes = 1000

    def __init__(self, device: HostDevice, max_batch: int) -> None:
        self.max_batch = max_batch
        self.closed = 0
        self._device = device

    def dtype(self, name: str) -> np.dtype[Any]:
        return np.dtype(TYPES[name])

    def prepare(self, tensors: Mapping[str, Tensor], stream: int, scratch: int) -> _TinyEnqueue:
        def view(name: str) -> NDArray[Any]:
            tensor, dtype = tensors[name], np.dtype(TYPES[name])
            size = int(np.prod(tensor.shape)) * dtype.itemsize
            return self._device.at(tensor.address, size).view(dtype).reshape(tensor.shape)

        def run() -> None:
            self._device.at(scratch, self.scratch_bytes)[:] = 0
            tiny_network({name: view(name) for name in tensors})

        return _TinyEnqueue(run, next(s for s in self._device.streams if s.handle == stream))

    def prepared(self) -> None:
        pass

    def close(self) -> None:
        self.closed += 1
