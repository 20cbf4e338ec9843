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


class HostGraph:
    def __init__(self) -> None:
        self.traffic = Traffic()
        self.steps: list[Callable[[], None]] = []


class HostDevice:
    """A device that records what is asked of it.

    Args:
        fail_at: Number of the step that raises an error, from 0. None: no step does.

    Attributes:
        memory: What is allocated, by address.
        steps: The names of the steps so far.
        traffic: Bytes copied in each direction.
        closed: How often it was closed.
    """

    stream = 7

    def __init__(self, fail_at: int | None = None) -> None:
        self.memory: dict[int, NDArray[np.uint8]] = {}
        self.steps: list[str] = []
        self.closed = 0
        self.entered = 0
        self.traffic = Traffic()
        self._graph: HostGraph | None = None
        self._next = 1 << 20
        self._fail_at = fail_at

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        self.entered += 1
        try:
            yield
        finally:
            self.entered -= 1

    def allocate(self, size: int) -> int:
        self._note("allocate")
        address, self._next = self._next, self._next + size + 4096
        self.memory[address] = np.full(size, 0xFF, np.uint8)  # FF FF is a NaN in FP16
        return address

    def free(self, address: int) -> None:
        del self.memory[address]

    def pinned(self, size: int, dtype: DTypeLike) -> NDArray[Any]:
        self._note("pinned")
        return np.empty(size, dtype)

    def at(self, address: int, size: int) -> NDArray[np.uint8]:
        """The device memory that starts at an address."""
        for start, block in self.memory.items():
            if start <= address and address + size <= start + len(block):
                return block[address - start : address - start + size]
        raise EngineError(f"address {address} is not allocated")

    def upload(self, address: int, source: NDArray[Any]) -> None:
        def run() -> None:
            self.at(address, source.nbytes)[:] = source.reshape(-1).view(np.uint8)

        self._do("upload", run, Traffic(source.nbytes, 0))

    def download(self, target: NDArray[Any], address: int) -> None:
        def run() -> None:
            target.reshape(-1).view(np.uint8)[:] = self.at(address, target.nbytes)

        self._do("download", run, Traffic(0, target.nbytes))

    def copy(self, target: int, source: int, size: int) -> None:
        def run() -> None:
            self.at(target, size)[:] = self.at(source, size)

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
        self._note("launch")
        for step in graph.steps:
            step()
        self._count(graph.traffic)

    def synchronize(self) -> None:
        pass

    def close(self) -> None:
        self.closed += 1
        self.memory.clear()

    def _do(self, name: str, run: Callable[[], None], traffic: Traffic) -> None:
        if self._graph is not None:
            self._graph.steps.append(run)
            old = self._graph.traffic
            self._graph.traffic = Traffic(old.to_device + traffic.to_device, old.from_device + traffic.from_device)
            return
        self._note(name)
        run()
        self._count(traffic)

    def _count(self, more: Traffic) -> None:
        self.traffic = Traffic(self.traffic.to_device + more.to_device, self.traffic.from_device + more.from_device)

    def _note(self, step: str) -> None:
        assert self.entered, f"{step}: the context is not current on this thread"
        if self._fail_at is not None and len(self.steps) == self._fail_at:
            raise EngineError(f"step {self._fail_at} ({step}) fails")
        self.steps.append(step)


class TinyNetwork:
    """The network of `tiny_bundle`, computed with NumPy. Reads and writes device memory."""

    def __init__(self, device: HostDevice, max_batch: int) -> None:
        self.max_batch = max_batch
        self.closed = 0
        self._device = device

    def dtype(self, name: str) -> np.dtype[Any]:
        return np.dtype({"anomaly_map": np.float16, "score": np.float32}[name])

    def prepare(self, n: int, shapes: Mapping[str, tuple[int, ...]], addresses: Mapping[str, int]) -> Callable[[], None]:
        h, w = shapes["frames"][1:3]

        def tensor(name: str, dtype: DTypeLike, *shape: int) -> NDArray[Any]:
            size = int(np.prod(shape)) * np.dtype(dtype).itemsize
            return self._device.at(addresses[name], size).view(dtype).reshape(shape)

        def run() -> None:
            grey = tensor("frames", np.uint8, n, h, w, 3).astype(np.float32).mean(axis=-1)
            valid = np.abs(tensor("coords", np.float16, n, 2, h, w)).max(axis=1) < 1.5
            maps = np.abs(grey - 128) / 128 * valid
            tensor("anomaly_map", np.float16, n, h, w)[:] = maps
            tensor("score", np.float32, n)[:] = maps.max(axis=(1, 2))

        return lambda: self._device.put(run)

    def close(self) -> None:
        self.closed += 1
