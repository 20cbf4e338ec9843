"""Runs a plan with TensorRT, in lanes (`lane.py`). A part that runs alone is one launch: upload, network and download.

NOT RUN ON A GPU YET; `make gpu-check` runs it on one. Tests run it with the real pycuda on a mock of the CUDA driver. One
thread at a time uses the runtime and each of its lanes.
"""

from __future__ import annotations

import contextlib
from collections.abc import Collection
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from anoseg_engines.bundle import Bundle
from anoseg_engines.errors import EngineError
from anoseg_engines.placement import InputSpec, Placement
from anoseg_engines.runtimes.base import InferRequest, Traffic
from anoseg_engines.runtimes.tensorrt.coordinates import ResidentCoordinates
from anoseg_engines.runtimes.tensorrt.device import Device, PycudaDevice
from anoseg_engines.runtimes.tensorrt.lane import Lane, Network
from anoseg_engines.runtimes.tensorrt.library import find_library
from anoseg_engines.runtimes.tensorrt.network import TensorRTNetwork
from anoseg_engines.runtimes.tensorrt.plan import PlanDescription
from anoseg_engines.runtimes.tensorrt.region_scaler import RegionScaler
from anoseg_engines.runtimes.tensorrt.request import Queue, Request

LANES = 3
PARTS_PER_LANE = 3
"""While a lane runs one part, two more can wait for it, and then run together."""


class TensorRTRuntime:
    """A plan on a GPU. The CUDA context is current on a thread only while a method runs. It owns the device and the network.

    The first request is the runtime's own. With the others it runs several parts at the same time. Memory, contexts and graphs
    are made when they are used for the first time.
    """

    def __init__(
        self, spec: InputSpec, device: Device, network: Network, description: str, *, scaler: RegionScaler | None = None
    ) -> None:
        self._device = device
        self._network = network
        self._description = description
        self._coordinates = ResidentCoordinates(device)
        self._lanes = [Lane(spec, device, network, self._coordinates) for _ in range(LANES)]
        queues = [Queue(lane) for lane in self._lanes]
        self._requests = [Request(spec, queue, scaler) for _ in range(PARTS_PER_LANE) for queue in queues]
        self._scaler = scaler
        self._closed = False

    @classmethod
    def open(cls, bundle: Bundle, plan: bytes, description: PlanDescription, *, cache: Path | None = None) -> TensorRTRuntime:
        """Load a verified plan on this machine's GPU.

        Args:
            cache: The file in which TensorRT for RTX keeps the kernels that it compiled; None: it compiles them at each start.

        Raises:
            EngineError: The plan is refused. Everything allocated so far is freed.
            GpuMemoryError: Other programs have taken the GPU's memory, or it is too small.
        """
        library = find_library(description.library)
        device = PycudaDevice()
        try:
            with device.current():
                scaler = RegionScaler.open(device, bundle.manifest.input)
                network = TensorRTNetwork(library, plan, max_batch=description.max_batch, cache=cache)
        except BaseException:
            device.close()
            raise
        scaling = "" if scaler else ", regions scaled by the processor"
        return cls(bundle.manifest.input, device, network, f"{library.name} {library.version} f16{scaling}", scaler=scaler)

    @property
    def description(self) -> str:
        """Library, version and precision. If the network cannot be captured in a CUDA graph, that is added."""
        slow = any(lane.runs_without_graph for lane in self._lanes)
        return f"{self._description} without CUDA graphs" if slow else self._description

    @property
    def scales_regions(self) -> bool:
        """Whether the GPU scales the regions of camera images."""
        return self._scaler is not None

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
        """The requests, of which neighbours use different lanes. The runtime itself is the first one."""
        return (self, *self._requests[1:])

    @property
    def max_running(self) -> int:
        """All requests may run at the same time."""
        return len(self._requests)

    def bind(self, coords_N2HW: NDArray[np.float16]) -> NDArray[np.uint8]:
        """Bind coordinates. They are uploaded the first time, and then stay on the device."""
        return self._requests[0].bind(coords_N2HW)

    def bind_region(self, placement: Placement, channels: int) -> NDArray[np.uint8] | None:
        """Bind a placement whose region the GPU scales."""
        return self._requests[0].bind_region(placement, channels)

    def infer(self) -> tuple[NDArray[np.floating], NDArray[np.float32]]:
        """Run one part. The returned arrays are views of page-locked memory, valid until the next call."""
        return self._requests[0].infer()

    def keep_ready(self, sizes: Collection[int], others: int = 0) -> None:
        """Make memory and contexts for these batch sizes in all lanes, and for several parts of a size together.

        Every size stays ready once it was used.
        """
        for lane in self._lanes:
            for n in sizes:
                for parts in range(1, PARTS_PER_LANE + 1):
                    if parts == 1 or parts * n <= self._network.max_batch:
                        lane.make_ready(parts * n)

    def device_ms(self, times: int = 50) -> float:
        """Return the milliseconds of one part on the device, copies included. CUDA events measure the bound batch size."""
        return self._requests[0].device_ms(times)

    @property
    def layer_information(self) -> str:
        """TensorRT's own layer table, JSON; empty if the network has none."""
        with self._device.current():
            return str(getattr(self._network, "layer_information", ""))

    def close(self) -> None:
        """Free everything: graphs and buffers, then the network, then the context. Calling it twice does no harm.

        A call on another thread that uses a lane, such as `keep_ready`, ends first. Later ones raise an `EngineError`.
        """
        if self._closed:
            return
        self._closed = True
        with contextlib.suppress(EngineError), self._device.current():
            for lane in self._lanes:
                lane.close()
            for request in self._requests:
                request.close()
            self._network.close()
            self._coordinates.close()
        self._device.close()
