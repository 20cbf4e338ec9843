"""Runs the network on the CPU with OpenVINO, on the thread that calls it. OpenVINO's own threads do the arithmetic."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import numpy as np
from numpy.typing import NDArray

from anoseg_engines.errors import EngineError, RuntimeFailedError
from anoseg_engines.placement import InputSpec
from anoseg_engines.runtimes.base import MAX_RUNNING, Traffic
from anoseg_engines.runtimes.openvino_library import ov
from anoseg_engines.runtimes.openvino_network import BufferedNetwork, Networks, last_line, sets_of_buffers


class CpuRequest:
    """One of the runtime's sets of buffers, as `InferRequest`.

    Args:
        index: Which of the parallel sets; None is the set of the runtime itself.
    """

    def __init__(self, networks: Networks, index: int | None) -> None:
        self._networks = networks
        self._index = index
        self._bound: BufferedNetwork | None = None
        self._coords: NDArray[np.float16] | None = None

    @property
    def coords_address(self) -> int:
        """The address at which the network reads the coordinates."""
        if self._bound is None:
            raise EngineError("no coordinates are bound")
        address: int = self._bound.requests[0].get_tensor("coords").data.ctypes.data
        return address

    def bind(self, coords_N2HW: NDArray[np.float16]) -> NDArray[np.uint8]:
        """Bind the coordinates by address, without a copy. Compiles the network if N is new."""
        compiled = self._networks.of_size(coords_N2HW.shape[0])
        self._bound = compiled.alone if self._index is None else compiled.parallel[self._index]
        self._coords = coords_N2HW  # OpenVINO reads it in place, so it must live as long as the binding
        for request in self._bound.requests:
            request.set_tensor("coords", ov.Tensor(coords_N2HW, shared_memory=True))
        return self._bound.frames_NHWC

    def infer(self) -> tuple[NDArray[np.floating], NDArray[np.float32]]:
        """Run the network. The returned arrays are views of its buffers, valid until the next call."""
        if self._bound is None:
            raise EngineError("no coordinates are bound")
        try:
            for request in self._bound.requests:
                request.infer()
            return request.get_tensor("anomaly_map").data, request.get_tensor("score").data
        except RuntimeError as error:
            raise RuntimeFailedError(f"OpenVINO failed: {last_line(error)}") from error

    def release(self) -> None:
        """Drop the buffers, and with them a compiled network that is no longer kept."""
        self._bound = self._coords = None


class CpuRuntime(CpuRequest):
    """The bundle's network on the CPU, in the precision that was asked for: f32, or bf16 or f16 where the processor has it.

    In bf16 some layers stay in f32, see `openvino_network._pieces`: bf16 has only 8 bits for 256 grey values, and would change
    scores by 0.03.

    OpenVINO takes a precision as a hint. So this class reads the precision back from the compiled network. It raises an error
    if that is not the precision asked for.

    For each batch size two networks are compiled: one that takes all threads for one part, and one that runs
    `openvino_network.STREAMS` parts at a time with a share of the threads each. The second is faster for many parts, because
    all threads of a layer wait for the slowest one. Large networks on two cores do without it, because it takes much memory.
    """

    def __init__(self, networks: Networks, layers: Counter[str]) -> None:
        super().__init__(networks, None)
        self.parallel = tuple(CpuRequest(networks, index) for index in range(networks.n_parallel))
        self.max_running = MAX_RUNNING
        self.precision = networks.precision
        self.traffic = Traffic()
        self.layers = layers

    @classmethod
    def open(cls, model_onnx: bytes, spec: InputSpec, *, precision: str = "f32", threads: int = 0) -> CpuRuntime:
        """Compile the network for one input, so that a file that is not a network is refused here.

        Args:
            precision: One of `openvino_network.PRECISIONS`.
            threads: 0 lets OpenVINO decide.

        Raises:
            PrecisionError: OpenVINO runs the network in another precision.
            EngineError: The network cannot be read or compiled.
        """
        n_parallel = sets_of_buffers(threads)
        networks = Networks(model_onnx=model_onnx, spec=spec, precision=precision, threads=threads, n_parallel=n_parallel)
        return cls(networks, networks.of_size(1).layers)

    @property
    def description(self) -> str:
        """Runtime, version and the precision that runs. If only some layers run in it, their share is added."""
        layers = self.layers
        share = "" if len(layers) == 1 else f" ({layers[self.precision]} of {sum(layers.values())} layers)"
        return f"openvino {ov.__version__.split('-')[0]} cpu {self.precision}{share}"

    def keep_ready(self, sizes: Collection[int], others: int = 0) -> None:
        """Compile for these numbers of inputs, and keep them."""
        self._networks.keep_ready(sizes, others)

    def close(self) -> None:
        """Drop the compiled networks."""
        for request in (self, *self.parallel):
            request.release()
        self._networks.compiled.clear()
