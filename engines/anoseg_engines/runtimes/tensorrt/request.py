"""The requests of the TensorRT runtime: page-locked memory for the inputs and results of one part at a time.

NOT RUN ON A GPU YET; `make gpu-check` runs it on one. Several requests share a lane. While it runs, parts wait, and the next
launch takes all that fit. One thread at a time uses a request.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from anoseg_engines.errors import EngineError, RuntimeFailedError
from anoseg_engines.placement import InputSpec, Placement
from anoseg_engines.runtimes.tensorrt.coordinates import MAX_PLACEMENTS
from anoseg_engines.runtimes.tensorrt.lane import Lane, LaneMemory, Work
from anoseg_engines.runtimes.tensorrt.region_scaler import RegionBuffers, RegionScaler, ScaledPlacement


class Queue:
    """The parts that wait for a lane."""

    def __init__(self, lane: Lane) -> None:
        self.lane = lane
        self._waiting: list[_Bound] = []
        self._lock = threading.Lock()

    def run(self, part: _Bound) -> None:
        """Run a part, together with those that wait. If another thread has run it meanwhile, return at once.

        Raises:
            EngineError: The runtime failed. Every part that ran together has the error.
        """
        part.done, part.error = False, None
        with self._lock:
            self._waiting.append(part)
        try:
            with self.lane.use() as memory:
                if not part.done:
                    self._run_with_others(part, memory)
        finally:
            with self._lock:
                if part in self._waiting:  # the lane cannot be used
                    self._waiting.remove(part)
        if part.error is not None:
            raise part.error

    def _run_with_others(self, part: _Bound, memory: LaneMemory) -> None:
        with self._lock:
            together = self.lane.fitting(part, [other for other in self._waiting if other is not part])
            self._waiting = [other for other in self._waiting if other not in together]
        error: EngineError | None = RuntimeFailedError("the launch was interrupted")
        try:
            self.lane.run(together, memory)
            error = None
        except EngineError as failure:
            error = failure
        finally:
            for one in together:
                one.done, one.error = True, error


@dataclass(slots=True, eq=False, kw_only=True)
class _Bound:
    """What a request is bound to. Implements `lane.Part`.

    Attributes:
        put_inputs: Puts the upload of the inputs on the stream, given the address of the frames.
        done, error: Set by the thread that ran it.
    """

    coords: NDArray[np.float16]
    alone: Work
    put_inputs: Callable[[int], None]
    put_results: Callable[[int, int], None]
    maps_NHW: NDArray[np.floating]
    scores_N: NDArray[np.float32]
    done: bool = False
    error: EngineError | None = None


class Request:
    """Implements `InferRequest` and `ScalesRegions`. Memory and graphs are made when they are used for the first time."""

    def __init__(self, spec: InputSpec, queue: Queue, scaler: RegionScaler | None) -> None:
        self._spec = spec
        self._queue = queue
        self._lane = queue.lane
        self._device = queue.lane.device
        self._scaler = scaler
        self._host: dict[int, _HostMemory] = {}
        self._plain: dict[int, Work] = {}
        self._region: RegionBuffers | None = None
        self._scaled: OrderedDict[tuple[int, int], tuple[Placement, ScaledPlacement, Work]] = OrderedDict()
        self._bound: _Bound | None = None

    def bind(self, coords_N2HW: NDArray[np.float16]) -> NDArray[np.uint8]:
        """Bind coordinates. They are uploaded the first time, and then stay on the device."""
        self._bound = None
        n = len(coords_N2HW)
        with self._lane.use() as memory:
            host = self._host_memory(n, memory)
            stream = memory.stream

            def put_inputs(frames: int) -> None:
                stream.upload(frames, host.frames)

            if n not in self._plain:
                self._plain[n] = self._alone(put_inputs, host)
            self._lane.place([coords_N2HW], memory)
            self._bind(coords_N2HW, self._plain[n], put_inputs, host)
        return host.frames_NHWC

    def bind_region(self, placement: Placement, channels: int) -> NDArray[np.uint8] | None:
        """Bind a placement whose region the GPU scales. Only its first part waits for what the lane runs."""
        needs = None if self._scaler is None else ScaledPlacement.needs(placement, channels)
        if self._scaler is None or needs is None:
            return None
        self._bound = None
        key = (id(placement), channels)
        if key not in self._scaled:
            with self._lane.use() as memory:
                host = self._host_memory(len(placement.tiles), memory)
                self._make_room(self._scaler, needs, memory)
                self._scaled[key] = (placement, *self._make_scaled(placement, channels, host))
                self._lane.place([placement.coords_N2HW], memory)
        self._scaled.move_to_end(key)
        _, scaled, work = self._scaled[key]
        host = self._host[len(placement.tiles)]
        stream = host.lane_memory.stream
        self._bind(placement.coords_N2HW, work, lambda frames: scaled.put(stream, frames), host)
        return scaled.region_HWC

    def infer(self) -> tuple[NDArray[np.floating], NDArray[np.float32]]:
        """Upload, run and download. The returned arrays are views of page-locked memory, valid until the next call."""
        bound = self._bound
        if bound is None:
            raise EngineError("no coordinates are bound")
        self._queue.run(bound)
        return bound.maps_NHW, bound.scores_N

    def device_ms(self, times: int) -> float:
        """Return the milliseconds of one part on the device, copies included."""
        measure: Any = getattr(self._lane.stream, "device_ms", None)
        if self._bound is None or self._bound.alone.graph is None or measure is None:
            raise EngineError("nothing is bound on a GPU, or it runs without a graph")
        with self._lane.use():
            return float(measure(self._bound.alone.graph, times))

    def close(self) -> None:
        """Free the memory. The lane must be closed already."""
        self._bound = None
        self._plain.clear()
        self._drop_scaled(None)
        for host in self._host.values():
            host.close()
        self._host.clear()

    def _bind(self, coords: NDArray[np.float16], alone: Work, put_inputs: Callable[[int], None], host: _HostMemory) -> None:
        stream = host.lane_memory.stream

        def put_results(maps: int, scores: int) -> None:
            stream.download(host.maps, maps)
            stream.download(host.scores_N, scores)

        self._bound = _Bound(
            coords=coords,
            alone=alone,
            put_inputs=put_inputs,
            put_results=put_results,
            maps_NHW=host.maps_NHW,
            scores_N=host.scores_N,
        )

    def _host_memory(self, n: int, memory: LaneMemory) -> _HostMemory:
        self._lane.enqueue_for(n, memory)  # refuses too many inputs before anything is allocated for them
        if n not in self._host:
            self._host[n] = _HostMemory(self._spec, self._lane, n, memory)
        return self._host[n]

    def _alone(self, put_inputs: Callable[[int], None], host: _HostMemory) -> Work:
        memory = host.lane_memory
        enqueue = self._lane.enqueue_for(host.n, memory)

        def put() -> None:
            put_inputs(memory.frames)
            enqueue()
            memory.stream.download(host.results, memory.results)

        return self._lane.work_of(put, enqueue, memory)

    def _make_room(self, scaler: RegionScaler, needs: tuple[int, int], memory: LaneMemory) -> None:
        """Have memory for a region of this size, and forget the placement that was used longest ago if there are too many."""
        if self._region is None or not self._region.hold(*needs):
            if self._region is not None:  # else a camera with more pixels and one with more row values would replace it in turn
                needs = (max(needs[0], self._region.region_bytes), max(needs[1], self._region.row_values))
            self._drop_scaled(memory)
            self._region = RegionBuffers(scaler, self._device, *needs)
        if len(self._scaled) >= MAX_PLACEMENTS:
            self._forget(self._scaled.popitem(last=False)[1], memory)

    def _make_scaled(self, placement: Placement, channels: int, host: _HostMemory) -> tuple[ScaledPlacement, Work]:
        assert self._region is not None
        stream = host.lane_memory.stream
        scaled = ScaledPlacement(self._region, placement, channels=channels, stream=stream)
        try:
            scaled.region_HWC[:] = 0
            return scaled, self._alone(lambda frames: scaled.put(stream, frames), host)
        except BaseException:
            stream.synchronize()
            scaled.close()
            raise

    def _drop_scaled(self, memory: LaneMemory | None) -> None:
        while self._scaled:
            self._forget(self._scaled.popitem()[1], memory)
        if self._region is not None:
            self._region.close()
            self._region = None

    def _forget(self, old: tuple[Placement, ScaledPlacement, Work], memory: LaneMemory | None) -> None:
        """Free what a placement needed. Without the lane's memory, the lane has destroyed the graph already."""
        _, scaled, work = old
        if work.graph is not None and memory is not None:
            memory.stream.forget(work.graph)
        scaled.close()


class _HostMemory:
    """Page-locked memory for N inputs and their results, and the memory of the lane that runs them."""

    def __init__(self, spec: InputSpec, lane: Lane, n: int, memory: LaneMemory) -> None:
        self.n = n
        self.lane_memory = memory
        self._device = lane.device
        self.frames: NDArray[np.uint8] = lane.device.pinned(n * memory.frame_bytes, np.uint8)
        try:
            self.results: NDArray[np.uint8] = lane.device.pinned(memory.result_bytes(n), np.uint8)
        except BaseException:
            lane.device.unpin(self.frames)
            raise
        self.frames[:] = 0
        self.maps = self.results[: n * memory.map_bytes]
        self.frames_NHWC = self.frames.reshape(n, spec.height, spec.width, 3)
        self.maps_NHW: NDArray[np.floating] = self.maps.view(memory.map_dtype).reshape(n, spec.height, spec.width)
        self.scores_N: NDArray[np.float32] = self.results[memory.scores_offset(n) :].view(np.float32)

    def close(self) -> None:
        """Free it."""
        self._device.unpin(self.frames)
        self._device.unpin(self.results)
