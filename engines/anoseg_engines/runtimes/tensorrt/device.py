"""The device layer of the TensorRT runtime: memory, copies and graphs on one stream of one GPU, through pycuda.

NOT RUN ON A GPU YET; `make gpu-check` runs it on one. Used by one thread at a time: what makes use of it is wrapped in
`current`, which makes the device's context that thread's for as long. So an engine may be loaded on one thread and inspect
on another, and no context is left on a thread that ends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from anoseg_engines.errors import EngineError
from anoseg_engines.runtimes.base import Traffic
from anoseg_engines.runtimes.tensorrt.gpu import cuda_driver
from anoseg_engines.runtimes.tensorrt.graph import CudaGraph, GraphApi

STREAM_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: no waiting for, and none by, the default stream of other libraries


class Graph(Protocol):
    """What was captured; launched as one."""

    traffic: Traffic


class Device(Protocol):
    """What the TensorRT runtime needs of a GPU. Addresses are device addresses; sizes are bytes."""

    def current(self) -> contextlib.AbstractContextManager[None]:
        """Makes the device's context this thread's inside the block; everything below is called inside."""
        ...

    @property
    def stream(self) -> int:
        """Handle of the stream on which everything happens."""
        ...

    @property
    def traffic(self) -> Traffic:
        """Bytes copied between host and device so far; those in a graph count at each launch."""
        ...

    def allocate(self, size: int) -> int:
        """Device memory, the device layer's to free."""
        ...

    def free(self, address: int) -> None:
        """Give back what `allocate` gave."""
        ...

    def pinned(self, size: int, dtype: DTypeLike) -> NDArray[Any]:
        """A page-locked host array [size], which copies need not stage; gone after `close`."""
        ...

    def upload(self, address: int, source: NDArray[Any]) -> None:
        """Host to device, on the stream."""
        ...

    def download(self, target: NDArray[Any], address: int) -> None:
        """Device to host, on the stream."""
        ...

    def copy(self, target: int, source: int, size: int) -> None:
        """Within the device, on the stream."""
        ...

    def capture(self) -> contextlib.AbstractContextManager[Graph]:
        """What is put on the stream inside is not run but recorded; the graph is ready after the block."""
        ...

    def launch(self, graph: Graph) -> None:
        """Run a graph, on the stream."""
        ...

    def synchronize(self) -> None:
        """Wait until the stream is empty."""
        ...

    def close(self) -> None:
        """Free everything and let the context go; after an error too."""
        ...


class _PycudaGraph:
    """A captured graph and the bytes each launch copies."""

    def __init__(self) -> None:
        self.traffic = Traffic()
        self.handle: CudaGraph | None = None


class PycudaDevice:
    """`Device` with pycuda, in a CUDA context of its own: ending it gives back what anybody has taken in it.

    Raises:
        EngineError: there is no GPU, or it has no memory left.
    """

    def __init__(self, index: int = 0) -> None:
        self._cuda = cuda_driver()
        self._allocations: dict[int, Any] = {}
        self._pinned: list[NDArray[Any]] = []
        self._graphs: list[_PycudaGraph] = []
        self._capturing: _PycudaGraph | None = None
        self._traffic = Traffic()
        self._graph_api = GraphApi()
        with self._told("the GPU cannot be opened"):
            self._cuda.init()
            self._context = self._cuda.Device(index).make_context()
            self._context.pop()
        self._open = True
        try:
            with self.current(), self._told("a stream cannot be made"):
                self._stream = self._cuda.Stream(STREAM_NON_BLOCKING)
        except BaseException:
            self.close()
            raise

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Push the context, and pop it afterwards: about a microsecond."""
        with self._told("the GPU"):
            self._context.push()
        try:
            yield
        finally:
            if self._open:  # closing ends the context, which takes it off the stack
                self._context.pop()

    @property
    def stream(self) -> int:
        """Handle of the stream."""
        return int(self._stream.handle)

    @property
    def traffic(self) -> Traffic:
        """Bytes to and from the device so far."""
        return self._traffic

    def allocate(self, size: int) -> int:
        """Device memory."""
        with self._told(f"{size} bytes on the GPU"):
            allocation = self._cuda.mem_alloc(size)
        self._allocations[int(allocation)] = allocation
        return int(allocation)

    def free(self, address: int) -> None:
        """Give device memory back."""
        self._allocations.pop(address).free()

    def pinned(self, size: int, dtype: DTypeLike) -> NDArray[Any]:
        """Page-locked host memory; it stays until `close`."""
        with self._told(f"{size} page-locked values"):
            array: NDArray[Any] = self._cuda.pagelocked_empty(size, dtype)
        self._pinned.append(array)
        return array

    def upload(self, address: int, source: NDArray[Any]) -> None:
        """Host to device."""
        with self._told("copying to the GPU"):
            self._cuda.memcpy_htod_async(address, source, self._stream)
        self._count(Traffic(source.nbytes, 0))

    def download(self, target: NDArray[Any], address: int) -> None:
        """Device to host."""
        with self._told("copying from the GPU"):
            self._cuda.memcpy_dtoh_async(target, address, self._stream)
        self._count(Traffic(0, target.nbytes))

    def copy(self, target: int, source: int, size: int) -> None:
        """Within the device."""
        with self._told("copying on the GPU"):
            self._cuda.memcpy_dtod_async(target, source, size, self._stream)

    @contextlib.contextmanager
    def capture(self) -> Iterator[Graph]:
        """Record what is put on the stream."""
        graph = _PycudaGraph()
        self._graph_api.begin(self.stream)
        self._capturing = graph
        try:
            yield graph
        except BaseException:
            with contextlib.suppress(EngineError):  # the first error is the one to tell
                self._graph_api.end(self.stream).close()
            raise
        finally:
            self._capturing = None
        graph.handle = self._graph_api.end(self.stream)
        self._graphs.append(graph)

    def launch(self, graph: Graph) -> None:
        """Run a graph."""
        assert isinstance(graph, _PycudaGraph)
        assert graph.handle is not None
        graph.handle.launch(self.stream)
        self._count(graph.traffic)

    def synchronize(self) -> None:
        """Wait for the stream."""
        with self._told("the GPU"):
            self._stream.synchronize()

    def device_ms(self, graph: Graph, times: int) -> float:
        """Milliseconds a launch takes on the device, by CUDA events around `times` of them."""
        with self._told("timing"):
            start, end = self._cuda.Event(), self._cuda.Event()
            start.record(self._stream)
            for _ in range(times):
                self.launch(graph)
            end.record(self._stream)
            end.synchronize()
            return float(end.time_since(start)) / times

    def close(self) -> None:
        """Free everything; what fails after an error of the GPU is passed over, the context's end frees it."""
        if not self._open:
            return
        with contextlib.suppress(self._cuda.Error, EngineError), self.current():
            for graph in self._graphs:
                if graph.handle is not None:
                    graph.handle.close()
            for allocation in self._allocations.values():
                with contextlib.suppress(self._cuda.Error):
                    allocation.free()
            for array in self._pinned:  # freed here, while the context is alive: nobody holds a view of it any more
                with contextlib.suppress(self._cuda.Error):
                    array.base.free()  # type: ignore[union-attr]  # pycuda's owner of the memory
            self._graphs.clear()
            self._allocations.clear()
            self._pinned.clear()
            self._stream = None
            self._open = False
            self._context.detach()  # ends it, and takes it off this thread's stack
        self._open = False

    def _count(self, more: Traffic) -> None:
        if self._capturing is not None:
            now = self._capturing.traffic
            self._capturing.traffic = Traffic(now.to_device + more.to_device, now.from_device + more.from_device)
        else:
            self._traffic = Traffic(self._traffic.to_device + more.to_device, self._traffic.from_device + more.from_device)

    @contextlib.contextmanager
    def _told(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._cuda.MemoryError as error:
            raise EngineError(
                f"the GPU's memory is full: {what} ({error})",
                hint="close other programs on the GPU, or rebuild with a smaller --max-batch",
            ) from error
        except self._cuda.Error as error:
            raise EngineError(f"CUDA failed: {what} ({error})") from error


def as_bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    """A C-contiguous array as its bytes, no copy."""
    return array.reshape(-1).view(np.uint8)
