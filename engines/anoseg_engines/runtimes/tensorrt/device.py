"""Handles memory, copies and graphs on streams of one GPU, through pycuda, for the TensorRT runtime.

NOT RUN ON A GPU YET; `make gpu-check` runs it on one. Tests run it on a mock of the driver. Any thread uses a device inside a
`current` block, which makes the device's context current on that thread. So one thread can load an engine and others can
inspect with it. No context stays on a thread that ends. One thread at a time uses a stream.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from ctypes import byref, c_void_p
from typing import Any, Protocol

import numpy as np
from numpy.typing import DTypeLike, NDArray

from anoseg_engines.errors import EngineError, GpuMemoryError, RuntimeFailedError
from anoseg_engines.runtimes.base import Traffic
from anoseg_engines.runtimes.tensorrt.driver import DriverApi
from anoseg_engines.runtimes.tensorrt.gpu import cuda_driver
from anoseg_engines.runtimes.tensorrt.graph import CudaGraph, begin_capture, end_capture

STREAM_NON_BLOCKING = 1  # CU_STREAM_NON_BLOCKING: does not wait for the default stream of other libraries, nor they for it
MEMORY_HINT = "close other programs on the GPU (nvidia-smi lists them), or build the plan with a smaller --max-batch"
WAIT_BLOCKING = 4
"""CU_CTX_SCHED_BLOCKING_SYNC: a thread that waits for the GPU sleeps. The driver's own choice depends on the number of cores
and contexts. It may be to spin, which takes a core from the cameras."""


Grid = tuple[int, int, int]


class Graph(Protocol):
    """A captured sequence of operations, launched as one."""

    traffic: Traffic


class Stream(Protocol):
    """A queue of operations on a device. They run in order, beside those of other streams. Addresses are device addresses."""

    @property
    def handle(self) -> int:
        """The driver's handle."""
        ...

    @property
    def traffic(self) -> Traffic:
        """Bytes that this stream copied between host and device so far. The copies in a graph count at each launch."""
        ...

    def upload(self, address: int, source: NDArray[Any]) -> None:
        """Copy from page-locked host memory, which must stay unchanged until the stream has run."""
        ...

    def download(self, target: NDArray[Any], address: int) -> None:
        """Copy to page-locked host memory."""
        ...

    def copy(self, target: int, source: int, size: int) -> None:
        """Copy within the device."""
        ...

    def capture(self) -> contextlib.AbstractContextManager[Graph]:
        """Record the operations put on the stream inside the block, instead of running them. The graph is ready after it.

        Raises:
            EngineError: Something in it cannot be captured.
        """
        ...

    def launch(self, graph: Graph) -> None:
        """Run a graph."""
        ...

    def forget(self, graph: Graph) -> None:
        """Destroy a graph. No launch of it may be waiting."""
        ...

    def run_kernel(self, name: str, grid: Grid, block: Grid, arguments: Sequence[float]) -> None:
        """Run a kernel that `Device.load_kernels` has loaded."""
        ...

    def synchronize(self) -> None:
        """Wait until the stream is empty."""
        ...

    def close(self) -> None:
        """Wait for the stream, then destroy its graphs and the stream. Errors are ignored."""
        ...


class Device(Protocol):
    """The operations of a GPU that the TensorRT runtime needs. Sizes are bytes."""

    def current(self) -> contextlib.AbstractContextManager[None]:
        """Make the device's context current on this thread inside the block. Call all methods below in such a block."""
        ...

    @property
    def traffic(self) -> Traffic:
        """Bytes copied between host and device so far, by all streams."""
        ...

    def open_stream(self) -> Stream:
        """Make a stream. The caller closes it."""
        ...

    def allocate(self, size: int) -> int:
        """Allocate device memory.

        Raises:
            GpuMemoryError: There is not enough.
        """
        ...

    def free(self, address: int) -> None:
        """Free memory from `allocate`. No work that uses it may be waiting."""
        ...

    def pinned(self, size: int, dtype: DTypeLike) -> NDArray[Any]:
        """Allocate a page-locked host array [size], which the GPU copies directly."""
        ...

    def unpin(self, array: NDArray[Any]) -> None:
        """Free an array from `pinned`. No view of it may be used afterwards."""
        ...

    def load_kernels(self, ptx: bytes, arguments: Mapping[str, str]) -> bool:
        """Have the driver compile kernels, which all streams of the device can then run.

        Args:
            arguments: By the kernel's name, the types of its arguments in the letters of `struct`.

        Returns:
            Whether the device runs kernels at all.

        Raises:
            EngineError: The driver refuses them.
        """
        ...

    def close(self) -> None:
        """Free everything and leave the context, also after an error."""
        ...


class _PycudaGraph:
    """A captured graph and the bytes that each launch copies."""

    def __init__(self) -> None:
        self.traffic = Traffic()
        self.handle: CudaGraph | None = None


class PycudaStream:
    """`Stream` with pycuda."""

    def __init__(self, cuda: Any, api: DriverApi, kernels: Mapping[str, Any]) -> None:
        self._cuda = cuda
        self._api = api
        self._kernels = kernels
        self._graphs: list[_PycudaGraph] = []
        self._capturing: _PycudaGraph | None = None
        self._traffic = Traffic()
        with errors_of(cuda, "a stream cannot be made"):
            self._stream: Any = cuda.Stream(STREAM_NON_BLOCKING)

    @property
    def handle(self) -> int:
        """The driver's handle."""
        return int(self._stream.handle)

    @property
    def traffic(self) -> Traffic:
        """Bytes to and from the device so far."""
        return self._traffic

    def upload(self, address: int, source: NDArray[Any]) -> None:
        """Copy from host to device."""
        with errors_of(self._cuda, "copying to the GPU"):
            self._cuda.memcpy_htod_async(address, source, self._stream)
        self._count(Traffic(source.nbytes, 0))

    def download(self, target: NDArray[Any], address: int) -> None:
        """Copy from device to host."""
        with errors_of(self._cuda, "copying from the GPU"):
            self._cuda.memcpy_dtoh_async(target, address, self._stream)
        self._count(Traffic(0, target.nbytes))

    def copy(self, target: int, source: int, size: int) -> None:
        """Copy within the device."""
        with errors_of(self._cuda, "copying on the GPU"):
            self._cuda.memcpy_dtod_async(target, source, size, self._stream)

    @contextlib.contextmanager
    def capture(self) -> Iterator[Graph]:
        """Record the operations put on the stream."""
        graph = _PycudaGraph()
        begin_capture(self._api, self.handle)
        self._capturing = graph
        try:
            yield graph
        except BaseException:
            with contextlib.suppress(EngineError):  # the first error is the one to report
                end_capture(self._api, self.handle).close()
            raise
        finally:
            self._capturing = None
        graph.handle = end_capture(self._api, self.handle)
        self._graphs.append(graph)

    def launch(self, graph: Graph) -> None:
        """Run a graph."""
        assert isinstance(graph, _PycudaGraph)
        assert graph.handle is not None
        graph.handle.launch(self.handle)
        self._count(graph.traffic)

    def forget(self, graph: Graph) -> None:
        """Destroy a graph. Calling it twice, or after `close`, does no harm."""
        assert isinstance(graph, _PycudaGraph)
        if graph in self._graphs:
            self._graphs.remove(graph)
        if graph.handle is not None:
            graph.handle.close()

    def run_kernel(self, name: str, grid: Grid, block: Grid, arguments: Sequence[float]) -> None:
        """Run a kernel."""
        with errors_of(self._cuda, "a kernel cannot be started"):
            self._kernels[name].prepared_async_call(grid, block, self._stream, *arguments)

    def synchronize(self) -> None:
        """Wait for the stream."""
        with errors_of(self._cuda, "the GPU"):
            self._stream.synchronize()

    def device_ms(self, graph: Graph, times: int) -> float:
        """Return the milliseconds that a launch takes on the device. CUDA events measure `times` launches."""
        with errors_of(self._cuda, "timing"):
            start, end = self._cuda.Event(), self._cuda.Event()
            start.record(self._stream)
            for _ in range(times):
                self.launch(graph)
            end.record(self._stream)
            end.synchronize()
            return float(end.time_since(start)) / times

    def close(self) -> None:
        """Wait, then destroy the graphs and the stream. After a GPU error the stream may still be busy."""
        if self._stream is None:
            return
        with contextlib.suppress(EngineError):
            self.synchronize()
        for graph in self._graphs:
            if graph.handle is not None:
                graph.handle.close()
        self._graphs.clear()
        self._stream = None

    def _count(self, more: Traffic) -> None:
        if self._capturing is not None:
            self._capturing.traffic = self._capturing.traffic.plus(more)
        else:
            self._traffic = self._traffic.plus(more)


class PycudaDevice:
    """`Device` with pycuda, in the GPU's primary context, which TensorRT and all engines of this process share.

    Each object retains the primary context, and the last one that is closed ends it. So everything is freed one by one.

    Raises:
        EngineError: There is no GPU.
        GpuMemoryError: It has no memory left.
    """

    def __init__(self, index: int = 0) -> None:
        self._cuda = cuda_driver()
        self._api = DriverApi()
        self._allocations: dict[int, Any] = {}
        self._pinned: dict[int, NDArray[Any]] = {}
        self._streams: list[PycudaStream] = []
        self._kernels: dict[str, Any] = {}
        with errors_of(self._cuda, "the GPU cannot be opened", in_context=False):
            self._cuda.init()
            device = self._cuda.Device(index)
            self._api.call("cuDevicePrimaryCtxSetFlags_v2", index, WAIT_BLOCKING)
            self._context = device.retain_primary_context()
        self._open = True

    @contextlib.contextmanager
    def current(self) -> Iterator[None]:
        """Push the context, and pop it afterwards. It takes about a microsecond."""
        with errors_of(self._cuda, "the GPU", in_context=False):
            self._context.push()
        try:
            yield
        finally:
            self._context.pop()

    @property
    def traffic(self) -> Traffic:
        """Bytes to and from the device so far."""
        total = Traffic()
        for stream in self._streams:
            total = total.plus(stream.traffic)
        return total

    @property
    def free_bytes(self) -> int:
        """How much of the GPU's memory no process uses."""
        with errors_of(self._cuda, "the GPU"):
            return int(self._cuda.mem_get_info()[0])

    def open_stream(self) -> PycudaStream:
        """Make a stream."""
        stream = PycudaStream(self._cuda, self._api, self._kernels)
        self._streams.append(stream)
        return stream

    def allocate(self, size: int) -> int:
        """Allocate device memory."""
        with errors_of(self._cuda, f"{size / 1e6:.1f} MB more are needed"):
            allocation = self._cuda.mem_alloc(size)
        self._allocations[int(allocation)] = allocation
        return int(allocation)

    def free(self, address: int) -> None:
        """Free device memory."""
        with contextlib.suppress(self._cuda.Error):  # after a GPU error
            self._allocations.pop(address).free()

    def pinned(self, size: int, dtype: DTypeLike) -> NDArray[Any]:
        """Allocate page-locked host memory."""
        with errors_of(self._cuda, f"{size * np.dtype(dtype).itemsize / 1e6:.1f} MB of page-locked memory are needed"):
            array: NDArray[Any] = self._cuda.pagelocked_empty(size, dtype)
        self._pinned[id(array)] = array
        return array

    def unpin(self, array: NDArray[Any]) -> None:
        """Free page-locked host memory."""
        with contextlib.suppress(self._cuda.Error):  # after a GPU error
            self._pinned.pop(id(array)).base.free()  # type: ignore[union-attr]  # pycuda's owner of the memory

    def load_kernels(self, ptx: bytes, arguments: Mapping[str, str]) -> bool:
        """Have the driver compile kernels. Only the device refers to them, so that `close` unloads them."""
        with errors_of(self._cuda, "the driver refuses the kernels that scale images"):
            try:
                module = self._cuda.module_from_buffer(ptx + b"\0")
            except UnicodeDecodeError as error:  # pycuda shows the driver's log, which the driver may not have written
                raise RuntimeFailedError("the driver refuses the kernels that scale images") from error
            self._kernels.update({name: module.get_function(name).prepare([*types]) for name, types in arguments.items()})
        return True

    def close(self) -> None:
        """Free what is left, then release the primary context. Errors after an earlier GPU error are ignored.

        `detach` of pycuda releases a primary context and leaves it current in the driver. So the driver pops it before.
        """
        if not self._open:
            return
        self._open = False
        with contextlib.suppress(self._cuda.Error, EngineError):
            self._context.push()
            try:
                for stream in self._streams:
                    stream.close()
                for address in list(self._allocations):
                    self.free(address)
                for array in list(self._pinned.values()):
                    self.unpin(array)
                self._kernels.clear()
            finally:
                try:
                    self._api.call("cuCtxPopCurrent_v2", byref(c_void_p()))
                finally:
                    self._context.detach()


@contextlib.contextmanager
def errors_of(cuda: Any, what: str, *, in_context: bool = True) -> Iterator[None]:
    """Report errors of pycuda as the runtime's errors."""
    try:
        yield
    except cuda.MemoryError as error:
        left = ""
        if in_context:
            with contextlib.suppress(cuda.Error):  # after a GPU error, this call fails too
                left = "; {:.0f} MB of {:.0f} MB are free".format(*(size / 1e6 for size in cuda.mem_get_info()))
        raise GpuMemoryError(f"the GPU's memory is full: {what}{left} ({error})", hint=MEMORY_HINT) from error
    except cuda.Error as error:
        raise RuntimeFailedError(f"CUDA failed: {what} ({error})") from error


def upload_now(device: Device, stream: Stream, address: int, source: NDArray[Any]) -> None:
    """Copy any array to the device and wait for it, through page-locked memory that is freed again.

    A copy from ordinary memory may still read it after the call that asked for the copy has returned.
    """
    staging: NDArray[np.uint8] = device.pinned(source.nbytes, np.uint8)
    try:
        staging[:] = np.ascontiguousarray(source).reshape(-1).view(np.uint8)
        stream.upload(address, staging)
        stream.synchronize()
    finally:
        device.unpin(staging)
