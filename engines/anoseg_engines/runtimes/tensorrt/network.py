"""Puts a deserialised plan on streams: one execution context for each lane and batch size.

NOT RUN ON A GPU YET; `make gpu-check` runs it on one. Tests run it with a stand-in for TensorRT on a mock of the CUDA driver.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from anoseg_engines.errors import EngineError, GpuMemoryError
from anoseg_engines.runtimes.tensorrt.device import MEMORY_HINT
from anoseg_engines.runtimes.tensorrt.lane import Tensor
from anoseg_engines.runtimes.tensorrt.library import Library, log_collector

INPUTS = ("frames", "coords")
OUTPUTS = ("anomaly_map", "score")


class PreparedNetwork:
    """An execution context with bound tensors. Only this object refers to the context, so that `close` destroys it.

    Attributes:
        capturable: Whether TensorRT allows the context to be captured. TensorRT for RTX may refuse it.
    """

    def __init__(self, network: TensorRTNetwork, context: Any, stream: int) -> None:
        self._network = network
        self._context = context
        self._stream = stream

    def bind(self, tensors: Mapping[str, Tensor], scratch: int) -> None:
        """Bind shapes, addresses and scratch memory.

        Raises:
            EngineError: The plan rejects them.
        """
        network = self._network  # no local name for the context: the traceback of an error would keep it alive
        # A plan has a profile for a single input, for which TensorRT chooses its kernels, and one for more.
        profile = 0 if tensors["frames"].shape[0] == 1 else network.profiles - 1
        if profile != 0 and not self._context.set_optimization_profile_async(profile, self._stream):
            raise network.error("rejects the profile for several inputs")
        for name in INPUTS:
            if not self._context.set_input_shape(name, tensors[name].shape):
                raise network.error(f"rejects {name} of shape {tensors[name].shape}")
        self._context.set_device_memory(scratch, network.scratch_bytes)
        for name, tensor in tensors.items():
            if not self._context.set_tensor_address(name, tensor.address):
                raise network.error(f"rejects the address of {name}")

    @property
    def capturable(self) -> bool:
        """Whether the context may be captured."""
        ask = getattr(self._context, "is_stream_capturable", None)  # TensorRT 10 and 11 do not have it: all can be captured
        return True if ask is None else bool(ask(self._stream))

    def __call__(self) -> None:
        """Put the network on its stream."""
        if not self._context.execute_async_v3(self._stream):
            raise self._network.error("failed to run")

    def close(self) -> None:
        """Destroy the context."""
        self._context = None


class TensorRTNetwork:
    """The engine of one plan. The device's context must be current on this thread.

    Attributes:
        max_batch: The largest batch.
        profiles: 2, or 1 in a plan of an earlier version.
        scratch_bytes: The scratch memory that a context needs while it runs.

    Raises:
        EngineError: TensorRT rejects the plan, or its inputs and outputs are not those of a bundle's network.
        GpuMemoryError: The GPU's memory is full.
    """

    def __init__(self, library: Library, plan: bytes, *, max_batch: int, cache: Path | None = None) -> None:
        self.max_batch = max_batch
        self._trt = library.api
        self._library = library
        self._cache = cache
        self._log = log_collector(self._trt)
        self._prepared: list[PreparedNetwork] = []
        self._runtime: Any = None
        self._engine: Any = None
        self._config: Any = None
        self._kernels: Any = None
        try:
            self._load(plan)
        except BaseException:
            self.close()  # before the CUDA context: the error's traceback would keep the engine alive
            raise

    def dtype(self, name: str) -> np.dtype[Any]:
        """A tensor's data type."""
        kind: np.dtype[Any] = np.dtype(self._trt.nptype(self._engine.get_tensor_dtype(name)))
        return kind

    @property
    def layer_information(self) -> str:
        """TensorRT's own layer table, JSON."""
        inspector = self._engine.create_engine_inspector()
        return str(inspector.get_engine_information(self._trt.LayerInformationFormat.JSON))

    def prepare(self, tensors: Mapping[str, Tensor], stream: int, scratch: int) -> PreparedNetwork:
        """Make a context for these tensors.

        Each lane and batch size has its own context, because a captured graph refers to the state of its context.

        Raises:
            EngineError: The plan rejects the tensors.
            GpuMemoryError: The GPU's memory is full.
        """
        prepared = PreparedNetwork(self, self._context(), stream)
        try:
            prepared.bind(tensors, scratch)
        except BaseException:
            prepared.close()
            raise
        self._prepared.append(prepared)
        return prepared

    def prepared(self) -> None:
        """Store the kernels that TensorRT for RTX compiled for a new batch size. A store that cannot be written is left."""
        if self._kernels is None or self._cache is None:
            return
        kernels = bytes(memoryview(self._kernels.serialize()))
        temporary = self._cache.with_name(f"{self._cache.name}.{os.getpid()}")
        with contextlib.suppress(OSError):
            if not self._cache.exists() or self._cache.read_bytes() != kernels:
                temporary.write_bytes(kernels)
                temporary.rename(self._cache)
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)

    def error(self, what: str) -> EngineError:
        """Return an error with TensorRT's own reason."""
        lines = self._log.lines
        message = f"{self._library.name} {self._library.version} {what}" + (f": {lines[-1]}" if lines else "")
        if any("out of memory" in line.lower() or "outofmemory" in line.lower() for line in lines[-3:]):
            return GpuMemoryError(f"the GPU's memory is full: {message}", hint=MEMORY_HINT)
        return EngineError(message)

    def close(self) -> None:
        """Destroy contexts before the engine, and the engine before the runtime."""
        for prepared in self._prepared:
            prepared.close()
        self._prepared.clear()
        self._config = self._kernels = None
        self._engine = None
        self._runtime = None

    def _load(self, plan: bytes) -> None:
        self._runtime = self._trt.Runtime(self._log)
        self._engine = self._runtime.deserialize_cuda_engine(plan)
        if self._engine is None:
            error = self.error("rejects the plan")
            error.hint = error.hint or "rebuild it: anoseg-engine build BUNDLE"
            raise error
        names = {self._engine.get_tensor_name(i) for i in range(self._engine.num_io_tensors)}
        if names != {*INPUTS, *OUTPUTS}:
            raise EngineError(f"the plan has tensors {sorted(names)}; a bundle's network has {sorted((*INPUTS, *OUTPUTS))}")
        self.profiles = int(self._engine.num_optimization_profiles)
        self.scratch_bytes = int(self._engine.device_memory_size_v2)
        if self._library.name == "tensorrt-rtx":
            self._config = self._rtx_config()

    def _rtx_config(self) -> Any:
        """Return the runtime configuration of TensorRT for RTX, which compiles its kernels when it runs.

        If it compiled them lazily, on its own thread, they would be missing in the captured graph. Its own graphs are off,
        because ours contain the copies too.
        """
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(self._trt.ExecutionContextAllocationStrategy.USER_MANAGED)
        config.dynamic_shapes_kernel_specialization_strategy = self._trt.DynamicShapesKernelSpecializationStrategy.EAGER
        config.cuda_graph_strategy = self._trt.CudaGraphStrategy.DISABLED
        if self._cache is not None:
            self._kernels = config.create_runtime_cache()
            with contextlib.suppress(OSError):
                self._kernels.deserialize(self._cache.read_bytes())  # False, and no change, if another version or GPU made it
            config.set_runtime_cache(self._kernels)
        return config

    def _context(self) -> Any:
        argument = self._config or self._trt.ExecutionContextAllocationStrategy.USER_MANAGED
        context = self._engine.create_execution_context(argument)
        if context is None:
            raise self.error("made no execution context")
        return context
