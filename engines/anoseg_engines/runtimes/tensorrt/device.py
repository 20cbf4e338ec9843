"""Handles memory, copies and graphs on one stream of one GPU, through pycuda, for the TensorRT runtime.

NOT RUN ON A GPU YET; `make gpu-check` runs it on one. One thread at a time uses this module, inside a `current` block. The
block makes the device's context current on that thread. So one thread can load an engine and another thread can inspect with
it. No context stays on a thread that ends.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from anoseg_engines.errors import EngineError, RuntimeFailedError
from anoseg_engines.runtimes.base import Traffic
from anoseg_engines.runtimes.tensorrt.gpu import cuda_driver
from anoseg_engines.runtimes.tensorrt.graph import CudaGraph, GraphApi

STREAM_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: does not wait for the default stream of other libraries, nor they for it


class Graph(Protocol):
    """A captured sequence of operations, launched as one."""

    traffic: Traffic


class Device(Protocol):
    """The operations of a GPU that the TensorRT runtime needs. Addresses are device addresses; sizes are bytes."""

    def current(self) -> contextlib.AbstractContextManager[None]:
        """Make the device's context current on this thread inside the block. Call all methods below in such a block."""
        ...

    @property
    def stream(self) -> int:
        """Handle of the stream for all operations."""
        ...

    @property
    def traffic(self) -> Traffic:
        """Bytes copied between host and device so far. The copies in a graph count at each launch."""
        ...

    def allocate(self, size: int) -> int:
        """Allocate device memory. `close` frees it."""
        ...

    def free(self, address: int) -> None:
        """Free memory from `allocate`."""
        ...

    def pinned(self, size: int, dtype: DTypeLike) -> NDArray[Any]:
        """Allocate a page-locked host array [size], which the GPU copies directly. `close` frees it."""
        ...

    def upload(self, address: int, source: NDArray[Any]) -> None:
        """Copy from host to device, on the stream."""
        ...

    def download(self, target: NDArray[Any], address: int) -> None:
        """Copy from device to host, on the stream."""
        ...

    def copy(self, target: int, source: int, size: int) -> None:
        """Copy within the device, on the stream."""
        ...

    def capture(self) -> contextlib.AbstractContextManager[Graph]:
        """Record the operations put on the stream inside the block, instead of running them. The graph is ready after it."""
        ...

    def launch(self, graph: Graph) -> None:
        """Run a graph, on the stream."""
        ...

    def synchronize(self) -> None:
        """Wait until the stream is empty."""
        ...

    def close(self) -> None:
        """Free everything and end the context, also after an error."""
        ...


class _PycudaGraph:
    """A captured graph and the bytes that each launch copies."""

    def __init__(self) -> None:
        self.traffic = Traffic()
        self.handle: CudaGraph | None = None


class PycudaDevice:
    """`Device` with pycuda, in its own CUDA context. Ending the context frees everything allocated in it.

    Raises:
        EngineError: There is no GPU, or it has no memory left.
    """

    def __init__(self, index: int = 0) -> None:
        self._cuda = cuda_driver()
        self._allocations: dict[int, Any] = {}
        self._pinned: list[NDArray[Any]] = []
        self._graphs: list[_PycudaGraph] = []
        self._capturing: _PycudaGraph | None = None
        self._traffic = Traffic()
        self._graph_api = GraphApi()
        with self._errors_of("the GPU cannot be opened"):
            self._cuda.init()
            self._context = self._cuda.Device(index).make_context()
            self._context.pop()
        self._open = True
        try:
            with self.current(), self._errors_of("a stream cannot be made"):
                self._stream = self._cuda.Stream(STREAM_NON_BLOCKING)
        except BaseException:
            self.close()
            raise

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Push the context, and pop it afterwards. It takes about a microsecond."""
        with self._errors_of("the GPU"):
            self._context.push()
        try:
            yield
        finally:
            if self._open:  # `close` has ended the context and popped it
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
        """Allocate device memory."""
        with self._errors_of(f"{size} bytes on the GPU"):
            allocation = self._cuda.mem_alloc(size)
        self._allocations[int(allocation)] = allocation
        return int(allocation)

    def free(self, address: int) -> None:
        """Free device memory."""
        self._allocations.pop(address).free()

    def pinned(self, size: int, dtype: DTypeLike) -> NDArray[Any]:
        """Allocate page-locked host memory, which `close` frees."""
        with self._errors_of(f"{size} page-locked values"):
            array: NDArray[Any] = self._cuda.pagelocked_empty(size, dtype)
        self._pinned.append(array)
        return array

    def upload(self, address: int, source: NDArray[Any]) -> None:
        """Copy from host to device."""
        with self._errors_of("copying to the GPU"):
            self._cuda.memcpy_htod_async(address, source, self._stream)
        self._count(Traffic(source.nbytes, 0))

    def download(self, target: NDArray[Any], address: int) -> None:
        """Copy from device to host."""
        with self._errors_of("copying from the GPU"):
            self._cuda.memcpy_dtoh_async(target, address, self._stream)
        self._count(Traffic(0, target.nbytes))

    def copy(self, target: int, source: int, size: int) -> None:
        """Copy within the device."""
        with self._errors_of("copying on the GPU"):
            self._cuda.memcpy_dtod_async(target, source, size, self._stream)

    @contextlib.contextmanager
    def capture(self) -> Iterator[Graph]:
        """Record the operations put on the stream."""
        graph = _PycudaGraph()
        self._graph_api.begin(self.stream)
        self._capturing = graph
        try:
            yield graph
        except BaseException:
            with contextlib.suppress(EngineError):  # the first error is the one to report
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
        with self._errors_of("the GPU"):
            self._stream.synchronize()

    def device_ms(self, graph: Graph, times: int) -> float:
        """Return the milliseconds that a launch takes on the device. CUDA events measure `times` launches."""
        with self._errors_of("timing"):
            start, end = self._cuda.Event(), self._cuda.Event()
            start.record(self._stream)
            for _ in range(times):
                self.launch(graph)
            end.record(self._stream)
            end.synchronize()
            return float(end.time_since(start)) / times

    def close(self) -> None:
        """Free everything. Errors after an earlier GPU error are ignored, because the end of the context frees the rest."""
        if not self._open:
            return
        with contextlib.suppress(self._cuda.Error, EngineError), self.current():
            for graph in self._graphs:
                if graph.handle is not None:
                    graph.handle.close()
            for allocation in self._allocations.values():
                with contextlib.suppress(self._cuda.Error):
                    allocation.free()
            for array in self._pinned:  # while the context is alive; no view of it is left
                with contextlib.suppress(self._cuda.Error):
                    array.base.free()  # type: ignore[union-attr]  # pycuda's owner of the memory
            self._graphs.clear()
            self._allocations.clear()
            self._pinned.clear()
            self._stream = None
            self._open = False
            self._context.detach()  # ends it, and pops it from this thread
        self._open = False

    def _count(self, more: Traffic) -> None:
        if self._capturing is not None:
            now = self._capturing.traffic
            self._capturing.traffic = Traffic(now.to_device + more.to_device, now.from_device + more.from_device)
        else:
            self._traffic = Traffic(self._traffic.to_device + more.to_device, self._traffic.from_device + more.from_device)

    @contextlib.contextmanager
    def _errors_of(self, what: str) -> Iterator[None]:
        try:
            yield
        except self._cuda.MemoryError as error:
            raise RuntimeFailedError(
                f"the GPU's memory is full: {what} ({error})",
                hint="close other programs on the GPU, or rebuild with a smaller --max-batch",
            ) from error
        except self._cuda.Error as error:
            raise RuntimeFailedError(f"CUDA failed: {what} ({error})") from error


def as_bytes(array: NDArray[Any]) -> NDArray[np.uint8]:
    """View a C-contiguous array as bytes."""
    return array.reshape(-1).view(np.uint8)
