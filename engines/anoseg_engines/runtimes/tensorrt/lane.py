"""One lane of the TensorRT runtime: a stream, with device memory and execution contexts of its own.

NOT RUN ON A GPU YET; `make gpu-check` runs it on one. Lanes run at the same time, so that the upload, the network and the
download of different parts overlap. Any thread uses a lane, one at a time (`use`). Parts that wait for a lane run together.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np
from numpy.typing import NDArray

from anoseg_engines.errors import EngineError, GpuMemoryError
from anoseg_engines.placement import InputSpec
from anoseg_engines.runtimes.tensorrt.coordinates import ResidentCoordinates
from anoseg_engines.runtimes.tensorrt.device import Device, Graph, Stream, upload_now

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
class Work:
    """What a launch puts on a lane's stream. Without a graph, `put` is called for each launch."""

    put: Callable[[], None]
    graph: Graph | None


class Part(Protocol):
    """A part whose inputs are in page-locked memory, and which runs alone or together with others."""

    @property
    def coords(self) -> NDArray[np.float16]:
        """The coordinates, FP16 [n, 2, H, W]."""
        ...

    @property
    def alone(self) -> Work:
        """Upload, network and download, if the part runs alone."""
        ...

    def put_inputs(self, frames: int) -> None:
        """Put the upload of the inputs to this address on the lane's stream."""
        ...

    def put_results(self, maps: int, scores: int) -> None:
        """Put the download of maps and scores from these addresses on the lane's stream."""
        ...


AnyPart = TypeVar("AnyPart", bound=Part)


class Lane:
    """A stream and its device memory, made when it is used for the first time."""

    def __init__(self, spec: InputSpec, device: Device, network: Network, coordinates: ResidentCoordinates) -> None:
        self.device = device
        self.network = network
        self._spec = spec
        self._coordinates = coordinates
        self._lock = threading.Lock()
        self._memory: LaneMemory | None = None
        self._enqueues: dict[int, Enqueue] = {}
        self._together: dict[int, Work] = {}
        self._layout: list[NDArray[np.float16]] = []
        self._closed = False
        self.runs_without_graph = False

    @contextlib.contextmanager
    def use(self) -> Iterator[LaneMemory]:
        """Have the lane alone, with the device's context current.

        Raises:
            GpuMemoryError: There is no memory for it.
            EngineError: It is closed.
        """
        with self._lock:
            if self._closed:
                raise EngineError("the engine was closed before this call could use the GPU")
            with self.device.current():
                if self._memory is None:
                    self._memory = LaneMemory(self._spec, self.device, self.network)
                yield self._memory

    def enqueue_for(self, n: int, memory: LaneMemory) -> Enqueue:
        """Return the network for N inputs. Call it inside `use`.

        Raises:
            EngineError: The plan does not take so many.
        """
        if n > self.network.max_batch:
            raise EngineError(
                f"the part has {n} tiles, the plan takes at most {self.network.max_batch}",
                hint=f"rebuild it: anoseg-engine build BUNDLE --max-batch {n}",
            )
        if n not in self._enqueues:
            self._enqueues[n] = self.network.prepare(memory.tensors(n), memory.stream.handle, memory.scratch)
        return self._enqueues[n]

    def work_of(self, put: Callable[[], None], enqueue: Enqueue, memory: LaneMemory) -> Work:
        """Run something once, so that all is allocated, and capture it in a graph if that is possible. Call it inside `use`."""
        put()
        memory.stream.synchronize()
        self.network.prepared()
        try:
            if enqueue.capturable:
                with memory.stream.capture() as graph:
                    put()
                return Work(put, graph)
        except GpuMemoryError:
            raise
        except EngineError:  # it cannot be captured, although it says that it can
            pass
        self.runs_without_graph = True
        return Work(put, None)

    def make_ready(self, n: int) -> None:
        """Prepare the network for N inputs of several parts, so that parts which wait can run together."""
        with self.use() as memory:
            if n not in self._together:
                enqueue = self.enqueue_for(n, memory)
                self._together[n] = self.work_of(enqueue, enqueue, memory)

    def fitting(self, first: AnyPart, others: Sequence[AnyPart]) -> list[AnyPart]:
        """Choose which parts run together with the first: as many as there is a prepared network for."""
        chosen, n, best = [first], len(first.coords), [first]
        for part in others:
            n += len(part.coords)
            chosen.append(part)
            if n in self._together:
                best = list(chosen)
        return best

    def run(self, parts: Sequence[Part], memory: LaneMemory) -> None:
        """Run parts together, and wait for the results. Call it inside `use`."""
        self.place([part.coords for part in parts], memory)
        if len(parts) == 1:
            self._launch(parts[0].alone, memory)
        else:
            frames, maps, scores = memory.frames, memory.results, memory.results
            n = sum(len(part.coords) for part in parts)
            scores += memory.scores_offset(n)
            for part in parts:
                part.put_inputs(frames)
                frames += memory.frame_bytes * len(part.coords)
            self._launch(self._together[n], memory)
            for part in parts:
                part.put_results(maps, scores)
                maps += memory.map_bytes * len(part.coords)
                scores += 4 * len(part.coords)
        memory.stream.synchronize()

    def place(self, layout: list[NDArray[np.float16]], memory: LaneMemory) -> None:
        """Have these coordinates behind one another in the lane's memory. Call it inside `use`."""
        if len(layout) == len(self._layout) and all(a is b for a, b in zip(layout, self._layout, strict=True)):
            return
        self._layout = []  # unknown, if the next line raises
        at = memory.coords
        for coords in layout:
            self._coordinates.copy_to(at, coords, memory.stream)
            at += coords.nbytes
        self._layout = layout

    def close(self) -> None:
        """Wait until nobody uses the lane, then destroy graphs and stream, and free the memory. The context must be current."""
        with self._lock:
            self._closed = True
            self._together.clear()
            self._enqueues.clear()
            if self._memory is not None:
                self._memory.close()
                self._memory = None

    @property
    def stream(self) -> Stream | None:
        """The stream; None if the lane was not used yet."""
        return None if self._memory is None else self._memory.stream

    def _launch(self, work: Work, memory: LaneMemory) -> None:
        if work.graph is not None:
            memory.stream.launch(work.graph)
        else:
            work.put()


class LaneMemory:
    """A stream and device memory for the largest batch.

    Attributes:
        frames, coords, results, scratch: Addresses.
        frame_bytes, map_bytes: The size of one input, and of one map.

    Raises:
        GpuMemoryError: There is not enough. What was allocated is freed.
    """

    def __init__(self, spec: InputSpec, device: Device, network: Network) -> None:
        self._device = device
        self._spec = spec
        self._addresses: list[int] = []
        self.map_dtype = network.dtype("anomaly_map")
        pixels, most = spec.height * spec.width, network.max_batch
        self.frame_bytes = pixels * 3
        self.map_bytes = pixels * self.map_dtype.itemsize
        self.stream = device.open_stream()
        try:
            self.frames = self._allocate(most * self.frame_bytes)
            self.coords = self._allocate(most * pixels * 4)
            self.results = self._allocate(self.result_bytes(most))
            self.scratch = self._allocate(max(network.scratch_bytes, ALIGNMENT))
            # Uninitialised memory could contain NaN coordinates.
            upload_now(device, self.stream, self.coords, np.zeros(most * pixels * 2, np.float16))
        except BaseException:
            self.close()
            raise

    def tensors(self, n: int) -> dict[str, Tensor]:
        """Where the network reads and writes N inputs."""
        h, w = self._spec.height, self._spec.width
        return {
            "frames": Tensor(self.frames, (n, h, w, 3)),
            "coords": Tensor(self.coords, (n, 2, h, w)),
            "anomaly_map": Tensor(self.results, (n, h, w)),
            "score": Tensor(self.results + self.scores_offset(n), (n,)),
        }

    def scores_offset(self, n: int) -> int:
        """Where the scores start behind N maps. Both are one block, so one download gets them."""
        return -(-n * self.map_bytes // ALIGNMENT) * ALIGNMENT

    def result_bytes(self, n: int) -> int:
        """The size of N maps and scores."""
        return self.scores_offset(n) + n * 4

    def close(self) -> None:
        """Wait for the stream, then free everything."""
        self.stream.close()
        for address in self._addresses:
            self._device.free(address)

    def _allocate(self, size: int) -> int:
        self._addresses.append(self._device.allocate(size))
        return self._addresses[-1]
